"""These transformations bring a graph into standard form; each changes it in place.

``normalize_graph`` does one after the other, and proves that together they change no answer.
"""

import logging

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from numpy.typing import NDArray
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
    TopologicalSortPass,
)

from mobilenet_cli.pipeline.importing.foreign_graph import BATCH, ImageInput
from mobilenet_cli.pipeline.runtime.tensor_values import tensor_values

QUANTIZING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Cast", "Clip", "Relu", "Neg", "Abs", "Sqrt"}
BY_SHAPE = ("Expand", "ConstantOfShape")
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
            rows = ir.node("Reshape", [value, _constant(graph, rows, target)])
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
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it reports each node it leaves
    infer_shapes(graph)
    onnxscript.optimizer.fold_constants(
        graph, onnx_shape_inference=True, should_fold=lambda node: node.op_type not in QUANTIZING
    )
    Sequential(
        IdentityEliminationPass(),
        RemoveUnusedNodesPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        LiftSubgraphInitializersToMainGraphPass(),
    )(graph)
    infer_shapes(graph)
    _drop_casts(graph)


def _drop_casts(graph: ir.Model) -> None:
    """Drop casts to the type that a tensor has already."""
    for node in graph.graph:
        (source, *_) = node.inputs
        same = source and node.op_type == "Cast" and source.dtype == node.attributes["to"].as_int()
        if source and same:
            _replace(node.outputs[0], source)


def infer_shapes(graph: ir.Model) -> None:
    """Forget the shapes of what nodes make, and infer them anew."""
    for node in graph.graph:
        for value in node.outputs:
            value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)


def measure_shapes(graph: ir.Model, images: NDArray[np.float32]) -> None:
    """Make constants of what is computed from shapes: it is measured at two sizes of the batch.

    What is the same at both does not depend on the batch. Where one dimension of a Reshape's
    target does, it is what is left for it or what the tensor has; what an Expand or ConstantOfShape
    makes has one there, which meets any batch.
    """
    computed: set[ir.Value] = set()
    for node in graph.graph:
        known = [value in computed for value in node.inputs if _array(value) is None]
        if node.op_type in BY_SHAPE:
            continue  # these make tensors of the shape
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
            dict(zip(names, tensor_values(ir.to_proto(graph), names, images[:size]), strict=True))
            for size in (2, 3)
        )
    except Exception:  # the proof will say why, of the graph as it is then
        return
    for node, position, value in uses:
        measured, other = few[str(value.name)], more[str(value.name)]
        if measured.shape != other.shape:
            continue  # a tensor of the batch's size, no shape
        changing = measured != other
        if not changing.any():
            node.replace_input_with(position, _constant(graph, node, measured))
        elif node.op_type == "Resize" and changing.tolist() == [True, False, False, False]:
            node.replace_input_with(position, _constant(graph, node, measured))
            _spare_batch(graph, node)
        elif node.op_type in ("Reshape", *BY_SHAPE) and changing.sum() == 1:
            rest = 1 if node.op_type in BY_SHAPE else 0 if -1 in measured else -1
            target = np.where(changing, rest, measured)
            node.replace_input_with(position, _constant(graph, node, target))
            node.attributes.pop("allowzero", None)


def _array(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return what an initializer holds; None for any other tensor."""
    constant = value.const_value if value is not None else None
    return None if constant is None else constant.numpy()


def _dims(value: ir.Value | None) -> tuple[object, ...]:
    """Return the dimensions of a tensor: numbers, and what is free; empty where none is known."""
    return () if value is None or value.shape is None else tuple(value.shape)


def _constant(graph: ir.Model, node: ir.Node, value: NDArray[np.generic]) -> ir.Value:
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
    """Let the image pass element-wise operators channels first, up to a Transpose to that order."""
    (image,) = graph.graph.inputs
    queue = [(image, node.outputs[0]) for node, _ in image.uses()]
    while queue:
        planes, rows = queue.pop()
        for node, position in list(rows.uses()):
            if _is_transpose(node, TO_CHANNELS):
                _replace(node.outputs[0], planes)
                continue
            others = [_for_planes(graph, node, other) for other in node.inputs]
            others[position] = planes
            if node.op_type not in ELEMENTWISE or None in others:
                continue
            moved = ir.node(node.op_type, others, node.attributes)
            moved.outputs[0].name = f"{node.outputs[0].name}/planes"
            back = _rows(moved.outputs[0])
            graph.graph.insert_before(node, [moved, back])
            _replace(node.outputs[0], back.outputs[0])
            queue.append((moved.outputs[0], back.outputs[0]))
    RemoveUnusedNodesPass()(graph)


def _for_planes(graph: ir.Model, node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Return a constant that meets rows of channels in the form in which it meets planes.

    Returns:
        The value itself where it is one number; None where it is no constant, or one for pixels.
    """
    array = _array(value)
    if array is None or array.size == 1:
        return value if array is not None else None
    return (
        _constant(graph, node, array.reshape(-1, 1, 1)) if array.size == array.shape[-1] else None
    )


def free_batch(graph: ir.Model, old: int) -> None:
    """Let the first dimension be any number of images."""
    for node in graph.graph:
        _spare_batch(graph, node)
    infer_shapes(graph)
    for node in graph.graph:
        target = _array(node.inputs[1]) if node.op_type == "Reshape" else None
        if target is None or not target.size or target[0] != old or 0 in target:
            continue
        if _dims(node.inputs[0])[:1] in ((old,), (BATCH,)):
            freed = np.array([0, *target[1:]], np.int64)
            node.replace_input_with(1, _constant(graph, node, freed))
            node.attributes.pop("allowzero", None)
    infer_shapes(graph)


def _spare_batch(graph: ir.Model, node: ir.Node) -> None:
    """Name the dimensions that a Resize or Squeeze changes, which leaves the batch alone."""
    dims = _dims(node.inputs[0]) if node.inputs else ()
    if node.op_type == "Squeeze" and len(node.inputs) == 1 and len(dims) > 1:
        axes = np.array([axis for axis, size in enumerate(dims) if size == 1 and axis], np.int64)
        node.resize_inputs(2)
        node.replace_input_with(1, _constant(graph, node, axes))
    sizes = _array(node.inputs[3]) if node.op_type == "Resize" and len(node.inputs) > 3 else None
    if sizes is not None and len(sizes) == 4 and "axes" not in node.attributes:
        node.replace_input_with(3, _constant(graph, node, sizes[2:]))
        node.attributes["axes"] = ir.AttrInt64s("axes", [2, 3])


def merge_matrix_products(graph: ir.Model) -> None:
    """Write the product of a matrix and weights, and a bias behind it, as one Gemm."""
    for node in list(graph.graph):
        weight = _array(node.inputs[1]) if node.op_type == "MatMul" else None
        if weight is None or (weight.ndim, len(_dims(node.inputs[0]))) != (2, 2):
            continue
        wide, end, inputs = weight.shape[1], node, list(node.inputs)
        uses = list(node.outputs[0].uses())
        if len(uses) == 1 and uses[0].node.op_type == "Add":
            add, position = uses[0]
            bias = _array(add.inputs[1 - position])
            if bias is not None and bias.shape in ((), (1,), (wide,), (1, 1), (1, wide)):
                row = np.broadcast_to(bias.reshape(-1), wide)
                end, inputs = add, [*inputs, _constant(graph, add, row)]
        gemm = ir.node("Gemm", inputs, name=end.name)
        ir.convenience.replace_nodes_and_values(
            graph.graph, end, [end], [gemm], end.outputs, gemm.outputs
        )
    RemoveUnusedNodesPass()(graph)


def merge_affine(graph: ir.Model) -> None:
    """Put what scales or shifts the channels behind a convolution into its weights and bias."""
    for node in list(graph.graph):
        weight = _array(node.inputs[1]) if node.op_type == "Conv" else None
        bias = _array(node.inputs[2]) if len(node.inputs) > 2 else None
        if weight is None or (len(node.inputs) > 2 and bias is None) or weight.ndim != 4:
            continue
        scaled = weight.astype(np.float64)
        shifted = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
        end = node
        while step := _affine(end, len(weight)):
            end, scale, shift = step
            scaled *= scale[:, None, None, None]
            shifted = shifted * scale + shift
        if end is not node:
            inputs = [
                node.inputs[0],
                _constant(graph, end, scaled.astype(np.float32)),
                _constant(graph, end, shifted.astype(np.float32)),
            ]
            made = ir.node("Conv", inputs, node.attributes, name=node.name)
            ir.convenience.replace_nodes_and_values(
                graph.graph, end, [end], [made], end.outputs, made.outputs
            )
    RemoveUnusedNodesPass()(graph)


def _affine(
    node: ir.Node, channels: int
) -> tuple[ir.Node, NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the one reader of a node with its scale and shift of each channel, if it has these."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    reader, position = uses[0]
    if reader.op_type not in ("Add", "Sub", "Mul", "Div") or len(reader.inputs) != 2:
        return None
    array = _array(reader.inputs[1 - position])
    if array is None or array.shape[-3:] not in ((), (1,), (1, 1, 1), (channels, 1, 1)):
        return None
    if array.size not in (1, channels) or array.ndim > 4:
        return None
    value = np.broadcast_to(array.reshape(-1).astype(np.float64), channels)
    ones, zeros = np.ones(channels), np.zeros(channels)
    if reader.op_type == "Mul":
        return reader, value, zeros
    if reader.op_type == "Div":
        return (reader, 1 / value, zeros) if position == 0 and value.all() else None
    if reader.op_type == "Add":
        return reader, ones, value
    return (reader, ones, -value) if position == 0 else (reader, -ones, value)


def name_map_means(graph: ir.Model) -> None:
    """Write the mean or maximum of a map as a global pool, with a Flatten where it needs one."""
    for node in list(graph.graph):
        pool = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}.get(node.op_type)
        if pool is None or len(node.inputs) < 2 or len(_dims(node.inputs[0])) != 4:
            continue
        (source, over), keep = node.inputs, node.attributes.get("keepdims")
        maker = source.producer() if source is not None else None
        axes, flat = _array(over), keep is not None and not keep.as_int()
        last = maker is not None and _is_transpose(maker, TO_ROWS)
        if axes is None or sorted(axes % 4) != ([1, 2] if last else [2, 3]) or (last and not flat):
            continue
        made = [ir.node(pool, maker.inputs if maker and last else [source], name=node.name)]
        if flat:
            made[0].outputs[0].name = f"{node.outputs[0].name}/map"
            made.append(ir.node("Flatten", made[0].outputs))
        ir.convenience.replace_nodes_and_values(
            graph.graph, node, [node], made, node.outputs, made[-1].outputs
        )


def drop_reshapes(graph: ir.Model) -> None:
    """Let a Reshape read what the Reshape before it reads, and drop one that changes nothing."""
    for node in graph.graph:
        if node.op_type != "Reshape":
            continue
        source, target = node.inputs[0], _array(node.inputs[1])
        maker = source.producer() if source is not None else None
        if target is None or 0 in target:
            continue
        if maker is not None and maker.op_type == "Reshape":
            source = maker.inputs[0]
            node.replace_input_with(0, source)
        before, after = _dims(source)[1:], _dims(node.outputs[0])[1:]
        if source is not None and len(after) == 3 and before == after == (*map(int, target[1:]),):
            _replace(node.outputs[0], source)
    RemoveUnusedNodesPass()(graph)


def _is_transpose(node: ir.Node, order: list[int]) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == order


def scalar_bounds(graph: ir.Model) -> None:
    """Make Clip's bounds scalars, as in the standard; ONNX Runtime takes rows of one, too."""
    for node in graph.graph:
        for position, value in enumerate(node.inputs if node.op_type == "Clip" else ()):
            bound = _array(value)
            if bound is not None and bound.size == 1 and bound.ndim:
                node.replace_input_with(position, _constant(graph, node, bound.reshape(())))


def flatten_output(graph: ir.Model) -> None:
    """Let the output be [batch, classes], where it has dimensions of one besides."""
    (old,) = graph.graph.outputs
    name, old.name = old.name, f"{old.name}/map"
    flat = ir.node("Flatten", [old], {"axis": 1})
    flat.outputs[0].name = name
    flat.outputs[0].dtype = ir.DataType.FLOAT
    graph.graph.append(flat)
    graph.graph.outputs[0] = flat.outputs[0]


def tidy(graph: ir.Model) -> None:
    """Leave what is used alone, in the order of computation."""
    Sequential(
        ClearMetadataAndDocStringPass(),  # where exporters leave paths of their machine
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
