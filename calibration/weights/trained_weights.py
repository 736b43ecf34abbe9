"""Weights that training has put on a grid give codes without rounding anything anew.

Each output channel's weights are whole multiples of a step that the file does not name. With
``m`` the largest magnitude among the channel's codes, the step is ``max |w| / m``, so the smallest
``m`` in 1..127 for which all ``w / step`` are whole gives codes that mean the same.
"""

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear
from mobilenet_cli.calibration.graph.write_qdq import BIAS_MAX, QuantizedLinear
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import (
    PAIR_MAX,
    WEIGHT_MAX,
    Target,
    largest_pair_sum,
    partners,
)
from mobilenet_cli.pipeline.errors import ModelError

WHOLE = 1e-3  # folding and float32 move a code by less; a weight that is not on a grid by more


def quantize_trained_linear(
    step: GraphStep, linear: Linear, grid: Grid, target: Target
) -> QuantizedLinear:
    """Take the integer parameters of one layer, whose inputs have a grid, as they are.

    Raises:
        ModelError: the weights are on no grid, or on one that saturates the target's kernels.
    """
    scale = grid_of(linear.taps)
    if not scale.all():
        raise ModelError(
            f"the weights that make '{step.output}' are on no grid of 8 bits, as those of "
            "'train --qat' are",
            "Export and simplify its checkpoint again",
        )
    codes = np.rint(linear.taps / scale[:, None])
    if target.pairs_saturate and not linear.depthwise:
        largest = largest_pair_sum(codes, partners(linear.weight)).max()
        if largest > PAIR_MAX:
            raise ModelError(
                f"the weights that make '{step.output}' were trained for other kernels: pairs of "
                f"them add up to {largest:g}, and these add no more than {PAIR_MAX}",
                "Train with --qat and the --target that you quantize for",
            )
    weight_scale = scale.astype(np.float32)
    bias_scale = np.float32(grid.scale) * weight_scale
    bias = np.clip(np.rint(linear.bias / bias_scale), -BIAS_MAX, BIAS_MAX)
    weight = codes.reshape(linear.weight.shape).astype(np.int8)
    return QuantizedLinear(weight, weight_scale, bias.astype(np.int32), bias_scale)


def grid_of(taps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coarsest step [out] that divides all weights [out, K]; 0 where there is none.

    A channel without weights gets the step 1.
    """
    largest = np.abs(taps).max(1)
    scale = np.where(largest == 0, 1.0, 0.0)
    for m in range(1, WEIGHT_MAX + 1):
        (left,) = np.nonzero(scale == 0)
        steps = taps[left] * (m / largest[left])[:, None]
        whole = np.abs(steps - np.rint(steps)).max(1, initial=0.0) < WHOLE
        scale[left[whole]] = largest[left[whole]] / m
    return scale
