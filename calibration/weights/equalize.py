"""Channels between two layers are scaled so that each uses more of its tensor's 256 codes.

A channel that never exceeds a tenth of its tensor's range uses a tenth of the codes. Multiplying
the weights and bias that make channel ``c`` by ``a_c`` and dividing the weights that read it by
``a_c`` leaves the function as it is where the activation is positively homogeneous (Nagel et al.,
"Data-free quantization", arXiv:1906.04721, section 4.1). ReLU6 is so only below its bound, so
channels are only ever scaled up, and no further than to ``range / (margin * max_c)``: the code
range then saturates above what was seen.

A channel that was quiet on the calibration images may speak up later, so that no channel is scaled
by more than ``LARGEST`` beyond the typical one. Where a few channels dwarf the typical one by more
than that, all the others are first scaled up to it, whoever reads them: their weights are either
as uneven the other way round, and become even, or see nothing but the few.
"""

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear, Network

# How far beyond the largest value seen a scaled channel may still go. The more images were seen,
# the less will be beyond: ``docs/experiments.md`` has what 8 to 256 images need.
MOST_MARGIN, MARGIN_OF_IMAGES = 0.6, 0.05 * 256
LARGEST = 100.0
SILENT = 1e12  # times as large could be a channel that is always 0
# A depthwise reader has one scale per channel and absorbs any factor. A dense one shares a scale
# between channels, and large factors would take precision from the others: the square root.
DEPTHWISE_POWER, DENSE_POWER = 1.0, 0.5
# What a residual stream loses is in all the sums after it, what a layer's weights lose is not:
# measured on MobileNetV2, 1.0 gives a decibel more than 0.5, and 0.5 two more than no factors.
STREAM_POWER = 1.0
# Nothing bounds a stream but its codes, and what goes beyond them is rare: no margin is a decibel.
STREAM_MARGIN = 1.0


def margin_of(images: int) -> float:
    """Return how many times the largest value that so many images have may be that of others."""
    return 1 + min(MOST_MARGIN, MARGIN_OF_IMAGES / images)


def channel_factors(
    network: Network,
    smallest: dict[str, NDArray[np.float64]],
    largest: dict[str, NDArray[np.float64]],
    ranges: dict[str, tuple[float, float]],
    images: int,
) -> dict[str, NDArray[np.float64]]:
    """Choose factors [channels] for each tensor that can be scaled.

    Args:
        network: the parsed model.
        smallest: per tensor, the smallest value of each channel on the calibration images.
        largest: per tensor, the largest value of each channel on the calibration images.
        ranges: per tensor, what its codes will cover; a channel that exceeds it is not scaled.
        images: how many the calibration images are.
    """
    factors, margin = {}, margin_of(images)
    for step in network.steps:
        reader = _scalable_reader(network, step)
        if reader is None:
            continue
        depthwise = network.linears[reader.output].depthwise
        low, high = ranges[step.output]
        room = _room(largest[step.output], high, margin)
        if step.low != 0.0:
            room = np.minimum(room, _room(-smallest[step.output], -low, margin))
        factors[step.output] = _factors(room, DEPTHWISE_POWER if depthwise else DENSE_POWER)
    for stream in residual_streams(network):
        rooms = [
            np.minimum(
                _room(largest[name], high, STREAM_MARGIN),
                _room(-smallest[name], -low, STREAM_MARGIN),
            )
            for name, (low, high) in ((name, ranges[name]) for name in stream if name in ranges)
        ]
        if len({len(room) for room in rooms}) > 1:
            continue  # one channel is added to all others
        factors |= dict.fromkeys(stream, _factors(np.min(rooms, axis=0), STREAM_POWER))
    return factors


def residual_streams(network: Network) -> list[list[str]]:
    """Find the tensors that additions join, where convolutions alone make and read them.

    Tensors of a stream share their factors, for an addition has no weights to take them up.
    """
    joined: dict[str, list[str]] = {}
    for step in network.steps:
        if step.node.op_type == "Add" and len(step.inputs) == 2:
            names = (*step.inputs, step.output)
            together = list(dict.fromkeys(n for name in names for n in joined.get(name, [name])))
            joined |= dict.fromkeys(together, together)
    streams = {id(stream): stream for stream in joined.values()}.values()
    return [
        stream
        for stream in streams
        if not {*stream} & {*network.outputs, network.input}
        and all(
            _takes_up(step) or (_is_unbounded_sum(step) and {*step.inputs} <= {*stream})
            for step in network.steps
            if {*step.inputs, step.output} & {*stream}
        )
    ]


def _is_unbounded_sum(step: GraphStep) -> bool:
    """Tell whether a step adds, and what is above some bound is not cut off behind it."""
    return step.node.op_type == "Add" and step.high == np.inf


def _takes_up(step: GraphStep) -> bool:
    """Tell whether a step's weights can take up the factors of what it reads or makes."""
    return step.kind == "linear" and step.node.op_type == "Conv"


def _room(peak: NDArray[np.float64], ceiling: float, margin: float) -> NDArray[np.float64]:
    """Return by how much each channel could grow [channels]; without end where it is 0."""
    if ceiling <= 0:
        return np.full_like(peak, SILENT)
    return ceiling / np.maximum(margin * peak, ceiling / SILENT)


def _factors(room: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Choose the factors of one tensor [channels], given how much each could grow [channels]."""
    live = room[room < SILENT]
    typical = float(np.median(live)) if len(live) else 1.0
    base = np.minimum(room, typical) if typical > LARGEST else np.ones_like(room)
    base = np.maximum(base, 1.0)
    factors: NDArray[np.float64] = base * np.clip(room / base, 1.0, LARGEST) ** power
    return factors


def _scalable_reader(network: Network, step: GraphStep) -> GraphStep | None:
    """Return the linear step that alone reads what ``step``, a ReLU or no activation, makes."""
    readers = network.consumers(step.output)
    if step.kind != "linear" or step.node.op_type != "Conv" or step.output in network.outputs:
        return None
    if len(readers) != 1 or readers[0].kind != "linear" or readers[0].node.op_type != "Conv":
        return None
    return readers[0]


def equalize_channels(
    linears: dict[str, Linear],
    inputs: dict[str, str],
    factors: dict[str, NDArray[np.float64]],
) -> dict[str, Linear]:
    """Apply the factors to both sides of each scaled tensor.

    Args:
        linears: parameters by output tensor.
        inputs: the input tensor of each linear step, by its output.
        factors: from ``channel_factors``.
    """
    equalized = {}
    for output, linear in linears.items():
        weight, bias = linear.weight, linear.bias
        made = factors.get(output)
        if made is not None:
            weight, bias = weight * made[:, None, None, None], bias * made
        read = factors.get(inputs[output])
        if read is not None:
            by_group = np.repeat(read.reshape(linear.groups, -1), len(weight) // linear.groups, 0)
            weight = weight / by_group[:, :, None, None]
        equalized[output] = Linear(weight, bias, linear.groups)
    return equalized
