"""Range methods have names here; a new one is a function of a Histogram and one line.

A range [low, high] lies within what the histogram has seen, and holds 0. It scales with the values,
and only of a tensor that is 0 throughout is it empty.
"""

from collections.abc import Callable

from mobilenet_cli.calibration.ranges.entropy import entropy
from mobilenet_cli.calibration.ranges.histogram import Histogram
from mobilenet_cli.calibration.ranges.minmax import minmax
from mobilenet_cli.calibration.ranges.mse import mse
from mobilenet_cli.calibration.ranges.percentile import percentile

Calibrator = Callable[[Histogram], tuple[float, float]]
CALIBRATORS: dict[str, Calibrator] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
