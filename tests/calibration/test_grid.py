"""Grids give the same codes as ONNX Runtime, and zero and pixels are exact."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.calibration.grid import Grid, asymmetric, symmetric
from mobilenet_cli.data.preprocess import InputSpec, normalize
from mobilenet_cli.pipeline.runtime.session import open_session

RANGES = [
    (-1.0, 1.0),
    (0.0, 6.0),
    (-2.1179, 2.64),
    (-0.001, 731.5),
    (-80.0, 0.0),
    (0.5, 3.0),
    (-7.0, -2.0),
    (-1e-6, 1e-6),
]


def in_runtime(grid, values):
    """Codes and real values as ONNX Runtime's QuantizeLinear and DequantizeLinear give them."""
    kind = TensorProto.UINT8 if grid.code_type == "uint8" else TensorProto.INT8
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["real"]),
        ],
        "grid",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor_value_info("codes", kind, [None]),
            helper.make_tensor_value_info("real", TensorProto.FLOAT, [None]),
        ],
        [
            numpy_helper.from_array(np.float32(grid.scale), "scale"),
            numpy_helper.from_array(grid.dtype.type(grid.zero_point), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return open_session(model.SerializeToString()).run(None, {"x": values})


@pytest.mark.parametrize("make", [asymmetric, symmetric])
@pytest.mark.parametrize("limits", RANGES)
def test_same_bits_as_the_runtime(make, limits):
    grid = make(*limits)
    generator = np.random.default_rng(0)
    low, high = min(limits[0], 0), max(limits[1], 0)
    span = high - low
    values = generator.uniform(low - span, high + span, 20_000)
    ties = grid.scale * (np.arange(-300, 300) + 0.5)
    values = np.concatenate([values, ties, limits, [0.0, 1e30, -1e30]]).astype(np.float32)
    codes, real = in_runtime(grid, values)
    found = grid.quantize(values)
    assert found.dtype == codes.dtype == grid.dtype
    assert np.array_equal(found, codes)
    assert np.array_equal(grid.dequantize(found), real)


def test_every_pixel_value_of_an_image_in_minus_one_to_one_keeps_its_code():
    """256 values, symmetric about 0, on 255 steps would be ties, many of which share a code."""
    pixels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    values = np.unique(normalize(pixels, InputSpec()))
    assert len(values) == 256
    grid = asymmetric(float(values.min()), float(values.max()))
    codes, _ = in_runtime(grid, values)
    assert len(np.unique(codes)) >= 255
    # what it is about, on 255 steps
    trap = Grid(float(np.float32(2 / 255)), 128)
    assert len(np.unique(in_runtime(trap, values)[0])) < 230


@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("make", [asymmetric, symmetric])
def test_everything_in_range_is_within_half_a_step_and_zero_is_exact(make, limits):
    grid = make(*limits)
    values = np.linspace(min(limits[0], 0), max(limits[1], 0), 10_001).astype(np.float32)
    error = np.abs(grid.dequantize(grid.quantize(values)) - values.astype(np.float64))
    assert error.max() <= grid.scale * 0.5001
    assert grid.dequantize(grid.quantize(np.zeros(1, np.float32))).item() == 0.0


def test_no_wider_than_needed():
    assert asymmetric(0.0, 6.0) == Grid(float(np.float32(6 / 255)), 0)
    assert asymmetric(-3.0, 0.0) == Grid(float(np.float32(3 / 255)), 255)
    assert symmetric(-3.0, 6.0) == Grid(float(np.float32(6 / 127)), 0, "int8")
    assert asymmetric(-1.0, 3.0).scale == pytest.approx(4 / 254)


def test_ends_of_the_grid():
    grid = Grid(0.5, 10)
    assert (grid.low, grid.high) == (-5.0, 122.5)
    grid = Grid(0.5, 0, "int8")
    assert (grid.low, grid.high) == (-64.0, 63.5)


@pytest.mark.parametrize("make", [asymmetric, symmetric])
def test_tensor_that_is_always_zero(make):
    grid = make(0.0, 0.0)
    assert grid.scale > 0
    assert np.float32(grid.scale) > 0
    assert grid.dequantize(grid.quantize(np.zeros(3, np.float32))).tolist() == [0, 0, 0]
