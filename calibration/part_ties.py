"""Grids of sums are chosen so that all kernels round all pairs of codes in the same way.

``QLinearAdd`` computes ``a r_a + (b r_b + fixed)`` in float32. Where the exact sum lies at a tie,
or as near to one as float32 rounds, it depends on the kernel which code comes out: some round
products before they add (SSE, WebAssembly), others do not (FMA, NEON), and compilers choose for
``fixed``. A residual stream passes such codes on, and half of all codes become others. There are
65,536 pairs of codes, so all are tried, and the scale of the sum grows by a ten-thousandth until
all ways agree.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.grid import Grid

GROWTH = 1e-4  # of the scale each time; a pair in 100,000 is so near to a tie
TRIES = 100


def part_ties(first: Grid, second: Grid, made: Grid) -> Grid:
    """Return the grid of a sum, with another scale where kernels disagree about its codes.

    Args:
        first: of a tensor of codes.
        second: of the other one.
        made: of their sum.
    """
    grown = (
        replace(made, scale=float(np.float32(made.scale * (1 + GROWTH * tried))))
        for tried in range(TRIES)
    )
    return next((grid for grid in grown if kernels_agree(first, second, grid)), made)


def kernels_agree(first: Grid, second: Grid, made: Grid) -> bool:
    """Tell whether all ways to add codes of two grids give the same codes of a third."""
    low, high = np.iinfo(made.dtype).min, np.iinfo(made.dtype).max
    ways = (np.clip(np.rint(sums), low, high) for sums in sums_of_all_codes(first, second, made))
    one = next(ways)
    return all(np.array_equal(one, other) for other in ways)


def sums_of_all_codes(first: Grid, second: Grid, made: Grid) -> Iterator[NDArray[np.float32]]:
    """Yield the sums of all pairs of codes before they are rounded [codes, codes], in each way."""
    scale = np.float32(made.scale)
    r_a, r_b = np.float32(first.scale) / scale, np.float32(second.scale) / scale
    a = np.arange(256, dtype=np.float32)[:, None] + np.iinfo(first.dtype).min
    b = np.arange(256, dtype=np.float32)[None, :] + np.iinfo(second.dtype).min
    for fused in (False, True):
        shift_a = _fused(first.zero_point, r_a, np.float32(second.zero_point) * r_b)
        shift_b = _fused(second.zero_point, r_b, np.float32(first.zero_point) * r_a)
        rounded = np.float32(first.zero_point) * r_a + np.float32(second.zero_point) * r_b
        for shift in (rounded, shift_a, shift_b):
            fixed = np.float32(made.zero_point) - shift
            if fused:
                yield _fused(a, r_a, _fused(b, r_b, fixed))
                yield _fused(b, r_b, _fused(a, r_a, fixed))
            else:
                yield a * r_a + (b * r_b + fixed)
                yield b * r_b + (a * r_a + fixed)


def _fused(
    value: NDArray[np.float32] | int, factor: np.float32, other: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    """Multiply and add in float32 with one rounding; doubles hold the product exactly."""
    whole = np.asarray(np.float64(factor) * value + np.float64(other))
    return whole.astype(np.float32)
