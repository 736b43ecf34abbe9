"""Quantize a network layer by layer, each on the inputs that the quantized layers before it make.

Per linear step: the second moments of its inputs decide the rounding (``rounding``), and its bias
is set so that the mean of every output channel equals the float network's (empirical bias
correction; Nagel et al., arXiv:1906.04721, section 4.2). Both means are exact and cheap, since a
convolution is linear: the mean of its outputs is its output on the mean input.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear, Network
from mobilenet_cli.calibration.graph.write_qdq import BIAS_MAX, QuantizedLinear, step_model
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import (
    PAIR_MAX,
    WEIGHT_MAX,
    Target,
    largest_pair_sum,
    packing_order,
    partners,
)
from mobilenet_cli.calibration.tensor_statistics import Images, Opener, Tick
from mobilenet_cli.calibration.weights import rounding
from mobilenet_cli.calibration.weights.compensate import FloatInputs, compensated
from mobilenet_cli.calibration.weights.input_moments import Codes, mean_outputs, second_moments
from mobilenet_cli.calibration.weights.trained_weights import quantize_trained_linear
from mobilenet_cli.pipeline.errors import ModelError

# A bias is kept within a quarter of int32, so that adding the products cannot overflow it.
BIAS_ROOM = 2.0**29
SMALLEST_BIAS_SCALE = 1e-36  # is a normal number of float32 still, which kernels divide by
# Second moments are K x K: a layer of more taps than ResNet's widest convolution, 3 x 3 x 512, is
# rounded in parts of at most so many, as if these had nothing in common.
WIDEST, PART = 4608, 2048
MOST_IMAGES, MOST_VALUES = 16, 1 << 24  # that a step reads at a time
SCALE_OF_NOTHING = 1e-12  # of a channel whose weights and bias are 0: any scale will do, but not 0


def weight_scale(linear: Linear, input_scale: float, target: Target) -> NDArray[np.float32]:
    """Return the finest scale [out] of each output channel that fits all weights and the bias."""
    taps = linear.taps
    scale = np.abs(taps).max(1) / WEIGHT_MAX
    if target.pairs_saturate and not linear.depthwise:
        scale = np.maximum(scale, largest_pair_sum(taps, partners(linear.weight)) / PAIR_MAX)
    # A dead channel's weights are tiny beside its bias: on their own scale it would overflow.
    scale = np.maximum(scale, np.abs(linear.bias) / (input_scale * BIAS_ROOM))
    fitting = np.maximum(scale, SMALLEST_BIAS_SCALE / input_scale)
    return np.where(scale > 0, fitting, SCALE_OF_NOTHING).astype(np.float32)


def tap_parts(linear: Linear) -> list[tuple[NDArray[np.intp] | None, NDArray[np.intp]]]:
    """Divide the taps of a layer into parts that are rounded one after the other.

    Returns:
        The taps of each part, or None for all of them, and the partners among them. No pair is
        divided.
    """
    if linear.depthwise or linear.taps.shape[1] <= WIDEST:
        return [(None, partners(linear.weight))]
    order = packing_order(linear.weight)
    count = -(-len(order) // PART)
    size = -(-len(order) // (2 * count)) * 2
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return [(part, partners(linear.taps[:, part])) for part in parts]


Watch = Callable[[GraphStep, bytes, dict[str, Codes], Codes], None]
"""Shown each step of the integer network, its model, its inputs and its output, [images, ...]."""


def quantize_linear(
    network: Network,
    step: GraphStep,
    linear: Linear,
    codes: Codes,
    grid: Grid,
    float_mean_input: NDArray[np.float64],
    target: Target,
    copies: NDArray[np.intp] | None,
    output_step: float,
    floats: FloatInputs,
) -> QuantizedLinear:
    """Compute the integer weights and corrected bias of one layer.

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
        floats: gives its inputs in the float network.
    """
    wanted_layer = compensated(step, linear, codes, grid, floats)
    scale = weight_scale(wanted_layer, grid.scale, target)
    exact = scale.astype(np.float64)
    parts = tap_parts(linear)
    hessians = [second_moments(codes, grid, step, linear, part) for part, _ in parts]

    def rounded_to(taps: NDArray[np.float64]) -> NDArray[np.float64]:
        if linear.depthwise:
            return rounding.round_depthwise(taps, exact, hessians[0])
        rounded = np.empty_like(taps)
        size = len(taps) // linear.groups
        for (part, partner), hessian in zip(parts, hessians, strict=True):
            chosen = slice(None) if part is None else part
            limited = partner if target.pairs_saturate else None
            for group, moments in enumerate(hessian.reshape(linear.groups, *hessian.shape[-2:])):
                made = slice(group * size, (group + 1) * size)
                rounded[made, chosen] = rounding.round_dense(
                    taps[made, chosen], exact[made], moments, limited
                )
        return rounded

    rounded = rounded_to(wanted_layer.taps)
    offset = np.zeros(len(scale))
    if copies is not None:
        copy, original = copies.T
        # The reader takes half of each, so a copy makes good what its original rounded away.
        taps = wanted_layer.taps.copy()
        taps[copy] += wanted_layer.taps[original] - rounded[original] * exact[original, None]
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
    on_grid: bool,
    images: Images,
    floats: FloatInputs,
    simulate: Opener,
    tick: Tick,
    watch: Watch | None,
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
        on_grid: weights are on their grids, and they and the biases stay as they are.
        images: the calibration images, batch by batch.
        floats: gives tensors of the float network on them, equalized.
        simulate: makes a session that computes an integer model in float.
        tick: told 1 for every step done.
        watch: shown each step, its model, its inputs and its output on all images, if any.
    """
    values: dict[str, Any] = {network.input: _input_codes(images, grids.get(network.input))}
    count = len(values[network.input])
    quantized: dict[str, QuantizedLinear] = {}
    for index, step in enumerate(network.steps):
        if step.kind == "linear":
            source, linear = step.inputs[0], linears[step.output]
            quantized[step.output] = (
                quantize_trained_linear(step, linear, grids[source], target)
                if on_grid
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
                    floats,
                )
            )
        read = {name: values[name] for name in step.inputs}
        types = {name: value.dtype for name, value in read.items()}
        model = step_model(network, step, grids, quantized.get(step.output), types)
        session = simulate(model)
        values |= zip(step.outputs, _run_step(step, session, read, count), strict=True)
        if watch is not None:
            watch(step, model, read, values[step.output])
        needed = {name for later in network.steps[index + 1 :] for name in later.inputs}
        values = {name: value for name, value in values.items() if name in needed}
        tick(1)
    return quantized


def _input_codes(images: Images, grid: Grid | None) -> NDArray[Any]:
    return np.concatenate([grid.quantize(batch) if grid else batch for batch in images()])


def _run_step(
    step: GraphStep, session: Any, inputs: dict[str, NDArray[Any]], images: int
) -> list[NDArray[Any]]:
    """Run a step over all images, writing into one array a tensor so that nothing is held twice.

    So many are run at a time that memory does not grow with their resolution.

    A tensor may have several rows an image: some networks move channels into the batch.

    Raises:
        ModelError: a tensor has no rows of its own for each image.
    """
    made: list[NDArray[Any]] = []
    values = sum(value.size for value in inputs.values()) // images
    batch = min(MOST_IMAGES, max(1, MOST_VALUES // max(1, values)))
    for start in range(0, images, batch):
        stop = min(start + batch, images)
        part = {n: v[start * len(v) // images : stop * len(v) // images] for n, v in inputs.items()}
        results = session.run(None, part)
        if not made:
            if any(len(result) % (stop - start) for result in results):
                raise ModelError(
                    f"the {step.node.op_type} node that makes '{step.output}' moves the images to "
                    "another dimension than the first",
                    "Export the model with the images in the first dimension throughout",
                )
            rows = [len(result) // (stop - start) for result in results]
            shapes = [(images * n, *r.shape[1:]) for n, r in zip(rows, results, strict=True)]
            made = [np.empty(s, r.dtype) for s, r in zip(shapes, results, strict=True)]
        for whole, result in zip(made, results, strict=True):
            whole[start * len(whole) // images :][: len(result)] = result
    return made
