"""Tensors are the same, whatever of the network is held."""

import numpy as np
import onnx
import pytest

from mobilenet_cli.calibration import float_tensors
from mobilenet_cli.calibration.float_tensors import FloatTensors, bottlenecks
from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.tensor_statistics import exposing, run_exposed
from mobilenet_cli.pipeline.runtime.session import open_session

IMAGES = np.random.default_rng(0).uniform(-1, 1, (5, 3, 32, 32)).astype(np.float32)


def first(count):
    return (IMAGES[start : min(start + 2, count)] for start in range(0, count, 2))


@pytest.fixture
def residual(small_graph):
    """A sum of two branches, so that neither of them is all that comes later is computed from."""
    g = small_graph()
    stem = g.conv("x", 3, 8)
    branch = g.conv(stem, 8, 8)
    joined = g.node("Add", branch, stem)
    g.head(g.conv(joined, 8, 8), 8)
    return parse(g.model()), {stem, joined}


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_each_tensor_is_the_networks(residual, monkeypatch, most):
    network, alone = residual
    monkeypatch.setattr(float_tensors, "HELD_BYTES", most)
    assert alone <= set(bottlenecks(network))
    names = [step.output for step in network.steps]
    expected = run_exposed(exposing(network, names, open_session), network, names, IMAGES)
    nodes = []

    def run(model):
        nodes.append(len(onnx.load_from_string(model).graph.node))
        return open_session(model)

    tensors = FloatTensors(network, first, len(IMAGES), run)
    np.testing.assert_array_equal(list(tensors.rows(network.input, 5)), IMAGES)
    for name in names:
        rows = list(tensors.rows(name, 3))
        np.testing.assert_allclose(rows, expected[name][:3], rtol=1e-5, atol=1e-5)
    # Where something is held, no more of the network is computed than lies behind it.
    assert (max(nodes) < len(network.model.graph.node)) == bool(most)
