"""Classifiers of every shape become integer, or stay float where they must, and are the same."""

from collections import Counter

import numpy as np
import onnx
import pytest

from mobilenet_cli.calibration.graph.expand_enlargements import expand_enlargements
from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import SIMULATED
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.base import Record

CLASSES = 3


@pytest.fixture
def quantized(tmp_path):
    """Quantize a small graph on digits."""

    def make(graph, **options):
        facts = Facts(
            stage="foreign",
            input=InputSpec(resolution=32, resize=32),
            classes=tuple("abc"),
            data="digits",
        )
        model = graph.model(("N", CLASSES))
        onnx.checker.check_model(model, full_check=True)
        source = save_artifact(tmp_path / "float.onnx", with_facts(model, facts), facts, Record())
        return quantize(source, QuantizeConfig(calib_count=24, **options), tmp_path / "int8.onnx")

    return make


def running(path):
    """Count the nodes, by type, of the graph that really runs."""
    optimized = path.with_suffix(".optimized")
    open_session(path, SessionConfig(optimized_path=optimized))
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def channel_shuffle(g):
    """The unit of ShuffleNet v2: half of the channels pass by, then both halves are mixed."""
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    g.nodes.append(onnx.helper.make_node("Split", [x], ["left", "right"], axis=1, num_outputs=2))
    right = g.node("Relu", g.conv("right", 8, 8, 1))
    x = g.node("Concat", "left", right, axis=1)
    x = g.node("Reshape", x, g.constant([0, 2, 8, 16, 16], dtype=np.int64))
    x = g.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = g.node("Reshape", x, g.constant([0, 16, 16, 16], dtype=np.int64))
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def channels_selected(g):
    """Half of the channels in another order, as torch's index_select gives them."""
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    x = g.node("Gather", x, g.constant([-1, 0, 3, 5, 7, 9, 2, 2], dtype=np.int64), axis=1)
    return g.node("Relu", g.conv(x, 8, 16, 1)), 16


def image_read_twice(g):
    """The first block of ENet: a convolution and a pool read the image."""
    parts = (
        g.conv("x", 3, 13, strides=[2, 2]),
        g.node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2]),
    )
    x = g.node("Relu", g.node("Concat", *parts, axis=1))
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def channels_in_the_batch(g):
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    x = g.node("Reshape", x, g.constant([-1, 8, 16, 16], dtype=np.int64))
    x = g.node("Relu", g.conv(x, 8, 8, 1))
    x = g.node("Reshape", x, g.constant([-1, 16, 16, 16], dtype=np.int64))
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def pool_of_one_dimension(g):
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    x = g.node("Reshape", x, g.constant([0, 16, -1], dtype=np.int64))
    x = g.node("AveragePool", x, kernel_shape=[2], strides=[2])
    x = g.node("Reshape", x, g.constant([0, 16, 16, 8], dtype=np.int64))
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def bounded_in_two_steps(g):
    """ReLU6 as some exporters write it, and the smaller bound first."""
    x = g.conv("x", 3, 16, strides=[2, 2])
    x = g.node("Min", g.node("Relu", x), g.constant(1.5))
    x = g.node("Max", g.constant([0.0]), g.node("Min", g.conv(x, 16, 16, 1), g.constant(1.5)))
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def residual_blocks(g):
    """Those of ResNet: a ReLU behind each sum, and a convolution where the map shrinks."""
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    for stride in (1, 2, 1):
        by = x if stride == 1 else g.conv(x, 16, 16, 1, strides=[2, 2])
        inner = g.node("Relu", g.conv(x, 16, 8, 3, strides=[stride, stride]))
        x = g.node("Relu", g.node("Add", g.conv(inner, 8, 16), by))
    return x, 16


def bounded_sums(g):
    """Sums that ReLU6 bounds, of which an addition alone reads the last but one."""
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    for _ in range(2):
        inner = g.node("Relu", g.conv(x, 16, 16, 1))
        x = g.node("Add", g.conv(inner, 16, 16, 1), x)
        x = g.node("Clip", x, g.constant(0.0), g.constant(2.0))
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def groups(count, width):
    """The block of ResNeXt and RegNet, of so many groups with so many channels."""

    def build(g):
        c = count * width
        x = g.node("Relu", g.conv("x", 3, c, strides=[2, 2]))
        inner = g.node("Relu", g.conv(x, c, c, 1))
        inner = g.node("Relu", g.conv(inner, c, c, 3, group=count))
        return g.node("Relu", g.node("Add", g.conv(inner, c, c, 1), x)), c

    return build


def average_with_the_border(g):
    """ONNX Runtime's integer kernel divides by another count."""
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    x = g.node(
        "AveragePool",
        x,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        count_include_pad=1,
    )
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def constant_behind_a_border(g):
    """A channel is 0 for every image, so that the next makes a constant; a padded one reads it."""
    weight = g.random.normal(size=(16, 3, 3, 3)) * 0.3
    bias = g.random.normal(size=16) * 0.1
    weight[:6], bias[:6] = 0, -1
    x = g.node("Conv", "x", g.constant(weight), g.constant(bias), pads=[1] * 4, strides=[2, 2])
    bias = g.random.normal(size=16) * 0.1
    bias[:6] = 3
    depthwise = g.weights(16, 1, 3, 3)
    x = g.node("Relu", x)
    x = g.node("Conv", x, depthwise, g.constant(bias), pads=[1] * 4, group=16)
    return g.node("Relu", g.conv(g.node("Relu", x), 16, 16, 3)), 16


def average_of_values_apart(g):
    """ONNX Runtime has no integer kernel for it, and would make a graph that does not load."""
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    x = g.node("AveragePool", x, kernel_shape=[3, 3], dilations=[2, 2])
    return g.node("Relu", g.conv(x, 16, 16, 1)), 16


def mean_of_cubes(g):
    """The generalized mean: codes of the mean, whose root is taken, cost 30 dB."""
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    cubes = g.node("Pow", g.node("Clip", x, g.constant(1e-6)), g.constant(3.0))
    x = g.node("Pow", g.node("GlobalAveragePool", cubes), g.constant(1 / 3))
    return x, 16


def divided_by_its_mean(g):
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    mean = g.node("Add", g.node("GlobalAveragePool", x), g.constant(1e-3))
    return g.node("Relu", g.conv(g.node("Div", x, mean), 16, 16, 1)), 16


def scaled(factor, channels):
    """The weights of some channels times a factor, and of what reads them divided by it."""

    def build(g):
        weight, reader = g.random.normal(size=(16, 1, 3, 3)), g.random.normal(size=(16, 16, 1, 1))
        bias = g.random.normal(size=16) * 0.1
        weight[:channels] *= factor
        bias[:channels] *= factor
        reader[:, :channels] /= factor
        x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
        x = g.node("Conv", x, g.constant(weight), g.constant(bias), pads=[1] * 4, group=16)
        bias = g.constant(g.random.normal(size=16) * 0.1)
        return g.node("Relu", g.node("Conv", g.node("Relu", x), g.constant(reader), bias)), 16

    return build


@pytest.mark.parametrize(
    ("build", "in_float"),
    [
        (channel_shuffle, {}),
        (channels_selected, {}),
        (image_read_twice, {}),
        (channels_in_the_batch, {}),
        (pool_of_one_dimension, {}),
        (bounded_in_two_steps, {}),
        (residual_blocks, {}),
        (bounded_sums, {}),
        (groups(2, 24), {}),
        (groups(3, 4), {"Conv": 1}),
        (average_with_the_border, {"AveragePool": 1}),
        (average_of_values_apart, {"AveragePool": 1}),
        (mean_of_cubes, {}),
        (divided_by_its_mean, {}),
        (constant_behind_a_border, {}),
        (scaled(1e-12, 16), {}),
        (scaled(1e12, 16), {}),
        (scaled(1e4, 1), {}),
    ],
    ids=[
        "channel-shuffle", "channels-selected", "image-read-twice", "channels-in-the-batch",
        "1d-pool", "bounded-in-two-steps", "residual-blocks", "bounded-sums",
        "wide-groups", "narrow-groups",
        "average-with-the-border", "values-apart", "mean-of-cubes", "divided-by-its-mean",
        "constant-behind-a-border", "tiny", "huge", "one-large-channel",
    ],
)  # fmt: skip
def test_the_integer_network_is_the_float_one(small_graph, quantized, build, in_float):
    g = small_graph(opset=19)
    g.head(*build(g), CLASSES)
    made = quantized(g)
    operators = running(made.path)
    floats = ("Conv", "FusedConv", "Gemm", "AveragePool", "Relu", "Concat")
    assert {name: operators[name] for name in floats if operators[name]} == in_float
    assert made.record.kernels_equal
    assert made.record.sqnr_db > 34


@pytest.mark.parametrize(("mode", "sums"), [("nearest", (1, 0)), ("linear", (0, 1))])
def test_a_map_that_is_enlarged_by_copying_stays_codes(small_graph, quantized, mode, sums):
    """As in a feature pyramid, where the smaller map is added to the larger one."""
    g = small_graph()
    large = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    small = g.node("Relu", g.conv(large, 16, 16, strides=[2, 2]))
    form = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    enlarged = g.node("Resize", small, "", g.constant([1, 1, 2, 2]), mode=mode, **form)
    g.head(g.node("Relu", g.conv(g.node("Add", large, enlarged), 16, 16)), 16, CLASSES)
    made = quantized(g)
    operators = running(made.path)
    assert (operators["QLinearAdd"], operators["Add"]) == sums
    assert bool(made.record.float_layers) == (mode == "linear")
    assert made.record.kernels_equal
    assert made.record.sqnr_db > 34


@pytest.mark.parametrize(
    ("scales", "coordinates", "nearest", "copied"),
    [
        ([1, 1, 2, 2], "asymmetric", "floor", True),
        ([1, 1, 3, 2], "half_pixel", "round_prefer_floor", True),
        ([1, 1, 1, 4], "half_pixel", "round_prefer_ceil", True),
        ([1, 1, 1.5, 2], "asymmetric", "floor", False),
        ([1, 1, 2, 2], "asymmetric", "ceil", False),
        ([1, 1, 2, 2], "align_corners", "round_prefer_floor", False),
        ([1, 1, 0.5, 0.5], "asymmetric", "floor", False),
    ],
)
def test_codes_are_copied_where_a_map_is_enlarged_by_whole_factors(
    small_graph, quantized, scales, coordinates, nearest, copied
):
    """TensorRT's file is left as it is, and the transformation changes none of its outputs."""
    g = small_graph()
    small = g.node("Relu", g.conv("x", 3, 16, strides=[4, 4]))
    form = {"coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    enlarged = g.node("Resize", small, "", g.constant(scales), mode="nearest", **form)
    g.head(g.node("Relu", g.conv(enlarged, 16, 16)), 16, CLASSES)
    made = quantized(g, target="tensorrt")
    model = load_onnx(made.path)
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)

    def outputs(config):
        session = open_session(model.SerializeToString(), config)
        return session.run(None, {model.graph.input[0].name: images})[0]

    before = [outputs(config) for config in (SIMULATED, SessionConfig())]
    expand_enlargements(model, parse(load_onnx(made.path.with_name("float.onnx"))))
    onnx.checker.check_model(model, full_check=True)
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["Resize"], operators["Expand"]) == ((0, 1) if copied else (1, 0))
    for expected, config in zip(before, (SIMULATED, SessionConfig()), strict=True):
        np.testing.assert_array_equal(outputs(config), expected)


def test_a_layer_that_is_kept_in_float_runs_in_float(small_graph, quantized):
    """ONNX Runtime rounds constant weights between codes by itself, if nothing keeps it from it."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8, strides=[2, 2]))
    kept = g.node("Relu", g.conv(x, 8, 8))
    g.head(g.node("Relu", g.conv(kept, 8, 8)), 8, CLASSES)
    made = quantized(g, keep_float=(kept,))
    operators = running(made.path)
    assert (operators["Conv"], operators["QLinearConv"]) == (1, 2)
    assert made.record.sqnr_db > 34


@pytest.mark.parametrize("shaped", [True, False])
@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_gates_multiply_codes(small_graph, quantized, gate: str, shaped: bool):
    """Of squeeze-and-excitation, and of what MobileNetV3 and EfficientNet gate by themselves."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    weight = g.node(gate, g.conv(g.node("GlobalAveragePool", x), 16, 16, 1))
    if shaped:
        flat = g.node("Reshape", weight, g.constant([0, 16], dtype=np.int64))
        weight = g.node("Reshape", flat, g.constant([0, 16, 1, 1], dtype=np.int64))
    x = g.conv(g.node("Mul", x, weight), 16, 16, 1)
    x = g.conv(g.node("Mul", x, g.node(gate, x)), 16, 16, 1)
    g.head(x, 16, CLASSES)
    made = quantized(g)
    operators = running(made.path)
    assert (operators["Mul"], operators["QLinearMul"]) == (0, 2)
    assert made.record.kernels_equal
    assert made.record.sqnr_db > 34


def test_logits_behind_an_activation_stay_float(small_graph, quantized):
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8, strides=[2, 2]))
    g.node("Relu", g.head(x, 8, CLASSES, output="logits"), output="y")
    made = quantized(g)
    assert running(made.path)["QLinearConv"] == 1
    assert made.record.sqnr_db > 34


@pytest.mark.parametrize("end", ["GlobalAveragePool", "Conv"])
def test_logits_that_are_no_matrix_product_stay_codes_beside_float_steps(
    small_graph, quantized, end: str
):
    """As SqueezeNet ends, with an activation in it that has no integer form."""
    g = small_graph()
    x = g.node("PRelu", g.conv("x", 3, 8, strides=[2, 2]), g.constant(np.full((8, 1, 1), 0.2)))
    if end == "Conv":
        x = g.conv(g.node("GlobalAveragePool", x), 8, CLASSES, 1)
    else:
        x = g.node(end, g.conv(x, 8, CLASSES))
    g.node("Flatten", x, output="y")
    record = quantized(g).record
    assert record.sqnr_db > 25
    assert record.operators["DequantizeLinear"] == 2  # of the activation, and of the logits


def test_narrow_groups_become_integer_where_joining_them_pays(small_graph, quantized):
    g = small_graph()
    g.head(*groups(4, 12)(g), CLASSES)
    made = quantized(g, target="vnni", cross=True)
    assert made.record.float_layers == ()
    assert made.record.sqnr_db > 34
