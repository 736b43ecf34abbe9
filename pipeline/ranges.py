"""What each tensor of a float network covers on the calibration images."""

from mobilenet_cli.calibration.calibrators import CALIBRATORS
from mobilenet_cli.calibration.network import Network
from mobilenet_cli.calibration.observe import Statistics, Tick, histograms, observe
from mobilenet_cli.calibration.plan import coded_tensors, seen_ranges
from mobilenet_cli.pipeline.calibration_images import Calibration
from mobilenet_cli.pipeline.session import open_session


def statistics_of(network: Network, calibration: Calibration, tick: Tick) -> Statistics:
    """First pass over the images."""
    return observe(
        network,
        coded_tensors(network),
        frozenset(step.inputs[0] for step in network.steps if step.kind == "linear"),
        calibration.small_batches,
        open_session,
        tick,
    )


def ranges_of(
    network: Network, statistics: Statistics, calibration: Calibration, calibrator: str, tick: Tick
) -> dict[str, tuple[float, float]]:
    """The range of each coded tensor; all methods but ``minmax`` need a second pass.

    Of the network as it is: behind equalization, what is rare would be all of one channel.
    """
    ranges = seen_ranges(network, statistics)
    if calibrator == "minmax":
        tick(statistics.images)
        return ranges
    seen = histograms(network, ranges, calibration.small_batches, open_session, tick)
    return {name: CALIBRATORS[calibrator](seen[name]) for name in ranges}
