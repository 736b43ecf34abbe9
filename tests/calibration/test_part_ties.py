"""Sums of codes have grids on which no pair of codes is rounded by the way kernels compute."""

import numpy as np
import pytest

from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.part_ties import GROWTH, kernels_agree, part_ties, sums_of_all_codes


@pytest.mark.parametrize("code_type", ["uint8", "int8"])
def test_ties_are_parted(code_type):
    """Scales of 3 to 5 to 6 put a sixth of all pairs at a tie."""
    first, second = Grid(0.039, 3, code_type), Grid(0.065, 120, code_type)
    made = Grid(0.078, 64, code_type)
    assert not kernels_agree(first, second, made)
    parted = part_ties(first, second, made)
    assert kernels_agree(first, second, parted)
    assert made.scale < parted.scale < made.scale * (1 + 30 * GROWTH)
    assert (parted.zero_point, parted.code_type) == (64, code_type)


def test_grids_on_which_kernels_agree_stay():
    first, second, made = Grid(0.5, 3), Grid(1.0, 120), Grid(float(np.float32(0.7123 * 1.5)), 64)
    assert kernels_agree(first, second, made)
    assert part_ties(first, second, made) == made


def test_all_ways_are_the_sum():
    first, second, made = Grid(0.0311, 3), Grid(0.0173, 120), Grid(0.0441, 64)
    codes = np.arange(256.0)
    exact = (0.0311 * (codes[:, None] - 3) + 0.0173 * (codes[None, :] - 120)) / 0.0441 + 64
    ways = list(sums_of_all_codes(first, second, made))
    assert len(ways) == 12
    assert len({way.tobytes() for way in ways}) > 1
    for way in ways:
        np.testing.assert_allclose(way, exact, atol=1e-4)
