"""What a foreign ONNX graph may be is checked here once, so that its readers need not ask again.

After these checks every tensor holds what its shape says, every node has the inputs and outputs of
its operator, nodes are in the order of computation, there are no functions, no subgraphs but the
branches of an If where they are asked for, and no tensor of known shape is larger than
``MAX_VALUES``. What follows is bounded by the file's size.
"""

import graphlib
import itertools
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import Message
from onnx import helper, numpy_helper

from mobilenet_cli.pipeline.errors import ModelError

MAX_NODES = 10_000  # ten times the largest classifiers; each becomes a step in later stages
MAX_VALUES = 1 << 28  # of one tensor: 1 GiB of float32
SMALL = 1 << 12  # bytes: shapes and bounds, whose values tell the shapes of other tensors
EXPORT_AGAIN = "Export the model again"
CODING = ("QuantizeLinear", "DequantizeLinear")
BRANCHES = (
    "Take it into a run with 'mobilenet-cli import', which leaves out branches that no image "
    "takes, or export it without branches"
)
OWN_INITIALIZERS = 4  # the IR version since which initializers need not be inputs as well
Function = tuple[str, str, str]  # domain, name and overload


def checked(path: Path, model: onnx.ModelProto, branches: bool = False) -> onnx.ModelProto:
    """Return the model with its functions expanded and its nodes in order.

    Args:
        path: of the file, for errors.
        model: with its external data; it is changed.
        branches: it may have If nodes.

    Raises:
        ModelError: the graph breaks a promise of this module's docstring.
        Exception: whatever onnx says about a graph that its own checker refuses.
    """
    _check_text(model)
    _check_work(path, model, branches)
    _name_well(model)
    graph = model.graph
    if {tensor.name for tensor in graph.initializer} - {value.name for value in graph.input}:
        model.ir_version = max(model.ir_version, OWN_INITIALIZERS)  # exporters forget to
    if not graph.output or not any(o.domain in ("", "ai.onnx") for o in model.opset_import):
        lacks = "operator set" if graph.output else "output"
        raise ModelError(f"{path} names no {lacks}", EXPORT_AGAIN)
    scales = {n.input[1] for n in nodes_of(model) if n.op_type in CODING and len(n.input) > 1}
    for tensor in tensors_of(model):
        _check_tensor(path, tensor, is_scale=tensor.name in scales)
    for value in (*graph.input, *graph.output, *graph.value_info):
        onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    _put_in_order(path, graph)
    checked = _without_large_tensors(model)
    for value in checked.graph.output:  # whose shape people leave out, and runtimes find out
        value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(checked)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    inferred = onnx.shape_inference.infer_shapes(_without_large_tensors(model), data_prop=True)
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value > 0]
        if prod(dims) > MAX_VALUES:
            raise ModelError(f"{path} makes a tensor '{value.name}' of size {dims}", EXPORT_AGAIN)
    return model


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that is stored in a model, those in attributes of nodes included."""
    yield from model.graph.initializer
    for node in nodes_of(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a model, those of functions and of graphs inside nodes included."""
    for body in (model.graph, *model.functions):
        yield from _nodes_below(body.node)


def _nodes_below(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _graphs_in(node):
            yield from _nodes_below(graph.node)


def _graphs_in(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    graphs = [a.g for a in node.attribute if a.HasField("g")]
    return graphs + [graph for a in node.attribute for graph in a.graphs]


def _check_work(path: Path, model: onnx.ModelProto, branches: bool) -> None:
    """Refuse graphs whose work has no bound: too many nodes, subgraphs, endless functions."""
    functions = {(f.domain, f.name, f.overload): f.node for f in model.functions}
    sizes: dict[Function, int] = {}

    def size(nodes: Iterable[onnx.NodeProto], callers: frozenset[Function]) -> int:
        total = 0
        for node in nodes:
            graphs = _graphs_in(node)
            if graphs and not (branches and node.op_type == "If"):
                name = node.name or next(filter(None, node.output), "")
                raise ModelError(
                    f"{path} has the {node.op_type} node '{name}', which runs graphs of its own",
                    BRANCHES if node.op_type == "If" else "Export the classifier without loops",
                )
            if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in node.attribute):
                raise _sparse(path)
            key = (node.domain, node.op_type, node.overload)
            if key in callers:
                raise ModelError(
                    f"{path} has the function {node.op_type}, which calls itself", EXPORT_AGAIN
                )
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key], callers | {key})
            total += sizes.get(key, 1) + sum(size(graph.node, callers) for graph in graphs)
        return total

    if model.graph.sparse_initializer:
        raise _sparse(path)
    if size(model.graph.node, frozenset()) > MAX_NODES:
        raise ModelError(
            f"{path} has more than {MAX_NODES} nodes, functions expanded", "Use an image classifier"
        )


def _name_well(model: onnx.ModelProto) -> None:
    """Name the standard domain by nothing, no node as one before it, and all outputs of a Split.

    Nothing of it changes what is computed. But onnx refuses the first, which has another name as
    well; ONNX Runtime refuses the second, and of the third it dies.
    """
    opsets = [opset for body in (model, *model.functions) for opset in body.opset_import]
    for named in (*nodes_of(model), *opsets):
        if named.domain == "ai.onnx":
            named.domain = ""
    nodes: set[str] = set()
    tensors = {name for node in nodes_of(model) for name in (*node.input, *node.output)}
    for node in _nodes_below(model.graph.node):
        if node.name in nodes:
            node.name = ""
        nodes.add(node.name)
        for index, name in enumerate(node.output):
            if not name and node.op_type == "Split":
                unread = next(
                    f"unread{n}" for n in itertools.count() if f"unread{n}" not in tensors
                )
                node.output[index] = unread
                tensors.add(unread)


def _sparse(path: Path) -> ModelError:
    return ModelError(f"{path} has sparse tensors", "Export the model with dense ones")


def _check_tensor(path: Path, tensor: onnx.TensorProto, is_scale: bool) -> None:
    """Refuse a tensor whose data is not what its type and shape say, or has NaN.

    In a float network the answers would tell, but codes are never NaN.
    """
    try:
        if min(tensor.dims, default=0) < 0:  # which numpy would take for "what is left"
            raise ValueError(f"its shape is {list(tensor.dims)}")
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            wrong = ~np.isfinite(values) if is_scale else np.isnan(values)
            if wrong.any():
                raise ValueError(f"it has {'NaN or infinity' if is_scale else 'NaN'}")
    except Exception as error:  # numpy and onnx tell an unknown type or a wrong size in many ways
        raise ModelError(
            f"{path} has a damaged tensor '{tensor.name}' ({str(error)[:150]})",
            "Download the file again, or export the model again",
        ) from error


def _put_in_order(path: Path, graph: onnx.GraphProto) -> None:
    """Sort nodes so that each comes after those that it reads, where they are not so already."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    reads = [{n for inner in _nodes_below([node]) for n in inner.input} for node in graph.node]
    needs = [{makers[n] for n in names if n in makers} for names in reads]
    if all(i > max(needed, default=-1) for i, needed in enumerate(needs)):
        return
    try:
        order = list(graphlib.TopologicalSorter(dict(enumerate(needs))).static_order())
    except graphlib.CycleError as error:
        raise ModelError(
            f"{path} has nodes that need each other's results", EXPORT_AGAIN
        ) from error
    ordered = onnx.GraphProto(node=[graph.node[i] for i in order])
    del graph.node[:]
    graph.node.extend(ordered.node)


def _check_text(message: Message) -> None:
    """Refuse text that is no UTF-8, which protobuf gives as bytes and does not take back."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.message_type:
            for inside in values:
                _check_text(inside)
        elif field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in values):
            raise ValueError(f"a {field.name} in it is not UTF-8")


def _without_large_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which all but small tensors are inputs, which costs little to look at."""
    graph = model.graph
    small = [tensor for tensor in graph.initializer if tensor.ByteSize() <= SMALL]
    inputs = {value.name for value in graph.input}
    large = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.ByteSize() > SMALL and tensor.name not in inputs
    ]
    return onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        graph=onnx.GraphProto(
            name=graph.name or "graph",
            node=graph.node,
            input=[*graph.input, *large],
            output=graph.output,
            value_info=graph.value_info,
            initializer=small,
            metadata_props=graph.metadata_props,
        ),
        metadata_props=model.metadata_props,
    )
