"""Weights are moved to what is nearest to the float outputs, where there is enough to go by."""

import numpy as np
import pytest
from onnx import helper

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.weights.compensate import LEAST, compensated
from mobilenet_cli.calibration.weights.input_moments import patches

GRID = Grid(0.1, 128)


def convolution(channels: int, side: int, groups: int) -> tuple[GraphStep, Linear]:
    node = helper.make_node("Conv", ["x"], ["y"], group=groups, pads=[side // 2] * 4)
    shape = (channels if groups == channels else 6, channels // groups, side, side)
    weight = np.random.default_rng(1).normal(size=shape)
    return GraphStep("linear", node, ("x",), "y"), Linear(weight, np.zeros(shape[0]), groups)


def inputs(rows: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two signals that all channels mix, and codes with noise that has other directions."""
    g = np.random.default_rng(seed)
    mixing = np.random.default_rng(2).normal(size=(channels, 2))
    signal = g.normal(size=(rows, 2, 12, 12))
    real = np.einsum("cs,nsyx->ncyx", mixing, signal).astype(np.float32)
    noisy = real + g.normal(size=real.shape) * 0.5 + 0.7  # also beside: biases make that good
    return real, GRID.quantize(noisy.astype(np.float32))


def error(step: GraphStep, layer: Linear, linear: Linear, real: np.ndarray, codes: np.ndarray):
    """The mean square, less the means, of what a layer makes of codes, and another of floats."""
    off = []
    for row, exact in zip(codes, real, strict=True):
        coded = (row.astype(np.float32) - GRID.zero_point) * np.float32(GRID.scale)
        made, wanted = (
            np.einsum(
                "gok,gkp->gop",
                used.weight.reshape(used.groups, -1, used.weight[0].size),
                patches(values, step, used).reshape(used.groups, used.weight[0].size, -1),
            )
            for used, values in ((layer, coded), (linear, exact))
        )
        off.append(made - wanted)
    return np.var(np.concatenate(off, axis=2), axis=2).sum()


@pytest.mark.parametrize(
    ("channels", "side", "groups"), [(8, 1, 1), (4, 3, 1), (8, 1, 2), (5, 3, 5)]
)
def test_outputs_come_nearer_to_float_on_other_inputs(channels, side, groups):
    step, linear = convolution(channels, side, groups)
    taps = linear.weight[0].size
    rows = -(-LEAST * taps // 144)
    real, codes = inputs(rows, channels, seed=3)
    asked = []

    def floats(tensor: str, wanted: int) -> np.ndarray:
        asked.append((tensor, wanted))
        return real[:wanted]

    made = compensated(step, linear, codes, GRID, floats)
    assert [tensor for tensor, _ in asked] == ["x"]
    others = inputs(40, channels, seed=4)
    before, after = error(step, linear, linear, *others), error(step, made, linear, *others)
    assert after < 0.8 * before
    assert np.array_equal(made.bias, linear.bias)
    assert made.groups == groups


def test_a_layer_with_few_inputs_stays_as_it_is():
    step, linear = convolution(8, 1, 1)
    _, codes = inputs(LEAST * 8 // 144, 8, seed=3)
    assert compensated(step, linear, codes, GRID, lambda *_: pytest.fail("not needed")) is linear


def test_exact_inputs_change_nothing():
    step, linear = convolution(4, 1, 1)
    _, codes = inputs(40, 4, seed=3)
    exact = (codes.astype(np.float32) - GRID.zero_point) * np.float32(GRID.scale)
    made = compensated(step, linear, codes, GRID, lambda _, rows: exact[:rows])
    assert np.allclose(made.weight, linear.weight, rtol=0, atol=1e-5)
