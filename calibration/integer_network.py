"""From a float network to its integers: the transformations of ``calibration/`` in order."""

from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from mobilenet_cli.calibration.choose_grids import choose_grids, coded_tensors, seen_ranges
from mobilenet_cli.calibration.graph.channels_last import turn_single_pixels
from mobilenet_cli.calibration.graph.parse import Network
from mobilenet_cli.calibration.graph.shape_for_kernels import pad_input_channels, shift_zero_points
from mobilenet_cli.calibration.graph.write_qdq import QuantizedLinear, write_qdq
from mobilenet_cli.calibration.graph.write_qoperator import write_qoperator
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import Target
from mobilenet_cli.calibration.ranges.calibrators import CALIBRATORS
from mobilenet_cli.calibration.tensor_statistics import (
    Statistics,
    Tick,
    histograms,
    observe,
)
from mobilenet_cli.calibration.weights.equalize import channel_factors, equalize
from mobilenet_cli.calibration.weights.reconstruct import reconstruct
from mobilenet_cli.calibration.weights.reuse_dead_channels import Reuse, reuse_dead_channels
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.quantizing.calibration_images import Calibration
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import SIMULATED, layer_meter
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.quantization import LayerRecord

RECONSTRUCTION_IMAGES = 256  # codes of so many images are held in memory; ranges see all


@dataclass(frozen=True)
class Quantized:
    """The integer network before it is written in a format.

    Attributes:
        network: the float network it stands for.
        grids: of every tensor that is represented by codes.
        linears: integer parameters by output tensor.
        layers: what was measured of each step.
    """

    network: Network
    grids: dict[str, Grid]
    linears: dict[str, QuantizedLinear]
    layers: tuple[LayerRecord, ...]

    def write(self, config: QuantizeConfig) -> onnx.ModelProto:
        """The model in the format asked for."""
        write = write_qdq if config.format == "qdq" else write_qoperator
        model = write(self.network, self.grids, self.linears, config.weights == "u8")
        if config.kernels.direct:
            pad_input_channels(model)
        if config.kernels.tiles:
            shift_zero_points(model)
        if config.kernels.cpu:
            turn_single_pixels(model, self.network)
        return model


def build(
    network: Network,
    calibration: Calibration,
    config: QuantizeConfig,
    trained: tuple[Grid, ...] = (),
    progress: Progress = silent,
) -> Quantized:
    """Ranges, dead channels, equalization, rounding, biases: the transformations in order.

    A network that was ``trained`` on grids keeps them, its weights and its biases as they are.
    """
    target = config.kernels
    images = len(calibration.samples)
    done = 0.0

    def tick(share: float, note: str) -> None:
        nonlocal done
        done += share * images
        progress(int(done), 3 * images, note)

    inputs = {s.output: s.inputs[0] for s in network.steps if s.kind == "linear"}
    statistics = statistics_of(network, calibration, lambda n: tick(n / images, "ranges"))
    if trained:
        grids, factors = trained_grids(network, trained, target), {}
        reuse = Reuse(network.linears, {})
        tick(1, "ranges")
    else:
        ranges = ranges_of(
            network,
            statistics,
            calibration,
            config.calibrator,
            lambda n: tick(n / images, "histograms"),
        )
        grids = choose_grids(network, ranges, target)
        reuse = reuse_dead_channels(network, statistics.high)
        highest = {name: reuse.repeat_channels(name, v) for name, v in statistics.high.items()}
        factors = channel_factors(network, highest, ranges)

    def as_coded(name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A tensor of the float network as the quantized one has it: repeated and scaled."""
        values = reuse.repeat(name, values)
        if name in factors:
            return values * factors[name].astype(values.dtype)[:, None, None]
        return values

    linears = equalize(reuse.linears, inputs, factors)
    layers: list[LayerRecord] = []
    quantized = reconstruct(
        network,
        linears,
        grids,
        {name: as_coded(name, mean) for name, mean in statistics.mean.items()},
        target,
        reuse.copies,
        bool(trained),
        lambda: calibration.batches(RECONSTRUCTION_IMAGES),
        lambda model: open_session(model, SIMULATED),
        lambda n: tick(n / len(network.steps), "rounding"),
        layer_meter(network, calibration, grids, as_coded, layers),
    )
    return Quantized(network, grids, quantized, tuple(layers))


def trained_grids(network: Network, trained: tuple[Grid, ...], target: Target) -> dict[str, Grid]:
    """The grids that a network was trained on, by tensor.

    Raises:
        ModelError: the model has other tensors than the network that was trained, or the target
            other codes.
    """
    tensors = coded_tensors(network)
    if len(tensors) != len(trained):
        raise ModelError(
            f"the model was trained on {len(trained)} grids, and {len(tensors)} tensors become "
            "codes",
            "Export and simplify the checkpoint again",
        )
    if {grid.code_type for grid in trained} != {target.activations}:
        raise ModelError(
            f"the model was trained on grids of {trained[0].code_type} codes, and the target has "
            f"{target.activations}",
            "Train with --qat and the --target that you quantize for",
        )
    return dict(zip(tensors, trained, strict=True))


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
