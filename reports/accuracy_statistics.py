"""Two models on the same images differ, and statistics tell whether that could be chance."""

import math
from collections.abc import Mapping

import numpy as np

from mobilenet_cli.reports.records.accuracy import Interval, Metric, PairedRecord, PredictionsRecord
from mobilenet_cli.reports.records.detection import DetectionRecord, PairedPrecision
from mobilenet_cli.reports.summary import file_name

Z_95 = 1.959963984540054  # the standard normal's 97.5 % quantile


def compare_paired(base: PredictionsRecord, other: PredictionsRecord) -> PairedRecord | None:
    """Compare two models by the images that only one of them classifies rightly.

    Images are matched by name; None where the data sets differ or no image is common.
    """
    if base.data_fingerprint != other.data_fingerprint:
        return None
    first, second = right_by_key(base), right_by_key(other)
    common = [(first[key], second[key]) for key in first if key in second]
    if not common:
        return None
    only_base, only_other = common.count((True, False)), common.count((False, True))
    return PairedRecord(
        base=file_name(base.model),
        other=file_name(other.model),
        data=base.data,
        images=len(common),
        both=common.count((True, True)),
        neither=common.count((False, False)),
        only_base=only_base,
        only_other=only_other,
        difference=paired_difference(only_base, only_other, len(common)),
        p_value=mcnemar(only_base, only_other),
    )


def compare_precision(base: DetectionRecord, other: DetectionRecord) -> PairedPrecision | None:
    """Compare two detectors by their AP50 on the same resamples of the same images.

    The interval is the bootstrap's percentiles (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, section 13.3). None where images or resamples are not the same.
    """
    first, second = base.ap50_resampled, other.ap50_resampled
    same = (base.data_fingerprint, base.images, base.bad_images, len(first)) == (
        *(other.data_fingerprint, other.images, other.bad_images),
        len(second),
    )
    if not first or not same:
        return None
    low, high = np.percentile(np.subtract(second, first), (2.5, 97.5))
    difference = Interval(
        value=other.ap50.value - base.ap50.value, low=float(low), high=float(high)
    )
    return PairedPrecision(
        base=file_name(base.model),
        other=file_name(other.model),
        data=base.data,
        images=base.images,
        difference=difference,
    )


def right_by_key(record: PredictionsRecord) -> Mapping[str, bool]:
    """Tell for each image whether the first guess is right."""
    return {key: rank == 0 for key, rank in zip(record.keys, record.ranks, strict=True)}


def paired_difference(only_base: int, only_other: int, images: int) -> Interval:
    """Return the difference of two paired shares in percentage points, with its 95 % interval.

    The interval is Agresti and Min's (Statistics in Medicine 24, 2005, p. 729): Wald's with half
    an image added to each of the four cells, so with ``b = only_base + 1/2``,
    ``c = only_other + 1/2``, ``n = images + 2``:
    ``(c - b) / n`` plus or minus ``z sqrt((b + c) - (c - b)^2 / n) / n``.
    """
    b, c, n = only_base + 0.5, only_other + 0.5, images + 2
    centre = (c - b) / n
    half = Z_95 * math.sqrt(b + c - (c - b) ** 2 / n) / n
    return Interval(
        value=100 * (only_other - only_base) / images,
        low=100 * max(-1.0, centre - half),
        high=100 * min(1.0, centre + half),
    )


def wilson_interval(correct: int, total: int) -> Metric:
    """Return a share in percent with its 95 % Wilson score interval (JASA 22, 1927, p. 209).

    With ``p = correct / total``: centre ``(p + z^2 / 2n) / (1 + z^2 / n)``, half width
    ``z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)``.
    """
    p, n = correct / total, total
    scale = 1 + Z_95**2 / n
    centre = (p + Z_95**2 / (2 * n)) / scale
    half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2)) / scale
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Metric(value=100 * p, low=100 * low, high=100 * high)


def mcnemar(only_base: int, only_other: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (Psychometrika 12, 1947, p. 153).

    Were neither model better, the images that only one gets right would be its or the other's
    with equal chance: ``min(1, 2 P(B <= min(b, c)))`` for ``B ~ Binomial(b + c, 1/2)``.
    """
    n, k = only_base + only_other, min(only_base, only_other)
    tail: int = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / (1 << n))
