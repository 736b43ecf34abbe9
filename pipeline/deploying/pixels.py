"""A model takes bytes as decoders make them, and computes what it computed from floats.

Into an integer model the pixels go through one 1x1 convolution in integers. Its weights are a
diagonal, its scale and bias are the normalization, and its output is on the grid of the model's own
input, so it makes of all 256 values exactly the codes that QuantizeLinear made of the normalized
floats: every later code, borders included, and every answer stays as it was. Taking the pixels
themselves for codes would save that convolution, but is another input grid: half a step beside the
one that the biases were corrected on, and on other borders. With width 0.75 the logits are then
29 dB from the float-input model's, and 6 of 650 images change their class.

The convolution sees ``GROUP`` neighbouring pixels as one with ``3 GROUP`` channels, which integer
kernels do many times faster than one of three channels, and makes the channel of zeros that they
like (``calibration/graph/shape_for_kernels``) on the way: quantizing, padding and turning floats
takes 126 microseconds at 224x224 pixels, this takes 59 (ONNX Runtime 1.32, VNNI, one thread).
Where the first layer can do without that channel (``stem.py``) and all channels are normalized
alike, a sum of the pixels and a constant makes the same codes in 30.
Where layouts change on paper, ONNX Runtime's Transposes meet those written here, and both vanish.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.calibration.graph.channels_last import TO_FIRST, TO_LAST
from mobilenet_cli.calibration.graph.write_qdq import Writer
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.data.preprocess import LUMA, InputSpec, normalize
from mobilenet_cli.pipeline.deploying.stem import QUAD, find_stem, write_stem

GROUP = 16  # pixels
CLEAR = 1e-3  # of a step, between a value and the middle of two codes
PIXELS = "pixels"


def take_pixels(model: onnx.ModelProto, spec: InputSpec) -> onnx.ModelProto:
    """Return the model with the input ``pixels``, uint8 RGB [N, R, R, 3], instead of its floats.

    Args:
        model: its only input is a batch of normalized images.
        spec: how its images are normalized.
    """
    taken, writer = onnx.ModelProto(), Writer()
    taken.CopyFrom(model)
    graph, side = taken.graph, spec.resolution
    stem = _integer_stem(taken) if spec.channels != "gray" else None
    codes = pixel_codes(spec, stem.grid) if stem else None
    if stem and codes:
        first = find_stem(graph, stem.codes, side)
        if first:
            stem = replace(stem, channels=3)
        image = _write_codes(writer, stem, codes, spec)
        for node in stem.replaced:
            graph.node.remove(node)
        if first:
            quads = writer.constant("quads_of_pixels", np.array([-1, side, side // QUAD, 3 * QUAD]))
            writer.node("Reshape", [image, quads], "quads")
            write_stem(writer, graph, first, "quads", writer.grid("quads", stem.grid), side)
        else:
            writer.node("Transpose", [image], stem.codes, perm=TO_FIRST)
    else:
        _write_floats(writer, spec, graph.input[0].name)
    nodes = [*writer.nodes, *graph.node]
    wanted = {name for node in nodes for name in node.input} | {v.name for v in graph.output}
    nodes = [node for node in nodes if wanted.intersection(node.output)]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    shape = [batch.dim_value or "batch", side, side, 3]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *writer.constants.values()])
    return taken


@dataclass(frozen=True)
class _Stem:
    """This is how an integer model makes codes of its input.

    Attributes:
        grid: what the codes mean.
        codes: the tensor of codes that the first layer reads.
        channels: how many channels it has, with those of zeros.
        replaced: the nodes that make it.
    """

    grid: Grid
    codes: str
    channels: int
    replaced: list[onnx.NodeProto]


def _integer_stem(model: onnx.ModelProto) -> _Stem | None:
    """Find the nodes that make uint8 codes of the input, and perhaps a channel of zeros."""
    graph = model.graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    readers = [node for node in graph.node if graph.input[0].name in node.input]
    if [node.op_type for node in readers] != ["QuantizeLinear"]:
        return None
    quantize, codes, channels = readers[0], readers[0].output[0], 3
    scale, zero = (tensors[name] for name in quantize.input[1:3])
    pads = [n for n in graph.node if codes in n.input and n.op_type == "Pad"]
    for pad in pads:
        codes, channels = pad.output[0], channels + int(tensors[pad.input[1]][5])
    if zero.dtype != np.uint8 or len(pads) > 1:
        return None
    return _Stem(Grid(float(scale), int(zero)), codes, channels, [quantize, *pads])


@dataclass(frozen=True)
class PixelCodes:
    """Integers of a 1x1 convolution that makes a model's input codes of pixels.

    Attributes:
        weights: one for each channel, in the order of the model's channels.
        biases: likewise, on the grid of pixel times weight.
        scales: of weights and biases, likewise.
    """

    weights: tuple[int, ...]
    biases: tuple[int, ...]
    scales: tuple[float, ...]


def pixel_codes(spec: InputSpec, grid: Grid) -> PixelCodes | None:
    """Return integers that make of every pixel value the code that its normalized float has.

    With ``x = (p / 255 - mean) / std``, weight ``n`` and weight scale ``1 / (255 std n)`` the bias
    is ``-255 mean n``. It must be an integer, so the largest ``n`` is taken whose rounding of it
    changes no code. None where there is no such ``n``.
    """
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    wanted = np.moveaxis(grid.quantize(normalize(values, spec)), -3, -1)[:, 0].reshape(256, -1)
    found = []
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        for weight in range(127, 0, -1):
            scale, bias = float(np.float32(1 / (255 * std * weight))), round(-255 * mean * weight)
            sums = (np.arange(256) * weight + bias).astype(np.float32)
            codes = np.rint(sums * np.float32(scale / grid.scale)) + grid.zero_point
            if np.array_equal(np.clip(codes, 0, 255), wanted[:, channel]):
                found.append((weight, bias, scale))
                break
        else:
            return None
    weights, biases, scales = zip(*found, strict=True)
    return PixelCodes(weights, biases, scales)


def _write_codes(writer: Writer, stem: _Stem, codes: PixelCodes, spec: InputSpec) -> str:
    """Write what makes the codes of ``stem``, [N, R, R, channels]; returns their name."""
    if stem.channels == 3 and (shift := pixel_shift(spec, stem.grid)):
        return _write_sum(writer, stem.grid, *shift)
    side, channels = spec.resolution, stem.channels
    group = math.gcd(side * side, GROUP)
    weight = np.zeros((group, channels, group, 3), np.int8)
    order = [2, 1, 0] if spec.channels == "BGR" else [0, 1, 2]
    for pixel in range(group):
        for channel, source in enumerate(order):
            weight[pixel, channel, pixel, source] = codes.weights[channel]
    extra = channels - 3
    scale = np.tile(np.array([*codes.scales, *[1.0] * extra], np.float32), group)
    bias = np.tile(np.array([*codes.biases, *[0] * extra], np.int32), group)
    shape = np.array([-1, side * side // group, 1, 3 * group])
    writer.node("Reshape", [PIXELS, writer.constant("pixels_shape", shape)], "pixels_grouped")
    writer.node("Transpose", ["pixels_grouped"], "pixels_first", perm=TO_FIRST)
    grid = writer.grid(PIXELS, Grid(1.0, 0))
    writer.node("DequantizeLinear", ["pixels_first", *grid], "pixels_real")
    rows = weight.reshape(group * channels, group * 3, 1, 1)
    zeros = np.zeros(len(rows), np.int8)
    linear = [
        writer.dequantize_parameter("pixels_weight", rows, scale, zeros),
        writer.dequantize_parameter("pixels_bias", bias, scale, zeros.astype(np.int32)),
    ]
    writer.node("Conv", ["pixels_real", *linear], "pixels_normalized", kernel_shape=[1, 1])
    output = writer.grid("pixels_normalized", stem.grid)
    writer.node("QuantizeLinear", ["pixels_normalized", *output], "pixels_codes")
    writer.node("Transpose", ["pixels_codes"], "pixels_last", perm=TO_LAST)
    shape = np.array([-1, side, side, channels])
    codes_shape = writer.constant("codes_shape", shape)
    return writer.node("Reshape", ["pixels_last", codes_shape], "pixels_image")


def pixel_shift(spec: InputSpec, grid: Grid) -> tuple[float, float] | None:
    """Return a scale and a shift by which ``scale * pixel - shift`` has the right code.

    Where all channels are normalized alike, that is a sum of two tensors of codes, for which
    runtimes have a kernel that is faster than the convolution. None where they are not, or where a
    value lies so near the middle between two codes that its code depends on how sums are rounded.
    """
    scale, shift = 1 / (255 * spec.std[0]), spec.mean[0] / spec.std[0]
    steps = (scale * np.arange(256) - shift) / grid.scale
    clear = np.abs(steps - np.floor(steps) - 0.5).min() > CLEAR
    alike = len(set(spec.mean)) == len(set(spec.std)) == 1 and spec.channels == "RGB"
    return (scale, shift) if alike and clear and shift > 0 else None


def _write_sum(writer: Writer, grid: Grid, scale: float, shift: float) -> str:
    """Write the sum of the pixels and a constant, from codes to codes."""
    pixels = writer.grid(PIXELS, Grid(scale, 0))
    writer.node("DequantizeLinear", [PIXELS, *pixels], "pixels_real")
    constant = writer.grid("pixels_shift", Grid(shift / 255, 255))
    code = writer.constant("pixels_shift_codes", np.uint8(0))
    writer.node("DequantizeLinear", [code, *constant], "pixels_shift")
    writer.node("Add", ["pixels_real", "pixels_shift"], "pixels_normalized")
    output = writer.grid("pixels_normalized", grid)
    return writer.node("QuantizeLinear", ["pixels_normalized", *output], "pixels_image")


def _write_floats(writer: Writer, spec: InputSpec, output: str) -> None:
    """Write the normalization as ``normalize`` computes it, in the same order, in float32."""
    writer.node("Transpose", [PIXELS], "pixels_first", perm=TO_FIRST)
    source = "pixels_first"
    if spec.channels == "BGR":
        order = writer.constant("pixels_order", np.array([2, 1, 0]))
        source = writer.node("Gather", [source, order], "pixels_bgr", axis=1)
    source = writer.node("Cast", [source], "pixels_float", to=TensorProto.FLOAT)
    if spec.channels == "gray":
        source = _write_gray(writer, source)
    count = spec.shape[0]
    mean, std = (
        np.array(v[:count], np.float32).reshape(1, count, 1, 1) for v in (spec.mean, spec.std)
    )
    full = writer.constant("pixels_full", np.float32(255))
    source = writer.node("Div", [source, full], "pixels_share")
    source = writer.node("Sub", [source, writer.constant("pixels_mean", mean)], "pixels_centred")
    writer.node("Div", [source, writer.constant("pixels_std", std)], output)


def _write_gray(writer: Writer, source: str) -> str:
    """Write Pillow's luma, whose sums of bytes times 16-bit weights float32 holds exactly."""
    luma = writer.constant("pixels_luma", np.array(LUMA, np.float32).reshape(1, 3, 1, 1))
    weighted = writer.node("Conv", [source, luma], "pixels_luma_sum", kernel_shape=[1, 1])
    half = writer.constant("pixels_half", np.float32(1 << 15))
    unit = writer.constant("pixels_unit", np.float32(1 << 16))
    raised = writer.node("Add", [weighted, half], "pixels_luma_raised")
    return writer.node("Floor", [writer.node("Div", [raised, unit], "pixels_luma_share")], "gray")
