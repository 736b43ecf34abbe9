"""Graphs of other programs are brought into one form here, and proven to be the same function.

What ``normalize_graph`` returns keeps these promises, on which every later stage relies:

* operator set ``OPSET``, or a later one where an operator needs it; IR version ``IR_VERSION``;
  operators of the default domain alone; no local functions, no control flow, no sequences; nodes
  in the order of computation;
* what does not depend on the image is an initializer: there is no Constant, Identity,
  ConstantOfShape or inference Dropout, and no initializer is among the inputs;
* the one input is float32 [batch, channels, side, side] with one or three channels, and the one
  output is float32 [batch, classes]; the batch is free, and every batch of 1, 2 and 7 images gave
  the answers of the original file (``same_answers``);
* zeros around an image are in the convolution's pads, which are numbers; a scale of channels in
  front of a convolution, or a scale or shift of them behind it or behind a normalization, is in its
  weights; a product with weights is one Gemm, whose factors are in them; the mean or maximum of a
  map is a global pool, and what never wins around a map is in its pool's pads; no Reshape follows
  another, and a target that depends on the batch alone is an initializer; Clip's bounds are
  scalars, and Resize has a scale for each axis;
* every tensor has rows of its own for each image, and no image changes another's answer;
* an output of probabilities that sum to 1 ends in a Softmax;
* no name is another name with an underscore and more behind it, which is how later stages name
  what they add.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
import onnxscript.optimizer
from numpy.typing import NDArray
from onnx import helper
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
    TopologicalSortPass,
)
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_pad_into_conv_rule,
    normalize_pad_format_conv_rule,
)

from mobilenet_cli.pipeline.artifacts.onnx_graph import output_kind
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.foreign_graph import (
    BATCH,
    FUSED,
    STANDARD,
    ImageInput,
    image_input,
    refuse_before,
    refuse_leftovers,
    refuse_operators,
    refused,
)
from mobilenet_cli.pipeline.importing.same_answers import (
    answers_of_the_original,
    noise,
    prove_same,
)
from mobilenet_cli.pipeline.runtime.tensor_values import tensor_values

OPSET, IR_VERSION = 18, 10
SUM_TOLERANCE = 1e-3  # of probabilities
QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Cast", "Clip", "Relu", "Neg", "Abs", "Sqrt"}
ELEMENTWISE |= {"Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Elu", "Tanh", "Erf"}
ELEMENTWISE |= {"Max", "Min"}
BY_SHAPE = ("Expand", "ConstantOfShape")
RESIZE_NAMES_ITS_MODE = 11  # the operator set since which there are several, and what was before
OLD_RESIZE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LOWEST = -1e30  # what is padded with this or less is never a maximum
TO_ROWS, TO_CHANNELS = [0, 2, 3, 1], [0, 3, 1, 2]  # NCHW to NHWC, and back


@dataclass(frozen=True)
class Normalized:
    """A normalized graph keeps the promises of this module.

    Attributes:
        model: the graph.
        side: of the square image, in pixels.
        channels: of the image: 1 or 3.
        outputs: the number of classes.
        takes_bytes: the original takes pixels as bytes 0..255, and this one the same as float32.
        notes: what was changed that a person may want to know.
    """

    model: onnx.ModelProto
    side: int
    channels: int
    outputs: int
    takes_bytes: bool
    notes: tuple[str, ...]


def normalize_graph(path: Path, original: onnx.ModelProto, side: int | None) -> Normalized:
    """Bring a classifier into the form that this module's docstring promises.

    Args:
        path: of the file, for errors.
        original: the model in the file; it is not changed.
        side: of the image in pixels, where the user asks for one; None takes the file's.

    Raises:
        ModelError: the graph is no classifier of images, or cannot be brought into that form.
        OptionError: the file's images have another side, or are not square.
    """
    refuse_before(path, original)
    model = _modern(path, original)
    image = image_input(path, model, side)
    answers = answers_of_the_original(path, original, image)
    try:
        made = _brought_into_form(model, image, answers)
    except Exception as error:  # of several libraries, which graphs that contradict themselves meet
        raise refused(path, "it cannot be brought into standard form", error) from error
    refuse_leftovers(path, made)
    made.ir_version = IR_VERSION
    prove_same(path, made, image, answers)
    return Normalized(
        made,
        image.side,
        image.channels,
        int(answers[0].size),
        image.takes_bytes,
        tuple(_notes(original, made, image)),
    )


def _brought_into_form(
    model: onnx.ModelProto, image: ImageInput, answers: NDArray[np.float32]
) -> onnx.ModelProto:
    """Do what this module's docstring promises, one promise after the other."""
    graph = ir.from_proto(model)
    _set_image(graph, image)
    _decode_weights(graph)
    _fold(graph)
    if image.channels_last:
        _cancel_transposes(graph)
    _free_batch(graph, image.batch or 1)
    _measure_shapes(graph, image)
    _fold(graph)
    rewrite(graph, [normalize_pad_format_conv_rule, fuse_pad_into_conv_rule])
    _merge_matrix_products(graph)
    _merge_factors(graph)
    _merge_scales(graph)
    _merge_affine(graph)
    _merge_affine_norms(graph)
    _merge_lowest_pads(graph)
    _name_map_means(graph)
    _drop_reshapes(graph)
    _scalar_bounds(graph)
    _scale_resizes(graph)
    if answers.ndim > 2:
        _flatten_output(graph)
    if _are_shares(answers) and output_kind(ir.to_proto(graph).graph) == "logits":
        _end_in_softmax(graph)
    _tidy(graph)
    _rename(graph)
    _infer_shapes(graph)
    (output,) = graph.graph.outputs
    output.shape, output.dtype = ir.Shape([BATCH, answers[0].size]), ir.DataType.FLOAT
    return ir.to_proto(graph)


def _notes(original: onnx.ModelProto, made: onnx.ModelProto, image: ImageInput) -> Iterator[str]:
    if image.channels_last:
        yield "the image's channels now come first"
    if image.batch:
        yield f"the batch, which was fixed at {image.batch}, is free"
    if _opset(original) != _opset(made):
        yield f"operator set {_opset(original)} became {_opset(made)}"


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in STANDARD), default=1)


def _modern(path: Path, original: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without functions and fused operators, of our operator set."""
    copy = onnx.ModelProto()
    copy.CopyFrom(original)
    for function in copy.functions:  # as of the model's operator set: the proof tells if that holds
        for opset in function.opset_import:
            if opset.domain in STANDARD:
                opset.version = _opset(original)
    try:
        graph = ir.from_proto(onnx.inliner.inline_local_functions(copy))
        Sequential(RemoveInitializersFromInputsPass(), TopologicalSortPass())(graph)
    except Exception as error:  # a cycle, a name that two nodes make: several libraries' errors
        raise refused(path, "its nodes cannot be put into an order", error) from error
    model = _split_fused(ir.to_proto(graph))
    refuse_operators(path, model)
    model.ir_version = max(model.ir_version, IR_VERSION)
    version = _opset(model)
    if version == OPSET:
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, OPSET)
        if version > OPSET:  # the converter keeps attributes that are younger
            onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # the converter raises whatever its C++ does
        if version > OPSET:  # an operator such as Gelu that is younger
            return model
        raise ModelError(
            f"{path} has operator set {version}, and cannot be converted to {OPSET} "
            f"({' '.join(str(error).split())[:200]})",
            f"Export it with operator set {OPSET}",
        ) from error
    if version < RESIZE_NAMES_ITS_MODE:
        for node in (n for n in converted.graph.node if n.op_type == "Resize"):
            node.attribute.extend(
                helper.make_attribute(name, value) for name, value in OLD_RESIZE.items()
            )
    return converted


def _split_fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write convolutions and products that ONNX Runtime fused with what follows as their parts."""
    nodes = []
    for node in model.graph.node:
        standard = FUSED.get(node.op_type)
        if standard is None or node.domain != "com.microsoft":
            nodes.append(node)
            continue
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kind = values.pop("activation", b"").decode()
        numbers = [float(v) for v in values.pop("activation_params", ())]
        numbers += [float(values.pop(f"activation_{n}", 0)) for n in ("alpha", "beta", "gamma")]
        output = node.output[0]
        summed = standard == "Conv" and len(node.input) > 3  # the fourth is added to the sum
        linear = f"{output}/linear"
        base = helper.make_node(standard, node.input[:3], [linear], f"{node.name}/linear")
        base.attribute.extend(a for a in node.attribute if a.name in values)
        nodes.append(base)
        if summed:
            nodes.append(helper.make_node("Add", [linear, node.input[3]], [f"{output}/sum"]))
            linear = f"{output}/sum"
        nodes += _activation(model, kind, numbers, linear, output)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _activation(
    model: onnx.ModelProto, kind: str, numbers: list[float], source: str, output: str
) -> list[onnx.NodeProto]:
    """Return the nodes of an activation that ONNX Runtime describes by name and numbers."""
    if not kind:
        return [helper.make_node("Identity", [source], [output])]
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
    attributes = dict(zip(names.get(kind, ()), numbers, strict=False))
    if kind != "Clip" or _opset(model) < 11:
        node = helper.make_node(kind, [source], [output])
        node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
        return [node]
    bounds = [f"{output}/{name}" for name in attributes]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in zip(bounds, attributes.values(), strict=True)
    )
    return [helper.make_node("Clip", [source, *bounds], [output])]


def _set_image(graph: ir.Model, image: ImageInput) -> None:
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


def _fold(graph: ir.Model) -> None:
    """Compute what does not depend on the image, and drop what does nothing."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it reports each node it leaves
    _infer_shapes(graph)
    onnxscript.optimizer.fold_constants(
        graph, onnx_shape_inference=True, should_fold=lambda node: node.op_type not in QUANTIZING
    )
    Sequential(
        IdentityEliminationPass(),
        RemoveUnusedNodesPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        LiftSubgraphInitializersToMainGraphPass(),
    )(graph)
    _infer_shapes(graph)
    _drop_casts(graph)


def _decode_weights(graph: ir.Model) -> None:
    """Let weights that are stored as codes, to make a file small, be numbers in a float network."""
    if any(node.op_type in QUANTIZING - {"DequantizeLinear"} for node in graph.graph):
        return
    for node in graph.graph:
        arrays = [_array(value) for value in node.inputs]
        if node.op_type != "DequantizeLinear" or any(array is None for array in arrays):
            continue
        codes, scale, *zeros = (array for array in arrays if array is not None)
        if scale.dtype != np.float32 or scale.ndim > 1 or codes.dtype not in (np.int8, np.uint8):
            continue
        axis = node.attributes.get("axis")
        shape = [1] * codes.ndim
        if scale.size > 1:
            shape[axis.as_int() if axis else 1] = scale.size
        zero = zeros[0].reshape(shape).astype(np.float32) if zeros else np.float32(0)
        weights = (codes.astype(np.float32) - zero) * scale.reshape(shape).astype(np.float32)
        _replace(node.outputs[0], _constant(graph, node, weights))
    RemoveUnusedNodesPass()(graph)


def _drop_casts(graph: ir.Model) -> None:
    """Drop casts to the type that a tensor has already."""
    for node in graph.graph:
        (source, *_) = node.inputs
        same = source and node.op_type == "Cast" and source.dtype == node.attributes["to"].as_int()
        if source and same:
            _replace(node.outputs[0], source)


def _infer_shapes(graph: ir.Model) -> None:
    for node in graph.graph:
        for value in node.outputs:
            value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)


def _measure_shapes(graph: ir.Model, image: ImageInput) -> None:
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
            dict(zip(names, tensor_values(ir.to_proto(graph), names, images), strict=True))
            for images in (noise(image)[:size] for size in (2, 3))
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


def _cancel_transposes(graph: ir.Model) -> None:
    """Let maps pass what works on values or channels with these first, up to a Transpose to that.

    Where tf2onnx cannot do so by itself, it leaves two Transposes around every convolution.
    """
    (image,) = graph.graph.inputs
    starts = [node for node, _ in image.uses()]  # of one channel it is a Reshape
    starts += [n for n in graph.graph if _is_transpose(n, TO_ROWS) and n not in starts]
    queue = [(node.inputs[0], node.outputs[0]) for node in starts]
    while queue:
        planes, rows = queue.pop()
        for node, position in list(rows.uses()):
            if _is_transpose(node, TO_CHANNELS) and planes is not None:
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
    attributes, array = dict(node.attributes), _array(node.inputs[-1])
    keeps = "keepdims" not in attributes or attributes["keepdims"].as_int()
    if node.op_type == "Concat" and attributes["axis"].as_int() in (3, -1):
        attributes["axis"] = ir.AttrInt64("axis", 1)
    elif node.op_type == "Pad" and position == 0 and len(node.inputs) < 4:
        widths = _array(node.inputs[1])
        if widths is None:
            return None
        inputs[1] = _constant(graph, node, widths.reshape(2, 4)[:, TO_CHANNELS].ravel())
    elif node.op_type in ("ReduceMean", "ReduceMax") and keeps and len(node.inputs) == 2:
        if array is None or sorted(array % 4) != [1, 2]:
            return None
        inputs[1] = _constant(graph, node, np.array([2, 3]))
    elif node.op_type not in ELEMENTWISE:
        return None
    return None if None in inputs else ir.node(node.op_type, inputs, attributes)


def _for_planes(graph: ir.Model, node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Return what meets rows of channels in the form in which it meets planes.

    Returns:
        The value itself where it is one number, planes that rows were made of, or None where it is
        something else, or a constant for pixels.
    """
    array = _array(value)
    maker = value.producer() if value is not None else None
    if array is None:
        return maker.inputs[0] if maker and _is_transpose(maker, TO_ROWS) else None
    if array.size == 1:
        return value
    return (
        _constant(graph, node, array.reshape(-1, 1, 1)) if array.size == array.shape[-1] else None
    )


def _free_batch(graph: ir.Model, old: int) -> None:
    """Let the first dimension be any number of images."""
    for node in graph.graph:
        _spare_batch(graph, node)
    _infer_shapes(graph)
    for node in graph.graph:
        target = _array(node.inputs[1]) if node.op_type == "Reshape" else None
        if target is None or not target.size or 0 in target:
            continue
        same = target[0] == old and _dims(node.inputs[0])[:1] in ((old,), (BATCH,))
        if same or target.min() > 0:  # else there are several rows of an image, as many as are left
            freed = np.array([0 if same else -1, *target[1:]], np.int64)
            node.replace_input_with(1, _constant(graph, node, freed))
            node.attributes.pop("allowzero", None)
    _infer_shapes(graph)


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


def _merge_matrix_products(graph: ir.Model) -> None:
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


def _merge_factors(graph: ir.Model) -> None:
    """Put the factors of a Gemm into its weights and its bias."""
    for node in graph.graph:
        arrays = [_array(value) for value in node.inputs[1:]] if node.op_type == "Gemm" else []
        factors = ("alpha", "beta")[: len(arrays)]
        if not factors or any(array is None for array in arrays):
            continue
        for position, (name, array) in enumerate(zip(factors, arrays, strict=True), start=1):
            given = node.attributes.get(name)
            if array is not None and given is not None and given.as_float() != 1:
                del node.attributes[name]
                scaled = array.astype(np.float32) * np.float32(given.as_float())
                made = _constant(graph, node, scaled)
                node.replace_input_with(position, made)


def _merge_affine(graph: ir.Model) -> None:
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


def _merge_scales(graph: ir.Model) -> None:
    """Put what scales the channels in front of convolutions into their weights.

    The simplifier does the same, where its proof would miss that.
    """
    for node in reversed(list(graph.graph)):
        arrays = [_array(value) for value in node.inputs] if node.op_type == "Mul" else []
        scale = next((array for array in arrays if array is not None), None)
        readers = list(node.outputs[0].uses())
        if scale is None or not readers or node.outputs[0].is_graph_output():
            continue
        weights = [_scaled_inputs(reader, position, scale) for reader, position in readers]
        if any(weight is None for weight in weights) or len(_dims(node.outputs[0])) != 4:
            continue
        source = node.inputs[next(i for i, array in enumerate(arrays) if array is None)]
        for (reader, _), weight in zip(readers, weights, strict=True):
            reader.replace_input_with(0, source)
            reader.replace_input_with(1, _constant(graph, reader, np.asarray(weight)))
    RemoveUnusedNodesPass()(graph)


def _scaled_inputs(
    node: ir.Node, position: int, scale: NDArray[np.generic]
) -> NDArray[np.float32] | None:
    """Return a convolution's weights times the scale of its input's channels, if it has these."""
    weight = _array(node.inputs[1]) if node.op_type == "Conv" and position == 0 else None
    if weight is None or weight.ndim != 4 or scale.ndim > 4:
        return None
    group = node.attributes.get("group")
    groups = group.as_int() if group is not None else 1
    channels = weight.shape[1] * groups
    if scale.size != 1 and scale.shape[-3:] != (channels, 1, 1):
        return None
    each = np.broadcast_to(scale.astype(np.float64).reshape(-1), channels).reshape(groups, -1)
    rows = np.repeat(each, len(weight) // groups, axis=0)
    scaled = weight.astype(np.float64) * rows[:, :, None, None]
    return scaled.astype(np.float32)


def _merge_affine_norms(graph: ir.Model) -> None:
    """Put what scales or shifts the channels behind a BatchNormalization into its own."""
    for node in list(graph.graph):
        arrays = [_array(value) for value in node.inputs[1:3]]
        if node.op_type != "BatchNormalization" or any(array is None for array in arrays):
            continue
        scaled, shifted = (np.asarray(array, np.float64) for array in arrays)
        end = node
        while step := _affine(end, len(scaled)):
            end, scale, shift = step
            scaled, shifted = scaled * scale, shifted * scale + shift
        if end is not node:
            own = (_constant(graph, end, values.astype(np.float32)) for values in (scaled, shifted))
            inputs = [node.inputs[0], *own, *node.inputs[3:]]
            made = ir.node("BatchNormalization", inputs, node.attributes, name=node.name)
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


def _merge_lowest_pads(graph: ir.Model) -> None:
    """Put what a Pad adds in front of a MaxPool into its pads, where no maximum can be that.

    So programs write TensorFlow's "same" padding: with minus infinity, or the lowest float32.
    """
    for node in graph.graph:
        pad = node.inputs[0].producer() if node.op_type == "MaxPool" and node.inputs[0] else None
        if pad is None or pad.op_type != "Pad" or not _has_plain_windows(node):
            continue
        widths, value, axes = (_array(given) for given in (*pad.inputs[1:], None, None)[:3])
        if widths is None or value is None or value.item() > LOWEST:
            continue
        before, after = all_widths = np.zeros((2, 4), np.int64)
        all_widths[:, range(4) if axes is None else axes] = widths.reshape(2, -1)
        own, kernel = node.attributes.get("pads"), node.attributes["kernel_shape"].as_ints()
        pads = np.concatenate([before[2:], after[2:]]) + (own.as_ints() if own else 0)
        outside = all_widths[:, :2].any() or all_widths.min() < 0
        if not outside and (pads < [*kernel, *kernel]).all():  # each window has a value of the map
            node.attributes["pads"] = ir.AttrInt64s("pads", pads.tolist())
            node.replace_input_with(0, pad.inputs[0])
    RemoveUnusedNodesPass()(graph)


def _has_plain_windows(pool: ir.Node) -> bool:
    """Tell whether a pool's windows are of neighbours, and lie where its pads say."""
    automatic, apart = (pool.attributes.get(name) for name in ("auto_pad", "dilations"))
    placed = automatic is None or automatic.as_string() == "NOTSET"
    return placed and (apart is None or set(apart.as_ints()) == {1})


def _name_map_means(graph: ir.Model) -> None:
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


def _drop_reshapes(graph: ir.Model) -> None:
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


def _scalar_bounds(graph: ir.Model) -> None:
    """Make Clip's bounds scalars, as in the standard; ONNX Runtime takes rows of one, too."""
    for node in graph.graph:
        for position, value in enumerate(node.inputs if node.op_type == "Clip" else ()):
            bound = _array(value)
            if bound is not None and bound.size == 1 and bound.ndim:
                node.replace_input_with(position, _constant(graph, node, bound.reshape(())))


def _scale_resizes(graph: ir.Model) -> None:
    """Let Resize have a scale for each axis instead of sizes, or of some axes only.

    ONNX Runtime turns the scales of four axes with their map when it brings channels last; with
    fewer sizes or scales than axes it makes a graph that does not load.
    """
    for node in graph.graph:
        cuts = node.attributes.get("coordinate_transformation_mode")
        whole = cuts is None or cuts.as_string() != "tf_crop_and_resize"
        scales = _scales(node) if node.op_type == "Resize" and whole else None
        if scales is not None:
            node.resize_inputs(3)
            node.replace_input_with(2, _constant(graph, node, scales))
            for name in ("axes", "keep_aspect_ratio_policy"):
                node.attributes.pop(name, None)


def _scales(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the scale of each of four axes; None where it has them, or they are not known."""
    before, after = (_dims(value)[2:] for value in (node.inputs[0], node.outputs[0]))
    known = [size for size in (*before, *after) if isinstance(size, int)]
    given, sizes = (_array(value) for value in (*node.inputs, None, None)[2:4])
    axes = node.attributes.get("axes")
    resized = [axis % 4 for axis in axes.as_ints()] if axes is not None else [0, 1, 2, 3]
    if len(known) != 4 or (axes is None and given is not None):
        return None
    scales = np.ones(4)
    if given is not None and given.size:
        scales[resized] = given
    elif sizes is not None:
        scales[2:] = np.divide(known[2:], known[:2])
        policy = node.attributes.get("keep_aspect_ratio_policy")
        if policy is not None and policy.as_string() != "stretch":  # the file's sizes are limits
            shape = np.array([1, 1, *known[:2]])
            ratios = sizes / shape[resized]
            scales[resized] = ratios.min() if policy.as_string() == "not_larger" else ratios.max()
    found = scales.astype(np.float32)
    lost = np.floor(found[2:] * np.array(known[:2], np.float32)) < known[2:]
    found[2:] = np.where(lost, np.nextafter(found[2:], np.float32(np.inf)), found[2:])
    return found


def _are_shares(answers: NDArray[np.float32]) -> bool:
    """Tell whether a network answers with probabilities that sum to 1."""
    shares = answers.reshape(len(answers), -1)
    sums = shares.sum(1, dtype=np.float64)
    return bool(shares.min() >= 0 and np.abs(sums - 1).max() < SUM_TOLERANCE)


def _end_in_softmax(graph: ir.Model) -> None:
    """Let probabilities p, such as the mean of several Softmax, be ``Softmax(log p)``: the same.

    Later stages see at the last node what an output is.
    """
    (old,) = graph.graph.outputs
    name, old.name = old.name, f"{old.name}/shares"
    floor = _constant(graph, graph.graph[-1], np.array(np.finfo(np.float32).tiny))
    above = ir.node("Max", [old, floor])
    log = ir.node("Log", [above.outputs[0]])
    softmax = ir.node("Softmax", [log.outputs[0]], {"axis": 1})
    above.outputs[0].name, log.outputs[0].name = f"{name}/above", f"{name}/log"
    softmax.outputs[0].name, softmax.outputs[0].dtype = name, ir.DataType.FLOAT
    graph.graph.extend([above, log, softmax])
    graph.graph.outputs[0] = softmax.outputs[0]


def _flatten_output(graph: ir.Model) -> None:
    """Let the output be [batch, classes], where it has dimensions of one besides."""
    (old,) = graph.graph.outputs
    name, old.name = old.name, f"{old.name}/map"
    flat = ir.node("Flatten", [old], {"axis": 1})
    flat.outputs[0].name = name
    flat.outputs[0].dtype = ir.DataType.FLOAT
    graph.graph.append(flat)
    graph.graph.outputs[0] = flat.outputs[0]


def _tidy(graph: ir.Model) -> None:
    Sequential(
        ClearMetadataAndDocStringPass(),  # where exporters leave paths of their machine
        CommonSubexpressionEliminationPass(),  # as the simplifier does, which would not be provable
        RemoveUnusedNodesPass(),
        RemoveUnusedOpsetsPass(),
        TopologicalSortPass(),
        NameFixPass(),
    )(graph)


def _rename(graph: ir.Model) -> None:
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
