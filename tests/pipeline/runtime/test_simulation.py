"""A quantized model is simulated with the codes that integer kernels make of it, bit for bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

KERNELS = SessionConfig()
SIMULATED = SessionConfig(integer_kernels=False)
SCALE = 0.0173
EXACT_BITS = 24  # float32 holds all integers below 2**24


def quantized_model(nodes, constants, inputs, output="y", kind=TensorProto.UINT8, opset=19):
    graph = helper.make_graph(
        [
            helper.make_node(operator, names, [made], **rest)
            for operator, names, made, rest in nodes
        ],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def convolution(rng, scale, channels=64, made=16, bias=True, quantized=True):
    """Build a 1x1 convolution from codes to codes, one sum in 64 to 256 of which is a tie."""
    weight_scale = np.float32(0.0037) * 2.0 ** rng.integers(0, 3, made).astype(np.float32)
    constants = {
        "sx": np.float32(scale),
        "zx": np.uint8(117),
        "w": rng.integers(-127, 128, (made, channels, 1, 1)).astype(np.int8),
        "sw": weight_scale,
        "zw": np.zeros(made, np.int8),
        "b": rng.integers(-(2**17), 2**17, made).astype(np.int32),
        "sb": np.float32(scale) * weight_scale,
        "zb": np.zeros(made, np.int32),
        "sy": np.float32(scale) * np.float32(0.0037) * np.float32(256),
        "zy": np.uint8(130),
    }
    nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "real", {}),
        ("DequantizeLinear", ["w", "sw", "zw"], "weight", {"axis": 0}),
        ("DequantizeLinear", ["b", "sb", "zb"], "bias", {"axis": 0}),
        ("Conv", ["real", "weight", *(["bias"] if bias else [])], "sum", {}),
    ]
    if quantized:
        nodes.append(("QuantizeLinear", ["sum", "sy", "zy"], "y", {}))
    output, kind = ("y", TensorProto.UINT8) if quantized else ("sum", TensorProto.FLOAT)
    return quantized_model(
        nodes, constants, [("x", [None, channels, 9, 9])], output, kind
    ), constants


def run(model, config=KERNELS, **inputs):
    return open_session(model, config).run(None, inputs)[0]


@pytest.mark.parametrize("bias", [True, False])
def test_sums_are_those_of_integers(bias):
    rng = np.random.default_rng(0)
    model, c = convolution(rng, SCALE, bias=bias)
    codes = rng.integers(0, 256, (40, 64, 9, 9)).astype(np.uint8)
    sums = np.einsum(
        "oi,nihw->nohw", c["w"][..., 0, 0].astype(np.int64), codes.astype(np.int64) - c["zx"]
    )
    if bias:
        sums += c["b"][:, None, None]
    factor = c["sx"] * c["sw"] / c["sy"]
    assert np.abs(sums).max() < 2**EXACT_BITS
    scaled = sums.astype(np.float32) * factor[:, None, None]
    wanted = np.clip(np.rint(scaled) + c["zy"], 0, 255).astype(np.uint8)
    assert len(np.unique(wanted)) > 100
    assert np.array_equal(run(model, SIMULATED, x=codes), wanted)


def test_sums_that_stay_float_are_scaled_once():
    rng = np.random.default_rng(1)
    model, c = convolution(rng, SCALE, quantized=False)
    codes = rng.integers(0, 256, (2, 64, 9, 9)).astype(np.uint8)
    weight = c["w"][..., 0, 0].astype(np.int64)
    sums = np.einsum("oi,nihw->nohw", weight, codes.astype(np.int64) - c["zx"])
    sums += c["b"][:, None, None]
    wanted = sums.astype(np.float32) * (c["sx"] * c["sw"])[:, None, None]
    assert np.array_equal(run(model, SIMULATED, x=codes), wanted)


def test_additions_are_those_of_the_kernels():
    """All pairs of codes, and scales that make ties."""
    first, second = (codes.astype(np.uint8) for codes in np.mgrid[0:256, 0:256].reshape(2, -1))
    for scales in (
        (0.5, 1.0, 2.0),
        (0.013, 0.0301, 0.0441),
        (0.1, 0.3, 0.2),
        (0.039, 0.065, 0.078),
    ):
        names = ("sa", "sb", "sy")
        constants = {
            **{name: np.float32(scale) for name, scale in zip(names, scales, strict=True)},
            "za": np.uint8(3),
            "zb": np.uint8(120),
            "zy": np.uint8(64),
        }
        nodes = [
            ("DequantizeLinear", ["a", "sa", "za"], "real_a", {}),
            ("DequantizeLinear", ["b", "sb", "zb"], "real_b", {}),
            ("Add", ["real_a", "real_b"], "sum", {}),
            ("QuantizeLinear", ["sum", "sy", "zy"], "y", {}),
        ]
        model = quantized_model(nodes, constants, [("a", [None]), ("b", [None])])
        found = run(model, SIMULATED, a=first, b=second)
        assert np.array_equal(found, run(model, a=first, b=second))


@pytest.mark.parametrize("opset", [13, 19])
def test_averages_are_those_of_the_kernels(opset):
    constants = {
        "sx": np.float32(0.0471),
        "zx": np.uint8(5),
        "sy": np.float32(0.0213),
        "zy": np.uint8(0),
    }
    nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "real", {}),
        ("GlobalAveragePool", ["real"], "mean", {}),
        ("QuantizeLinear", ["mean", "sy", "zy"], "y", {}),
    ]
    model = quantized_model(nodes, constants, [("x", [None, 512, 7, 5])], opset=opset)
    codes = np.random.default_rng(0).integers(0, 256, (9, 512, 7, 5)).astype(np.uint8)
    apart = np.abs(run(model, SIMULATED, x=codes).astype(int) - run(model, x=codes))
    assert apart.max() <= (0 if opset > 13 else 1)  # an older Shape cannot give a part


def test_what_is_not_understood_stays_as_it_is_defined():
    """A bias in float, a weight that is computed, and a factor are left to the definition."""
    rng = np.random.default_rng(2)
    model, _ = convolution(rng, SCALE)
    codes = rng.integers(0, 256, (2, 64, 9, 9)).astype(np.uint8)
    plain = run(model, SIMULATED, x=codes)

    def float_bias(graph):
        bias = next(node for node in graph.node if node.output[0] == "bias")
        values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        graph.node.remove(bias)
        graph.initializer.append(
            numpy_helper.from_array((values["b"] * values["sb"]).astype("f4"), "bias")
        )

    def computed_weight(graph):
        real = helper.make_node("Identity", ["weight"], ["same"])
        graph.node.insert(3, real)
        graph.node[4].input[1] = "same"

    for change in (float_bias, computed_weight):
        changed = onnx.load_from_string(model)
        change(changed.graph)
        found = run(changed.SerializeToString(), SIMULATED, x=codes)
        assert np.abs(found.astype(int) - plain).max() <= 1


def as_defined(model, **inputs):
    """Run a model with nothing replaced, not even by its simulation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.mark.parametrize("shape", [(2, 8, 9), (2, 8, 5, 3), (2, 8, 3, 4, 5)])
def test_maps_of_any_number_of_axes_are_averaged(shape):
    constants = {"sx": np.float32(0.05), "zx": np.uint8(5), "sy": np.float32(0.07)}
    nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "real", {}),
        ("GlobalAveragePool", ["real"], "mean", {}),
        ("QuantizeLinear", ["mean", "sy", "zx"], "y", {}),
    ]
    model = quantized_model(nodes, constants, [("x", [None, *shape[1:]])])
    codes = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    (wanted,) = as_defined(model, x=codes)
    found = run(model, SIMULATED, x=codes)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_additions_of_codes_of_two_types_stay_as_they_are_defined():
    """There is no kernel for these."""
    constants = {
        **{"s": np.float32(0.013), "sy": np.float32(0.03)},
        **{"z": np.uint8(3), "zy": np.int8(-7)},
    }
    nodes = [
        ("DequantizeLinear", ["a", "s", "z"], "real_a", {}),
        ("DequantizeLinear", ["b", "s", "z"], "real_b", {}),
        ("Add", ["real_a", "real_b"], "sum", {}),
        ("QuantizeLinear", ["sum", "sy", "zy"], "y", {}),
    ]
    model = quantized_model(nodes, constants, [("a", [None]), ("b", [None])], kind=TensorProto.INT8)
    codes = np.arange(256, dtype=np.uint8)
    inputs = {"a": codes, "b": codes[::-1].copy()}
    assert np.array_equal(run(model, SIMULATED, **inputs), as_defined(model, **inputs)[0])


def test_codes_of_microsofts_operators_stay_as_they_are_defined():
    """Before opset 21 only these have codes of 16 bits."""
    constants = {"s": np.float32(0.013), "z": np.uint16(300), "sy": np.float32(0.03)}
    nodes = [
        ("DequantizeLinear", ["wide", "s", "z"], "real", {"domain": "com.microsoft"}),
        ("Add", ["real", "real"], "sum", {}),
        ("QuantizeLinear", ["sum", "sy", "z"], "y", {"domain": "com.microsoft"}),
        ("Cast", ["x"], "wide", {"to": TensorProto.UINT16}),
    ]
    model = onnx.load_from_string(
        quantized_model(
            [nodes[-1], *nodes[:-1]], constants, [("x", [None])], kind=TensorProto.UINT16, opset=17
        )
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    content, codes = model.SerializeToString(), np.arange(256, dtype=np.uint8)
    assert np.array_equal(run(content, SIMULATED, x=codes), as_defined(content, x=codes)[0])


def changed_convolution(change):
    """Return a convolution's model after a change of its graph, and codes for it."""
    rng = np.random.default_rng(3)
    model = onnx.load_from_string(convolution(rng, SCALE)[0])
    change(model.graph)
    return model.SerializeToString(), rng.integers(0, 256, (2, 64, 9, 9)).astype(np.uint8)


def test_a_bias_of_other_scales_than_the_sums_counts_as_defined():
    def double(graph):
        scale = next(tensor for tensor in graph.initializer if tensor.name == "sb")
        scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), "sb"))

    model, codes = changed_convolution(double)
    found = run(model, SIMULATED, x=codes).astype(int)
    assert np.abs(found - as_defined(model, x=codes)[0]).max() <= 1


def test_sums_that_a_branch_reads_stay_real_numbers():
    def branch(graph):
        made = [helper.make_tensor_value_info("positive", TensorProto.FLOAT, None)]
        relu = helper.make_node("Relu", ["sum"], ["positive"])
        reads = helper.make_graph([relu], "reads", [], made)
        graph.node.append(
            helper.make_node("If", ["is"], ["z"], then_branch=reads, else_branch=reads)
        )
        graph.input.append(helper.make_tensor_value_info("is", TensorProto.BOOL, []))
        graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))

    model, codes = changed_convolution(branch)
    inputs = {"x": codes, "is": np.array(True)}
    found = open_session(model, SIMULATED).run(None, inputs)[1]
    assert np.allclose(found, as_defined(model, **inputs)[1], rtol=1e-4, atol=1e-4)


def test_names_of_a_model_are_not_taken():
    def rename(graph):
        new = {"sx": "one__exact", "w": "sum_weight__exact", "zx": "sum_read_zero_point__exact"}
        for node in graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
        for tensor in graph.initializer:
            tensor.name = new.get(tensor.name, tensor.name)

    model, codes = changed_convolution(rename)
    plain, _ = changed_convolution(lambda _: None)
    assert np.array_equal(run(model, SIMULATED, x=codes), run(plain, SIMULATED, x=codes))
