"""Channels of residual streams end where clipping and rounding lose least together."""

import numpy as np
import pytest

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.tensor_statistics import observe
from mobilenet_cli.calibration.weights.clip_streams import (
    BINS,
    ENDS,
    best_ends,
    clip_streams,
    magnitudes,
)
from mobilenet_cli.calibration.weights.equalize import residual_streams
from mobilenet_cli.pipeline.runtime.session import open_session


def squared_error(values, end, levels, clipped):
    """What is lost where values beyond ``end`` are cut off and others rounded, measured."""
    step = end / levels
    rounding = (np.rint(values / step) * step - values)[values <= end]
    return (rounding**2).sum() + clipped * (np.maximum(values - end, 0) ** 2).sum()


def test_rare_values_are_cut_off_and_frequent_ones_are_not():
    generator = np.random.default_rng(0)
    frequent = generator.uniform(0, 1, 20_001)
    rare = np.append(generator.uniform(0, 0.2, 20_000), 1.0)
    counts = magnitudes(np.stack([frequent, rare]).astype(np.float32)[None], np.ones(2))
    ends = best_ends(counts, 255)
    assert ends[0] > 0.95
    assert 0.19 < ends[1] < 0.8


def test_the_end_is_that_of_the_least_error(monkeypatch):
    values = np.abs(np.random.default_rng(1).normal(size=200_000)) / 8
    values = values[values < 1]
    for clipped in (0.03, 1.0):
        monkeypatch.setattr("mobilenet_cli.calibration.weights.clip_streams.CLIPPED", clipped)
        (end,) = best_ends(magnitudes(values.astype("f4")[None, None], np.ones(1)), 127)
        errors = [squared_error(values, tried, 127, clipped) for tried in ENDS]
        assert squared_error(values, end, 127, clipped) < 1.02 * min(errors)


def test_magnitudes_are_counted_by_channel_and_without_zeros():
    values = np.array([[[0.0, -1.0, 0.5]], [[0.0, 0.0, 4.0]]], np.float32).reshape(1, 2, 3, 1)
    counts = magnitudes(values, np.array([1.0, 4.0]))
    assert counts[0].sum() == 2
    assert counts[0, [BINS // 2, BINS - 1]].tolist() == [1, 1]
    assert counts[1].nonzero()[0].tolist() == [BINS - 1]


def test_channels_that_are_always_zero_are_left_alone():
    """Dead channels are common; a peak of 0 or a denormal one must not overflow."""
    values = np.zeros((2, 3, 4, 4), np.float32)
    values[:, 1] = 0.5
    values[:, 2] = 1e-40
    counts = magnitudes(values, np.array([0.0, 1.0, 1e-40]))
    assert counts.sum(1).tolist() == [0, 32, 32]
    assert best_ends(counts, 255)[0] == 1.0


@pytest.mark.parametrize("with_stream", [True, False])
def test_only_streams_are_cut_off(small_graph, with_stream):
    graph = small_graph()
    stream = graph.conv("x", 3, 8)
    if with_stream:
        stream = graph.node(
            "Add", stream, graph.conv(graph.node("Relu", graph.conv(stream, 8, 16)), 16, 8)
        )
    graph.head(graph.node("Relu", graph.conv(stream, 8, 16)), 16)
    network = parse(graph.model())
    images = np.random.default_rng(0).standard_t(2, (8, 3, 32, 32)).astype(np.float32)
    tensors = [step.output for step in network.steps]
    before = observe(network, tensors, frozenset(), lambda: [images], open_session, lambda _: None)
    after = clip_streams(network, before, lambda count: [images[:count]], open_session)
    streams = {name for stream in residual_streams(network) for name in stream}
    assert bool(streams) == with_stream
    for name in tensors:
        same = np.array_equal(after.high[name], before.high[name])
        assert same == (name not in streams)
        assert (after.low[name] >= before.low[name]).all()
        assert (after.high[name] <= before.high[name]).all()
        assert (after.high[name] - after.low[name] > 0).all()
