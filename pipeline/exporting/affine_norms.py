"""Batch normalization that follows no convolution becomes a layer that later stages know.

Such are pre-activation networks, in which it stands in front of the convolution (ResNet v2,
DenseNet), a normalization of the image itself (MXNet), and one behind a matrix product. In
inference each is ``s x + t`` per channel, with ``s = gamma / sqrt(variance + epsilon)`` and
``t = beta - s mean`` (Ioffe and Szegedy, arXiv:1502.03167, algorithm 2). Behind a Gemm that
belongs to it alone it goes into the Gemm; on a map it is a depthwise convolution of one pixel,
which quantizes like any other; on rows it is a Mul and an Add.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

MAP_RANK = 4  # of a tensor [N, C, H, W]


def affine_norms_as_layers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same function; each BatchNormalization left follows a convolution of its own."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {name: node for node in made.graph.node for name in node.output}
    readers = Counter(name for node in made.graph.node for name in node.input)
    readers.update(value.name for value in made.graph.output)
    ranks = _ranks(model)
    nodes: list[onnx.NodeProto] = []
    for norm in made.graph.node:
        if norm.op_type != "BatchNormalization" or any(n not in constants for n in norm.input[1:]):
            nodes.append(norm)
            continue
        source = norm.input[0]
        maker = makers.get(source, onnx.NodeProto()) if readers[source] == 1 else onnx.NodeProto()
        scale, shift = _affine(norm, constants)
        if maker.op_type == "Conv":
            nodes.append(norm)
        elif maker.op_type == "Gemm" and _is_plain(maker, constants):
            _fold_into_gemm(made, maker, constants, scale, shift)
            maker.output[0] = norm.output[0]
        else:
            nodes.extend(_layer(made, norm, scale, shift, ranks.get(source) == MAP_RANK))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of dimensions of each tensor, where that is known."""
    graph = shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _affine(
    norm: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and shift of each channel [channels]."""
    gamma, beta, mean, variance = (constants[n].astype(np.float64) for n in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - scale * mean


def _is_plain(gemm: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]) -> bool:
    """Tell whether a Gemm is ``x W + b`` with constant weights."""
    values = {a.name: helper.get_attribute_value(a) for a in gemm.attribute}
    factors = values.get("alpha", 1.0), values.get("beta", 1.0), values.get("transA", 0)
    return factors == (1.0, 1.0, 0) and all(n in constants for n in gemm.input[1:] if n)


def _fold_into_gemm(
    model: onnx.ModelProto,
    gemm: onnx.NodeProto,
    constants: dict[str, NDArray[np.generic]],
    scale: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> None:
    """Give a Gemm weights and a bias of its own, with the affine function behind it in them."""
    weight = constants[gemm.input[1]].astype(np.float64)
    rows = any(a.name == "transB" and a.i for a in gemm.attribute)
    bias = constants[gemm.input[2]].astype(np.float64).ravel() if len(gemm.input) > 2 else 0.0
    weight = weight * (scale[:, None] if rows else scale)
    names = [
        _add(model, f"{gemm.output[0]}/folded_weight", weight),
        _add(model, f"{gemm.output[0]}/folded_bias", bias * scale + shift),
    ]
    gemm.input[:] = [gemm.input[0], *names]


def _layer(
    model: onnx.ModelProto,
    norm: onnx.NodeProto,
    scale: NDArray[np.float64],
    shift: NDArray[np.float64],
    on_map: bool,
) -> Iterator[onnx.NodeProto]:
    """Write the affine function as nodes that make what the normalization made."""
    source, output = norm.input[0], norm.output[0]
    if on_map:
        names = [
            _add(model, f"{output}/scale", scale[:, None, None, None]),
            _add(model, f"{output}/shift", shift),
        ]
        yield helper.make_node(
            "Conv",
            [source, *names],
            [output],
            f"{output}/affine",
            group=len(scale),
            kernel_shape=[1, 1],
        )
        return
    scaled = f"{output}/scaled"
    yield helper.make_node("Mul", [source, _add(model, f"{output}/scale", scale)], [scaled])
    yield helper.make_node("Add", [scaled, _add(model, f"{output}/shift", shift)], [output])


def _add(model: onnx.ModelProto, name: str, value: NDArray[np.float64]) -> str:
    """Add an initializer; return its name."""
    model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name
