"""A tensor's values are counted batch by batch in constant memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2048
SMALLEST_WIDTH = 1e-30  # of a tensor that is 0 throughout, or nearly: float32 must divide by it


@dataclass(frozen=True)
class Histogram:
    """A histogram counts values in equal bins between the smallest and the largest.

    Attributes:
        low: lower edge of the first bin, at most 0.
        high: upper edge of the last bin, at least 0.
        counts: int64 [BINS].
    """

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Return the bin edges [BINS + 1]."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    @property
    def centers(self) -> NDArray[np.float64]:
        """Return the bin centres [BINS]."""
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2


def count_values(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.int64]:
    """Count values in ``BINS`` bins over [low, high]; what lies outside goes to the end bins."""
    width = max(high - low, SMALLEST_WIDTH)
    bins = ((values.ravel() - np.float32(low)) * np.float32(BINS / width)).astype(np.int32)
    np.clip(bins, 0, BINS - 1, out=bins)
    return np.bincount(bins, minlength=BINS)
