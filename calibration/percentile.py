"""Percentile: the range leaves out the rarest values.

``[q(1 - p), q(p)]`` with ``q`` the quantile function of all values and ``p`` = 99.99 % (Wu et al.,
arXiv:2004.09602, section 3.3). The remaining values saturate.
"""

import numpy as np

from mobilenet_cli.calibration.histogram import Histogram

PERCENTILE = 0.9999


def percentile(histogram: Histogram) -> tuple[float, float]:
    """The quantiles to the histogram's resolution; an end that is 0 stays 0."""
    cumulative = np.cumsum(histogram.counts) / max(histogram.counts.sum(), 1)
    first = int(np.searchsorted(cumulative, 1 - PERCENTILE, side="right"))
    last = int(np.searchsorted(cumulative, PERCENTILE))
    edges = histogram.edges
    return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)
