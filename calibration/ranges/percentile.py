"""By percentile the range leaves out the rarest values.

``[q(1 - p), q(p)]`` with ``q`` the quantile function of all values and ``p`` = 99.99 % (Wu et al.,
arXiv:2004.09602, section 3.3). The remaining values saturate.
"""

import numpy as np

from mobilenet_cli.calibration.ranges.histogram import Histogram

RARE = 1e-4  # 1 - p: the fraction of all values that is left out at either end


def percentile(histogram: Histogram) -> tuple[float, float]:
    """Take the quantiles to the histogram's resolution; an end that is 0 stays 0."""
    rare = int(histogram.counts.sum() * RARE + 1e-6)  # exact where the product is whole
    first = int(np.searchsorted(np.cumsum(histogram.counts), rare, side="right"))
    last = int(np.searchsorted(np.cumsum(histogram.counts[::-1]), rare, side="right"))
    edges = histogram.edges
    return min(float(edges[first]), 0.0), max(float(edges[-1 - last]), 0.0)
