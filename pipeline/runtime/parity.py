"""This module tells whether two models are the same function, and else how far apart they are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the largest logit, at least 1: what float32 sums in another order may differ by, and no more.
FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Parity is the distance of one model's logits from a reference's, on the same images.

    Attributes:
        images: how many were compared.
        max_abs_error: largest absolute difference of a logit.
        sqnr_db: signal-to-quantization-noise ratio in decibels, larger is closer; inf if equal.
        agreement: fraction of images with the same top-1 class, 0..1.
    """

    images: int
    max_abs_error: float
    sqnr_db: float
    agreement: float


def sqnr_db(reference: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return ``10 log10(sum(reference^2) / sum((reference - other)^2))``, in float64."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(reference, other, dtype=np.float64)).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal else float("-inf")


def within_float32_rounding(error: float, expected: NDArray[np.floating]) -> bool:
    """Tell whether an absolute error of ``expected`` may come from float32's rounding alone."""
    return error <= FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max()))  # NaN is not


def compare(reference: NDArray[np.floating], other: NDArray[np.floating]) -> Parity:
    """Compare logits [images, classes]. NaN anywhere makes every figure as bad as can be."""
    if not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return Parity(len(reference), float("inf"), float("-inf"), 0.0)
    return Parity(
        images=len(reference),
        max_abs_error=float(np.abs(np.subtract(reference, other, dtype=np.float64)).max()),
        sqnr_db=sqnr_db(reference, other),
        agreement=float((reference.argmax(1) == other.argmax(1)).mean()),
    )
