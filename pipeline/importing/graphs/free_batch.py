"""The batch of a graph is freed: nothing is left that was fixed, or computed from shapes."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass, NameFixPass

from mobilenet_cli.pipeline.importing.graphs.foreign_graph import BATCH
from mobilenet_cli.pipeline.importing.graphs.graph_passes import (
    add_constant,
    array_of,
    compute_constants,
    dims_of,
    infer_shapes,
)
from mobilenet_cli.pipeline.runtime.tensor_values import tensor_values

Batches = tuple[NDArray[np.generic], NDArray[np.generic]]  # of images, of two sizes
BY_SHAPE = ("Expand", "ConstantOfShape", "Tile")


def take_branches(graph: ir.Model, batches: Batches) -> None:
    """Put the branch in place of each If whose condition does not depend on the image."""
    NameFixPass()(graph)  # branches may have names in common, which come to stand side by side
    left = None
    while left != (left := [node for node in graph.graph if node.op_type == "If"]):
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
        measure_shapes(graph, batches)
        compute_constants(graph)


def measure_shapes(graph: ir.Model, batches: Batches) -> None:
    """Make constants of what is computed from shapes: it is measured at two sizes of the batch.

    What is the same at both does not depend on the batch. Where one dimension of a Reshape's
    target does, it is what is left for it or what the tensor has; what an Expand, ConstantOfShape
    or Tile makes has one there, which meets any batch.
    """
    computed: set[ir.Value] = set()
    for node in graph.graph:
        known = [value in computed for value in node.inputs if array_of(value) is None]
        if node.op_type in (*BY_SHAPE, "If"):
            continue  # these make tensors of the shape, or of what their graphs read
        if node.op_type in ("Shape", "Size") or (known and all(known)):
            computed.update(node.outputs)
    uses = [
        (node, position, value)
        for node in graph.graph
        for position, value in enumerate(node.inputs)
        if value in computed and node.outputs[0] not in computed
    ]
    if not uses:
        return
    names = sorted({str(value.name) for _, _, value in uses})
    try:
        few, more = (
            dict(zip(names, tensor_values(ir.to_proto(graph), names, images), strict=True))
            for images in batches
        )
    except Exception:  # the proof will say why, of the graph as it is then
        return
    for node, position, value in uses:
        measured, other = few[str(value.name)], more[str(value.name)]
        if measured.shape != other.shape:  # a tensor of the batch's size, no shape
            if node.op_type == "Gather" and position == 1:
                _select_in_each(graph, node, measured, other)
            continue
        changing = measured != other
        if not changing.any():
            node.replace_input_with(position, add_constant(graph, node, measured))
        elif node.op_type == "Resize" and changing.tolist() == [True, False, False, False]:
            node.replace_input_with(position, add_constant(graph, node, measured))
            _spare_batch(graph, node)
        elif node.op_type in ("Reshape", *BY_SHAPE) and changing.sum() == 1:
            rest = 1 if node.op_type in BY_SHAPE else 0 if -1 in measured else -1
            target = np.where(changing, rest, measured)
            node.replace_input_with(position, add_constant(graph, node, target))
            node.attributes.pop("allowzero", None)


def _select_in_each(
    graph: ir.Model, node: ir.Node, few: NDArray[np.generic], more: NDArray[np.generic]
) -> None:
    """Write what takes the same values of each image out of all values in a row as a Reshape.

    So torch writes a view by its strides, ``as_strided``: the indices are counted on from image to
    image. Where they leave some out or change their order, a Gather of columns does so.

    Args:
        graph: the graph.
        node: a Gather.
        few: its indices, [images, ...].
        more: the same of more images.
    """
    flat = node.inputs[0].producer() if node.inputs[0] is not None else None
    target = array_of(flat.inputs[1]) if flat is not None and flat.op_type == "Reshape" else None
    axis = node.attributes.get("axis")
    if flat is None or target is None or target.tolist() != [-1] or (axis and axis.as_int()):
        return
    dims = dims_of(flat.inputs[0])[1:]
    size = int(np.prod([dim for dim in dims if isinstance(dim, int)]))
    columns = few[0].reshape(-1)
    for indices in (few, more):
        counted = size * np.arange(len(indices))[:, None] + columns
        if not dims or not np.array_equal(indices.reshape(len(indices), -1), counted):
            return
    if columns.min(initial=0) < 0 or columns.max(initial=0) >= size:
        return
    rows = add_constant(graph, node, np.array([-1, size], np.int64))
    shape = add_constant(graph, node, np.array([-1, *few.shape[1:]], np.int64))
    made = [ir.node("Reshape", [flat.inputs[0], rows])]
    if not np.array_equal(columns, np.arange(size)):
        taken = add_constant(graph, node, columns.astype(np.int64))
        made.append(ir.node("Gather", [made[-1].outputs[0], taken], {"axis": 1}))
    made.append(ir.node("Reshape", [made[-1].outputs[0], shape]))
    for number, inner in enumerate(made[:-1]):
        inner.outputs[0].name = f"{node.outputs[0].name}/of_each{number}"
    ir.convenience.replace_nodes_and_values(
        graph.graph, node, [node], made, node.outputs, made[-1].outputs
    )


def free_batch(graph: ir.Model, old: int) -> None:
    """Let the first dimension be any number of images."""
    for node in graph.graph:
        _spare_batch(graph, node)
        shape = array_of(node.inputs[1]) if node.op_type == "Expand" else None
        if shape is not None and shape.size and shape[0] == old > 1:  # one row meets any batch
            free = np.array([1, *shape[1:]], np.int64)
            node.replace_input_with(1, add_constant(graph, node, free))
    infer_shapes(graph)
    for node in graph.graph:
        target = array_of(node.inputs[1]) if node.op_type == "Reshape" else None
        if target is None or not target.size or 0 in target:
            continue
        same = target[0] == old and dims_of(node.inputs[0])[:1] in ((old,), (BATCH,))
        if same or target.min() > 0:  # else there are several rows of an image, as many as are left
            freed = np.array([0 if same else -1, *target[1:]], np.int64)
            node.replace_input_with(1, add_constant(graph, node, freed))
            node.attributes.pop("allowzero", None)
    infer_shapes(graph)


def _spare_batch(graph: ir.Model, node: ir.Node) -> None:
    """Name the dimensions that a Resize or Squeeze changes, which leaves the batch alone."""
    dims = dims_of(node.inputs[0]) if node.inputs else ()
    if node.op_type == "Squeeze" and len(node.inputs) == 1 and len(dims) > 1:
        axes = np.array([axis for axis, size in enumerate(dims) if size == 1 and axis], np.int64)
        node.resize_inputs(2)
        node.replace_input_with(1, add_constant(graph, node, axes))
    sizes = array_of(node.inputs[3]) if node.op_type == "Resize" and len(node.inputs) > 3 else None
    if sizes is not None and len(sizes) == 4 and "axes" not in node.attributes:
        node.replace_input_with(3, add_constant(graph, node, sizes[2:]))
        node.attributes["axes"] = ir.AttrInt64s("axes", [2, 3])


def repeat_constants(graph: ir.Model) -> None:
    """Let what a Concat puts beside maps, the same for each image, have a row for each of them.

    Such are the coordinates of pixels, or a token of a class: ``constant + 0 image[:, 0, 0, 0]``.
    """
    (image,) = graph.graph.inputs
    for node in list(graph.graph):
        arrays = [array_of(value) for value in node.inputs] if node.op_type == "Concat" else []
        axis = node.attributes["axis"].as_int() if arrays else 0
        ranks = {array.ndim for array in arrays if array is not None}
        if axis % max(ranks, default=1) == 0 or all(array is not None for array in arrays):
            continue
        for position, array in enumerate(arrays):
            if array is not None and (array == array[:1]).all():
                source = node.inputs[position]
                zero = _zero_of_each(graph, node, image, array.ndim)
                row = add_constant(graph, node, array[:1])
                made = ir.node("Add", [zero.outputs[0], row])
                made.outputs[0].name = f"{source.name if source else ''}/rows"
                graph.graph.insert_before(node, made)
                node.replace_input_with(position, made.outputs[0])


def _zero_of_each(graph: ir.Model, reader: ir.Node, image: ir.Value, rank: int) -> ir.Node:
    """Insert nodes that make a zero of each image, [batch, 1, ...] of so many dimensions."""
    name = f"{reader.outputs[0].name}/zero"
    numbers = [np.array(values, np.int64) for values in ([0] * 3, [1] * 3, [1, 2, 3])]
    pixel = ir.node("Slice", [image, *(add_constant(graph, reader, array) for array in numbers)])
    target = add_constant(graph, reader, np.array([-1] + [1] * (rank - 1), np.int64))
    column = ir.node("Reshape", [pixel.outputs[0], target])
    zero = ir.node("Mul", [column.outputs[0], add_constant(graph, reader, np.array(0, np.float32))])
    made = [pixel, column, zero]
    for number, node in enumerate(made):
        node.outputs[0].name = f"{name}/{number}"
    graph.graph.insert_before(reader, made)
    return zero
