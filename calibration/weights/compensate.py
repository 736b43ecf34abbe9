"""Weights of a layer make good a part of what the layers before it lost.

A quantized layer sees inputs ``x'`` where the float network has ``x``. Of all weights,
``W E[x x'^T] E[x' x'^T]^-1`` come closest to the float outputs ``W x``, and these are what is
rounded: directions of the inputs in which there is more noise than signal count for less. ``x`` and
``x'`` less their means are meant, since the bias absorbs every change of a mean. This is the target
that Li et al. ("GPTAQ", arXiv:2504.02692, section 3) derive for the same purpose.

Moments of few inputs fit their noise as well. So they are damped the more, the fewer positions
there are for each weight of an output, and a layer with less than ``LEAST`` keeps its weights: of
256 images these are the dense layers on small maps. ``docs/experiments.md`` has what was tried.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.weights import rounding
from mobilenet_cli.calibration.weights.input_moments import Codes, inputs_of, patches

LEAST = 100  # positions for each weight of an output
ENOUGH = 2000  # of these: a larger map is not looked at as a whole
DAMPED = 10.0  # of the mean variance, where there was one position for each weight
FEWEST_ROWS = 16  # however large the map

FloatInputs = Callable[[str, int], Iterable[NDArray[np.float32]]]
"""Gives so many rows [channels, ...] of a tensor of the float network, as it is coded."""


def compensated(
    step: GraphStep, linear: Linear, codes: Codes, grid: Grid, floats: FloatInputs
) -> Linear:
    """Return a layer with the weights to round; as it is where it has too few inputs.

    Args:
        step: the layer.
        linear: its float parameters.
        codes: its inputs in the quantized network [rows, ...].
        grid: of the inputs.
        floats: gives them in the float network.
    """
    if linear.weight.ndim != 4:
        return linear
    taps = linear.weight[0].size
    positions = patches(codes[0].astype(np.float32), step, linear).shape[-1]
    if len(codes) * positions < LEAST * taps:
        return linear
    rows = min(len(codes), max(FEWEST_ROWS, -(-ENOUGH * taps // positions)))
    exact = floats(step.inputs[0], rows)
    covariance, cross = _moments(step, linear, codes[:rows], grid, exact)
    weight = linear.weight.reshape(linear.groups, -1, taps)
    share = max(rounding.DAMPING, DAMPED * taps / (rows * positions))
    change = weight @ (cross - covariance) @ np.linalg.inv(rounding.damped(covariance, share))
    return Linear((weight + change).reshape(linear.weight.shape), linear.bias, linear.groups)


def _moments(
    step: GraphStep, linear: Linear, codes: Codes, grid: Grid, floats: Iterable[NDArray[np.float32]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``E[x' x'^T]`` and ``E[x x'^T]`` [groups, K, K], less the means."""
    sums = [np.zeros(()) for _ in range(4)]
    count = 0
    zero_point, scale = np.float32(grid.zero_point), np.float32(grid.scale)
    values = ((row.astype(np.float32) - zero_point) * scale for row in codes)
    for coded, wanted in zip(
        inputs_of(values, step, linear), inputs_of(floats, step, linear), strict=True
    ):
        turned = coded.transpose(0, 2, 1)
        of_row = (coded @ turned, wanted @ turned, coded.sum(2), wanted.sum(2))
        sums = [total + part.astype(np.float64) for total, part in zip(sums, of_row, strict=True)]
        count += coded.shape[2]
    covariance, cross, coded_mean, wanted_mean = (total / count for total in sums)
    return (
        covariance - coded_mean[:, :, None] * coded_mean[:, None, :],
        cross - wanted_mean[:, :, None] * coded_mean[:, None, :],
    )
