"""A float ONNX graph is parsed into steps, and what cannot be quantized is told apart."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.pipeline.errors import ModelError


def model(nodes, constants, outputs=("y",), inputs=("x",)):
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in nodes],
        "g",
        [helper.make_tensor_value_info(i, TensorProto.FLOAT, None) for i in inputs],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


W = np.arange(2 * 3 * 3 * 3).reshape(2, 3, 3, 3)


def test_our_own_network(chain):
    network = parse(onnx.load(chain.folded.path))
    assert (network.input, network.outputs) == ("input", ("logits",))
    kinds = [step.kind for step in network.steps]
    assert kinds == ["linear"] * 27 + ["pool", "shape", "linear"]
    assert [step.high for step in network.steps[:27]] == [6.0] * 27
    assert [network.linears[s.output].depthwise for s in network.steps[:5]] == [
        False, True, False, True, False,
    ]  # fmt: skip
    assert all(len(network.consumers(step.output)) == 1 for step in network.steps[:-1])


@pytest.mark.parametrize(
    ("activation", "constants", "bounds"),
    [
        (("Relu", ["a"]), {}, (0, np.inf)),
        (("Clip", ["a", "low", "high"]), {"low": 0, "high": 6}, (0, 6)),
        (("Clip", ["a", "low"]), {"low": 0}, (0, np.inf)),
    ],
)
def test_activation_belongs_to_the_convolution(activation, constants, bounds):
    operator, inputs = activation
    network = parse(
        model([("Conv", ["x", "w"], "a", {}), (operator, inputs, "y", {})], {"w": W} | constants)
    )
    (step,) = network.steps
    assert (step.output, step.low, step.high) == ("y", *bounds)
    assert network.linears["y"].bias.tolist() == [0, 0]
    assert np.array_equal(network.linears["y"].weight, W)


@pytest.mark.parametrize(
    ("activation", "constants"),
    [
        (("Clip", ["a", "low", "high"]), {"low": -1, "high": 1}),
        (("Clip", ["a", "", "high"]), {"high": 6}),
        (("Clip", ["a"]), {}),
        (("Sigmoid", ["a"]), {}),
        (("LeakyRelu", ["a"]), {}),
    ],
)
def test_any_other_activation_is_a_step_of_its_own(activation, constants):
    operator, inputs = activation
    network = parse(
        model([("Conv", ["x", "w"], "a", {}), (operator, inputs, "y", {})], {"w": W} | constants)
    )
    assert [(s.kind, s.output) for s in network.steps] == [("linear", "a"), ("float", "y")]


def test_activation_is_not_absorbed_when_somebody_else_reads_the_convolution():
    nodes = [
        ("Conv", ["x", "w"], "a", {}),
        ("Relu", ["a"], "b", {}),
        ("Add", ["a", "b"], "y", {}),
    ]
    network = parse(model(nodes, {"w": W}))
    assert [s.output for s in network.steps] == ["a", "b", "y"]
    assert network.steps[0].low == -np.inf


def test_activation_is_not_absorbed_when_the_convolution_is_an_output():
    nodes = [("Conv", ["x", "w"], "y", {}), ("Relu", ["y"], "unused", {})]
    network = parse(model(nodes, {"w": W}))
    assert network.steps[0].output == "y"


def test_gemm_in_either_orientation():
    weight = np.arange(12).reshape(3, 4)
    for transposed in (0, 1):
        stored = weight if transposed else weight.T
        nodes = [("Gemm", ["x", "w", "b"], "y", {"transB": transposed})]
        linear = parse(model(nodes, {"w": stored, "b": [1, 2, 3]})).linears["y"]
        assert np.array_equal(linear.weight, weight)
        assert linear.bias.tolist() == [1, 2, 3]


def test_scalar_bias_of_a_gemm_is_for_all_outputs():
    nodes = [("Gemm", ["x", "w", "b"], "y", {"transB": 1})]
    linear = parse(model(nodes, {"w": np.ones((3, 4)), "b": [7]})).linears["y"]
    assert linear.bias.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("operator", "attributes", "weight"),
    [
        ("Gemm", {"alpha": 2.0}, np.ones((4, 3))),
        ("Gemm", {"beta": 0.5}, np.ones((4, 3))),
        ("Gemm", {"transA": 1}, np.ones((4, 3))),
        ("Conv", {"group": 2}, np.ones((4, 2, 3, 3))),  # neither dense nor depthwise
        ("Conv", {}, np.ones((4, 2, 3))),  # one-dimensional
    ],
)
def test_products_without_integer_kernels_stay_float(operator, attributes, weight):
    nodes = [(operator, ["x", "w"], "a", attributes), ("Conv", ["a", "v"], "y", {})]
    network = parse(model(nodes, {"w": weight, "v": W}))
    assert [s.kind for s in network.steps] == ["float", "linear"]


def test_weights_that_are_computed_stay_float():
    nodes = [("Relu", ["x"], "w", {}), ("Conv", ["x", "w"], "a", {}), ("Conv", ["a", "v"], "y", {})]
    network = parse(model(nodes, {"v": W}))
    assert [s.kind for s in network.steps] == ["float", "float", "linear"]


def test_layer_kept_in_float_keeps_its_activation_apart():
    nodes = [
        ("Conv", ["x", "w"], "a", {}),
        ("Relu", ["a"], "b", {}),
        ("Conv", ["b", "v"], "y", {}),
    ]
    network = parse(model(nodes, {"w": W, "v": np.ones((4, 2, 1, 1))}), frozenset({"b"}))
    assert network.steps[0].kind == "float"
    assert [s.output for s in network.steps] == ["a", "b", "y"]


def test_batch_norms_must_be_folded_first(chain):
    with pytest.raises(ModelError, match=r"still has BatchNormalization\. .*simplify"):
        parse(onnx.load(chain.fp32.path))


def test_quantized_already(chain):
    with pytest.raises(ModelError, match="quantized already: it has DequantizeLinear, Quantize"):
        parse(onnx.load(chain.int8.path))


def test_nothing_to_quantize():
    with pytest.raises(ModelError, match="no convolution or matrix product"):
        parse(model([("Relu", ["x"], "y", {})], {}))


def test_one_input():
    nodes = [("Conv", ["x", "w"], "a", {}), ("Relu", ["a"], "y", {})]
    with pytest.raises(ModelError, match="2 inputs and 1 output"):
        parse(model(nodes, {"w": W}, ("y",), ("x", "z")))


def test_an_output_within_keeps_its_activation_apart():
    nodes = [("Conv", ["x", "w"], "a", {}), ("Relu", ["a"], "y", {})]
    network = parse(model(nodes, {"w": W}, ("y", "a")))
    assert network.outputs == ("y", "a")
    assert [(step.output, step.low) for step in network.steps] == [("a", -np.inf), ("y", -np.inf)]


def test_initializers_listed_as_inputs_are_not_inputs():
    """As in files of IR version 3."""
    nodes = [("Conv", ["x", "w"], "y", {})]
    network = parse(model(nodes, {"w": W}, inputs=("x", "w")))
    assert network.input == "x"
