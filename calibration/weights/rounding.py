"""Weights are rounded to integers so that the layer's output changes least.

Rounding each weight to the nearest step minimizes the change of the weights; what counts is the
change of the output ``E[((W_q - W) x)^2] = (W_q - W) H (W_q - W)^T`` with ``H = E[x x^T]``, x being
the layer's input in the quantized network. Weights are rounded one input at a time, and the error
of each is spread over those not yet rounded (Frantar et al., "GPTQ", arXiv:2210.17323, algorithm
1); afterwards, from there or from the nearest steps where they are better, each integer in turn
moves to its best value given the others, until none moves (coordinate descent on the same
objective, as in arXiv:2406.17542).
"""

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.kernels import PAIR_MAX, WEIGHT_MAX, largest_pair_sum

DAMPING = 0.01  # of the mean diagonal: GPTQ's percdamp
BLOCK = 64  # columns whose errors are spread together, as in GPTQ
SWEEPS = 3


def damped(hessian: NDArray[np.float64], share: float = DAMPING) -> NDArray[np.float64]:
    """Add a share of the mean diagonal to [..., K, K], so that it can be inverted."""
    size = hessian.shape[-1]
    mean = np.trace(hessian, axis1=-2, axis2=-1)[..., None, None] / size
    invertible: NDArray[np.float64] = hessian + (share * mean + 1e-12) * np.eye(size)
    return invertible


def bounds(
    codes: NDArray[np.float64], column: int, partner: NDArray[np.intp] | None
) -> tuple[NDArray[np.float64] | float, NDArray[np.float64] | float]:
    """Return the smallest and largest code of each row in ``column``, given its partner's.

    A partner that is not rounded yet has code 0 and restricts nothing.
    """
    if partner is None or partner[column] < 0:
        return -WEIGHT_MAX, WEIGHT_MAX
    other = codes[:, partner[column]]
    return (
        np.maximum(-WEIGHT_MAX, -PAIR_MAX - np.minimum(other, 0)),
        np.minimum(WEIGHT_MAX, PAIR_MAX - np.maximum(other, 0)),
    )


def round_dense(
    weight: NDArray[np.float64],
    scale: NDArray[np.float64],
    hessian: NDArray[np.float64],
    partner: NDArray[np.intp] | None = None,
) -> NDArray[np.float64]:
    """Round a layer whose outputs all see the same inputs to integer codes.

    Args:
        weight: [out, K].
        scale: [out].
        hessian: [K, K], damped.
        partner: taps that are added in 16 bits, from ``kernels.partners``; None: no limit.

    Returns:
        Codes [out, K] in [-127, 127], of which no pair exceeds ``PAIR_MAX``.
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    left = weight[:, order].copy()
    codes = np.zeros_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = np.empty((len(weight), stop - start))
        for i in range(start, stop):
            low, high = bounds(codes, order[i], partner)
            code = np.clip(np.rint(left[:, i] / scale), low, high)
            codes[:, order[i]] = code
            error = (left[:, i] - code * scale) / factor[i, i]
            left[:, i:stop] -= np.outer(error, factor[i, i:stop])
            errors[:, i - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    plain = nearest(weight, scale)
    better = cost(plain, weight, scale, hessian) < cost(codes, weight, scale, hessian)
    if partner is not None:
        better &= largest_pair_sum(plain, partner) <= PAIR_MAX
    codes[better] = plain[better]
    return descend(codes, weight, scale, hessian, partner)


def nearest(weight: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the code next to each weight [out, K]: a start for rows that spreading hurt."""
    codes: NDArray[np.float64] = np.clip(np.rint(weight / scale[:, None]), -WEIGHT_MAX, WEIGHT_MAX)
    return codes


def cost(
    codes: NDArray[np.float64],
    weight: NDArray[np.float64],
    scale: NDArray[np.float64],
    hessian: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return what rounding changes in the outputs [out]; ``hessian`` is shared or by row."""
    off = codes * scale[:, None] - weight
    gradient = off @ hessian if hessian.ndim == 2 else (off[:, None] @ hessian)[:, 0]
    changed: NDArray[np.float64] = (gradient * off).sum(1)
    return changed


def descend(
    codes: NDArray[np.float64],
    weight: NDArray[np.float64],
    scale: NDArray[np.float64],
    hessian: NDArray[np.float64],
    partner: NDArray[np.intp] | None,
) -> NDArray[np.float64]:
    """Move every code to its best value given the others, column by column; arguments as above."""
    gradient = (codes * scale[:, None] - weight) @ hessian
    for _ in range(SWEEPS):
        moved = False
        for k, curvature in enumerate(np.diag(hessian)):
            low, high = bounds(codes, k, partner)
            best = np.clip(np.rint(codes[:, k] - gradient[:, k] / (curvature * scale)), low, high)
            step = (best - codes[:, k]) * scale
            rows = np.flatnonzero(step)
            if len(rows):
                gradient[rows] += np.outer(step[rows], hessian[k])
                codes[:, k] = best
                moved = True
        if not moved:
            break
    return codes


def round_depthwise(
    weight: NDArray[np.float64], scale: NDArray[np.float64], hessian: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Round a depthwise layer, in which every channel has its own Hessian, to integer codes.

    Args:
        weight: [channels, K].
        scale: [channels].
        hessian: [channels, K, K], damped.

    Returns:
        Codes [channels, K] in [-127, 127].
    """
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).transpose(0, 2, 1)
    left = weight.copy()
    codes = np.zeros_like(weight)
    for i in range(weight.shape[1]):
        codes[:, i] = np.clip(np.rint(left[:, i] / scale), -WEIGHT_MAX, WEIGHT_MAX)
        error = (left[:, i] - codes[:, i] * scale) / factor[:, i, i]
        left[:, i:] -= error[:, None] * factor[:, i, i:]
    plain = nearest(weight, scale)
    better = cost(plain, weight, scale, hessian) < cost(codes, weight, scale, hessian)
    codes[better] = plain[better]
    gradient = ((codes * scale[:, None] - weight)[:, None, :] @ hessian)[:, 0]
    for _ in range(SWEEPS):
        for k in range(weight.shape[1]):
            best = np.rint(codes[:, k] - gradient[:, k] / (hessian[:, k, k] * scale))
            step = (np.clip(best, -WEIGHT_MAX, WEIGHT_MAX) - codes[:, k]) * scale
            gradient += step[:, None] * hessian[:, k]
            codes[:, k] += step / scale
    return np.rint(codes)
