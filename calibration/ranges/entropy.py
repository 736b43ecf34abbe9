"""Entropy chooses the range whose 8-bit distribution tells most about the float one.

Among thresholds ``t``, choose the one that minimizes the Kullback-Leibler divergence
``KL(P || Q) = sum_i P_i log(P_i / Q_i)``. P is the histogram cut at ``t``, with the mass beyond it
added to the last bin; Q is the cut histogram merged into as many levels as the grid has and spread
evenly over the occupied bins of each level (Migacz, "8-bit Inference with TensorRT", GTC 2017,
slides 36-38).

Zeros count as often as their neighbours: the grid represents 0 exactly, and behind a ReLU so many
zeros, spread over the lowest level, would outweigh every clipping (NVIDIA's pytorch-quantization,
``calib/histogram.py``, does the same).
"""

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.ranges.histogram import Histogram

ONE_SIDED, TWO_SIDED = 256, 128  # levels that a grid has for magnitudes
CANDIDATES = 128


def entropy(histogram: Histogram) -> tuple[float, float]:
    """Shrink both ends by the same factor, chosen by the divergence of the magnitudes."""
    largest = max(-histogram.low, histogram.high)
    if largest == 0:
        return 0.0, 0.0
    bins = len(histogram.counts)
    cumulative = np.concatenate([[0.0], np.cumsum(histogram.counts)])
    upto, minus_upto = (
        np.interp(sign * np.linspace(0, largest, bins + 1), histogram.edges, cumulative)
        for sign in (1, -1)
    )
    counts = np.diff(upto - minus_upto)  # of magnitudes, values spread evenly within a bin
    counts[0] = counts[1]
    levels = TWO_SIDED if histogram.low < 0 < histogram.high else ONE_SIDED
    cuts = np.unique(np.linspace(levels, bins, CANDIDATES).astype(int))
    best = min(cuts, key=lambda cut: divergence(counts, int(cut), levels))
    threshold = largest * best / bins
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def divergence(counts: NDArray[np.float64], cut: int, levels: int) -> float:
    """Compute the KL divergence in nats of the first ``cut`` bins from ``levels`` of them."""
    inside = counts[:cut]
    reference = inside.copy()
    reference[-1] += counts[cut:].sum()
    level = np.arange(cut) * levels // cut
    occupied = reference > 0
    per_level = np.bincount(level[occupied], minlength=levels)
    merged = np.bincount(level, weights=inside, minlength=levels)
    spread = np.where(occupied, merged[level] / np.maximum(per_level, 1)[level], 0.0)
    total = spread.sum()
    if total == 0:
        return float("inf")
    p, q = reference / reference.sum(), spread / total
    # A bin that P has and Q lacks (all of it was clipped there) makes the divergence infinite.
    if (q[occupied] == 0).any():
        return float("inf")
    return float((p[occupied] * np.log(p[occupied] / q[occupied])).sum())
