"""By min-max the range is everything that was seen.

``[min x, max x]`` over all calibration images. Nothing seen is clipped, and one outlier sets the
step for all (Krishnamoorthi, arXiv:1806.08342, section 2.1).
"""

from mobilenet_cli.calibration.ranges.histogram import Histogram


def minmax(histogram: Histogram) -> tuple[float, float]:
    """Return the histogram's ends."""
    return histogram.low, histogram.high
