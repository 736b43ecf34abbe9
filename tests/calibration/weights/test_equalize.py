"""Equalization scales channels up within their range, and leaves the function as it is."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper, numpy_helper

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.weights.equalize import (
    LARGEST,
    STREAM_MARGIN,
    channel_factors,
    equalize_channels,
    margin_of,
    residual_streams,
)
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

IMAGES = 64


@pytest.fixture
def network(chain):
    return parse(load_onnx(chain.folded.path))


@pytest.fixture
def peaks(network):
    """Largest value of each channel, of very different sizes, one channel dead."""
    generator = np.random.default_rng(0)
    found = {}
    for step in network.steps[:-1]:
        size = next(
            (
                len(network.linears[s.output].bias)
                for s in network.steps
                if s is step and s.kind == "linear"
            ),
            256,
        )
        found[step.output] = generator.uniform(0.01, 6, size)
        found[step.output][0] = 0
    return found


def test_more_images_need_less_margin():
    assert [margin_of(images) for images in (1, 8, 64, 256)] == [1.6, 1.6, 1.2, 1.05]


def nothing(peaks):
    """The smallest values behind ReLUs."""
    return {name: np.zeros_like(values) for name, values in peaks.items()}


def whole(peaks):
    """Ranges that clip nothing."""
    return {name: (0.0, float(values.max())) for name, values in peaks.items()}


def test_no_channel_is_scaled_beyond_a_range_that_clips(network, peaks):
    margin = margin_of(IMAGES)
    ranges = {name: (0.0, 0.5 * high) for name, (_, high) in whole(peaks).items()}
    for name, factor in channel_factors(network, nothing(peaks), peaks, ranges, IMAGES).items():
        assert (factor[peaks[name] >= ranges[name][1]] == 1).all()
        assert (factor * peaks[name])[factor > 1].max() <= ranges[name][1] / margin * (1 + 1e-9)


@pytest.mark.parametrize("images", [1, 256])
def test_scaled_up_only_and_not_beyond_the_range(network, peaks, images):
    factors = channel_factors(network, nothing(peaks), peaks, whole(peaks), images)
    margin = margin_of(images)
    assert len(factors) == 26  # all but the last convolution, which pooling reads
    for name, factor in factors.items():
        assert (factor >= 1).all()
        assert factor.max() <= LARGEST
        assert (factor * peaks[name])[factor > 1].max() <= peaks[name].max() / margin * (1 + 1e-9)


def test_activation_without_a_bound_at_zero_is_left_alone(network, peaks):
    peaks = peaks | {"logits": np.ones(10)}
    assert network.steps[-1].output not in channel_factors(
        network, nothing(peaks), peaks, whole(peaks), IMAGES
    )


def convolve(x, linear, step):
    """A plain convolution in float64: [C, H, W] to [C', H', W'], the activation included."""
    attributes = {a.name: helper.get_attribute_value(a) for a in step.node.attribute}
    stride = attributes.get("strides", [1, 1])[0]
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    size = linear.weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[
        :, ::stride, ::stride
    ]
    if linear.depthwise:
        made = np.einsum("chwij,cij->chw", windows, linear.weight[:, 0])
    else:
        made = np.einsum("chwij,ocij->ohw", windows, linear.weight)
    return made + linear.bias[:, None, None]


def test_function_is_unchanged_below_the_bounds(network, peaks):
    """ReLU without its upper bound is homogeneous, so the scaled network is the same function."""
    factors = channel_factors(network, nothing(peaks), peaks, whole(peaks), IMAGES)
    inputs = {s.output: s.inputs[0] for s in network.steps if s.kind == "linear"}
    scaled = equalize_channels(network.linears, inputs, factors)
    x = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32))
    plain, other = x, x
    for step in network.steps[:8]:
        plain = np.maximum(convolve(plain, network.linears[step.output], step), 0)
        other = np.maximum(convolve(other, scaled[step.output], step), 0)
        factor = factors[step.output][:, None, None]
        assert factor.max() > 1.5
        assert other == pytest.approx(plain * factor, rel=1e-9, abs=1e-9)
    assert (
        network.linears[network.steps[0].output].weight
        is not scaled[network.steps[0].output].weight
    )


def test_without_factors_nothing_changes(network):
    inputs = {s.output: s.inputs[0] for s in network.steps if s.kind == "linear"}
    for name, linear in equalize_channels(network.linears, inputs, {}).items():
        assert np.array_equal(linear.weight, network.linears[name].weight)
        assert np.array_equal(linear.bias, network.linears[name].bias)


def residual(graph, activated: bool = False) -> ModelProto:
    """A convolution, two residual blocks, and a classifier."""
    stream = graph.conv("x", 3, 8)
    for _ in range(2):
        inside = graph.node("Relu", graph.conv(stream, 8, 16))
        stream = graph.node("Add", stream, graph.conv(inside, 16, 8))
        stream = graph.node("Relu", stream) if activated else stream
    graph.head(graph.node("Relu", graph.conv(stream, 8, 16)), 16)
    return graph.model()


@pytest.mark.parametrize("activated", [False, True])
def test_tensors_that_additions_join_are_a_stream(small_graph, activated):
    network = parse(residual(small_graph(), activated))
    (stream,) = residual_streams(network)
    made = [step.node.op_type for step in network.steps if step.output in stream]
    assert sorted(made) == ["Add", "Add", "Conv", "Conv", "Conv"]


def test_a_stream_with_an_end_in_float_is_not_scaled(small_graph):
    network = parse(residual(small_graph()))
    kept = network.steps[0].output
    assert residual_streams(parse(residual(small_graph()), keep_float=frozenset({kept}))) == []


@pytest.mark.parametrize("activated", [False, True])
def test_a_stream_is_scaled_as_one_and_the_function_stays(small_graph, activated):
    model = residual(small_graph(), activated)
    network = parse(model)
    generator = np.random.default_rng(0)
    sizes = {step.output: 16 for step in network.steps}
    sizes |= {name: len(linear.bias) for name, linear in network.linears.items()}
    (stream,) = residual_streams(network)
    largest = {name: generator.uniform(0.01, 6, sizes[name]) for name in sizes}
    largest |= dict.fromkeys(stream, generator.uniform(0.01, 6, 8))
    smallest = {name: -values for name, values in largest.items()}
    ranges = dict.fromkeys(largest, (-6.0, 6.0))
    factors = channel_factors(network, smallest, largest, ranges, IMAGES)
    for name in stream:
        assert factors[name] is factors[stream[0]]
        scaled = factors[name] > 1
        scaled_peaks = (factors[name] * largest[name])[scaled]
        assert scaled_peaks.max() == pytest.approx(6 / STREAM_MARGIN)  # and not beyond the codes
    inputs = {step.output: step.inputs[0] for step in network.steps if step.kind == "linear"}
    equalized = equalize_channels(network.linears, inputs, factors)
    image = generator.normal(size=(2, 3, 32, 32)).astype(np.float32)
    before = ort.InferenceSession(model.SerializeToString()).run(None, {"x": image})[0]
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            made = node.output[0]
            linear = equalized[made if made in equalized else read_by(model, made)]
            for name, value in zip(node.input[1:], (linear.weight, linear.bias), strict=True):
                values[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    after = ort.InferenceSession(model.SerializeToString()).run(None, {"x": image})[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert max(factors[stream[0]]) > 1.5


def read_by(model: ModelProto, tensor: str) -> str:
    """The output of the ReLU that is a part of a convolution's step."""
    return next(node.output[0] for node in model.graph.node if tensor in node.input)
