"""Equalization scales channels up within their range, and leaves the function as it is."""

import numpy as np
import pytest
from onnx import helper

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.weights.equalize import (
    LARGEST,
    MARGIN,
    channel_factors,
    equalize_channels,
)
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx


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


def nothing(peaks):
    """The smallest values behind ReLUs."""
    return {name: np.zeros_like(values) for name, values in peaks.items()}


def whole(peaks):
    """Ranges that clip nothing."""
    return {name: (0.0, float(values.max())) for name, values in peaks.items()}


def test_no_channel_is_scaled_beyond_a_range_that_clips(network, peaks):
    ranges = {name: (0.0, 0.5 * high) for name, (_, high) in whole(peaks).items()}
    for name, factor in channel_factors(network, nothing(peaks), peaks, ranges).items():
        assert (factor[peaks[name] >= ranges[name][1]] == 1).all()
        assert (factor * peaks[name])[factor > 1].max() <= ranges[name][1] / MARGIN * (1 + 1e-9)


def test_scaled_up_only_and_not_beyond_the_range(network, peaks):
    factors = channel_factors(network, nothing(peaks), peaks, whole(peaks))
    assert len(factors) == 26  # all but the last convolution, which pooling reads
    for name, factor in factors.items():
        assert (factor >= 1).all()
        assert factor.max() <= LARGEST
        assert (factor * peaks[name])[factor > 1].max() <= peaks[name].max() / MARGIN * (1 + 1e-9)


def test_activation_without_a_bound_at_zero_is_left_alone(network, peaks):
    peaks = peaks | {"logits": np.ones(10)}
    assert network.steps[-1].output not in channel_factors(
        network, nothing(peaks), peaks, whole(peaks)
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
    factors = channel_factors(network, nothing(peaks), peaks, whole(peaks))
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
