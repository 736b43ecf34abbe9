"""This module tells whether two models are the same function, and else how far apart they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.detections import NmsConfig, common, detect
from mobilenet_cli.pipeline.runtime.proving.prove import (
    sqnr_db as sqnr_db,  # for whoever compares here
)

# Of the largest logit, at least 1: what float32 sums in another order may differ by, and no more.
FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Parity is the distance of one model's logits from a reference's, on the same images.

    Attributes:
        images: how many were compared.
        max_abs_error: largest absolute difference of a logit.
        sqnr_db: signal-to-quantization-noise ratio in decibels, larger is closer; inf if equal.
        agreement: fraction of images with the same top-1 class, 0..1; of detectors, of the boxes
            that either finds with a probability above 0.5, those that both find.
    """

    images: int
    max_abs_error: float
    sqnr_db: float
    agreement: float


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


SURE = NmsConfig(min_score=0.5)


def compare_outputs(
    reference: Sequence[NDArray[np.floating]],
    other: Sequence[NDArray[np.floating]],
    boxes: BoxSpec | None,
) -> Parity:
    """Compare all outputs of two models; of several outputs, the worst figures count.

    Args:
        reference: what a model makes of images, output by output.
        other: what another model makes of the same images.
        boxes: how the outputs of detectors become boxes; None of classifiers.
    """
    each = [compare(a, b) for a, b in zip(reference, other, strict=True)]
    worst = Parity(
        images=each[0].images,
        max_abs_error=max(parity.max_abs_error for parity in each),
        sqnr_db=min(parity.sqnr_db for parity in each),
        agreement=min(parity.agreement for parity in each),
    )
    if boxes is None or not np.isfinite(worst.max_abs_error):
        return worst
    both = either = 0
    for row in zip(*reference, *other, strict=True):
        first = detect(row[0], row[1], boxes, (1, 1), SURE)
        second = detect(row[2], row[3], boxes, (1, 1), SURE)
        same = common(first, second)
        both, either = both + same, either + len(first) + len(second) - same
    return replace(worst, agreement=both / either if either else 1.0)
