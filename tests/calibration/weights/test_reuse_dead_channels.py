"""Dead channels become copies of live ones, and the function stays as it is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.weights.reuse_dead_channels import (
    UNBOUNDED_MARGIN,
    reuse_dead_channels,
)
from mobilenet_cli.pipeline.runtime.session import open_session

CHANNELS = 6
DEAD = [1, 4]
IMAGES = np.random.default_rng(7).uniform(-1, 1, (16, 3, 8, 8)).astype(np.float32)


def separable(change=None, nodes=()):
    """Dense convolution, depthwise, 1x1, each with ReLU; two channels of the first are dead.

    Args:
        change: edits the constants; None leaves them.
        nodes: more of them, before the output.
    """
    g = np.random.default_rng(0)
    constants = {
        "w1": g.normal(size=(CHANNELS, 3, 3, 3)), "b1": g.normal(size=CHANNELS),
        "w2": g.normal(size=(CHANNELS, 1, 3, 3)), "b2": g.normal(size=CHANNELS),
        "w3": g.normal(size=(5, CHANNELS, 1, 1)), "b3": g.normal(size=5),
        "zero": np.array(0.0), "six": np.array(6.0),
    }  # fmt: skip
    constants["b1"][DEAD] = -1000.0
    constants["b2"][DEAD] = [-3.0, 2.5]  # behind a dead channel: silent too, or constant
    if change is not None:
        change(constants)
    made = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c1", "zero", "six"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=CHANNELS),
        helper.make_node("Relu", ["c2"], ["r2"]),
        *nodes,
        helper.make_node("Conv", ["r2", "w3", "b3"], ["y"]),
    ]
    graph = helper.make_graph(
        made,
        "separable",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def outputs(model, *names):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inner = [n for n in names if n != "y"]
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in inner)
    return open_session(copy.SerializeToString()).run(list(names), {"x": IMAGES})


def reused(model):
    network = parse(model)
    values = zip(("r1", "r2", "y"), outputs(model, "r1", "r2", "y"), strict=True)
    seen = {name: value.astype(np.float64) for name, value in values} | {"x": IMAGES}
    smallest, largest = ({n: f(v, (0, 2, 3)) for n, v in seen.items()} for f in (np.min, np.max))
    return network, reuse_dead_channels(network, smallest, largest)


def with_linears(model, reuse):
    """The float model with the parameters that reuse gave it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = {}
    for number, tensor in enumerate(("r1", "r2", "y"), 1):
        linear = reuse.linears[tensor]
        values |= {f"w{number}": linear.weight, f"b{number}": linear.bias}
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            content = values[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))
    return copy


def test_dead_channels_become_copies_and_the_function_stays():
    model = separable()
    _, reuse = reused(model)
    assert reuse.copies["r1"][:, 0].tolist() == DEAD
    assert np.array_equal(reuse.copies["r1"], reuse.copies["r2"])
    originals = reuse.copies["r1"][:, 1]
    assert not set(originals) & set(DEAD)
    for tensor in ("r1", "r2"):
        linear = reuse.linears[tensor]
        assert np.array_equal(linear.weight[DEAD], linear.weight[originals])
        assert np.array_equal(linear.bias[DEAD], linear.bias[originals])
    reader = reuse.linears["y"].weight
    assert np.array_equal(reader[:, DEAD], reader[:, originals])  # half and half

    (before,), (after,) = outputs(model, "y"), outputs(with_linears(model, reuse), "y")
    assert np.abs(before).max() > 1
    assert np.allclose(before, after, rtol=1e-5, atol=1e-4)


def test_values_are_repeated_as_the_copies_have_them():
    model = separable()
    _, reuse = reused(model)
    (plain,), (made,) = outputs(model, "r2"), outputs(with_linears(model, reuse), "r2")
    assert np.allclose(reuse.repeat("r2", plain), made, rtol=1e-5, atol=1e-4)
    assert not np.allclose(plain, made, atol=1e-4)
    peaks = plain.max((0, 2, 3)).astype(np.float64)
    assert np.allclose(reuse.repeat_channels("r2", peaks), made.max((0, 2, 3)), rtol=1e-5)
    assert reuse.repeat("x", IMAGES) is IMAGES
    assert reuse.repeat_channels("x", peaks) is peaks


def test_the_most_amplified_channels_are_copied():
    def amplify(constants):
        constants["w3"][:, 3] *= 100
        constants["w2"][5] *= 50

    _, reuse = reused(separable(amplify))
    assert set(reuse.copies["r1"][:, 1]) == {3, 5}


def test_a_channel_that_only_these_images_leave_silent_is_not_taken():
    """Inputs up to ``UNBOUNDED_MARGIN`` times the largest seen could still wake it."""

    def bias_of(margin):
        def change(constants):
            reach = np.abs(constants["w1"]).sum((1, 2, 3))
            constants["b1"][DEAD] = -margin * reach[DEAD]

        return change

    _, sleeping = reused(separable(bias_of(UNBOUNDED_MARGIN * 0.9)))
    assert sleeping.copies == {}
    _, dead = reused(separable(bias_of(UNBOUNDED_MARGIN * 1.1)))
    assert dead.copies["r1"][:, 0].tolist() == DEAD


def test_without_dead_channels_nothing_changes():
    network, reuse = reused(separable(lambda c: c["b1"].fill(1.0)))
    assert reuse.copies == {}
    assert reuse.linears == network.linears


def test_more_dead_channels_than_live_ones():
    """Each live channel is copied at most once; the other slots stay as they are."""
    model = separable(lambda c: c["b1"].__setitem__(slice(0, 3), -1000.0))
    _, reuse = reused(model)
    assert sorted(reuse.copies["r1"][:, 1]) == [3, 5]
    (before,), (after,) = outputs(model, "y"), outputs(with_linears(model, reuse), "y")
    assert np.allclose(before, after, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tensor", ["r1", "r2"])
def test_tensors_with_other_readers_are_left_alone(tensor):
    """Whoever else reads the channel would see the copy."""
    other = [helper.make_node("Sigmoid", [tensor], ["unread"])]
    network, reuse = reused(separable(nodes=other))
    assert reuse.copies == {}
    assert reuse.linears == network.linears
