"""A float network becomes integers by the transformations of this room, in order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilenet_cli.calibration.choose_grids import choose_grids, coded_tensors, seen_ranges
from mobilenet_cli.calibration.float_tensors import FloatTensors
from mobilenet_cli.calibration.graph.channels_last import turn_single_pixels
from mobilenet_cli.calibration.graph.expand_enlargements import expand_enlargements
from mobilenet_cli.calibration.graph.parse import Network
from mobilenet_cli.calibration.graph.shape_for_kernels import pad_input_channels, shift_zero_points
from mobilenet_cli.calibration.graph.write_qdq import QuantizedLinear, write_qdq
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import Target
from mobilenet_cli.calibration.ranges.calibrators import CALIBRATORS
from mobilenet_cli.calibration.tensor_statistics import (
    Images,
    Opener,
    Statistics,
    Tick,
    histograms,
    observe,
)
from mobilenet_cli.calibration.weights.clip_streams import clip_streams
from mobilenet_cli.calibration.weights.equalize import channel_factors, equalize_channels
from mobilenet_cli.calibration.weights.reconstruct import Watch, reconstruct
from mobilenet_cli.calibration.weights.reuse_dead_channels import Reuse, reuse_dead_channels
from mobilenet_cli.pipeline.errors import ModelError

# Codes of so many images are held in memory, for rounding and biases; ranges see all images.
RECONSTRUCTION_IMAGES = 256

AsCoded = Callable[[str, NDArray[Any]], NDArray[Any]]
"""Maps a tensor's name and its float values to the values that its codes stand for."""


class CalibrationImages(Protocol):
    """Calibration images are prepared, and read anew each time."""

    def __len__(self) -> int:
        """Return the number of images."""

    def all_batches(self) -> Iterator[NDArray[np.float32]]:
        """Return all images, in batches [n, 3, R, R] whose activations stay in a CPU's caches."""

    def first_batches(self, count: int) -> Iterator[NDArray[np.float32]]:
        """Return the first of ``RECONSTRUCTION_IMAGES`` images, in batches [n, 3, R, R].

        These are all images, or come from everywhere in their order.
        """


@dataclass(frozen=True)
class Runtime:
    """A runtime computes models for calibration, and is told how far it is.

    Attributes:
        run: opens a session that computes a float model.
        simulate: opens a session that computes an integer model in float.
        progress: called with the passes over the images that are done, 0 to 3, and a note.
        watch: given the grids and ``AsCoded``, returns what is shown each step of the integer
            network; None if nobody watches.
    """

    run: Opener
    simulate: Opener
    progress: Callable[[float, str], None]
    watch: Callable[[dict[str, Grid], AsCoded], Watch] | None = None


@dataclass(frozen=True)
class Quantized:
    """This is the integer network before it is written as a file.

    Attributes:
        network: the float network it stands for.
        grids: the grid of every tensor that is represented by codes.
        linears: integer parameters by output tensor.
    """

    network: Network
    grids: dict[str, Grid]
    linears: dict[str, QuantizedLinear]

    def write(self, target: Target) -> onnx.ModelProto:
        """Return the ONNX model, shaped for the target's kernels."""
        model = write_qdq(self.network, self.grids, self.linears)
        if target.direct:
            pad_input_channels(model)
        if target.tiles:
            shift_zero_points(model)
        if target.cpu:
            turn_single_pixels(model, self.network)
            expand_enlargements(model, self.network)
        return model


@dataclass(frozen=True)
class Coding:
    """This is what becomes of the float network's tensors before they are rounded.

    Attributes:
        grids: the grid of every tensor that is represented by codes.
        reuse: which channels replace dead ones.
        factors: by what each channel of a tensor is multiplied, by tensor.
    """

    grids: dict[str, Grid]
    reuse: Reuse
    factors: dict[str, NDArray[np.float64]]

    def as_coded(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values of a tensor, or of its mean, as they are coded."""
        values = self.reuse.repeat(name, values)
        if name in self.factors:
            return values * self.factors[name].astype(values.dtype)[:, None, None]
        return values


def coding_of(
    network: Network,
    statistics: Statistics,
    ranges: dict[str, tuple[float, float]],
    target: Target,
) -> Coding:
    """Choose grids for the ranges, replace dead channels, and equalize the others."""
    reuse = reuse_dead_channels(network, statistics.low, statistics.high)
    lowest, highest = (
        {name: reuse.repeat_channels(name, values) for name, values in ends.items()}
        for ends in (statistics.low, statistics.high)
    )
    factors = channel_factors(network, lowest, highest, ranges, statistics.images)
    return Coding(choose_grids(network, ranges, target), reuse, factors)


def build(
    network: Network,
    images: CalibrationImages,
    target: Target,
    calibrator: str,
    trained: tuple[Grid, ...],
    runtime: Runtime,
) -> Quantized:
    """Quantize a network: ranges, dead channels, equalization, rounding and biases, in this order.

    Args:
        network: the float network.
        images: the images it is calibrated on.
        target: what the integer kernels can add.
        calibrator: a key of ``CALIBRATORS``.
        trained: the grids that the network was trained on, if any; its grids, its weights and its
            biases then stay as they are.
        runtime: computes the models.

    Raises:
        ModelError: the network does not fit the grids that it was trained on.
        DataError: a tensor is NaN or infinite on the images.
    """
    done = 0.0

    def tick(fraction: float, note: str) -> None:
        nonlocal done
        done += fraction
        runtime.progress(done, note)

    each_image = 1 / len(images)
    statistics = statistics_of(
        network, images.all_batches, runtime, lambda n: tick(n * each_image, "ranges")
    )
    if trained:
        coding = Coding(trained_grids(network, trained, target), Reuse(network.linears, {}), {})
        tick(1, "ranges")
    else:
        statistics = clip_streams(network, statistics, images.first_batches, runtime.run)
        ranges = ranges_of(
            network,
            statistics,
            images,
            calibrator,
            runtime,
            lambda n: tick(n * each_image, "histograms"),
        )
        coding = coding_of(network, statistics, ranges, target)
    held = partial(images.first_batches, RECONSTRUCTION_IMAGES)
    means = statistics.mean
    if len(images) > RECONSTRUCTION_IMAGES:
        # A bias makes good what the means of float and of codes differ by, on the same images.
        means = statistics_of(network, held, runtime, lambda _: None).mean
    inputs = {s.output: s.inputs[0] for s in network.steps if s.kind == "linear"}
    floats = FloatTensors(
        network, images.first_batches, min(len(images), RECONSTRUCTION_IMAGES), runtime.run
    )
    quantized = reconstruct(
        network,
        equalize_channels(coding.reuse.linears, inputs, coding.factors),
        coding.grids,
        {name: coding.as_coded(name, mean) for name, mean in means.items()},
        target,
        coding.reuse.copies,
        bool(trained),
        held,
        lambda name, rows: (coding.as_coded(name, row) for row in floats.rows(name, rows)),
        runtime.simulate,
        lambda n: tick(n / len(network.steps), "rounding"),
        runtime.watch(coding.grids, coding.as_coded) if runtime.watch else None,
    )
    return Quantized(network, coding.grids, quantized)


def trained_grids(network: Network, trained: tuple[Grid, ...], target: Target) -> dict[str, Grid]:
    """Return the grids that a network was trained on, by tensor.

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


def statistics_of(network: Network, images: Images, runtime: Runtime, tick: Tick) -> Statistics:
    """Make the first pass over the images: what each tensor covers, and its mean."""
    return observe(
        network,
        coded_tensors(network),
        frozenset(step.inputs[0] for step in network.steps if step.kind == "linear"),
        images,
        runtime.run,
        tick,
    )


def ranges_of(
    network: Network,
    statistics: Statistics,
    images: CalibrationImages,
    calibrator: str,
    runtime: Runtime,
    tick: Tick,
) -> dict[str, tuple[float, float]]:
    """Choose the range of each coded tensor; all methods but ``minmax`` need a second pass.

    The ranges are those of the network before equalization, behind which the rare values would all
    belong to one channel.
    """
    ranges = seen_ranges(network, statistics)
    if calibrator == "minmax":
        tick(statistics.images)
        return ranges
    seen = histograms(network, ranges, images.all_batches, runtime.run, tick)
    return {name: CALIBRATORS[calibrator](seen[name]) for name in ranges}
