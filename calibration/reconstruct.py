"""Quantize a network layer by layer, each on the inputs that the quantized layers before it make.

Per linear step: the second moments of its inputs decide the rounding (``rounding``), and its bias
is set so that the mean of every output channel equals the float network's (empirical bias
correction; Nagel et al., arXiv:1906.04721, section 4.2). Both means are exact and cheap, since a
convolution is linear: the mean of its outputs is its output on the mean input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mobilenet_cli.calibration import rounding
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import (
    PAIR_MAX,
    WEIGHT_MAX,
    Target,
    largest_pair_sum,
    partners,
)
from mobilenet_cli.calibration.network import Linear, Network, Step, attributes_of
from mobilenet_cli.calibration.observe import Images, Opener, Tick
from mobilenet_cli.calibration.qdq import BIAS_MAX, QuantizedLinear, step_model
from mobilenet_cli.calibration.settled import settled_linear

Codes = NDArray[np.uint8 | np.int8]
POSITIONS = 200_000  # input positions that the second moments of one layer are taken over
FEWEST_IMAGES = 16  # however large the map
# A bias is kept within a quarter of int32, so that adding the products cannot overflow it.
BIAS_ROOM = 2.0**29


@dataclass(frozen=True)
class Geometry:
    """Where a convolution's window goes.

    Attributes:
        kernel: rows, columns.
        stride: rows, columns.
        dilation: rows, columns.
        pads: top, left, bottom, right, in pixels.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]


def geometry(step: Step, linear: Linear, height: int, width: int) -> Geometry:
    """A Conv's window on a map of the given size (ONNX operator Conv, ``auto_pad`` included)."""
    attributes = attributes_of(step.node)
    kernel = (int(linear.weight.shape[2]), int(linear.weight.shape[3]))
    stride = tuple(attributes.get("strides", (1, 1)))
    dilation = tuple(attributes.get("dilations", (1, 1)))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        totals = [
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, k, s, d in zip((height, width), kernel, stride, dilation, strict=True)
        ]
        small = [total // 2 for total in totals]
        large = [total - half for total, half in zip(totals, small, strict=True)]
        pads = (*small, *large) if auto == b"SAME_UPPER" else (*large, *small)
    return Geometry(kernel, stride, dilation, pads)


def patches(values: NDArray[np.float32], step: Step, linear: Linear) -> NDArray[np.float32]:
    """What each output position sees: [channels, kernel taps, positions] of one image's tensor."""
    if linear.weight.ndim == 2:
        return values.reshape(len(values), 1, 1)
    window = geometry(step, linear, *values.shape[1:])
    top, left, bottom, right = window.pads
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
    spans = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    view = sliding_window_view(padded, spans, axis=(1, 2))
    view = view[
        :, :: window.stride[0], :: window.stride[1], :: window.dilation[0], :: window.dilation[1]
    ]
    channels, rows, columns = view.shape[:3]
    return view.transpose(0, 3, 4, 1, 2).reshape(channels, -1, rows * columns)


def second_moments(codes: Codes, grid: Grid, step: Step, linear: Linear) -> NDArray[np.float64]:
    """Damped covariance of a layer's inputs in units of codes: [K, K], or [channels, K, K].

    The covariance rather than the raw moments, since the bias absorbs every change of the mean.
    """
    total: NDArray[np.float64] | float = 0.0
    sums: NDArray[np.float64] | float = 0.0
    count = 0
    for image in codes:
        seen = patches(image.astype(np.float32) - np.float32(grid.zero_point), step, linear)
        if not linear.depthwise:
            seen = seen.reshape(1, -1, seen.shape[2])
        total = total + (seen @ seen.transpose(0, 2, 1)).astype(np.float64)
        sums = sums + seen.sum(2, dtype=np.float64)
        count += seen.shape[2]
        if count >= POSITIONS and count >= FEWEST_IMAGES * seen.shape[2]:
            break
    mean = np.asarray(sums) / count
    covariance = np.asarray(total) / count - mean[:, :, None] * mean[:, None, :]
    return rounding.damped(covariance if linear.depthwise else covariance[0])


def weight_scale(linear: Linear, input_scale: float, target: Target) -> NDArray[np.float32]:
    """The finest scale of each output channel [out] on which all weights and the bias fit."""
    taps = linear.taps
    scale = np.abs(taps).max(1) / WEIGHT_MAX
    if target.pairs_saturate and not linear.depthwise:
        scale = np.maximum(scale, largest_pair_sum(taps, partners(linear.weight)) / PAIR_MAX)
    # A dead channel's weights are tiny beside its bias: on their own scale it would overflow.
    fits_bias = np.abs(linear.bias) / (input_scale * BIAS_ROOM)
    fitting: NDArray[np.float32] = np.maximum(np.maximum(scale, fits_bias), 1e-12).astype(
        np.float32
    )
    return fitting


def mean_outputs(
    network: Network,
    step: Step,
    weight: NDArray[np.floating],
    mean_input: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean over positions of a layer's outputs without bias, given its mean input: [out]."""
    taps = weight.reshape(len(weight), -1).astype(np.float64)
    linear = Linear(weight.astype(np.float64), np.zeros(len(weight)), _is_depthwise(network, step))
    seen = patches(mean_input.astype(np.float32), step, linear).mean(2, dtype=np.float64)
    means: NDArray[np.float64]
    means = (taps * seen).sum(1) if linear.depthwise else taps @ seen.ravel()
    return means


def _is_depthwise(network: Network, step: Step) -> bool:
    return network.linears[step.output].depthwise


def quantize_linear(
    network: Network,
    step: Step,
    linear: Linear,
    codes: Codes,
    grid: Grid,
    float_mean_input: NDArray[np.float64],
    target: Target,
    copies: NDArray[np.intp] | None,
    output_step: float,
) -> QuantizedLinear:
    """Integer weights and corrected bias of one layer.

    Args:
        network: what the layer is part of.
        step: the layer.
        linear: its float parameters.
        codes: its inputs in the quantized network [images, ...].
        grid: of the inputs.
        float_mean_input: mean over images of its inputs in the float network.
        target: what its kernels can add.
        copies: (copy, original) channels of its output, from ``reuse``.
        output_step: of its output's grid.
    """
    scale = weight_scale(linear, grid.scale, target)
    hessian = second_moments(codes, grid, step, linear)
    exact = scale.astype(np.float64)
    partner = partners(linear.weight) if target.pairs_saturate else None

    def rounded_to(taps: NDArray[np.float64]) -> NDArray[np.float64]:
        if linear.depthwise:
            return rounding.round_depthwise(taps, exact, hessian)
        return rounding.round_dense(taps, exact, hessian, partner)

    rounded = rounded_to(linear.taps)
    offset = np.zeros(len(scale))
    if copies is not None:
        copy, original = copies.T
        # The reader takes half of each, so a copy makes good what its original rounded away.
        taps = linear.taps.copy()
        taps[copy] += linear.taps[original] - rounded[original] * exact[original, None]
        rounded[copy] = rounded_to(taps)[copy]
        offset[copy] = output_step / 2
    weight = rounded.reshape(linear.weight.shape).astype(np.int8)
    real = weight * exact.reshape(-1, *(1,) * (weight.ndim - 1))
    mean_input = (codes.mean(0, dtype=np.float64) - grid.zero_point) * grid.scale
    wanted = linear.bias + offset + mean_outputs(network, step, linear.weight, float_mean_input)
    bias_scale = np.float32(grid.scale) * scale
    bias = np.rint((wanted - mean_outputs(network, step, real, mean_input)) / bias_scale)
    return QuantizedLinear(
        weight, scale, np.clip(bias, -BIAS_MAX, BIAS_MAX).astype(np.int32), bias_scale
    )


def reconstruct(
    network: Network,
    linears: dict[str, Linear],
    grids: dict[str, Grid],
    means: dict[str, NDArray[np.float64]],
    target: Target,
    copies: dict[str, NDArray[np.intp]],
    settled: bool,
    images: Images,
    simulate: Opener,
    tick: Tick,
    watch: Callable[[Step, bytes, dict[str, Codes], Codes], None],
) -> dict[str, QuantizedLinear]:
    """Quantize every linear step in the order of computation.

    Memory holds the codes of the tensors still needed, one byte a value.

    Args:
        network: the float network.
        linears: its parameters, equalized.
        grids: of all tensors that become codes.
        means: mean inputs of the linear steps in the float network, equalized.
        target: what the kernels can add.
        copies: (copy, original) channels of tensors, from ``reuse``.
        settled: weights are on their grids, and they and the biases stay as they are.
        images: the calibration images, batch by batch.
        simulate: makes a session that computes an integer model in float.
        tick: told 1 for every step done.
        watch: shown each step, its model, its inputs and its output on all images.
    """
    values: dict[str, Any] = {network.input: _input_codes(images, grids.get(network.input))}
    quantized: dict[str, QuantizedLinear] = {}
    for index, step in enumerate(network.steps):
        if step.kind == "linear":
            source, linear = step.inputs[0], linears[step.output]
            quantized[step.output] = (
                settled_linear(step, linear, grids[source], target)
                if settled
                else quantize_linear(
                    network,
                    step,
                    linear,
                    values[source],
                    grids[source],
                    means[source],
                    target,
                    copies.get(step.output),
                    grids[step.output].scale if step.output in grids else 0.0,
                )
            )
        unsigned = target.weights == "uint8"
        model = step_model(network, step, grids, quantized.get(step.output), unsigned)
        session = simulate(model)
        read = {name: values[name] for name in step.inputs}
        values[step.output] = _run_step(session, read)
        watch(step, model, read, values[step.output])
        needed = {name for later in network.steps[index + 1 :] for name in later.inputs}
        values = {name: value for name, value in values.items() if name in needed}
        tick(1)
    return quantized


def _input_codes(images: Images, grid: Grid | None) -> NDArray[Any]:
    return np.concatenate([grid.quantize(batch) if grid else batch for batch in images()])


def _run_step(session: Any, inputs: dict[str, NDArray[Any]], batch: int = 16) -> NDArray[Any]:
    """Run a step over all images, writing into one array so that nothing is held twice."""
    count = len(next(iter(inputs.values())))
    made: NDArray[Any] | None = None
    for start in range(0, count, batch):
        part = {name: value[start : start + batch] for name, value in inputs.items()}
        result = session.run(None, part)[0]
        if made is None:
            made = np.empty((count, *result.shape[1:]), result.dtype)
        made[start : start + len(result)] = result
    assert made is not None, "observe() has refused an empty set of images"
    return made
