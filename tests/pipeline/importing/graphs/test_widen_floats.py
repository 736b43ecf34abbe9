"""Files that compute in float16, bfloat16 or float64 become float32, and it is said by how much."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.graphs.normalize_graph import normalize_graph
from mobilenet_cli.pipeline.importing.graphs.widen_floats import WIDTHS, in_float32

FILE = Path("other.onnx")


def network(small_graph, kind: int, ends: bool) -> onnx.ModelProto:
    """Return a network that computes in a type; its image and its logits have it, too, or not."""
    g = small_graph(dtype=kind if ends else TensorProto.FLOAT)
    x = "x" if ends else g.node("Cast", "x", to=kind)
    x = g.node("Relu", g.conv(x, 3, 8))
    logits = g.head(x, 8, output="y" if ends else "logits")
    if not ends:
        g.node("Cast", logits, to=TensorProto.FLOAT, output="y")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for tensor in g.constants:
        narrow = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    model = g.model()
    if ends:
        model.graph.output[0].type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize("ends", [False, True])
def test_float16_becomes_float32(small_graph, ends: bool):
    model = network(small_graph, TensorProto.FLOAT16, ends)
    made = normalize_graph(FILE, model, None)
    assert {tensor.data_type for tensor in made.model.graph.initializer} == {TensorProto.FLOAT}
    assert "Cast" not in {node.op_type for node in made.model.graph.node}
    (note,) = made.notes
    moved = re.fullmatch(r"all numbers are float32 now, .* by up to (\S+) on noise", note)
    assert moved is not None
    assert 0 < float(moved[1]) < 1e-2


def test_weights_that_are_stored_in_float16_are_told_of_nothing(small_graph):
    """Nothing is computed in it, so no answer moves."""
    g = small_graph()
    small = g.random.normal(size=(8, 3, 3, 3)) * 0.2
    weights = g.node("Cast", g.constant(small, dtype=np.float16), to=TensorProto.FLOAT)
    g.head(g.node("Relu", g.node("Conv", "x", weights)), 8)
    assert normalize_graph(FILE, g.model(), None).notes == ()


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_a_map_that_is_of_another_type_on_its_way(small_graph, kind: int):
    """As programs of mixed precision leave it."""
    g = small_graph()
    other = g.node("Cast", g.node("Relu", g.conv("x", 3, 8)), to=kind)
    g.head(g.node("Cast", other, to=TensorProto.FLOAT), 8)
    made = normalize_graph(FILE, g.model(), None)
    assert "Cast" not in {node.op_type for node in made.model.graph.node}
    assert len(made.notes) == (kind == TensorProto.BFLOAT16)  # float64 lost nothing


def test_what_overflows_in_the_file_is_refused(small_graph):
    g = small_graph()
    large = g.node("Mul", g.node("Relu", g.conv("x", 3, 8)), g.constant(1e5))
    half = g.node("Cast", large, to=TensorProto.FLOAT16)
    back = g.node("Cast", half, to=TensorProto.FLOAT)
    g.head(g.node("Mul", back, g.constant(1e-5)), 8)
    with pytest.raises(ModelError, match=r"what it computes in fewer bits is up to .* away from"):
        normalize_graph(FILE, g.model(), None)


def test_branches_and_constants_are_widened(small_graph):
    """Wherever a type can stand: in a branch, a Constant, a Cast, and what is known of a value."""
    value = numpy_helper.from_array(np.ones(2, np.float16), "v")
    nodes = [
        helper.make_node("Constant", [], ["a"], value=value),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
    ]
    output = helper.make_tensor_value_info("b", TensorProto.FLOAT16, [2])
    branch = helper.make_graph(nodes, "branch", [], [output])
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    made = in_float32(small_graph().model())
    made.graph.node.append(choice)
    text = str(in_float32(made).graph.node[-1])
    assert not [kind for kind in WIDTHS if re.search(rf"(type|\bi): {kind}\b", text)]
    assert f"data_type: {TensorProto.FLOAT}\n" in text
