"""The first convolution reads four neighbouring pixels as one with twelve channels.

ONNX Runtime's direct integer convolution takes input channels in fours, and an image has three.
Interleaved pixels are also rows of twelve bytes, without being moved; a convolution of 3x3 with
stride 2 is one of 3x2 on them, with stride 2 down and 1 across, which makes two neighbouring
outputs at a time. Half of its weights are zeros, and it is faster all the same: at 224x224 pixels
and 32 outputs it takes 247 microseconds where 3x3 on four channels takes 278 (ONNX Runtime 1.32,
VNNI, one thread). The products that are summed are the same, so every code is. But other weights
meet in the pairs of AVX2 kernels: where the old ones were kept within 16 bits and the new ones are
not, the convolution stays as it is.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mobilenet_cli.calibration.graph.channels_last import TO_FIRST, TO_LAST
from mobilenet_cli.calibration.graph.parse import attributes_of
from mobilenet_cli.calibration.graph.write_qdq import Writer
from mobilenet_cli.calibration.kernels import PAIR_MAX, largest_pair_sum, partners

QUAD = 4  # pixels


@dataclass(frozen=True)
class Stem:
    """This is a first convolution that can read quads.

    Attributes:
        conv: the node.
        quantize: the node that makes codes of its output.
        codes: int8 weights [out, 3, 3, 3].
        scale: of the weights, [out].
        bias: int32 [out].
        bias_scale: of the bias, [out].
        pads: top, left, bottom, right.
    """

    conv: onnx.NodeProto
    quantize: onnx.NodeProto
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_scale: NDArray[np.float32]
    pads: tuple[int, int, int, int]

    @property
    def on_quads(self) -> NDArray[np.int8]:
        """Return the weights [2 out, 12, 3, 2] that make two neighbouring outputs of quads."""
        left, out = self.pads[1], len(self.codes)
        weight = np.zeros((2, out, QUAD, 3, 3, 2), np.int8)  # by output, and pixel of a quad
        for second in (0, 1):
            for tap in range(3):
                quad, pixel = divmod(2 * second + tap - left + QUAD * left, QUAD)
                weight[second, :, pixel, :, :, quad] = self.codes[..., tap]
        return weight.reshape(2 * out, 3 * QUAD, 3, 2)


def find_stem(graph: onnx.GraphProto, codes: str, side: int) -> Stem | None:
    """Find the convolution behind the codes of an image; None where it has another form."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    path, name = [], codes
    for operator in ("DequantizeLinear", "Conv", "QuantizeLinear"):
        if len(found := readers.get(name, [])) != 1 or found[0].op_type != operator:
            return None
        path.append(found[0])
        name = found[0].output[0]
    conv, attributes = path[1], attributes_of(path[1])
    tensors = {t.name: t for t in graph.initializer}
    parameters = [makers[name].input for name in conv.input[1:3] if name in makers]
    if len(parameters) != 2 or not all(name in tensors for p in parameters for name in p):
        return None
    (weight, scale, zero), (bias, bias_scale, _) = (
        [numpy_helper.to_array(tensors[name]) for name in names] for names in parameters
    )
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    fits = (
        weight.shape[2:] == (3, 3)
        and attributes.get("strides") == [2, 2]
        and attributes.get("group", 1) == 1
        and set(attributes.get("dilations", [1])) == {1}
        and left in (0, 1)
        and left + right in (1, 2)
        and side % QUAD == 0
        and not zero.any()
        and not weight[:, 3:].any()
    )
    if not fits:
        return None
    pads = (top, left, bottom, right)
    stem = Stem(conv, path[2], weight[:, :3], scale, bias, bias_scale, pads)
    return None if _fit_pairs(weight) and not _fit_pairs(stem.on_quads) else stem


def _fit_pairs(weight: NDArray[np.int8]) -> bool:
    """Tell whether kernels that add pairs in 16 bits compute rightly; on quads others meet."""
    taps = weight.reshape(len(weight), -1).astype(np.float64)
    return bool(largest_pair_sum(taps, partners(weight.astype(np.float64))).max() <= PAIR_MAX)


def write_stem(
    writer: Writer, graph: onnx.GraphProto, stem: Stem, quads: str, grid: list[str], side: int
) -> None:
    """Let the convolution read ``quads``: codes [N, side, side / 4, 12].

    Args:
        writer: takes what stands before the convolution.
        graph: in which the convolution is changed.
        stem: the convolution.
        quads: the tensor.
        grid: names of the scale and zero point of the codes.
        side: of the image in pixels.
    """
    top, left, bottom, _ = stem.pads
    out = len(stem.codes)
    twice = {name: np.tile(getattr(stem, name), 2) for name in ("scale", "bias", "bias_scale")}
    zeros = np.zeros(2 * out, np.int8)
    writer.node("Transpose", [quads], "quads_first", perm=TO_FIRST)
    writer.node("DequantizeLinear", ["quads_first", *grid], "quads_real")
    stem.conv.input[:] = [
        "quads_real",
        writer.dequantize_parameter("quads_weight", stem.on_quads, twice["scale"], zeros),
        writer.dequantize_parameter(
            "quads_bias", twice["bias"], twice["bias_scale"], zeros.astype(np.int32)
        ),
    ]
    del stem.conv.attribute[:]
    attributes = {
        "kernel_shape": [3, 2],
        "strides": [2, 1],
        "pads": [top, left, bottom, 1 - left],
    }
    stem.conv.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    codes = stem.quantize.output[0]
    stem.quantize.output[0] = "quads_codes"
    shape = writer.constant("quads_shape", np.array([-1, side // 2, side // 2, out]))
    index = list(graph.node).index(stem.quantize) + 1
    behind = [
        helper.make_node("Transpose", ["quads_codes"], ["quads_last"], perm=TO_LAST),
        helper.make_node("Reshape", ["quads_last", shape], ["quads_image"]),
        helper.make_node("Transpose", ["quads_image"], [codes], perm=TO_FIRST),
    ]
    for node in reversed(behind):
        graph.node.insert(index, node)
