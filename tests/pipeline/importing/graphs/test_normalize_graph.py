"""Graphs of other programs are brought into one form, the same function, or refused by name."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.pipeline.artifacts.onnx_graph import output_kind
from mobilenet_cli.pipeline.errors import MobilenetError, ModelError
from mobilenet_cli.pipeline.importing.graphs.normalize_graph import (
    IR_VERSION,
    OPSET,
    Normalized,
    normalize_graph,
)

FILE = Path("other.onnx")


def normalized(model: onnx.ModelProto, side: int | None = None) -> Normalized:
    """Normalize a model, and check what every stage may rely on; the logits are proven there."""
    made = normalize_graph(FILE, model, side)
    graph = made.model.graph
    assert [o.domain for o in made.model.opset_import] == [""]
    assert made.model.opset_import[0].version >= OPSET
    assert made.model.ir_version == IR_VERSION
    assert not made.model.functions
    (image,) = graph.input
    assert image.type.tensor_type.elem_type == TensorProto.FLOAT
    dims = image.type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    assert [d.dim_value for d in dims[1:]] == [made.channels, made.side, made.side]
    dims = graph.output[0].type.tensor_type.shape.dim
    assert not dims[0].HasField("dim_value")
    assert [d.dim_value for d in dims[1:]] == [made.outputs]
    operators = {node.op_type for node in graph.node}
    assert not operators & {"Constant", "Identity", "ConstantOfShape", "Dropout", "If", "Shape"}
    names = {name for node in graph.node for name in (*node.input, *node.output)} - {""}
    assert not [(a, b) for a in names for b in names if b.startswith(f"{a}_")]
    onnx.checker.check_model(made.model, full_check=True)
    return made


def operators(made: Normalized) -> Counter[str]:
    return Counter(node.op_type for node in made.model.graph.node)


def test_constant_nodes_become_initializers(small_graph):
    g = small_graph()
    x = g.conv("x", 3, 8)
    low = g.node("Constant", value=numpy_helper.from_array(np.array(0, np.float32)))
    high = g.node("Constant", value_float=6.0)
    g.head(g.node("Clip", x, low, high), 8)
    weights, g.constants[:] = list(g.constants), []
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in weights]
    g.nodes[:0] = constants
    assert set(operators(normalized(g.model()))) == {
        "Conv", "Clip", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip


def test_weights_behind_other_nodes_are_computed(small_graph):
    g = small_graph()
    shape = g.constant([8], dtype=np.int64)
    zeros = g.node("ConstantOfShape", shape)
    g.node("Identity", zeros, output="bias")
    weights = g.node("Transpose", g.weights(3, 3, 3, 8), perm=[3, 0, 1, 2])
    g.head(g.node("Relu", g.node("Conv", "x", weights, "bias")), 8)
    made = normalized(g.model())
    assert operators(made)["Transpose"] == 0
    assert all(len(node.input) == 3 for node in made.model.graph.node if node.op_type == "Conv")


def test_what_is_computed_twice_from_equal_weights_is_one_node(small_graph):
    """The simplifier makes one of them, and its proof would miss the other."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    numbers = g.random.normal(size=(8, 8, 3, 3)), *(g.random.uniform(0.5, 1.5, (4, 8)))
    parts = []
    for _ in range(2):
        kernel, *norm = [g.constant(array) for array in numbers]
        conv = g.node("Conv", x, g.node("Identity", kernel), pads=[1] * 4)
        parts.append(g.node("BatchNormalization", conv, *norm))
    g.head(g.node("Add", g.node("Relu", parts[0]), g.node("Sigmoid", parts[1])), 8)
    assert operators(normalized(g.model()))["Conv"] == 2
    assert operators(normalized(g.model()))["BatchNormalization"] == 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_leave_the_inputs(small_graph, first: bool, ir_version: int):
    g = small_graph(opset=9, ir_version=ir_version)
    g.head(g.node("Relu", g.conv("x", 3, 8)), 8)
    weights = [helper.make_tensor_value_info(t.name, 1, t.dims) for t in g.constants]
    g.inputs = weights + g.inputs if first else g.inputs + weights
    assert normalized(g.model()).notes == (f"operator set 9 became {OPSET}",)


@pytest.mark.parametrize("batch", [1, 4, -1, None])
def test_the_batch_is_freed(small_graph, batch: int | None):
    g = small_graph(None if batch is None else (batch, 3, 32, 32))
    if batch is None:
        g = small_graph(["", 3, 32, 32])
    x = g.node("Relu", g.conv("x", 3, 8))
    rows = g.node("Reshape", x, g.constant([max(batch or 1, 1), -1], dtype=np.int64))
    fine = batch in (1, 4)
    g.node("Gemm", rows if fine else g.node("Flatten", x), g.weights(8 * 32 * 32, 3), output="y")
    notes = normalized(g.model([batch or "N", 3])).notes
    assert notes == ((f"the batch, which was fixed at {batch}, is free",) if fine else ())


def test_a_batch_that_cannot_be_freed(small_graph):
    g = small_graph([2, 3, 32, 32])
    x = g.node("Relu", g.conv("x", 3, 8))
    x = g.node("Concat", x, g.weights(2, 8, 32, 32), axis=1)  # each image of the two has its own
    g.head(x, 16)
    with pytest.raises(ModelError, match=r"1 image at once.*Concat"):
        normalized(g.model([2, 3]))


@pytest.mark.parametrize("operator", ["Expand", "ConstantOfShape", "Tile"])
@pytest.mark.parametrize("batch", ["N", 2])
def test_coordinates_beside_a_map_have_a_row_for_each_image(small_graph, operator, batch):
    """Of CoordConv, Liu et al., arXiv:1807.03247, section 3."""
    g = small_graph([batch, 3, 32, 32])
    x = g.node("Relu", g.conv("x", 3, 8))
    rows = g.constant(np.linspace(-1, 1, 32).reshape(1, 1, 32, 1))
    count = g.node(
        "Slice", g.node("Shape", "x"), *(g.constant([n], dtype=np.int64) for n in (0, 1))
    )
    target = g.node("Concat", count, g.constant([1, 32, 32], dtype=np.int64), axis=0)
    if operator == "ConstantOfShape":
        rows = g.node(operator, target)
    elif operator == "Expand":
        rows = g.node(operator, rows, target)
    elif operator == "Tile":
        repeats = g.node("Concat", count, g.constant([1, 1, 32], dtype=np.int64), axis=0)
        rows = g.node(operator, rows, repeats)
    g.head(g.node("Concat", x, rows, axis=1), 9)
    assert operators(normalized(g.model([batch, 3])))["Concat"] == 1


def test_shape_arithmetic_becomes_a_constant(small_graph):
    """Of ``x.view(x.size(0), -1)``, as TorchScript exports it."""
    g = small_graph()
    pooled = g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8)))
    size = g.node("Gather", g.node("Shape", "x"), g.constant(0, dtype=np.int64))
    size = g.node("Unsqueeze", size, g.constant([0], dtype=np.int64))
    target = g.node("Concat", size, g.constant([-1], dtype=np.int64), axis=0)
    flat = g.node("Reshape", pooled, target)
    g.node("Gemm", flat, g.weights(8, 3), output="y")
    assert operators(normalized(g.model()))["Reshape"] == 1


@pytest.mark.parametrize("operator", ["Expand", "ConstantOfShape"])
def test_tensors_of_the_images_shape(small_graph, operator: str):
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    shape = g.node("Shape", x)
    sources = [g.weights(1, 8, 1, 1), shape] if operator == "Expand" else [shape]
    g.head(g.node("Mul", x, g.node("Exp", g.node(operator, *sources))), 8)
    assert set(operators(normalized(g.model()))) == {
        "Conv", "Relu", "Mul", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip


@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("group", [1, 8])
def test_a_scale_and_shift_before_a_layer_is_a_layer(small_graph, pads: int, group: int):
    """Of a BatchNormalization that follows no convolution, as tf2onnx writes it."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    scale, shift = (g.constant(g.random.uniform(0.5, 2, (1, 8, 1, 1))) for _ in range(2))
    x = g.node("Add", g.node("Mul", x, scale), shift)
    x = g.node("Relu", g.conv(x, 8, 8, pads=[pads] * 4, group=group))
    g.head(x, 8)
    made = operators(normalized(g.model()))
    assert not set(made) & {"Mul", "Add"}
    assert made["Conv"] == (3 if pads else 2)  # the zeros of padding are no zeros before the shift


def test_a_scale_and_shift_that_others_read_is_a_layer_of_its_own(small_graph):
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    scale, shift = (g.constant(g.random.uniform(0.5, 2, (8, 1, 1))) for _ in range(2))
    x = g.node("Sub", g.node("Div", x, scale), shift)
    x = g.node("Add", x, g.conv(x, 8, 8, 1))
    g.head(x, 8)
    made = operators(normalized(g.model()))
    assert not set(made) & {"Div", "Sub"}
    assert made["Conv"] == 3


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("place", ["before", "behind", "before two", "read"])
def test_a_scale_and_shift_of_columns_is_in_the_products(small_graph, place: str, turned: int):
    """Of a BatchNormalization on rows, as people put it in front of the classifier.

    Torch writes that the factors of a product are 1, which other exporters leave out.
    """
    attributes = {"transB": 1, "alpha": 1.0, "beta": 1.0} if turned else {}
    g = small_graph()
    x = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    if place == "behind":
        x = g.node("Gemm", x, g.weights(8, 8), g.constant([[0.3]]), **attributes)
    scale, shift = (g.constant(g.random.uniform(0.5, 2, shape)) for shape in [(8,), (1, 8)])
    x = g.node("Sub", shift, g.node("Div", x, scale))
    if place == "behind":
        x = g.node("Relu", x)
    heads = [
        g.node("Gemm", x, g.weights(*((3, 8) if turned else (8, 3))), **attributes)
        for _ in range(2 if place == "before two" else 1)
    ]
    last = g.node("ReduceSum", x, g.constant([1], dtype=np.int64)) if place == "read" else heads[-1]
    g.node("Max", heads[0], last, output="y")
    kept = 2 if place == "read" else 0
    made = operators(normalized(g.model()))
    assert made["Div"] + made["Sub"] == kept
    assert made["Gemm"] == {"behind": 2, "before two": 2}.get(place, 1)


def test_numbers_of_an_activation_are_no_layer(small_graph):
    """Of ``x relu6(x + 3) / 6``."""
    g = small_graph()
    x = g.conv("x", 3, 8)
    inside = g.node("Mul", g.node("Add", x, g.constant(3.0)), g.constant(0.5))
    g.head(g.node("Mul", x, g.node("Clip", inside, g.constant(0.0), g.constant(6.0))), 8)
    assert operators(normalized(g.model()))["Conv"] == 1


@pytest.mark.parametrize("operator", ["Gather", "GatherND"])
def test_channels_that_are_selected_stay_where_they_are(small_graph, operator: str):
    """Of ``x[:, [2, 1, 0]]``, as torch exports it: blue first."""
    g = small_graph()
    turned = g.node("Transpose", "x", perm=[1, 0, 2, 3])
    order = g.constant([2, 1, 0] if operator == "Gather" else [[2], [1], [0]], dtype=np.int64)
    x = g.node("Transpose", g.node(operator, turned, order), perm=[1, 0, 2, 3])
    g.head(g.node("Relu", g.conv(x, 3, 8)), 8)
    assert operators(normalized(g.model()))["Gather"] == 1


@pytest.mark.parametrize("axes", [[2, 3], [3], [1, 2, 3]])
def test_pixels_that_are_selected_stay_where_they_are(small_graph, axes: list[int]):
    """Of an adaptive pool whose windows overlap, as torch's newer exporter writes it."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    rest = [axis for axis in range(4) if axis not in axes]
    windows = np.array([[0, 1, 2], [2, 3, 4]])  # [2, 3], of each axis
    grid = np.meshgrid(*[windows.ravel()] * len(axes), indexing="ij")
    shape = [2, 3] * len(axes)
    indices = np.stack([array.reshape(shape) for array in grid], axis=-1)
    turned = g.node("Transpose", x, perm=[*axes, *rest])
    found = g.node("GatherND", turned, g.constant(indices, dtype=np.int64))
    outer = [len(shape) + n for n in range(len(rest))]
    back = [*outer[: axes[0]], *range(len(shape)), *outer[axes[0] :]]
    x = g.node("Transpose", found, perm=back)
    x = g.node("Reshape", x, g.constant([0, -1], dtype=np.int64))
    sizes = {1: 8 * 32 * 6, 2: 8 * 36, 3: 216}
    g.node("Gemm", x, g.weights(sizes[len(axes)], 3), output="y")
    made = operators(normalized(g.model()))
    assert made["Gather"] == len(axes)
    assert not made.keys() & {"GatherND", "Transpose"}


def test_pixels_that_are_selected_one_by_one_are_refused(small_graph):
    g = small_graph()
    turned = g.node("Transpose", g.node("Relu", g.conv("x", 3, 8)), perm=[2, 3, 0, 1])
    found = g.node("GatherND", turned, g.constant([[0, 0], [1, 2], [5, 5]], dtype=np.int64))
    x = g.node("Flatten", g.node("Transpose", found, perm=[1, 2, 0]))
    g.node("Gemm", x, g.weights(24, 3), output="y")
    assert "moves the images to another dimension" in refusal(g.model())


@pytest.mark.parametrize("order", ["as it is", "turned", "some"])
@pytest.mark.parametrize("batch", ["N", 2])
def test_a_view_by_strides_is_one_of_each_image(small_graph, order: str, batch):
    """Of ``as_strided``, which torch's newer exporter writes behind a map of channels last."""
    g = small_graph([batch, 3, 32, 32])
    x = g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8)))
    flat = g.node("Reshape", x, g.constant([-1], dtype=np.int64))
    count = g.node("Shape", "x", start=0, end=1)
    numbers = [g.constant(n, dtype=np.int64) for n in (0, 1, 8)]
    images = g.node("Range", numbers[0], g.node("Squeeze", count), numbers[1])
    starts = g.node("Unsqueeze", g.node("Mul", images, numbers[2]), g.constant([1], dtype=np.int64))
    columns = {"as it is": range(8), "turned": range(7, -1, -1), "some": range(0, 8, 2)}[order]
    indices = g.node("Add", starts, g.constant(list(columns), dtype=np.int64))
    x = g.node("Gather", flat, indices, axis=0)
    g.node("Gemm", x, g.weights(len(columns), 3), output="y")
    made = operators(normalized(g.model([batch, 3])))
    assert made["Gather"] == (order != "as it is")
    assert not made.keys() & {"Shape", "Range"}


def test_what_is_expanded_to_a_fixed_batch_is_freed(small_graph):
    """Of ``x / x.norm(dim=1, keepdim=True).expand_as(x)``."""
    g = small_graph((2, 3, 32, 32))
    x = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    norm = g.node("ReduceL2", x, g.constant([1], dtype=np.int64))
    x = g.node("Div", x, g.node("Expand", norm, g.constant([2, 8], dtype=np.int64)))
    g.node("Gemm", x, g.weights(8, 3), g.constant(np.zeros(3)), output="y")
    normalized(g.model((2, 3)))


@pytest.mark.parametrize("opset", [13, 18])
def test_local_functions_are_inlined(small_graph, opset: int):
    g = small_graph()
    x = g.conv("x", 3, 8)
    g.nodes.append(helper.make_node("Act", [x], ["act"], domain="my"))
    g.head("act", 8)
    nodes, opsets = [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", opset)]
    g.functions = [helper.make_function("my", "Act", ["a"], ["b"], nodes, opsets)]
    g.opsets = [*g.opsets, helper.make_opsetid("my", 1)]
    assert operators(normalized(g.model()))["Relu"] == 1


@pytest.mark.parametrize("form", ["reciprocal", "quotient", "times one", "grown", "opposite"])
def test_a_sigmoid_written_as_its_formula_is_one(small_graph, form: str):
    g = small_graph()
    logits = g.head(g.node("Relu", g.conv("x", 3, 8)), 8, output="logits")
    one, minus = g.constant(1.0), g.constant(-1.0)
    negated = logits if form == "opposite" else g.node("Mul", minus, logits)
    power = g.node("Exp", logits if form == "grown" else negated)
    below = g.node("Add", one, power)
    if form == "grown":
        g.node("Div", power, below, output="y")
    elif form == "times one":
        g.node("Mul", g.node("Reciprocal", below), one, output="y")
    elif form == "reciprocal":
        g.node("Reciprocal", below, output="y")
    else:
        g.node("Div", one, below, output="y")
    made = normalized(g.model())
    assert output_kind(made.model.graph) == "sigmoid"
    assert not set(operators(made)) & {"Exp", "Div", "Reciprocal", "Mul"}


@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize(("operator", "number"), [("Mul", 100), ("Div", 0.01)])
def test_percents_are_probabilities(small_graph, activation: str, operator: str, number: float):
    g = small_graph()
    logits = g.head(g.node("Relu", g.conv("x", 3, 8)), 8, output="logits")
    g.node(operator, g.node(activation, logits), g.constant(number), output="y")
    made = normalized(g.model())
    assert output_kind(made.model.graph) == activation.lower()
    assert made.notes == ("the outputs, which were probabilities times 100, are the probabilities",)


def test_two_softmaxes_written_as_their_formula_are_refused(small_graph):
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    parts = []
    for name in ("first", "second"):
        power = g.node("Exp", g.head(x, 8, output=name))
        total = g.node("ReduceSum", power, g.constant([1], dtype=np.int64))
        parts.append(g.node("Div", power, total))
    g.node("Concat", *parts, axis=1, output="y")
    assert "is made of the probabilities of the Div node" in refusal(g.model(("N", 6)))


@pytest.mark.parametrize("made_of", ["two", "square", "rest"])
def test_an_output_made_of_probabilities_is_refused(small_graph, made_of: str):
    g = small_graph()
    logits = g.head(g.node("Relu", g.conv("x", 3, 8)), 8, output="logits")
    shares = g.node("Softmax", logits, axis=1)
    if made_of == "two":
        g.node("Concat", shares, g.node("Softmax", g.node("Neg", logits)), axis=1, output="y")
    elif made_of == "square":
        g.node("Mul", shares, shares, output="y")
    else:
        g.node("Sub", g.constant(1.0), shares, output="y")
    told = refusal(g.model(("N", 6 if made_of == "two" else 3)))
    assert "its output 'y' is made of the probabilities of the Softmax node" in told


def test_the_logarithm_of_probabilities_is_logits(small_graph):
    g = small_graph()
    logits = g.head(g.node("Relu", g.conv("x", 3, 8)), 8, output="logits")
    g.node("Log", g.node("Softmax", logits), output="y")
    assert output_kind(normalized(g.model()).model.graph) == "logits"


@pytest.mark.parametrize("bias", [(3,), (1, 3), ()])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_with_a_bias_is_one_gemm(small_graph, bias, swapped: bool):
    g = small_graph()
    flat = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    terms = [g.node("MatMul", flat, g.weights(8, 3)), g.constant(np.full(bias, 0.5))]
    g.node("Add", *terms[:: -1 if swapped else 1], output="y")
    made = operators(normalized(g.model()))
    assert (made["Gemm"], made["MatMul"], made["Add"]) == (1, 0, 0)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_the_mean_of_a_map_is_a_pool(small_graph, axes: list[int], keep: int):
    """As torch's newer exporter writes its adaptive average pool."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    x = g.node("ReduceMean", x, g.constant(axes, dtype=np.int64), keepdims=keep)
    g.node("Gemm", g.node("Flatten", x), g.weights(8, 3), output="y")
    made = operators(normalized(g.model()))
    assert (made["GlobalAveragePool"], made["ReduceMean"]) == (1, 0)


def test_operators_younger_than_ours_keep_their_operator_set(small_graph):
    g = small_graph(opset=20)
    g.head(g.node("Gelu", g.conv("x", 3, 8)), 8)
    assert normalized(g.model()).model.opset_import[0].version == 20


@pytest.mark.parametrize("operator", ["Mean", "Max"])
@pytest.mark.parametrize("batch", [1, "N"])
def test_the_mean_of_rows_is_a_pool(small_graph, operator: str, batch: object):
    """As tf2onnx writes global pooling and the linear layer behind it."""
    g = small_graph((batch, 32, 32, 3))
    x = g.node("Relu", g.conv(g.node("Transpose", "x", perm=[0, 3, 1, 2]), 3, 8))
    x = g.node("Transpose", x, perm=[0, 2, 3, 1])
    axes = [g.constant([1, 2], dtype=np.int64)]
    x = g.node(f"Reduce{operator}", x, *axes, keepdims=0)
    g.node("MatMul", x, g.weights(8, 3), output="y")
    made = operators(normalized(g.model((batch, 3))))
    assert made["Transpose"] == made[f"Reduce{operator}"] == 0


def test_scales_and_shifts_of_channels_go_into_the_convolution(small_graph):
    """As tf2onnx leaves the normalization behind a depthwise convolution."""
    g = small_graph()
    column = (1, 8, 1, 1)
    x = g.conv("x", 3, 8)
    x = g.node("Mul", x, g.constant(g.random.uniform(0.5, 2, column)))
    x = g.node("Sub", x, g.constant(g.random.normal(size=column[1:])))
    x = g.node("Relu", g.node("Div", x, g.constant(3.0)))
    x = g.node("Conv", x, g.weights(8, 1, 3, 3), group=8)
    x = g.node("Sub", g.constant(g.random.normal(size=column)), x)
    g.head(g.node("Relu", g.node("Add", g.constant([0.5]), x)), 8)
    made = operators(normalized(g.model()))
    assert made["Conv"] == 2
    assert not made.keys() & {"Mul", "Sub", "Div", "Add"}


def test_scales_of_rows_stay(small_graph):
    g = small_graph()
    x = g.node("Mul", g.conv("x", 3, 32), g.constant(g.random.uniform(0.5, 2, 32)))
    g.head(g.node("Relu", x), 32)
    assert operators(normalized(g.model()))["Mul"] == 1


def test_gray_images_of_tf2onnx(small_graph):
    g = small_graph((1, 28, 28, 1))
    x = g.node("Reshape", "x", g.constant([1, 1, 28, 28], dtype=np.int64))
    g.head(g.node("Relu", g.conv(x, 1, 8)), 8)
    made = normalized(g.model((1, 3)))
    assert made.channels == 1
    assert not operators(made).keys() & {"Reshape", "Transpose"}


def test_sizes_of_resize_spare_the_batch(small_graph):
    g = small_graph([1, 3, 32, 32])
    sizes = g.constant([1, 8, 16, 16], dtype=np.int64)
    g.head(g.node("Resize", g.conv("x", 3, 8), "", "", sizes), 8)
    normalized(g.model([1, 3]))


def test_squeeze_spares_the_batch(small_graph):
    g = small_graph([1, 3, 32, 32])
    x = g.node("Squeeze", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    x = g.node("Reshape", x, g.constant([1, -1], dtype=np.int64))
    g.node("Gemm", x, g.weights(8, 3), output="y")
    normalized(g.model([1, 3]))


def test_a_product_without_a_bias_is_a_gemm(small_graph):
    g = small_graph()
    flat = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    g.node("Softmax", g.node("MatMul", flat, g.weights(8, 3)), output="y")
    made = operators(normalized(g.model()))
    assert (made["Gemm"], made["MatMul"]) == (1, 0)


def test_zeros_around_an_image_go_into_the_convolution(small_graph):
    """As Keras pads before it strides."""
    g = small_graph()
    x = g.node("Pad", "x", g.constant([0, 0, 0, 0, 0, 0, 1, 1], dtype=np.int64))
    x = g.node("Relu", g.conv(x, 3, 8, strides=[2, 2], pads=[0] * 4))
    g.head(x, 8)
    made = normalized(g.model())
    assert operators(made)["Pad"] == 0


def test_what_onnxruntime_fused_is_written_out(small_graph, tmp_path: Path):
    import onnxruntime as ort

    g = small_graph()
    x = g.node("Clip", g.conv("x", 3, 8, strides=[2, 2]), g.constant(0), g.constant(6))
    y = g.node("Relu", g.node("Add", x, g.conv(x, 8, 8)))
    g.head(g.node("LeakyRelu", g.conv(y, 8, 8), alpha=0.1), 8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(g.model().SerializeToString(), options, ["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimized.onnx")
    assert "FusedConv" in {node.op_type for node in model.graph.node}
    made = operators(normalized(model))
    assert made["Conv"] == 3
    assert made["Clip"] == made["Relu"] == made["LeakyRelu"] == made["Add"] == 1


def test_names_of_later_stages_are_left_free(small_graph):
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8), output="conv1")
    x = g.node("Div", x, g.constant(np.ones((8, 1, 1)), "conv1_weight"), output="conv1_scale")
    g.head(g.node("Relu", g.conv(x, 8, 8), output="conv1_scale_real"), 8)
    normalized(g.model())


def test_clip_bounds_of_one_element(small_graph):
    g = small_graph()
    g.head(g.node("Clip", g.conv("x", 3, 8), g.constant([0]), g.constant([6])), 8)
    model = normalized(g.model()).model
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    assert [list(dims[name]) for name in clip.input[1:]] == [[], []]


@pytest.mark.parametrize("shape", [["N", 32, 32, 3], [1, 32, 32, 3], ["N", "H", "W", "C"]])
def test_channels_come_first(small_graph, shape):
    """Of tf2onnx's graphs, which begin with a Transpose, perhaps behind the scaling of pixels."""
    g = small_graph(shape)
    x = g.node("Sub", g.node("Mul", "x", g.constant(1 / 127.5)), g.constant([1, 0.5, 0.25]))
    x = g.node("Transpose", x, perm=[0, 3, 1, 2])
    g.head(g.node("Relu", g.conv(x, 3, 8)), 8)
    made = normalized(g.model(), 32)
    assert operators(made)["Transpose"] == 0
    assert "the image's channels now come first" in made.notes


def test_bytes_become_floats(small_graph):
    g = small_graph(dtype=TensorProto.UINT8)
    x = g.node("Cast", "x", to=TensorProto.FLOAT)
    g.head(g.node("Relu", g.conv(x, 3, 8)), 8)
    made = normalized(g.model())
    assert made.takes_bytes
    assert operators(made)["Cast"] == 0


def test_an_output_with_dimensions_of_one(small_graph):
    g = small_graph()
    x = g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8)))
    g.node("Conv", x, g.weights(3, 8, 1, 1), output="y")
    made = normalized(g.model(["N", 3, 1, 1]))
    assert made.outputs == 3
    assert made.model.graph.output[0].name == "y"


@pytest.mark.parametrize("opset", range(7, 24))
def test_operator_sets(small_graph, opset: int):
    g = small_graph(opset=opset, ir_version=min(3 + opset // 3, 10))
    limits = ("Clip", g.conv("x", 3, 8, strides=[2, 2]))
    x = (
        g.node(*limits, min=0.0, max=6.0)
        if opset < 11
        else g.node(*limits, g.constant(0), g.constant(6))
    )
    g.head(g.node("Relu", g.conv(x, 8, 8, group=8)), 8)
    made = operators(normalized(g.model()))
    assert made == {
        "Conv": 2,
        "Clip": 1,
        "Relu": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }


def test_nodes_are_put_into_order(small_graph):
    g = small_graph()
    g.head(g.node("Relu", g.conv("x", 3, 8)), 8)
    g.nodes.reverse()
    made = normalized(g.model()).model
    assert made.graph.node[0].op_type == "Conv"


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(MobilenetError) as raised:
        normalize_graph(FILE, model, None)
    sentence = str(raised.value)
    assert sentence.startswith("other.onnx ")
    assert "\n" not in sentence
    return sentence


def test_recurrent_graphs(small_graph):
    g = small_graph()
    rows = g.node("Reshape", "x", g.constant([0, 96, 32], dtype=np.int64))
    weights = g.weights(1, 16, 32), g.weights(1, 16, 4)
    g.node("LSTM", rows, *weights, output="all", hidden_size=4)
    g.node("ReduceMean", "all", g.constant([0, 1], dtype=np.int64), output="y", keepdims=0)
    assert "the LSTM node 'node_all' is recurrent" in refusal(g.model(["N", 4]))


def relu_or_neg(x):
    """The two branches of an If node."""
    return {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, [x], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, operator in (("then", "Relu"), ("else", "Neg"))
    }


def test_control_flow_that_depends_on_the_image(small_graph):
    g = small_graph()
    x = g.head(g.node("Relu", g.conv("x", 3, 8)), 8, output="logits")
    bright = g.node("Greater", g.node("ReduceMean", "x", keepdims=0), g.constant(0))
    g.node("If", bright, output="y", **relu_or_neg(x))
    assert "the If node 'node_y' is control flow" in refusal(g.model())


def test_control_flow_that_can_be_computed(small_graph):
    g = small_graph()
    x = g.head(g.node("Relu", g.conv("x", 3, 8)), 8, output="logits")
    g.node("If", g.constant(False, dtype=np.bool_), output="y", **relu_or_neg(x))
    assert operators(normalized(g.model()))["Neg"] == 1


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("batch", ["N", 4])
def test_a_branch_that_depends_on_a_shape_is_taken(small_graph, opset: int, batch):
    """Of ``x.squeeze(3)``, as TorchScript exports it of free dimensions; one inside another."""
    g = small_graph((batch, 3, 32, 32), opset=opset)
    pooled = g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8)))
    three = g.constant([3], dtype=np.int64)
    width = g.node("Gather", g.node("Shape", pooled), three)
    inner = g.node("Equal", width, g.constant([1], dtype=np.int64))
    if opset == 11:
        squeezed = helper.make_node("Squeeze", [pooled], ["narrow"], axes=[3])
    else:
        squeezed = helper.make_node("Squeeze", [pooled, three], ["narrow"])
    kept = helper.make_node("Identity", [pooled], ["kept"])
    choice = helper.make_node(
        "If",
        [inner],
        ["choice"],
        "inner",
        then_branch=branch(squeezed),
        else_branch=branch(kept),
    )
    flag = g.node("Equal", width, g.constant([7], dtype=np.int64))
    seven = helper.make_node("Exp", [pooled], ["seven"])
    x = g.node("If", flag, then_branch=branch(seven), else_branch=branch(choice))
    flat = g.node("Flatten", g.node("Reshape", x, g.constant([0, 8], dtype=np.int64)))
    g.node("Gemm", flat, g.weights(8, 3), g.constant(np.zeros(3)), output="y")
    made = operators(normalized(g.model((batch, 3))))
    assert made["Exp"] == 0
    assert made["Gemm"] == 1


def test_branches_with_names_in_common(small_graph):
    g = small_graph()
    x = g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8)))
    for number in range(2):
        rank = g.node("Size", g.node("Shape", x))
        flag = g.node("Equal", rank, g.constant(4, dtype=np.int64))
        nodes = [
            helper.make_node("Exp", [x], ["inside"]),
            helper.make_node("Neg", ["inside"], ["outside"]),
        ]
        made = [helper.make_tensor_value_info("outside", TensorProto.FLOAT, None)]
        taken = helper.make_graph(nodes, "taken", [], made)
        other = branch(helper.make_node("Identity", [x], [f"other{number}"]))
        x = g.node("If", flag, then_branch=taken, else_branch=other)
    g.node("Gemm", g.node("Flatten", x), g.weights(8, 3), g.constant(np.zeros(3)), output="y")
    assert operators(normalized(g.model()))["Neg"] == 2


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_squeeze_that_drops_a_batch_of_one(small_graph, batch):
    """Of ``classifier(features.mean((2, 3), keepdim=True).squeeze())``."""
    g = small_graph((batch, 3, 32, 32))
    pooled = g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8)))
    g.node("MatMul", g.node("Squeeze", pooled), g.weights(8, 3), output="y")
    normalized(g.model(None))


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    """Return a graph of one node, as an If may run it."""
    made = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    return helper.make_graph([node], "branch", [], [made])


def test_random_numbers(small_graph):
    g = small_graph()
    x = g.conv("x", 3, 8)
    noise = g.node("RandomNormalLike", x)
    g.head(g.node("Add", x, noise), 8)
    assert f"the RandomNormalLike node 'node_{noise}' draws random" in refusal(g.model())


def test_graphs_in_training_mode(small_graph):
    g = small_graph()
    x = g.node("Dropout", g.conv("x", 3, 8), g.constant(0.5), g.constant(True, dtype=np.bool_))
    g.head(x, 8)
    assert f"the Dropout node 'node_{x}' is in training mode" in refusal(g.model())


def test_images_that_leave_the_first_dimension(small_graph):
    """As where weights are multiplied from the left, which no stage could cut into images."""
    g = small_graph()
    flat = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    columns = g.node("Transpose", flat, perm=[1, 0])
    g.node("Transpose", g.node("MatMul", g.weights(3, 8), columns), output="y", perm=[1, 0])
    sentence = f"the Transpose node 'node_{columns}' moves the images to another dimension"
    assert sentence in refusal(g.model())


def test_a_name_that_two_nodes_make(small_graph):
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8), output="twice")
    g.node("Relu", x, output="twice")
    g.head("twice", 8)
    assert "cannot be put into an order" in refusal(g.model())


def test_other_domains(small_graph):
    g = small_graph()
    x = g.conv("x", 3, 8)
    g.nodes.append(helper.make_node("Swish", [x], ["s"], "act", domain="com.example"))
    g.opsets = [*g.opsets, helper.make_opsetid("com.example", 1)]
    g.head("s", 8)
    assert "the Swish node 'act' is of the domain 'com.example'" in refusal(g.model())


@pytest.mark.parametrize(
    "operator",
    ["QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "QLinearGlobalAveragePool"],
)
def test_models_that_are_quantized_already(small_graph, operator: str):
    """They would be taken for the float model, and fail at quantize."""
    g = small_graph()
    g.opsets = [*g.opsets, helper.make_opsetid("com.microsoft", 1)]
    x = g.node("Relu", g.conv("x", 3, 8))
    scale, zero = g.constant(0.02), g.constant(0, dtype=np.uint8)
    if operator == "DynamicQuantizeLinear":
        x = g.node(operator, x)
        g.nodes[-1].output.extend(["scale", "zero"])
        x = g.node("DequantizeLinear", x, "scale", "zero")
    else:
        x = g.node("QuantizeLinear", x, scale, zero)
        if operator == "ConvInteger":
            kernel = g.constant(g.random.integers(0, 9, (8, 8, 1, 1)), dtype=np.uint8)
            x = g.node("Cast", g.node(operator, x, kernel), to=TensorProto.FLOAT)
        elif operator.startswith("QLinear"):
            x = g.node(
                operator, x, scale, zero, scale, zero, domain="com.microsoft", channels_last=0
            )
            x = g.node("DequantizeLinear", x, scale, zero)
        else:
            x = g.node("DequantizeLinear", x, scale, zero)
    g.head(x, 8)
    said = refusal(g.model())
    assert "it is quantized already, by the " in said
    assert "Import the float model that it was made from" in said


@pytest.mark.parametrize("form", ["blocks", "half scale", "rounded"])
def test_weights_that_are_stored_as_codes_in_other_ways(small_graph, form: str):
    g = small_graph(opset=21, ir_version=10)
    x = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    codes = g.constant(g.random.integers(-127, 128, (8, 3)), dtype=np.int8)
    if form == "blocks":
        scale = g.constant(g.random.uniform(0.01, 0.02, (2, 3)))
        weights = g.node("DequantizeLinear", codes, scale, axis=0, block_size=4)
    elif form == "half scale":
        half = g.node("DequantizeLinear", codes, g.constant(0.01, dtype=np.float16))
        weights = g.node("Cast", half, to=TensorProto.FLOAT)
    else:
        scale = g.constant(0.01)
        rounded = g.node("QuantizeLinear", g.weights(8, 3), scale)
        weights = g.node("DequantizeLinear", rounded, scale)
    g.node("MatMul", x, weights, output="y")
    assert set(operators(normalized(g.model()))) == {
        "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip


def test_an_operator_set_of_the_future(small_graph):
    g = small_graph(opset=99)
    g.head(g.conv("x", 3, 8), 8)
    assert "operator set 99" in refusal(g.model())


def test_missing_weights(small_graph):
    g = small_graph()
    x = g.node("Conv", "x", "nowhere")
    g.head(x, 8)
    assert f"the Conv node 'node_{x}' reads 'nowhere', which is missing" in refusal(g.model())


def test_several_inputs(small_graph):
    g = small_graph()
    g.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 8, 32, 32]))
    g.head(g.node("Mul", g.conv("x", 3, 8), "mask"), 8)
    said = refusal(g.model())
    assert "2 inputs ('x', 'mask')" in said
    assert "with the image as its only input" in said


def test_several_outputs(small_graph):
    g = small_graph()
    g.head(g.conv("x", 3, 8), 8)
    model = g.model()
    model.graph.output.append(helper.make_tensor_value_info("flatten5", TensorProto.FLOAT, None))
    model.graph.node[-2].output[0] = "flatten5"
    model.graph.node[-1].input[0] = "flatten5"
    assert "2 outputs ('y', 'flatten5')" in refusal(model)


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        (("N", 128), TensorProto.INT64, "is int64"),
        (("N", 3, 32, 32), TensorProto.INT32, "is int32"),
        (("N", 128), TensorProto.FLOAT, "is ? x 128"),
        (("N", 5, 32, 32), TensorProto.FLOAT, "5 channels"),
        (("N", 3, 32, 48), TensorProto.FLOAT, "32 x 48 pixels"),
    ],
)
def test_inputs_that_are_no_image(small_graph, shape, dtype: int, said: str):
    g = small_graph(shape, dtype=dtype)
    g.head(g.conv("x", 3, 8), 8)
    assert said in refusal(g.model())


def test_sequences(small_graph):
    g = small_graph()
    g.head(g.conv("x", 3, 8), 8, output="logits")
    g.nodes.append(helper.make_node("SequenceConstruct", ["logits"], ["y"]))
    model = g.model()
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output[0].type.CopyFrom(kind)
    assert "'y' is a sequence" in refusal(model)


def test_outputs_that_are_no_classes(small_graph):
    g = small_graph()
    g.node("Relu", g.conv("x", 3, 8), output="y")
    assert "its output 'y' is [1, 8, 32, 32]" in refusal(g.model(["N", 8, 32, 32]))


@pytest.mark.parametrize("axes", [True, False])
@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_what_never_is_a_maximum_goes_into_the_pool(small_graph, lowest: float, axes: bool):
    """As programs pad like TensorFlow; as a value it would be infinite, or leave codes nothing."""
    g = small_graph()
    widths = g.constant([0, 0, 1, 1] if axes else [0, 0, 0, 0, 0, 0, 1, 1], dtype=np.int64)
    padded = [g.constant([2, 3], dtype=np.int64)] if axes else []
    x = g.node("Pad", g.conv("x", 3, 8), widths, g.constant(lowest), *padded)
    g.head(g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], dilations=[1, 1]), 8)
    made = normalized(g.model()).model.graph
    assert {node.op_type for node in made.node}.isdisjoint({"Pad"})
    pool = next(node for node in made.node if node.op_type == "MaxPool")
    assert [list(a.ints) for a in pool.attribute if a.name == "pads"] == [[0, 0, 1, 1]]


def test_what_may_be_a_maximum_stays(small_graph):
    g = small_graph()
    widths = g.constant([0, 0, 0, 0, 0, 0, 1, 1], dtype=np.int64)
    x = g.node("Pad", g.conv("x", 3, 8), widths, g.constant(-1.0))
    g.head(g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2]), 8)
    assert operators(normalized(g.model()))["Pad"] == 1


def test_attributes_that_are_younger_keep_their_operator_set(small_graph):
    """onnx's converter leaves them in place, where the older operator does not have them."""
    g = small_graph(opset=19)
    x = g.node("AveragePool", g.conv("x", 3, 8), kernel_shape=[3, 3], dilations=[2, 2])
    g.head(x, 8)
    assert normalized(g.model()).model.opset_import[0].version == 19


@pytest.mark.parametrize("opset", [8, 10])
def test_resizing_before_there_were_modes(small_graph, opset: int):
    g = small_graph(opset=opset)
    x = g.conv("x", 3, 8, strides=[2, 2])
    if opset == 10:
        x = g.node("Resize", x, g.constant([1, 1, 1.5, 1.5]), mode="linear")
    else:
        x = g.node("Upsample", x, scales=[1.0, 1.0, 1.5, 1.5], mode="linear")
    g.head(x, 8)
    assert operators(normalized(g.model()))["Resize"] == 1


@pytest.mark.parametrize("axes", [True, False])
def test_resize_has_a_scale_for_each_axis(small_graph, axes: bool):
    """ONNX Runtime cannot bring channels last with fewer."""
    g = small_graph()
    sizes = g.constant([12, 20] if axes else [1, 8, 12, 20], dtype=np.int64)
    attributes = {"axes": [2, 3]} if axes else {}
    g.head(g.node("Resize", g.conv("x", 3, 8), "", "", sizes, **attributes), 8)
    if not axes:
        g.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])]
    made = normalized(g.model([None if axes else 1, 3])).model.graph
    (resize,) = [node for node in made.node if node.op_type == "Resize"]
    values = {t.name: numpy_helper.to_array(t).tolist() for t in made.initializer}
    assert values[resize.input[2]] == [1, 1, 0.375, 0.625]
    assert len(resize.input) == 3


def test_factors_of_a_product_are_in_its_weights(small_graph):
    g = small_graph()
    flat = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))))
    g.node("Gemm", flat, g.weights(8, 3), g.weights(3), output="y", alpha=0.5, beta=2.0)
    made = normalized(g.model()).model.graph
    gemm = next(node for node in made.node if node.op_type == "Gemm")
    assert not {a.name for a in gemm.attribute} & {"alpha", "beta"}


def test_rows_of_pixels_of_a_fixed_batch(small_graph):
    """As tf2onnx writes a dense layer on a map."""
    g = small_graph([1, 3, 32, 32])
    x = g.node("Transpose", g.node("Relu", g.conv("x", 3, 8)), perm=[0, 2, 3, 1])
    x = g.node("Reshape", x, g.constant([32 * 32, 8], dtype=np.int64))
    x = g.node("MatMul", x, g.weights(8, 3))
    x = g.node("Reshape", x, g.constant([1, 32, 32, 3], dtype=np.int64))
    g.node("ReduceMean", x, g.constant([1, 2], dtype=np.int64), output="y", keepdims=0)
    assert operators(normalized(g.model([1, 3])))["Gemm"] == 1


@pytest.mark.parametrize("axis", [None, 0])
def test_weights_that_are_stored_as_codes(small_graph, axis: int | None):
    g = small_graph()
    codes = g.constant(g.random.integers(-127, 128, (8, 3, 3, 3)), dtype=np.int8)
    scale = g.constant(0.01 if axis is None else g.random.uniform(0.01, 0.02, 8))
    weights = g.node("DequantizeLinear", codes, scale, **({} if axis is None else {"axis": axis}))
    g.head(g.node("Relu", g.node("Conv", "x", weights)), 8)
    assert operators(normalized(g.model()))["DequantizeLinear"] == 0


def mean_of_two(g, flat):
    parts = [g.node("Softmax", g.node("MatMul", flat, g.weights(8, 3)), axis=1) for _ in "ab"]
    g.node("Mean", *parts, output="y")


def exponential(g, flat):
    logits = g.node("MatMul", flat, g.weights(8, 3))
    g.node("Exp", g.node("LogSoftmax", logits, axis=1), output="y")


def of_two_classes(g, flat):
    one = g.node("Sigmoid", g.node("MatMul", flat, g.weights(8, 1)))
    g.node("Concat", g.node("Sub", g.constant(1), one), one, output="y", axis=1)


@pytest.mark.parametrize("build", [mean_of_two, exponential, of_two_classes])
def test_probabilities_end_in_a_softmax(small_graph, build):
    """Later stages would take them for logits, and make probabilities of probabilities."""
    g = small_graph()
    build(g, g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8)))))
    made = normalized(g.model(["N", 2 if build is of_two_classes else 3]))
    assert made.model.graph.node[-1].op_type == "Softmax"


def test_nodes_that_mix_images(small_graph):
    g = small_graph()
    x = g.conv("x", 3, 8)
    largest = g.node("ReduceMax", x, keepdims=0)
    g.head(g.node("Div", x, largest), 8)
    assert f"the ReduceMax node 'node_{largest}' mixes the images" in refusal(g.model())


def test_images_in_columns(small_graph):
    """Shape inference does not tell that they have left the first dimension."""
    g = small_graph()
    flat = g.node("Flatten", g.node("GlobalAveragePool", g.node("Relu", g.conv("x", 3, 8))), axis=0)
    rows = g.node("Reshape", flat, g.constant([-1, 8], dtype=np.int64))
    g.node("Gemm", rows, g.weights(8, 3), output="y")
    assert f"the Flatten node 'node_{flat}' moves the images" in refusal(g.model())


def test_weights_that_are_not_finite(small_graph):
    g = small_graph()
    weights = g.constant(np.full((8, 3, 3, 3), np.nan))
    g.head(g.node("Relu", g.node("Conv", "x", weights)), 8)
    assert f"so are values of its weight '{weights}'" in refusal(g.model())


def test_one_number_for_each_image(small_graph):
    g = small_graph()
    g.node("Sigmoid", g.head(g.conv("x", 3, 8), 8, 1, output="logit"), output="y")
    sentence = refusal(g.model(["N", 1]))
    assert "its output 'y' is one number for each image" in sentence
    assert "the logits [0, x] of two classes" in sentence


def test_what_is_computed_twice_is_computed_once(small_graph):
    """The simplifier would drop a convolution, and its proof miss that."""
    g = small_graph()
    weights = g.weights(8, 3, 3, 3)
    twice = [g.node("Relu", g.node("Conv", "x", weights)) for _ in "ab"]
    g.head(g.node("Add", *twice), 8)
    assert operators(normalized(g.model()))["Conv"] == 1


def test_files_of_any_size_that_fit_one(small_graph):
    g = small_graph(["N", 3, "H", "W"])
    x = g.node("Flatten", g.node("Relu", g.conv("x", 3, 8, strides=[8, 8])))
    g.node("Gemm", x, g.weights(8 * 16, 3), output="y")
    assert "Pass --resolution with the side" in refusal(g.model())
    normalized(g.model(), 32)


@pytest.mark.parametrize(
    ("limits", "attributes", "scales"),
    [
        (["", [1.5, 0.75]], {"axes": [2, 3]}, [1, 1, 1.5, 0.75]),
        (["", [0.6]], {"axes": [-1]}, [1, 1, 1, 0.6]),
        (
            ["", "", [48, 40]],
            {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
            [1.25] * 2,
        ),
        (
            ["", "", [48, 40]],
            {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"},
            [1.5] * 2,
        ),
    ],
)
def test_resize_of_some_axes(small_graph, limits, attributes, scales):
    g = small_graph()
    *skipped, values = limits
    dtype = np.int64 if len(limits) == 3 else np.float32
    x = g.node("Resize", g.conv("x", 3, 8), *skipped, g.constant(values, dtype=dtype), **attributes)
    g.head(x, 8)
    made = normalized(g.model()).model.graph
    (resize,) = [node for node in made.node if node.op_type == "Resize"]
    found = {t.name: numpy_helper.to_array(t) for t in made.initializer}[resize.input[2]]
    np.testing.assert_allclose(found[-len(scales) :], scales)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("shape", [(), (1, 8, 1, 1)])
def test_scales_in_front_of_a_convolution_are_in_it(small_graph, shape, groups: int):
    """As in hard-swish written out; the simplifier folds them, and its proof would miss that."""
    g = small_graph()
    x = g.node(
        "Mul", g.constant(g.random.uniform(0.5, 2, shape)), g.node("Relu", g.conv("x", 3, 8))
    )
    g.head(g.node("Relu", g.conv(x, 8, 16, group=groups)), 16)
    assert operators(normalized(g.model()))["Mul"] == 0


def test_scales_behind_a_normalization_are_in_it(small_graph):
    """As residual branches are scaled; the simplifier folds them, and its proof would miss that."""
    g = small_graph()
    x = g.conv("x", 3, 8)
    statistics = [g.constant(g.random.uniform(0.5, 2, 8)) for _ in range(4)]
    x = g.node("BatchNormalization", x, *statistics)
    x = g.node("Add", g.node("Mul", x, g.constant(0.1)), g.constant(np.ones((8, 1, 1))))
    g.head(g.node("Relu", x), 8)
    assert not operators(normalized(g.model())).keys() & {"Mul", "Add"}


def test_transposes_around_each_convolution(small_graph):
    """As tf2onnx leaves them where it meets a number added to a map, as hard-swish has it."""
    g = small_graph(("N", 32, 32, 3))

    def conv(rows: str, inputs: int, outputs: int) -> str:
        x = g.node(
            "Conv", g.node("Transpose", rows, perm=[0, 3, 1, 2]), g.weights(outputs, inputs, 1, 1)
        )
        x = g.node("Transpose", x, perm=[0, 2, 3, 1])
        x = g.node("Mul", x, g.constant(g.random.uniform(0.5, 2, outputs)))
        x = g.node("Add", x, g.constant(g.random.normal(size=outputs)))
        gate = g.node("Clip", g.node("Add", x, g.constant(3.0)), g.constant(0), g.constant(6))
        return g.node("Mul", x, g.node("Mul", gate, g.constant(1 / 6)))

    x = conv("x", 3, 8)
    mean = g.node("ReduceMean", x, g.constant([1, 2], dtype=np.int64))
    x = g.node("Mul", x, g.node("Sigmoid", mean))
    x = g.node("Pad", x, g.constant([0, 1, 1, 0, 0, 1, 1, 0], dtype=np.int64))
    x = conv(g.node("Concat", x, x, axis=3), 16, 8)
    flat = g.node("ReduceMean", x, g.constant([1, 2], dtype=np.int64), keepdims=0)
    g.node("MatMul", flat, g.weights(8, 3), output="y")
    made = operators(normalized(g.model()))
    assert made["Transpose"] == made["ReduceMean"] == 0
    assert (made["Conv"], made["GlobalAveragePool"]) == (2, 2)
