"""Smallest and largest weight of each layer, before and after quantization."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mobilenet_cli.pipeline.onnx_file import load_onnx
from mobilenet_cli.reports.records import WeightRange


def weight_ranges(folded: Path, int8: Path) -> tuple[WeightRange, ...]:
    """Compare two models layer by layer; empty unless they have the same layers.

    Raises:
        ModelError: a file is not a readable ONNX model.
    """
    before, after = list(layer_weights(folded)), list(layer_weights(int8))
    if [w.shape for _, w in before] != [w.shape for _, w in after]:
        return ()
    return tuple(
        WeightRange(
            layer=layer,
            low=float(real.min()),
            high=float(real.max()),
            quantized_low=float(coded.min()),
            quantized_high=float(coded.max()),
        )
        for (layer, real), (_, coded) in zip(before, after, strict=True)
    )


def layer_weights(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and weights of every convolution and matrix product, integers as the reals they mean."""
    graph = load_onnx(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            name = node.input[1]
            if name in constants:
                yield node.output[0], numpy_helper.to_array(constants[name])
            elif name in makers and makers[name].op_type == "DequantizeLinear":
                yield node.output[0], dequantized(makers[name], constants)


def dequantized(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> NDArray[np.float32]:
    """``(codes - zero point) * scale``, by output channel where there is a scale for each."""
    codes, scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input)
    shape = (-1,) + (1,) * (codes.ndim - 1)
    differences = codes.astype(np.int32) - zero_point.astype(np.int32).reshape(shape)
    return (differences * scale.reshape(shape)).astype(np.float32)
