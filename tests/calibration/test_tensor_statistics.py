"""What is pooled inside the session must be what the tensors themselves say."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.calibration.choose_grids import coded_tensors
from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.tensor_statistics import exposing, observe, run_exposed
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.runtime.session import open_session

IMAGES = np.random.default_rng(0).uniform(-1, 1, (5, 3, 32, 32)).astype(np.float32)


def by(size: int):
    return lambda: (IMAGES[start : start + size] for start in range(0, len(IMAGES), size))


def seen(network, size=2, means=True):
    read = frozenset(s.inputs[0] for s in network.steps if s.kind == "linear")
    tensors = coded_tensors(network)
    return observe(
        network, tensors, read if means else frozenset(), by(size), open_session, lambda _: None
    )


@pytest.fixture(scope="module")
def mobilenet(chain):
    return parse(load_onnx(chain.folded.path))


@pytest.fixture(scope="module")
def whole(mobilenet):
    """Every tensor itself, of all images."""
    tensors = coded_tensors(mobilenet)
    session = exposing(mobilenet, tensors, open_session)
    return run_exposed(session, mobilenet, tensors, IMAGES)


@pytest.mark.parametrize("means", [True, False])
def test_extremes_are_those_of_the_tensors(mobilenet, whole, means):
    statistics = seen(mobilenet, means=means)
    bounded = {step.output for step in mobilenet.steps if step.low == 0.0}
    for name, values in whole.items():
        axes = (0, *range(2, values.ndim))
        assert statistics.high[name] == pytest.approx(values.max(axes), rel=1e-5, abs=1e-6)
        if name not in bounded:
            assert statistics.low[name] == pytest.approx(values.min(axes), rel=1e-5, abs=1e-6)
        else:
            assert (statistics.low[name] <= values.min(axes) + 1e-6).all()
            assert (statistics.low[name] >= 0).all()


def test_means_are_those_of_the_tensors(mobilenet, whole):
    shapes = set()
    for name, mean in seen(mobilenet).mean.items():
        expected = whole[name].mean(0, dtype=np.float64)
        shapes.add(mean.shape[1:])
        if mean.shape != expected.shape:
            expected = expected.mean((1, 2), keepdims=True)
        assert mean == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (1, 1) in shapes
    assert (16, 16) in shapes


def test_batches_do_not_matter(mobilenet):
    one, all_at_once = seen(mobilenet, 1), seen(mobilenet, len(IMAGES))
    for name, high in one.high.items():
        assert (high == all_at_once.high[name]).all()
        assert (one.low[name] == all_at_once.low[name]).all()
    for name, mean in one.mean.items():
        assert (mean == all_at_once.mean[name]).all()


def two_convolutions(bias: float, stride: int = 1):
    """A linear map of either sign, a pooled one, of which one channel is spoiled by its bias."""
    weight = np.random.default_rng(1).normal(size=(4, 3, 1, 1)).astype(np.float32)
    second = np.random.default_rng(2).normal(size=(4, 4, 1, 1)).astype(np.float32)
    constants = {"w": weight, "v": second, "b": np.array([0, bias, 0, 0], np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Conv", ["c", "v"], ["d"], strides=[stride, stride]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # an opset in which reductions still have their axes as an attribute
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return parse(model)


def test_negative_values_without_an_activation():
    network = two_convolutions(-9.0)
    values = run_exposed(exposing(network, ["c"], open_session), network, ["c"], IMAGES)["c"]
    statistics = seen(network)
    assert statistics.mean["c"].shape == (4, 1, 1)
    assert statistics.low["c"] == pytest.approx(values.min((0, 2, 3)))
    assert statistics.high["c"] == pytest.approx(values.max((0, 2, 3)))
    assert statistics.high["c"][1] < 0


def test_a_stride_skips_positions_so_each_is_kept():
    assert seen(two_convolutions(0.0, stride=2)).mean["c"].shape == (4, 32, 32)


@pytest.mark.parametrize("bias", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_found_in_pooled_maps_too(bias):
    with pytest.raises(DataError, match="'c' is NaN or infinite"):
        seen(two_convolutions(bias))
