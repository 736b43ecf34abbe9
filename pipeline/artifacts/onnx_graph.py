"""An ONNX graph tells its shapes, nodes and arithmetic without being run."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilenet_cli.models import find_architecture
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import ModelError

if TYPE_CHECKING:
    import onnx


def all_nodes(graph: "onnx.GraphProto") -> "Iterator[onnx.NodeProto]":
    """Yield a graph's nodes, and those of the graphs inside them, which read what lies around."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)


def has_operator(path: Path, operator: str) -> bool:
    """Tell whether the graph as written has nodes of a type, such as ``BatchNormalization``."""
    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    return any(node.op_type == operator for node in load_onnx(path).graph.node)


def input_shape(path: Path) -> tuple[int | None, ...]:
    """Return the model's input shape [N, C, H, W]; None where a dimension is free.

    Raises:
        ModelError: not exactly one input, or not a batch of float32 images of 1 or 3 channels.
    """
    import onnx

    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    graph = load_onnx(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    named = [value.name for value in graph.input if value.name not in weights]
    inputs = [value.type.tensor_type for value in graph.input if value.name in named]
    if len(inputs) != 1:
        names = ", ".join(f"'{name}'" for name in named[:5]) or "none"
        raise ModelError(
            f"{path} has {len(inputs)} inputs ({names}) instead of one image",
            "Export the model with the image as its only input",
        )
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else None for dim in inputs[0].shape.dim
    )
    if len(shape) != 4 or shape[1] not in (None, 1, 3):
        dims = "x".join("?" if size is None else str(size) for size in shape)
        raise ModelError(
            f"the input of {path} is {dims}, not a batch of images (Nx3xHxW)",
            "Export the model with a batch dimension in front and channels before rows",
        )
    if inputs[0].elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(
            f"the input of {path} is {onnx.TensorProto.DataType.Name(inputs[0].elem_type)}, "
            "not float32",
            "Export the model with a float32 input",
        )
    return shape


OutputKind = Literal["logits", "softmax", "sigmoid"]  # sigmoid: each is a probability by itself
# What changes the form of probabilities but not what they are.
PASSED = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Clip"}
PASSED |= {"QuantizeLinear", "DequantizeLinear"}
PICKED = {"Slice", "Gather"}  # some of the probabilities, which no longer sum to 1


def output_kind(graph: "onnx.GraphProto") -> OutputKind:
    """Tell whether a classifier's output is logits, or what an activation made of them."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    picked = False
    while node is not None and node.op_type in PASSED | PICKED:
        picked = picked or node.op_type in PICKED
        node = makers.get(node.input[0])
    if node is None:
        return "logits"
    kinds: dict[str, OutputKind] = {
        "Softmax": "softmax",
        "QLinearSoftmax": "softmax",
        "Sigmoid": "sigmoid",
        "QLinearSigmoid": "sigmoid",
        "HardSigmoid": "sigmoid",
    }
    kind = kinds.get(node.op_type, "logits")
    if node.op_type == "Div":  # older exporters write a softmax as its formula
        divided = makers.get(node.input[0])
        kind = "softmax" if divided is not None and divided.op_type == "Exp" else "logits"
    return "sigmoid" if picked and kind == "softmax" else kind


def features_model(path: Path) -> bytes:
    """Return a classifier that ends where it averages over the image, instead of at its classes.

    Raises:
        ModelError: it does not average.
    """
    import onnx

    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    model = load_onnx(path)
    averages = ("GlobalAveragePool", "AveragePool", "ReduceMean")
    pools = [node for node in model.graph.node if node.op_type in averages]
    if not pools:
        raise ModelError(
            f"{path} does not average over the image, so it has no pooled features",
            "Take a model that ends in a global average and a classifier, as MobileNets do",
        )
    del model.graph.output[:]
    name, kind = pools[-1].output[0], onnx.TensorProto.FLOAT
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return bytes(model.SerializeToString())


def takes_pixels(path: Path) -> bool:
    """Tell whether the model's input is uint8, as in a package, instead of normalized floats."""
    import onnx

    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    value = load_onnx(path).graph.input[0]
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8)


Shapes = dict[str, tuple[int | str, ...]]


def multiply_adds(artifact: Artifact) -> int | None:
    """Count one image's multiply-adds in convolutions and products; None if a shape is unknown."""
    spec = artifact.facts.model
    if artifact.is_checkpoint:
        if spec is None:
            return None
        architecture = find_architecture(spec.architecture, artifact.path)
        return architecture.multiply_adds(spec, artifact.facts.input.resolution)
    import onnx

    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    graph = onnx.shape_inference.infer_shapes(load_onnx(artifact.path)).graph
    return graph_multiply_adds(graph)


def shapes_of(graph: "onnx.GraphProto") -> Shapes:
    """Return the shape of each tensor whose shape is stated; free dimensions have their name."""
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes: Shapes = {value.name: dims_of(value) for value in values}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def dims_of(value: "onnx.ValueInfoProto") -> tuple[int | str, ...]:
    """Return the dimensions of one input or output; a free one has its name, or ``?``."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)


def graph_multiply_adds(graph: "onnx.GraphProto") -> int | None:
    """Sum up weights per output value times output values over Conv, Gemm and MatMul."""
    shapes, total = shapes_of(graph), 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        weight, output = shapes.get(node.input[1], ()), shapes.get(node.output[0], ())
        per_value = weight[1:] if node.op_type == "Conv" else weight[:1]
        if _transposed(node):
            per_value = weight[1:]
        sizes = [size for size in (*per_value, *output[1:]) if isinstance(size, int)]
        if not weight or len(sizes) != len(per_value) + len(output) - 1:
            return None
        total += prod(sizes)
    return total


def _transposed(node: "onnx.NodeProto") -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)
