"""The range methods by name. A new one is a function of a Histogram and one line here."""

from collections.abc import Callable

from mobilenet_cli.calibration.entropy import entropy
from mobilenet_cli.calibration.histogram import Histogram
from mobilenet_cli.calibration.minmax import minmax
from mobilenet_cli.calibration.mse import mse
from mobilenet_cli.calibration.percentile import percentile

Calibrator = Callable[[Histogram], tuple[float, float]]

CALIBRATORS: dict[str, Calibrator] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
