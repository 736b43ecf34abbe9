"""Graphs of other programs are brought into one form here, and proven to be the same function.

What ``normalize_graph`` returns keeps these promises, on which every later stage relies:

* operator set ``OPSET``, or a later one where an operator needs it; IR version ``IR_VERSION``;
  operators of the default domain alone; no local functions, no control flow, no sequences; nodes
  in the order of computation;
* floating-point values are float32, whatever the file has; the answers of such a file are those of
  its graph in float32, and the file's own are near;
* what does not depend on the image is an initializer: there is no Constant, Identity,
  ConstantOfShape or inference Dropout, and no initializer is among the inputs;
* the one input is float32 [batch, channels, side, side] with one or three channels, and the one
  output is float32 [batch, classes]; the batch is free, and every batch of 1, 2 and 7 images gave
  the answers of the original file (``same_answers``);
* zeros around an image are in the convolution's pads, which are numbers; a scale of channels in
  front of a convolution, or a scale or shift of them behind it or behind a normalization, is in its
  weights; a scale and shift of a map's channels is a layer, or in an unpadded one behind it; a
  product with weights is one Gemm, whose factors are in them, as are a scale and shift of the
  columns in front of it or behind it; the mean or maximum of a map is a
  global pool, and what never wins around a map is in its pool's pads; no Reshape follows another,
  and a target that depends on the batch alone is an initializer; Clip's bounds are scalars, and
  Resize has a scale for each axis;
* every tensor has rows of its own for each image, and no image changes another's answer;
* an output of probabilities that sum to 1 ends in a Softmax, and one of probabilities that each
  class has by itself in a Sigmoid or HardSigmoid; no number is behind these; any other output is
  logits, which can leave -1..1; a hand-written sigmoid is a Sigmoid;
* no name is another name with an underscore and more behind it, which is how later stages name
  what they add.

The transformations are in ``graph_passes``, of the batch in ``free_batch``, of the output in
``endings`` and, of layers with what stands beside them, in ``merge_layers``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import RemoveInitializersFromInputsPass, TopologicalSortPass
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule, normalize_pad_format_conv_rule

from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.graphs.endings import (
    drop_percent,
    end_in_probabilities,
    refuse_ending,
)
from mobilenet_cli.pipeline.importing.graphs.foreign_graph import (
    BATCH,
    FUSED,
    STANDARD,
    ImageInput,
    image_input,
    refuse_before,
    refuse_decisions,
    refuse_leftovers,
    refuse_operators,
    refused,
)
from mobilenet_cli.pipeline.importing.graphs.free_batch import (
    free_batch,
    measure_shapes,
    repeat_constants,
    take_branches,
)
from mobilenet_cli.pipeline.importing.graphs.graph_passes import (
    cancel_transposes,
    decode_weights,
    drop_reshapes,
    flatten_output,
    fold,
    infer_shapes,
    join_stacked,
    rename,
    scalar_bounds,
    select_in_place,
    set_image,
    tidy,
)
from mobilenet_cli.pipeline.importing.graphs.merge_layers import (
    merge_affine,
    merge_affine_maps,
    merge_affine_rows,
    merge_factors,
    merge_lowest_pads,
    merge_matrix_products,
    merge_scales,
    name_map_means,
    name_sigmoids,
    scale_resizes,
)
from mobilenet_cli.pipeline.importing.graphs.same_answers import (
    answers_of_the_original,
    moved_by_widening,
    noise,
    noise_for_the_original,
    prove_same,
)
from mobilenet_cli.pipeline.importing.graphs.widen_floats import in_float32

OPSET, IR_VERSION = 18, 10
RESIZE_NAMES_ITS_MODE = 11  # the operator set since which there are several, and what was before
OLD_RESIZE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


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
    wide = in_float32(original)
    plain = _plain(path, wide)
    refuse_decisions(path, plain)
    image = image_input(path, plain, side)
    model = _modern(path, _without_branches(plain, image))
    answers = answers_of_the_original(path, wide, image)
    moved = 0.0 if wide == original else moved_by_widening(path, original, image, answers)
    try:
        made, factor = _brought_into_form(model, image, answers)
    except Exception as error:  # of several libraries, which graphs that contradict themselves meet
        raise refused(path, "it cannot be brought into standard form", error) from error
    refuse_leftovers(path, made)
    refuse_ending(path, made)
    made.ir_version = IR_VERSION
    prove_same(path, made, image, answers / np.float32(factor))
    return Normalized(
        made,
        image.side,
        image.channels,
        int(answers[0].size),
        image.takes_bytes,
        tuple(_notes(original, made, image, factor, moved)),
    )


def _brought_into_form(
    model: onnx.ModelProto, image: ImageInput, answers: NDArray[np.float32]
) -> tuple[onnx.ModelProto, float]:
    """Do what this module's docstring promises, one promise after the other.

    Returns:
        The model, and by what the file multiplies its outputs.
    """
    graph = ir.from_proto(model)
    set_image(graph, image)
    images = noise(image)
    decode_weights(graph, images[:1])
    fold(graph)
    if image.channels_last:
        cancel_transposes(graph)
    free_batch(graph, image.batch or 1)
    measure_shapes(graph, (images[:2], images[:3]))
    fold(graph)
    repeat_constants(graph)
    select_in_place(graph)
    join_stacked(graph)
    rewrite(graph, [normalize_pad_format_conv_rule, fuse_pad_into_conv_rule])
    merge_matrix_products(graph)
    merge_factors(graph)
    merge_scales(graph)
    merge_affine(graph)
    merge_affine_maps(graph)
    merge_affine_rows(graph)
    merge_lowest_pads(graph)
    name_map_means(graph)
    drop_reshapes(graph)
    scalar_bounds(graph)
    scale_resizes(graph)
    name_sigmoids(graph)
    factor = drop_percent(graph)
    if answers.ndim > 2:
        flatten_output(graph)
    end_in_probabilities(graph, answers / np.float32(factor))
    tidy(graph)
    rename(graph)
    infer_shapes(graph)
    (output,) = graph.graph.outputs
    output.shape, output.dtype = ir.Shape([BATCH, answers[0].size]), ir.DataType.FLOAT
    return ir.to_proto(graph), factor


def _notes(
    original: onnx.ModelProto,
    made: onnx.ModelProto,
    image: ImageInput,
    factor: float,
    moved: float,
) -> Iterator[str]:
    if moved:
        yield f"all numbers are float32 now, which moves an output by up to {moved:.1g} on noise"
    if factor != 1:
        yield f"the outputs, which were probabilities times {factor:g}, are the probabilities"
    if image.channels_last:
        yield "the image's channels now come first"
    if image.batch:
        yield f"the batch, which was fixed at {image.batch}, is free"
    if _opset(original) != _opset(made):
        yield f"operator set {_opset(original)} became {_opset(made)}"


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in STANDARD), default=1)


def _plain(path: Path, original: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without functions and fused operators."""
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
    return model


def _without_branches(model: onnx.ModelProto, image: ImageInput) -> onnx.ModelProto:
    """Return the model without branches that no image takes, which no converter would convert."""
    if not any(node.op_type == "If" for node in model.graph.node):
        return model
    graph = ir.from_proto(model)
    images = noise_for_the_original(image)
    take_branches(graph, (images[: image.batch or 2], images[: image.batch or 3]))
    return ir.to_proto(graph)


def _modern(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of our operator set."""
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
