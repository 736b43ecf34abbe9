"""Mean squared error chooses the range that loses least by rounding and clipping together.

Choose the factor ``f`` in (0, 1] that minimizes ``E[(x - Q_f(x))^2]``, where ``Q_f`` rounds to 256
levels over ``[f min x, f max x]`` and saturates outside. Rounding contributes ``step^2 / 12`` to
every value inside (Choukroun et al., arXiv:1902.06822; Nagel et al., arXiv:2106.08295, eq. 8).
"""

import numpy as np

from mobilenet_cli.calibration.ranges.histogram import Histogram

FACTORS = np.linspace(0.3, 1.0, 71)
LEVELS = 255


def mse(histogram: Histogram) -> tuple[float, float]:
    """Try ``FACTORS`` on the histogram; of equal ones the widest."""
    best = min(FACTORS[::-1], key=lambda factor: expected_error(histogram, float(factor)))
    return float(histogram.low * best), float(histogram.high * best)


def expected_error(histogram: Histogram, factor: float) -> float:
    """Return the squared error of the range shrunk by ``factor``, summed over the values."""
    low, high = histogram.low * factor, histogram.high * factor
    step = (high - low) / LEVELS
    centers, counts = histogram.centers, histogram.counts
    clipped = np.maximum(low - centers, 0.0) + np.maximum(centers - high, 0.0)
    # An exact 0 is represented exactly; after a ReLU it is the most frequent value by far.
    nonzero = counts.copy()
    if histogram.low == 0:
        nonzero[0] = 0
    return float((counts * clipped**2).sum() + nonzero[clipped == 0].sum() * step**2 / 12)
