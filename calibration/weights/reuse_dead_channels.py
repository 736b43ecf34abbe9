"""Each dead channel becomes a second copy of a live one, half a code step apart.

Trained MobileNets have channels that are 0 for every image (ReLU after a large negative bias).
Their slots are computed all the same. Filled with a copy of a live channel whose bias is raised by
half a step, a slot tells between two codes of the original; the reader takes half of each, so that
the pair acts like one channel with twice as many codes, and the rounding errors of the two sets of
weights cancel. This is outlier channel splitting (Zhao et al., arXiv:1901.09504) at no cost in
size or time, with the offset that makes the copies' errors independent.

Only channels that *cannot* be active are taken: ``bias + sum max(w, 0) * largest input``, over all
inputs that the activations before allow, must stay below the first code. And behind a depthwise
convolution a dead channel may be a constant, which goes into the reader's bias; not so where the
reader pads its input, and sees zeros instead of the constant at the border.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear, Network, pads, separable_chain
from mobilenet_cli.calibration.weights.equalize import LARGEST

# Where nothing bounds an activation (ReLU), inputs up to so many times the largest seen count.
UNBOUNDED_MARGIN = 4.0
LEVELS = 255


@dataclass(frozen=True)
class Reuse:
    """This is a network with its dead channels reused.

    Attributes:
        linears: the parameters, by output tensor.
        copies: for each tensor, channels that now repeat another: [copies, 2] of (copy, original).
    """

    linears: dict[str, Linear]
    copies: dict[str, NDArray[np.intp]]

    def repeat(self, tensor: str, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return values [..., channels, H, W] of the original network as this one has them."""
        pairs = self.copies.get(tensor)
        if pairs is None:
            return values
        repeated = values.copy()
        repeated[..., pairs[:, 0], :, :] = values[..., pairs[:, 1], :, :]
        return repeated

    def repeat_channels(self, tensor: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one value a channel [channels] as the reused network has it."""
        pairs = self.copies.get(tensor)
        if pairs is None:
            return values
        repeated = values.copy()
        repeated[pairs[:, 0]] = values[pairs[:, 1]]
        return repeated


def reuse_dead_channels(
    network: Network,
    smallest: dict[str, NDArray[np.float64]],
    largest: dict[str, NDArray[np.float64]],
) -> Reuse:
    """Copy live channels into dead ones wherever a dense convolution reads them.

    A depthwise convolution in between is copied along.

    Args:
        network: the parsed float model.
        smallest: per tensor, the smallest value of each channel on the calibration images.
        largest: per tensor, the largest value of each channel on the calibration images.
    """
    linears = dict(network.linears)
    copies: dict[str, NDArray[np.intp]] = {}
    for step in network.steps:
        chain = separable_chain(network, step)
        if chain is None:
            continue
        silent = [
            _silent(network, linears[part.output], part, smallest, largest) for part in chain[:-1]
        ]
        # Behind a silent channel a depthwise one is constant, unless it is silent itself.
        constant = np.zeros(len(silent[0]))
        for part, quiet in zip(chain[1:-1], silent[1:], strict=True):
            bias = linears[part.output].bias
            constant = np.where(quiet | ~silent[0], 0.0, np.clip(bias, part.low, part.high))
        dead = np.logical_or.reduce(silent)
        alive = np.flatnonzero(~dead & (largest[step.output] > 0))
        if pads(chain[-1]):
            dead &= constant == 0
        if dead.any() and len(alive):
            _copy(linears, copies, chain, np.flatnonzero(dead), alive, constant)
    return Reuse(linears, copies)


def _silent(
    network: Network,
    linear: Linear,
    step: GraphStep,
    smallest: dict[str, NDArray[np.float64]],
    largest: dict[str, NDArray[np.float64]],
) -> NDArray[np.bool_]:
    """Return channels whose output is below half a code for every possible input: [out]."""
    source = step.inputs[0]
    seen = max(np.abs(smallest[source]).max(), np.abs(largest[source]).max())
    peak = UNBOUNDED_MARGIN * float(seen)
    lowest, highest = -peak, peak
    for maker in network.steps:
        if maker.output == source and maker.low == 0.0:
            lowest, highest = 0.0, min(peak, maker.high)
    taps = linear.taps
    bound = linear.bias + np.maximum(taps * highest, taps * lowest).sum(1)
    peaks = largest[step.output]
    # Where a few channels dwarf the others, those get codes of their own (``equalize``).
    loud = peaks[peaks > 0]
    ceiling = min(loud.max(), LARGEST * float(np.median(loud))) if len(loud) else 0.0
    silent: NDArray[np.bool_] = bound < ceiling / LEVELS / 2
    return silent


def _copy(
    linears: dict[str, Linear],
    copies: dict[str, NDArray[np.intp]],
    chain: list[GraphStep],
    dead: NDArray[np.intp],
    alive: NDArray[np.intp],
    constant: NDArray[np.float64],
) -> None:
    """Fill the dead slots with the live channels that the rest of the chain amplifies most.

    Args:
        linears: parameters by output tensor; replaced.
        copies: filled in.
        chain: from ``separable_chain``.
        dead: channels to fill.
        alive: channels to copy.
        constant: what the reader saw of each channel while it was dead [channels].
    """
    *made, reader = (linears[step.output] for step in chain)
    gain = (reader.taps.reshape(*reader.weight.shape[:2], -1) ** 2).sum((0, 2))
    for depthwise in made[1:]:
        gain = gain * (depthwise.taps**2).sum(1)
    originals = alive[np.argsort(-gain[alive], kind="stable")][: len(dead)]
    slots = dead[: len(originals)]
    for step, linear in zip(chain, made, strict=False):
        weight, bias = linear.weight.copy(), linear.bias.copy()
        weight[slots], bias[slots] = weight[originals], bias[originals]
        linears[step.output] = Linear(weight, bias, linear.groups)
        copies[step.output] = np.stack([slots, originals], axis=1)
    bias = reader.bias + reader.weight.sum((2, 3))[:, slots] @ constant[slots]
    weight = reader.weight.copy()
    weight[:, slots] = weight[:, originals] / 2
    weight[:, originals] /= 2
    linears[chain[-1].output] = Linear(weight, bias, reader.groups)
