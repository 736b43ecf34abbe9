"""A wide layer is rounded in parts, nearly as well as at once and within the same limits."""

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear, Network
from mobilenet_cli.calibration.grid import asymmetric
from mobilenet_cli.calibration.kernels import PAIR_MAX, TARGETS, largest_pair_sum, partners
from mobilenet_cli.calibration.weights import reconstruct
from mobilenet_cli.calibration.weights.input_moments import second_moments
from mobilenet_cli.calibration.weights.rounding import cost, nearest

LAYERS = {
    "Gemm": (("Gemm", {"transB": 1}), (6, 51), (51,)),
    "Conv": (("Conv", {"pads": [1, 1, 1, 1]}), (6, 7, 3, 3), (7, 5, 5)),
}


def needs_no_floats(_tensor: str, _rows: int) -> NDArray[np.float32]:
    pytest.fail("there are too few positions to learn from the float network's inputs")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("target", ["avx2", "vnni"])
def test_a_wide_layer_is_rounded_in_parts(kind: str, target: str, monkeypatch):
    (operator, attributes), shape, image = LAYERS[kind]
    g = np.random.default_rng(0)
    linear = Linear(g.normal(size=shape), g.normal(size=shape[0]))
    step = GraphStep("linear", helper.make_node(operator, ["x"], ["y"], **attributes), ("x",), "y")
    network, grid = Network(ModelProto(), (step,), {"y": linear}, {}), asymmetric(0.0, 6.0)
    mixing = g.normal(size=(9, int(np.prod(image))))
    codes = np.clip(40 * np.abs(g.normal(size=(200, 9)) @ mixing), 0, 255).astype(np.uint8)
    codes = codes.reshape(-1, *image)
    hessian = second_moments(codes, grid, step, linear)

    def rounded() -> float:
        mean = (codes.mean(0) - grid.zero_point) * grid.scale
        arguments = (codes, grid, mean, TARGETS[target], None, 0.0, needs_no_floats)
        made = reconstruct.quantize_linear(network, step, linear, *arguments)
        taps = made.weight.reshape(len(made.weight), -1).astype(np.float64)
        if target == "avx2":
            assert largest_pair_sum(taps, partners(linear.weight)).max() <= PAIR_MAX
        scale = made.scale.astype(np.float64)
        plain = cost(nearest(linear.taps, scale), linear.taps, scale, hessian).sum()
        return cost(taps, linear.taps, scale, hessian).sum() / plain

    whole = rounded()
    monkeypatch.setattr(reconstruct, "WIDEST", 50)
    monkeypatch.setattr(reconstruct, "PART", 24)
    parts = reconstruct.tap_parts(linear)
    assert len(parts) == -(-linear.taps.shape[1] // 24)
    taken = np.concatenate([part for part, _ in parts if part is not None])
    assert sorted(taken) == list(range(linear.taps.shape[1]))
    assert whole <= rounded() < 0.8


def test_moments_of_a_part_are_a_block_of_all():
    (operator, attributes), shape, image = LAYERS["Gemm"]
    g = np.random.default_rng(0)
    linear = Linear(g.normal(size=shape), np.zeros(shape[0]))
    step = GraphStep("linear", helper.make_node(operator, ["x"], ["y"], **attributes), ("x",), "y")
    codes = g.integers(0, 256, (300, *image)).astype(np.uint8)
    part, diagonal = np.array([3, 1, 40]), np.eye(3, dtype=bool)
    whole = second_moments(codes, asymmetric(0.0, 6.0), step, linear)
    block = second_moments(codes, asymmetric(0.0, 6.0), step, linear, part)
    np.testing.assert_allclose(block[~diagonal], whole[np.ix_(part, part)][~diagonal], rtol=1e-9)
    expected = np.cov(codes.T.astype(np.float64), bias=True)[np.ix_(part, part)]
    np.testing.assert_allclose(block[~diagonal], expected[~diagonal], rtol=1e-3, atol=1e-3)
