"""Hostile ONNX graphs are refused by a sentence before anything of them is run or allocated."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.pipeline.artifacts.onnx_checks import MAX_NODES
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.reporting.inspecting.inspect_file import inspect_file


@pytest.fixture
def model(small_graph) -> onnx.ModelProto:
    graph = small_graph()
    graph.head(graph.conv("x", 3, 8), 8)
    return graph.model()


def relus(model, count):
    del model.graph.node[:]
    model.graph.node.extend(
        helper.make_node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(count)
    )


def functions(model, calls):
    """Let the first node call functions that call each other: name -> the names it calls."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model.opset_import.append(opsets[1])
    for name, called in calls.items():
        names = ["a", *(f"t{i}" for i in range(1, len(called))), "b"]
        nodes = [
            helper.make_node(f, [names[i]], [names[i + 1]], domain="" if f == "Relu" else "own")
            for i, f in enumerate(called)
        ]
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], nodes, opsets))
    model.graph.node.insert(0, helper.make_node("F0", ["x"], ["called"], domain="own"))


def doubling(model):
    functions(model, {f"F{i}": [f"F{i + 1}"] * 2 for i in range(30)} | {"F30": ["Relu"]})


def loop(model):
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, [])],
    )
    true = numpy_helper.from_array(np.array(True), "true")
    model.graph.initializer.append(true)
    model.graph.node.append(helper.make_node("Loop", ["", "true"], [], body=body))


def huge(model):
    shape = numpy_helper.from_array(np.array([2**40], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["huge"]))


def sparse(model):
    values = numpy_helper.from_array(np.ones(1, np.float32), "few")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "few_at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))


def first(model):
    return model.graph.initializer[0]


def external(model, **where):
    tensor = first(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "model.onnx"} | where).items():
        tensor.external_data.add(key=key, value=value)


CASES: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "many nodes": (lambda m: relus(m, MAX_NODES + 1), "more than 10000 nodes"),
    "functions that double": (doubling, "more than 10000 nodes, functions expanded"),
    "a function in itself": (lambda m: functions(m, {"F0": ["F0"]}), "F0, which calls itself"),
    "a loop": (loop, "Loop node .*, which runs graphs of its own"),
    "a huge tensor": (huge, r"tensor 'huge' of size \[1099511627776\]"),
    "sparse": (sparse, "has sparse tensors"),
    "a cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "need each other's results"),
    "no opset": (lambda m: m.ClearField("opset_import"), "names no operator set"),
    "no output": (lambda m: m.graph.ClearField("output"), "names no output"),
    "no input": (lambda m: m.graph.ClearField("input"), "cannot be read as an ONNX model"),
    "shape below 0": (lambda m: first(m).dims.__setitem__(0, -1), "damaged tensor 'constant0'"),
    "shape too large": (lambda m: first(m).dims.append(2**40), "damaged tensor 'constant0'"),
    "unknown type": (lambda m: setattr(first(m), "data_type", 99), "damaged tensor 'constant0'"),
    "unknown input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99),
        "no name defined for value 99",
    ),
    "no inputs of a node": (lambda m: m.graph.node[0].ClearField("input"), "input size 0"),
    "made twice": (lambda m: m.graph.node.append(m.graph.node[0]), "multiple times"),
    "NUL in a location": (lambda m: external(m, location="a\0b"), "null byte"),
    "no number": (lambda m: external(m, offset="\xb2"), "invalid literal"),
    "an endless number": (lambda m: external(m, length="9" * 5000), "Exceeds the limit"),
    "before the file": (lambda m: external(m, offset="-1"), "external data of .* cannot be read"),
    "beyond the file": (lambda m: external(m, length=str(2**62)), "external data of .* cannot be"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(model, tmp_path, case):
    change, sentence = CASES[case]
    change(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=sentence):
        load_onnx(path)


def chosen(model, node):
    """Add an If whose one branch runs the node, and whose other one has a weight of its own."""
    output = [helper.make_tensor_value_info("o", TensorProto.BOOL, None)]
    kept = numpy_helper.from_array(np.array(True), "o")
    branches = {
        "then_branch": helper.make_graph([node], "then", [], output),
        "else_branch": helper.make_graph([], "else", [], output, [kept]),
    }
    true = numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(true)
    model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], "choice", **branches))


def test_branches_are_taken_where_they_are_asked_for(model, tmp_path):
    chosen(model, helper.make_node("Not", ["yes"], ["o"]))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert [n.op_type for n in load_onnx(tmp_path / "x.onnx", branches=True).graph.node][-1] == "If"
    with pytest.raises(ModelError, match="If node 'choice', which runs graphs of its own") as told:
        load_onnx(tmp_path / "x.onnx")
    assert "mobilenet-cli import" in told.value.fix
    assert "If" in inspect_file(tmp_path / "x.onnx").operators


def test_initializers_of_their_own_in_a_file_of_old(small_graph, tmp_path):
    g = small_graph(opset=9, ir_version=3)
    g.head(g.conv("x", 3, 8), 8)
    (tmp_path / "x.onnx").write_bytes(g.model().SerializeToString())
    assert [value.name for value in load_onnx(tmp_path / "x.onnx").graph.input] == ["x"]


def test_a_loop_in_a_branch_is_refused(model, tmp_path):
    body = onnx.ModelProto()
    loop(body)
    chosen(model, body.graph.node[0])
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"Loop node .*, which runs graphs of its own"):
        load_onnx(tmp_path / "x.onnx", branches=True)


def test_a_damaged_weight_in_a_branch_is_refused(model, tmp_path):
    chosen(model, helper.make_node("Not", ["yes"], ["o"]))
    for attribute in model.graph.node[-1].attribute:
        for tensor in attribute.g.initializer:
            tensor.dims.append(7)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="damaged tensor 'o'"):
        load_onnx(tmp_path / "x.onnx", branches=True)


def test_external_data_in_an_attribute_stays_in_the_folder(model, tmp_path):
    kept = TensorProto(dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    kept.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=kept))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="keeps weights outside its folder, in /etc/passwd"):
        load_onnx(tmp_path / "x.onnx")


def test_no_more_of_external_data_is_read_than_the_tensor_has(model, tmp_path):
    """A sparse file of 10 GB beside the model, without a length in the model."""
    external(model, location="sparse")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10 << 30)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    loaded = load_onnx(tmp_path / "x.onnx")
    assert not numpy_helper.to_array(first(loaded)).any()


def test_text_that_is_not_utf8(model, tmp_path):
    model.graph.node[0].name = "here"
    content = model.SerializeToString().replace(b"here", b"h\xff\xfee")
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="a name in it is not UTF-8"):
        load_onnx(tmp_path / "x.onnx")


def test_functions_are_expanded(model, tmp_path):
    functions(model, {"F0": ["Relu", "F1"], "F1": ["Relu"]})
    model.graph.node[1].input[0] = "called"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    loaded = load_onnx(tmp_path / "x.onnx")
    assert not loaded.functions
    assert [node.op_type for node in loaded.graph.node][:3] == ["Relu", "Relu", "Conv"]


def test_nodes_are_put_in_order(model, tmp_path):
    """As in half-precision files of earlier versions, whose casts came last."""
    expected = [node.name for node in model.graph.node]
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert [node.name for node in load_onnx(tmp_path / "x.onnx").graph.node] == expected


def test_free_sizes_below_zero_are_free(model, tmp_path):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert load_onnx(tmp_path / "x.onnx").graph.node


def test_the_other_name_of_the_standard_domain(model, tmp_path):
    for node in model.graph.node:
        node.domain = "ai.onnx"
    model.opset_import[0].domain = "ai.onnx"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    loaded = load_onnx(tmp_path / "x.onnx")
    assert {node.domain for node in loaded.graph.node} == {""}


def test_nodes_of_one_name(model, tmp_path):
    """ONNX Runtime does not load them."""
    for node in model.graph.node:
        node.name = "same"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    loaded = load_onnx(tmp_path / "x.onnx")
    assert [node.name for node in loaded.graph.node].count("same") == 1


def test_outputs_without_a_name(small_graph, tmp_path):
    """ONNX Runtime dies of them."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    parts = ["", "kept"]
    g.nodes.append(helper.make_node("Split", [x], parts, axis=1, num_outputs=2))
    g.head("kept", 4)
    (tmp_path / "x.onnx").write_bytes(g.model().SerializeToString())
    (split,) = [n for n in load_onnx(tmp_path / "x.onnx").graph.node if n.op_type == "Split"]
    assert all(split.output)


@pytest.mark.parametrize(
    ("value", "role"), [(np.nan, "weight"), (np.nan, "scale"), (np.inf, "scale")]
)
def test_what_is_not_a_number_is_refused_where_codes_would_hide_it(chain, tmp_path, value, role):
    """An int8 model with such a scale answers as if all were well, and wrongly."""
    model = onnx.load(chain.int8.path if role == "scale" else chain.folded.path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    kind, index = ("QuantizeLinear", 1) if role == "scale" else ("Conv", 1)
    name = next(node.input[index] for node in model.graph.node if node.op_type == kind)
    values = numpy_helper.to_array(tensors[name]).copy()
    values[(0,) * values.ndim] = value
    tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "damaged.onnx")
    with pytest.raises(ModelError, match=f"damaged tensor '{name}' .it has NaN"):
        load_onnx(tmp_path / "damaged.onnx")


def test_bounds_may_be_infinite(small_graph, tmp_path):
    g = small_graph()
    bounds = g.constant(-np.inf), g.constant(np.inf)
    g.head(g.node("Clip", g.conv("x", 3, 8), *bounds), 8)
    onnx.save(g.model(), tmp_path / "model.onnx")
    assert load_onnx(tmp_path / "model.onnx").graph.node
