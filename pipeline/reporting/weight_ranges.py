"""The smallest and largest weight of each layer is read before and after quantization."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.reports.records.run import WeightRange


@dataclass(frozen=True)
class Layer:
    """A layer is a convolution or matrix product.

    Attributes:
        name: its place among the layers and its kind.
        shape: the shape of its weights.
        low: the smallest weight; ``high`` the largest.
    """

    name: str
    shape: tuple[int, ...]
    low: float
    high: float

    def becomes(self, other: "Layer") -> bool:
        """Tell whether it can be the other one quantized, which may add channels."""
        return self.shape[2:] == other.shape[2:] and self.shape[0] <= other.shape[0]


def weight_ranges(folded: Path, int8: Path) -> tuple[WeightRange, ...]:
    """Compare two models layer by layer; empty unless they have the same layers.

    Raises:
        ModelError: a file is not a readable ONNX model.
    """
    before, after = list(layers(folded)), list(layers(int8))
    if len(before) != len(after) or not all(map(Layer.becomes, before, after)):
        return ()
    return tuple(
        WeightRange(
            layer=real.name,
            low=real.low,
            high=real.high,
            quantized_low=coded.low,
            quantized_high=coded.high,
        )
        for real, coded in zip(before, after, strict=True)
    )


def layers(path: Path) -> Iterator[Layer]:
    """List every convolution and matrix product, integer weights as the reals they stand for."""
    graph = load_onnx(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    found = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    for number, node in enumerate(found, 1):
        name = node.input[1]
        if name in constants:
            values = numpy_helper.to_array(constants[name])
            kind = layer_name(number, node, values.shape)
            yield Layer(kind, values.shape, float(values.min()), float(values.max()))
        elif name in makers and makers[name].op_type == "DequantizeLinear":
            codes = constants[makers[name].input[0]]
            yield dequantized(layer_name(number, node, tuple(codes.dims)), makers[name], constants)


def layer_name(number: int, node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
    """Call a layer by its place and its kind: ``2 depthwise``, ``3 pointwise``, ``28 dense``."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "Gemm":
        return f"{number} dense"
    if groups > 1:
        return f"{number} depthwise"
    return f"{number} {'pointwise' if set(shape[2:]) == {1} else 'convolution'}"


def dequantized(name: str, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Layer:
    """Return the range of ``(codes - zero point) * scale``, whose scales are by output channel.

    A scale is positive, so each channel's extremes are those of its codes.
    """
    codes, scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input)
    channels = codes.reshape(len(codes), -1)
    zero = zero_point.astype(np.int32)
    low = (channels.min(axis=1) - zero) * scale
    high = (channels.max(axis=1) - zero) * scale
    return Layer(name, codes.shape, float(low.min()), float(high.max()))
