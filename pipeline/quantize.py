"""Folded ONNX to int8 ONNX: calibrated, reconstructed layer by layer, proven on real kernels.

The transformations are in ``calibration/``; this file runs them in order on the chosen images and
proves the result: every convolution and matrix product is integer in the graph that really runs,
the kernels compute what the simulation says, and how close the logits are to the float model's.
"""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilenet_cli.calibration.calibrators import CALIBRATORS
from mobilenet_cli.calibration.channels_last import turn_input, turn_single_pixels
from mobilenet_cli.calibration.equalize import channel_factors, equalize
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import TARGETS, Target
from mobilenet_cli.calibration.network import Network, Step, parse
from mobilenet_cli.calibration.observe import exposing, run_exposed
from mobilenet_cli.calibration.plan import choose_grids, coded_tensors
from mobilenet_cli.calibration.qdq import QuantizedLinear, write_qdq
from mobilenet_cli.calibration.qoperator import write_qoperator
from mobilenet_cli.calibration.reconstruct import reconstruct
from mobilenet_cli.calibration.reuse import Reuse, reuse_dead_channels
from mobilenet_cli.calibration.shape_for_kernels import pad_input_channels, shift_zero_points
from mobilenet_cli.calibration.widen import widen
from mobilenet_cli.pipeline.artifact import Artifact, refuse_overwrite, save_artifact, versions
from mobilenet_cli.pipeline.calibration_images import Calibration, choose_images, leakage
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError
from mobilenet_cli.pipeline.integer_proof import (
    ROUNDING,
    SIMULATED,
    check_integer,
    kernel_error,
    running_operators,
)
from mobilenet_cli.pipeline.mixed import Judge, fewest, priced
from mobilenet_cli.pipeline.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.parity import compare, sqnr_db
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.ranges import ranges_of, statistics_of
from mobilenet_cli.pipeline.session import open_session
from mobilenet_cli.pipeline.target import detect_target
from mobilenet_cli.reports.records import LayerRecord, QuantizeRecord

PROBE_IMAGES = 4  # on which each layer is compared with the float network and with the kernels
MIN_SQNR_DB = 6.0  # of the logits: below, the error has more than a quarter of the signal's power
RANKING_IMAGES = 32  # enough to tell which layers matter
RECONSTRUCTION_IMAGES = 256  # codes of so many images are held in memory; ranges see all


@dataclass(frozen=True)
class QuantizeConfig:
    """Settings of ``quantize``.

    Attributes:
        calib_dir: calibration images, as ``open_dataset`` takes them; None takes the training
            images of the data the model was trained on.
        calib_count: how many to use.
        calibrator: a key of ``CALIBRATORS``.
        target: a key of ``TARGETS``, or ``auto`` for the machine this runs on.
        weights: ``s8``, or ``u8`` for unsigned storage.
        format: ``qdq``, which every runtime reads, or ``qoperator``, ONNX Runtime's own operators.
        cross: the model is for another machine, so this one's kernels prove nothing.
        max_drop: keep the fewest layers in float by which top-1 drops no more than so many points.
        data: labelled images that this is measured on; None takes the model's evaluation images.
        seed: of the choice of images.
    """

    calib_dir: str | None = None
    calib_count: int = 256
    calibrator: str = "minmax"
    target: str = "auto"
    weights: Literal["s8", "u8"] = "s8"
    format: Literal["qdq", "qoperator"] = "qdq"
    cross: bool = False
    max_drop: float | None = None
    data: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise OptionError(
                f"unknown calibrator '{self.calibrator}'",
                f"Use one of {', '.join(CALIBRATORS)}",
            )
        if self.target not in (*TARGETS, "auto"):
            raise OptionError(
                f"unknown target '{self.target}'", f"Use auto or one of {', '.join(TARGETS)}"
            )
        if self.weights not in ("s8", "u8"):
            raise OptionError(f"unknown weight type '{self.weights}'", "Use s8 or u8")
        if self.format not in ("qdq", "qoperator"):
            raise OptionError(f"unknown format '{self.format}'", "Use qdq or qoperator")
        if self.format == "qoperator" and self.target != "auto" and not TARGETS[self.target].cpu:
            raise OptionError(
                f"{self.target} does not read the format qoperator", "Leave --format out"
            )
        if self.max_drop is None:
            return
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise OptionError(
                f"--max-drop {self.max_drop:g} is no number of points", "Use 0 or more, such as 0.3"
            )
        if self.cross or (self.target != "auto" and not TARGETS[self.target].cpu):
            raise OptionError(
                "--max-drop is measured on this machine, and this model is for another",
                "Leave one of the two out",
            )

    @property
    def kernels(self) -> Target:
        """What the model is made for; the target is no longer ``auto``."""
        target = TARGETS[self.target]
        return target if self.weights == "s8" else target.with_unsigned_weights()

    def resolved(self) -> "QuantizeConfig":
        """The same with ``auto`` replaced by this machine's target: what the facts keep."""
        target = detect_target() if self.target == "auto" else self.target
        return replace(self, target=target, cross=self.cross or not TARGETS[target].cpu)


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
            turn_input(model)
            turn_single_pixels(model, self.network)
        return model


@dataclass(frozen=True)
class Made:
    """An integer network and the file that holds it."""

    quantized: Quantized
    content: bytes


def quantize(
    source: Artifact, config: QuantizeConfig, out: Path, progress: Progress = silent
) -> Artifact:
    """Write ``out``: the same classifier in 8-bit integers.

    Raises:
        ModelError: the model is quantized already, not folded, or has nothing to quantize.
        DataError: the calibration images cannot be used, or a tensor is NaN on them.
        CheckError: the result is not integer, or the kernels here do not compute what the
            simulation says; nothing is written.
        StorageError: ``out`` cannot be written.
    """
    started = time.monotonic()
    refuse_overwrite(out, [source.path])
    model = load_onnx(source.path)
    network = parse(model)  # refuses what cannot be quantized before any image is read
    config = config.resolved()
    if config.kernels.direct:
        model = widen(network)
    if source.facts.grids and (config.calibrator != "minmax" or config.max_drop is not None):
        raise OptionError(
            f"{source.path} was trained on its grids", "Leave --calibrator and --max-drop out"
        )
    calibration = choose_images(source, config.calib_dir, config.calib_count, config.seed)
    facts = source.facts.model_copy(
        update={
            "stage": "quantize",
            "parent": source.sha256,
            "config": asdict(config),
            "versions": versions("numpy", "onnx", "onnxruntime"),
        }
    )

    def make(kept: tuple[str, ...], images: Calibration = calibration) -> Made:
        quantized = build(
            parse(model, frozenset(kept)), images, config, source.facts.grids, progress
        )
        check_kernels(quantized.layers, config)
        return Made(quantized, with_facts(quantized.write(config), facts))

    made, drop = within_drop(source, config, calibration, make)
    quantized, network, content = made.quantized, made.quantized.network, made.content
    operators = running_operators(content)
    if TARGETS[config.target].cpu:
        check_integer(network, operators)
    expected, simulated, found = logits(source, content, calibration)
    parity = compare(expected, simulated if config.cross else found)
    if not parity.sqnr_db >= MIN_SQNR_DB:
        raise CheckError(
            f"the int8 model is not the float model's function: {parity.sqnr_db:.1f} dB SQNR and "
            f"{100 * parity.agreement:.1f} % agreement on the calibration images",
            "Calibrate on images like those the model will see; nothing was written",
        )
    leaked, against = leakage(source, calibration)
    record = QuantizeRecord(
        images=len(calibration.samples),
        calibration=calibration.listed,
        bad_images=calibration.bad,
        leakage=leaked,
        leakage_checked=against,
        calibrator="training" if source.facts.grids else config.calibrator,
        target=config.target,
        weight_bits=8,
        pairs_limited=config.kernels.pairs_saturate,
        format=config.format,
        sqnr_db=parity.sqnr_db,
        agreement=parity.agreement,
        max_abs_error=parity.max_abs_error,
        kernel_sqnr_db=None if config.cross else sqnr_db(simulated, found),
        operators=dict(operators),
        layers=quantized.layers,
        float_layers=tuple(step.output for step in network.steps if step.kind == "float"),
        **drop,
        seconds=time.monotonic() - started,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    return save_artifact(out, content, facts, record)


def within_drop(
    source: Artifact,
    config: QuantizeConfig,
    calibration: Calibration,
    make: Callable[..., Made],
) -> tuple[Made, dict[str, Any]]:
    """The model as asked for, with the fewest layers in float, and what the record says of it."""
    if config.max_drop is None:
        return make(()), {}
    judge = Judge.of(source, config.data)
    made: dict[bytes, Made] = {}

    def content(kept: tuple[str, ...]) -> bytes:
        one = make(kept)
        made[one.content] = one
        return one.content

    few = replace(calibration, samples=calibration.samples[:RANKING_IMAGES])

    def ranked() -> list[str]:
        def alone(layer: str) -> float:
            one = make((layer,), few)
            expected, _, found = logits(source, one.content, few)
            return sqnr_db(expected, found)

        return sorted(parse(load_onnx(source.path)).linears, key=alone, reverse=True)

    candidates = fewest(content, ranked, judge.drop, config.max_drop)
    layers, drop = priced(candidates, next(calibration.batches(1)))
    return made[candidates[-1].content], {
        "max_drop": config.max_drop,
        "drop": drop,
        "drop_data": judge.name,
        "drop_images": judge.images,
        "kept_float": layers,
    }


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


def layer_meter(
    network: Network,
    calibration: Calibration,
    grids: dict[str, Grid],
    as_coded: Callable[[str, NDArray[Any]], NDArray[Any]],
    layers: list[LayerRecord],
) -> Callable[[Step, bytes, dict[str, NDArray[Any]], NDArray[Any]], None]:
    """A watcher that measures each step, on a few images, and appends what it found.

    It compares the step's codes with the float network's tensor, and with what the integer
    kernels make of the same inputs.
    """
    images = np.concatenate(list(calibration.batches(PROBE_IMAGES)))
    session = exposing(network, [step.output for step in network.steps], open_session)

    def measure(
        step: Step, model: bytes, read: dict[str, NDArray[Any]], made: NDArray[Any]
    ) -> None:
        reference = run_exposed(session, network, [step.output], images)[step.output]
        few = {name: values[: len(images)] for name, values in read.items()}
        codes = made[: len(images)]
        grid = grids.get(step.output)
        layers.append(
            LayerRecord(
                name=step.output,
                operator=step.node.op_type,
                sqnr_db=sqnr_db(as_coded(step.output, reference), grid.dequantize(codes))
                if grid
                else sqnr_db(reference, codes),
                scale=grid.scale if grid else None,
                kernel_error=kernel_error(model, few, codes),
            )
        )

    return measure


def check_kernels(layers: tuple[LayerRecord, ...], config: QuantizeConfig) -> None:
    """Refuse a model that this machine's kernels do not compute as its definition says."""
    wrong = [layer for layer in layers if layer.kernel_error > ROUNDING]
    if wrong and not config.cross:
        named = ", ".join(f"{layer.name} ({layer.kernel_error:g} codes)" for layer in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckError(
            f"the integer kernels of this machine saturate in {len(wrong)} layers of a model "
            f"for {config.target}: {named}{more}",
            f"Use --target {detect_target()} for this machine, or --cross if the model is for "
            "another one, and evaluate it there",
        )


def logits(
    source: Artifact, content: bytes, calibration: Calibration
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Logits on the calibration images: float model, simulated int8, integer kernels."""
    sessions = (
        open_session(source.path),
        open_session(content, SIMULATED),
        open_session(content),
    )
    name = sessions[0].get_inputs()[0].name
    rows: list[list[NDArray[np.float32]]] = [[], [], []]
    for batch in calibration.batches(RECONSTRUCTION_IMAGES):
        for row, session in zip(rows, sessions, strict=True):
            row.append(session.run(None, {name: batch})[0].reshape(len(batch), -1))
    expected, simulated, found = (np.concatenate(row) for row in rows)
    return expected, simulated, found
