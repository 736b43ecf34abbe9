"""Batch normalization that follows no convolution becomes a layer that later stages know.

Such are pre-activation networks, in which it stands in front of the convolution (ResNet v2,
DenseNet), a normalization of the image itself (MXNet), and one behind a matrix product. In
inference each is ``s x + t`` per channel, with ``s = gamma / sqrt(variance + epsilon)`` and
``t = beta - s mean`` (Ioffe and Szegedy, arXiv:1502.03167, algorithm 2). Behind a Gemm that
belongs to it alone it goes into the Gemm, ``(x W + b) s + t = x (W s) + (b s + t)``, and so it does
on rows that only Gemms read, ``(x s + t) W + b = x (s W) + (t W + b)``. On a map it is a depthwise
convolution of one pixel, which quantizes like any other; on other rows it is a Mul and an Add.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

MAP_RANK = 4  # of a tensor [N, C, H, W]
ROW_RANK = 2

Arrays = dict[str, NDArray[np.generic]]


def affine_norms_as_layers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same function; each BatchNormalization left follows a convolution of its own."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {name: node for node in made.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in (*made.graph.node, onnx.NodeProto(input=[v.name for v in made.graph.output])):
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ranks = _ranks(model)
    nodes: list[onnx.NodeProto] = []
    for norm in made.graph.node:
        if norm.op_type != "BatchNormalization" or any(n not in constants for n in norm.input[1:]):
            nodes.append(norm)
            continue
        source = norm.input[0]
        alone = len(readers[source]) == 1
        maker = makers.get(source, onnx.NodeProto()) if alone else onnx.NodeProto()
        behind = readers.get(norm.output[0], [])
        scale, shift = _affine(norm, constants)
        if maker.op_type == "Conv":
            nodes.append(norm)
        elif _is_plain(maker, constants):
            weight, bias = _columns(maker, constants)
            _set(made, maker, constants, weight * scale, bias * scale + shift)
            maker.output[0] = norm.output[0]
        elif ranks.get(source) == ROW_RANK and all(_is_plain(n, constants) for n in behind):
            for gemm in behind:
                weight, bias = _columns(gemm, constants)
                _set(made, gemm, constants, scale[:, None] * weight, shift @ weight + bias)
                gemm.input[0] = source
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
    norm: onnx.NodeProto, constants: Arrays
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and shift of each channel [channels]."""
    gamma, beta, mean, variance = (constants[n].astype(np.float64) for n in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - scale * mean


def _is_plain(node: onnx.NodeProto, constants: Arrays) -> bool:
    """Tell whether a node is a Gemm ``x W + b`` with constant weights, the same for each row."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    factors = values.get("alpha", 1.0), values.get("beta", 1.0), values.get("transA", 0)
    if node.op_type != "Gemm" or factors != (1.0, 1.0, 0):
        return False
    weight, *biases = [constants.get(name) for name in node.input[1:] if name]
    if weight is None or any(bias is None for bias in biases):
        return False
    wide = len(weight) if values.get("transB", 0) else weight.shape[1]
    return all(bias is not None and bias.size in (1, wide) for bias in biases)


def _columns(
    gemm: onnx.NodeProto, constants: Arrays
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights [in, out] and the bias [out], or of one number, of a plain Gemm."""
    weight = constants[gemm.input[1]].astype(np.float64)
    given = [constants[name].astype(np.float64).ravel() for name in gemm.input[2:] if name]
    return (weight.T if _is_turned(gemm) else weight), (given[0] if given else np.zeros(1))


def _is_turned(gemm: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in gemm.attribute)


def _set(
    model: onnx.ModelProto,
    gemm: onnx.NodeProto,
    constants: Arrays,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
) -> None:
    """Give a Gemm weights [in, out] and a bias of its own."""
    parts = {"weight": weight.T if _is_turned(gemm) else weight, "bias": bias}
    del gemm.input[1:]
    for part, value in parts.items():
        name = f"{gemm.output[0]}/folded_{part}"
        while name in constants:  # of what was folded in on the other side
            name += "/again"
        constants[name] = value
        gemm.input.append(_add(model, name, value))


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
