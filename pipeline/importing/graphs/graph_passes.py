"""These transformations bring a graph into standard form; each changes it in place.

``normalize_graph`` does one after the other, and proves that together they change no answer.
"""

import logging
from hashlib import sha256

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from numpy.typing import NDArray
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
    TopologicalSortPass,
)

from mobilenet_cli.pipeline.importing.graphs.foreign_graph import BATCH, ImageInput
from mobilenet_cli.pipeline.runtime.tensor_values import tensor_values

QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Cast", "Clip", "Relu", "Neg", "Abs", "Sqrt"}
ELEMENTWISE |= {"Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Elu", "Tanh", "Erf"}
ELEMENTWISE |= {"Max", "Min"}
JOINED = {"ReduceMean": "Mean", "ReduceSum": "Sum", "ReduceMax": "Max", "ReduceMin": "Min"}
OF_MANY = {ir.AttributeType.TENSOR, ir.AttributeType.GRAPH}
TO_ROWS, TO_CHANNELS = [0, 2, 3, 1], [0, 3, 1, 2]  # NCHW to NHWC, and back


def set_image(graph: ir.Model, image: ImageInput) -> None:
    """Give the input its type and shape, and forget all other shapes: some hold the old batch."""
    for node in graph.graph.all_nodes():
        for value in node.outputs:
            value.shape = value.type = None
    (value,) = graph.graph.inputs
    readers = list(value.uses())
    value.dtype = ir.DataType.FLOAT  # of bytes too: what moves them moves floats
    value.shape = ir.Shape([BATCH, image.channels, image.side, image.side])
    if image.channels_last:
        rows = _rows(value)
        if image.channels == 1:  # nothing moves, and exporters write this, too
            target = np.array([-1, image.side, image.side, 1], np.int64)
            rows = ir.node("Reshape", [value, add_constant(graph, rows, target)])
            rows.outputs[0].name = f"{value.name}/rows"
        for reader, position in readers:
            reader.replace_input_with(position, rows.outputs[0])
        graph.graph.insert_before(graph.graph[0], rows)


def _rows(planes: ir.Value) -> ir.Node:
    """Return the node that brings channels last."""
    node = ir.node("Transpose", [planes], {"perm": TO_ROWS})
    node.outputs[0].name = f"{planes.name}/rows"
    return node


def fold(graph: ir.Model) -> None:
    """Compute what does not depend on the image, and drop what does nothing."""
    infer_shapes(graph)
    compute_constants(graph)
    Sequential(
        IdentityEliminationPass(),
        RemoveUnusedNodesPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        LiftSubgraphInitializersToMainGraphPass(),
    )(graph)
    infer_shapes(graph)
    _drop_casts(graph)


def compute_constants(graph: ir.Model) -> None:
    """Compute what has a value that is known, and put branches in place of what chooses them."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it reports each node it leaves
    onnxscript.optimizer.fold_constants(
        graph, onnx_shape_inference=True, should_fold=lambda node: node.op_type not in QUANTIZING
    )


def decode_weights(graph: ir.Model, images: NDArray[np.generic]) -> None:
    """Let weights that are stored as codes, to make a file small, be numbers in a float network.

    Args:
        graph: with its image set.
        images: any, by which the graph is run.
    """
    known: set[ir.Value | None] = {None}
    decoded: list[ir.Node] = []
    for node in graph.graph:
        constant = all(value in known or array_of(value) is not None for value in node.inputs)
        if constant and node.op_type in ("Constant", "QuantizeLinear", "DequantizeLinear"):
            known.update(node.outputs)
            decoded += [node] if node.op_type == "DequantizeLinear" else []
    if not decoded:
        return
    names = [str(node.outputs[0].name) for node in decoded]
    try:
        weights = tensor_values(ir.to_proto(graph), names, images)
    except Exception:  # such nodes are left, and refused by name
        return
    for node, weight in zip(decoded, weights, strict=True):
        _replace(node.outputs[0], add_constant(graph, node, weight))
    RemoveUnusedNodesPass()(graph)


def _drop_casts(graph: ir.Model) -> None:
    """Drop casts to the type that a tensor has already."""
    for node in graph.graph:
        (source, *_) = node.inputs
        same = source and node.op_type == "Cast" and source.dtype == node.attributes["to"].as_int()
        if source and same:
            _replace(node.outputs[0], source)


def infer_shapes(graph: ir.Model) -> None:
    """Give values the types and shapes that follow from the inputs."""
    for node in graph.graph:
        for value in node.outputs:
            value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)


def array_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return what an initializer holds; None for any other tensor."""
    constant = value.const_value if value is not None else None
    return None if constant is None else constant.numpy()


def dims_of(value: ir.Value | None) -> tuple[object, ...]:
    """Return the dimensions of a tensor: numbers, and what is free; empty where none is known."""
    return () if value is None or value.shape is None else tuple(value.shape)


def add_constant(graph: ir.Model, node: ir.Node, value: NDArray[np.generic]) -> ir.Value:
    """Register an initializer for a node."""
    name = f"{node.outputs[0].name}/constant"
    while name in graph.graph.initializers:
        name += "/constant"
    made = ir.val(name, const_value=ir.tensor(value, name=name))
    graph.graph.register_initializer(made)
    return made


def _replace(old: ir.Value, new: ir.Value) -> None:
    """Let all that read a tensor read another; the graph's output stays what it is."""
    if not old.is_graph_output():
        ir.convenience.replace_all_uses_with(old, new)


def cancel_transposes(graph: ir.Model) -> None:
    """Let maps pass what works on values or channels with these first, up to a Transpose to that.

    Where tf2onnx cannot do so by itself, it leaves two Transposes around every convolution.
    """
    (image,) = graph.graph.inputs
    starts = [node for node, _ in image.uses()]  # of one channel it is a Reshape
    starts += [n for n in graph.graph if is_transpose(n, TO_ROWS) and n not in starts]
    queue = [(node.inputs[0], node.outputs[0]) for node in starts]
    while queue:
        planes, rows = queue.pop()
        for node, position in list(rows.uses()):
            if is_transpose(node, TO_CHANNELS) and planes is not None:
                _replace(node.outputs[0], planes)
                continue
            moved = _on_planes(graph, node, position, planes) if _is_read(node) else None
            if moved is None:
                continue
            moved.outputs[0].name = f"{node.outputs[0].name}/planes"
            back = _rows(moved.outputs[0])
            graph.graph.insert_before(node, [moved, back])
            _replace(node.outputs[0], back.outputs[0])
            queue.append((moved.outputs[0], back.outputs[0]))
    RemoveUnusedNodesPass()(graph)


def _is_read(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _on_planes(
    graph: ir.Model, node: ir.Node, position: int, planes: ir.Value | None
) -> ir.Node | None:
    """Return a node that makes with channels first what another makes of rows; None if none can."""
    inputs = [_for_planes(graph, node, value) for value in node.inputs]
    inputs[position] = planes
    attributes, array = dict(node.attributes), array_of(node.inputs[-1])
    keeps = "keepdims" not in attributes or attributes["keepdims"].as_int()
    if node.op_type == "Concat" and attributes["axis"].as_int() in (3, -1):
        attributes["axis"] = ir.AttrInt64("axis", 1)
    elif node.op_type == "Pad" and position == 0 and len(node.inputs) < 4:
        widths = array_of(node.inputs[1])
        if widths is None:
            return None
        inputs[1] = add_constant(graph, node, widths.reshape(2, 4)[:, TO_CHANNELS].ravel())
    elif node.op_type in ("ReduceMean", "ReduceMax") and keeps and len(node.inputs) == 2:
        if array is None or sorted(array % 4) != [1, 2]:
            return None
        inputs[1] = add_constant(graph, node, np.array([2, 3]))
    elif node.op_type not in ELEMENTWISE:
        return None
    return None if None in inputs else ir.node(node.op_type, inputs, attributes)


def _for_planes(graph: ir.Model, node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Return what meets rows of channels in the form in which it meets planes.

    Returns:
        The value itself where it is one number, planes that rows were made of, or None where it is
        something else, or a constant for pixels.
    """
    array = array_of(value)
    maker = value.producer() if value is not None else None
    if array is None:
        return maker.inputs[0] if maker and is_transpose(maker, TO_ROWS) else None
    if array.size == 1:
        return value
    if array.size != array.shape[-1]:
        return None
    return add_constant(graph, node, array.reshape(-1, 1, 1))


def drop_reshapes(graph: ir.Model) -> None:
    """Let a Reshape read what the Reshape before it reads, and drop one that changes nothing."""
    for node in graph.graph:
        if node.op_type != "Reshape":
            continue
        source, target = node.inputs[0], array_of(node.inputs[1])
        maker = source.producer() if source is not None else None
        if target is None or 0 in target:
            continue
        if maker is not None and maker.op_type == "Reshape":
            source = maker.inputs[0]
            node.replace_input_with(0, source)
        before, after = dims_of(source)[1:], dims_of(node.outputs[0])[1:]
        if source is not None and len(after) == 3 and before == after == (*map(int, target[1:]),):
            _replace(node.outputs[0], source)
    RemoveUnusedNodesPass()(graph)


def select_in_place(graph: ir.Model) -> None:
    """Let what selects channels or pixels do so where they are, instead of in front of the images.

    So torch writes ``x[:, [2, 1, 0]]``, and an adaptive pool whose windows overlap: a Transpose, a
    GatherND of what is in front then, and the Transpose back.
    """
    for node in list(graph.graph):
        selected = _selected(node)
        maker = node.inputs[0].producer() if selected and node.inputs[0] else None
        if selected is None or maker is None or maker.op_type != "Transpose":
            continue
        order = list(maker.attributes["perm"].as_ints())
        count, rank = len(selected), selected[0].ndim
        axis, rest = order[0], order[count:]
        inner = [rank + position for position in range(len(rest))]
        back = [*inner[:axis], *range(rank), *inner[axis:]]
        readers = [reader for reader, _ in node.outputs[0].uses()]
        apart = _apart(selected)
        together = order[:count] == list(range(axis, axis + count)) and rest == sorted(rest)
        if axis == 0 or not together or apart is None:
            continue
        if not all(is_transpose(reader, back) for reader in readers):
            continue
        value = maker.inputs[0]
        for number in reversed(range(count)):
            indices = add_constant(graph, node, apart[number])
            made = ir.node("Gather", [value, indices], {"axis": axis + number})
            (value,) = made.outputs
            value.name = f"{node.outputs[0].name}/in_place{number}"
            graph.graph.insert_before(node, made)
        for reader in readers:
            if value is not None:
                _replace(reader.outputs[0], value)
    RemoveUnusedNodesPass()(graph)


def _selected(node: ir.Node) -> list[NDArray[np.generic]] | None:
    """Return what a node selects of each of a tensor's first axes, arrays of one shape, or None."""
    array = array_of(node.inputs[1]) if node.op_type in ("Gather", "GatherND") else None
    if array is None or not array.ndim:
        return None
    given = node.attributes.get("axis", node.attributes.get("batch_dims"))
    if given is not None and given.as_int() != 0:
        return None
    return [array] if node.op_type == "Gather" else [*np.moveaxis(array, -1, 0)]


def _apart(selected: list[NDArray[np.generic]]) -> list[NDArray[np.generic]] | None:
    """Return what is selected of each axis by itself; None where that depends on another one."""
    rank, start, apart = selected[0].ndim, 0, []
    for number, array in enumerate(selected):
        varied = [axis for axis in range(rank) if array.size and np.ptp(array, axis).any()]
        last = number == len(selected) - 1
        end = rank if last else max(varied, default=start - 1) + 1
        if any(not start <= axis < end for axis in varied):
            return None
        own = tuple(slice(None) if start <= axis < end else 0 for axis in range(rank))
        apart.append(array[own])
        start = end
    return apart


def join_stacked(graph: ir.Model) -> None:
    """Let the mean of tensors that are stacked in front of the images be the mean of these tensors.

    So torch writes ``torch.stack(answers).mean(0)`` of several networks; likewise for sums, maxima
    and minima.
    """
    for node in list(graph.graph):
        axes, keep = array_of((*node.inputs, None, None)[1]), node.attributes.get("keepdims")
        stack = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
        if node.op_type not in JOINED or axes is None or axes.tolist() != [0]:
            continue
        if stack is None or stack.op_type != "Concat" or stack.attributes["axis"].as_int() != 0:
            continue
        rows = [value.producer() if value is not None else None for value in stack.inputs]
        if keep is None or keep.as_int() or not all(map(_adds_first_axis, rows)):
            continue
        made = ir.node(JOINED[node.op_type], [row.inputs[0] for row in rows if row], name=node.name)
        ir.convenience.replace_nodes_and_values(
            graph.graph, node, [node], [made], node.outputs, made.outputs
        )
    RemoveUnusedNodesPass()(graph)


def _adds_first_axis(node: ir.Node | None) -> bool:
    """Tell whether a node puts a dimension of one in front of the images."""
    axes = array_of(node.inputs[1]) if node is not None and node.op_type == "Unsqueeze" else None
    return axes is not None and axes.tolist() == [0]


def is_transpose(node: ir.Node, order: list[int]) -> bool:
    """Tell whether a node is a Transpose to this order of axes."""
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == order


def scalar_bounds(graph: ir.Model) -> None:
    """Make Clip's bounds scalars, as in the standard; ONNX Runtime takes rows of one, too."""
    for node in graph.graph:
        for position, value in enumerate(node.inputs if node.op_type == "Clip" else ()):
            bound = array_of(value)
            if bound is not None and bound.size == 1 and bound.ndim:
                node.replace_input_with(position, add_constant(graph, node, bound.reshape(())))


def flatten_output(graph: ir.Model) -> None:
    """Let the output be [batch, classes], where it has dimensions of one besides."""
    (old,) = graph.graph.outputs
    name, old.name = old.name, f"{old.name}/map"
    flat = ir.node("Flatten", [old], {"axis": 1})
    flat.outputs[0].name = name
    flat.outputs[0].dtype = ir.DataType.FLOAT
    graph.graph.append(flat)
    graph.graph.outputs[0] = flat.outputs[0]


def share_weights(graph: ir.Model) -> None:
    """Let nodes that do the same with equal weights, stored twice, read the same weights.

    Only then are they seen to be one node.
    """
    first: dict[object, ir.Node] = {}
    same: dict[ir.Value | None, ir.Value | None] = {}  # what is computed twice, and what it equals
    for node in graph.graph:
        if any(attribute.type in OF_MANY for attribute in node.attributes.values()):
            continue  # a text of them does not tell all
        arrays = [array_of(value) for value in node.inputs]
        read = [
            same.get(value, value)
            if array is None
            else (array.dtype, array.shape, sha256(array.tobytes()).digest())
            for value, array in zip(node.inputs, arrays, strict=True)
        ]
        told = sorted((name, str(attribute)) for name, attribute in node.attributes.items())
        key = (node.domain, node.op_type, len(node.outputs), *read, *told)
        other = first.setdefault(key, node)
        if other is not node:
            same.update(zip(node.outputs, other.outputs, strict=True))
            for position, array in enumerate(arrays):
                if array is not None:
                    node.replace_input_with(position, other.inputs[position])


def tidy(graph: ir.Model) -> None:
    """Remove what nothing reads, and what only other programs read."""
    share_weights(graph)
    Sequential(
        ClearMetadataAndDocStringPass(),  # where exporters leave paths of their machine
        CommonSubexpressionEliminationPass(),  # as the simplifier does, which would not be provable
        RemoveUnusedNodesPass(),
        RemoveUnusedOpsetsPass(),
        TopologicalSortPass(),
        NameFixPass(),
    )(graph)


def rename(graph: ir.Model) -> None:
    """Let no name be another one with an underscore and more behind it."""
    values = [*graph.graph.inputs, *graph.graph.initializers.values()]
    values += [value for node in graph.graph for value in node.outputs]
    names = {str(value.name) for value in values}
    taken = set(names)
    for value in values:
        name = str(value.name)
        parts = list(name)
        for position, letter in enumerate(name):
            if letter == "_" and name[:position] in names:
                parts[position] = "."
        if (new := "".join(parts)) != name:
            while new in taken:
                new += "."
            taken.add(new)
            value.name = new
