"""Folded ONNX to int8 ONNX: calibrated, reconstructed layer by layer, proven on real kernels.

The chain of transformations is in ``calibration/``; this file chooses the images, runs it, and
proves the result: every convolution and matrix product is integer in the graph that really runs,
the kernels compute what the simulation says, and the logits are close to the float model's.
"""

import hashlib
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilenet_cli.calibration.calibrators import CALIBRATORS
from mobilenet_cli.calibration.equalize import channel_factors, equalize
from mobilenet_cli.calibration.grid import Grid, asymmetric, symmetric
from mobilenet_cli.calibration.kernels import TARGETS
from mobilenet_cli.calibration.network import Network, Step, parse
from mobilenet_cli.calibration.observe import (
    Statistics,
    exposing,
    histograms,
    observe,
    run_exposed,
)
from mobilenet_cli.calibration.qdq import write_qdq
from mobilenet_cli.calibration.reconstruct import reconstruct
from mobilenet_cli.calibration.reuse import reuse_dead_channels
from mobilenet_cli.calibration.select import select
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.datasets import held_out, not_held_out
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifact import Artifact, refuse_overwrite, save_artifact, versions
from mobilenet_cli.pipeline.errors import CheckError, DataError, OptionError
from mobilenet_cli.pipeline.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.parity import compare, sqnr_db
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.session import SessionConfig, open_session
from mobilenet_cli.pipeline.target import detect_target
from mobilenet_cli.reports.records import CalibrationImage, LayerRecord, QuantizeRecord

BATCH = 8
PROBE_IMAGES = 8  # on which each layer is compared with the float network
RECONSTRUCTION_IMAGES = 256  # codes of so many images are held in memory; ranges see all
# Kernels round products that lie within float32 error of a tie the other way than the simulation,
# and the layers behind amplify it. Saturation costs far more: measured 40 dB against 10.
KERNEL_SQNR_DB = 30.0
AS_WRITTEN = SessionConfig(optimization="disabled")


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
        seed: of the choice of images.
    """

    calib_dir: str | None = None
    calib_count: int = 256
    calibrator: str = "minmax"
    target: str = "auto"
    weights: Literal["s8", "u8"] = "s8"
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


@dataclass(frozen=True)
class Calibration:
    """The chosen images.

    Attributes:
        samples: readable ones, in the order of the data set.
        listed: their names and hashes.
        bad: names of unreadable ones.
        spec: how they are prepared.
    """

    samples: tuple[Sample, ...]
    listed: tuple[CalibrationImage, ...]
    bad: tuple[str, ...]
    spec: InputSpec

    def batches(self, count: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Prepared images, ``BATCH`` at a time."""
        for batch in batches(self.samples[:count], self.spec, BATCH):
            yield batch.images


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
    network = parse(load_onnx(source.path))
    config = replace(config, target=detect_target() if config.target == "auto" else config.target)
    calibration = choose_images(source, config)
    model, layers = build(network, calibration, config, progress)
    facts = source.facts.model_copy(
        update={
            "stage": "quantize",
            "parent": source.sha256,
            "config": asdict(config),
            "versions": versions("numpy", "onnx", "onnxruntime"),
        }
    )
    content = with_facts(model, facts)
    operators = running_operators(content)
    float_layers = check_integer(network, operators)
    expected, simulated, found = logits(network, content, calibration)
    kernel_sqnr = check_kernels(simulated, found)
    parity = compare(expected, found)
    leaked, against = leakage(source, calibration)
    record = QuantizeRecord(
        images=len(calibration.samples),
        calibration=calibration.listed,
        bad_images=calibration.bad,
        leakage=leaked,
        leakage_checked=against,
        calibrator=config.calibrator,
        target=config.target,
        weight_bits=8,
        pairs_limited=TARGETS[config.target].pairs_saturate,
        format="qdq",
        sqnr_db=parity.sqnr_db,
        agreement=parity.agreement,
        max_abs_error=parity.max_abs_error,
        kernel_sqnr_db=kernel_sqnr,
        operators=dict(operators),
        layers=layers,
        float_layers=float_layers,
        seconds=time.monotonic() - started,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    return save_artifact(out, content, facts, record)


def choose_images(source: Artifact, config: QuantizeConfig) -> Calibration:
    """Select the calibration images, hash them, and set aside those that cannot be read."""
    where = config.calib_dir or source.facts.data
    if where is None:
        raise DataError(
            f"{source.path} does not say what it was trained on, so there are no images to "
            "calibrate with",
            "Pass --calib-dir a folder with a few hundred typical images",
        )
    samples = not_held_out(where, source.facts.data).samples
    chosen = [
        samples[i] for i in select([s.label for s in samples], config.calib_count, config.seed)
    ]
    bad: list[str] = []
    readable = [
        chosen[i]
        for batch in batches(
            chosen, source.facts.input, BATCH, on_bad=lambda sample, _: bad.append(sample.key)
        )
        for i in batch.indices
    ]
    if not readable:
        raise DataError(
            f"none of the {len(chosen)} calibration images in {where} can be read",
            "Pass --calib-dir a folder with images",
        )
    listed = tuple(
        CalibrationImage(key=s.key, sha256=hashlib.sha256(s.read()).hexdigest()) for s in readable
    )
    return Calibration(tuple(readable), listed, tuple(bad), source.facts.input)


def build(
    network: Network, calibration: Calibration, config: QuantizeConfig, progress: Progress
) -> tuple[onnx.ModelProto, tuple[LayerRecord, ...]]:
    """Ranges, equalization, rounding, bias: the whole transformation, on the chosen images."""
    target = TARGETS[config.target]
    reconstruction = min(len(calibration.samples), RECONSTRUCTION_IMAGES)
    total = 2 * len(calibration.samples)
    done = 0

    def tick(images: float, note: str) -> None:
        nonlocal done
        done += images
        progress(int(done), total, note)

    tensors = coded_tensors(network)
    inputs = {s.output: s.inputs[0] for s in network.steps if s.kind == "linear"}
    statistics = observe(
        network,
        tensors,
        frozenset(inputs.values()),
        calibration.batches,
        open_session,
        lambda n: tick(n / 2, "ranges"),
    )
    reuse = reuse_dead_channels(network, statistics.high)
    statistics = replace(
        statistics,
        low={name: reuse.repeat_channels(name, v) for name, v in statistics.low.items()},
        high={name: reuse.repeat_channels(name, v) for name, v in statistics.high.items()},
    )
    factors = channel_factors(network, statistics.high)

    def as_coded(name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A tensor of the float network as the quantized one has it: repeated and scaled."""
        values = reuse.repeat(name, values)
        if name in factors:
            return values * factors[name].astype(values.dtype)[:, None, None]
        return values

    ranges = scaled_ranges(network, statistics, factors)
    if config.calibrator == "minmax":
        tick(len(calibration.samples) / 2, "ranges")
    else:
        seen = histograms(
            network,
            ranges,
            as_coded,
            calibration.batches,
            open_session,
            lambda n: tick(n / 2, "histograms"),
        )
        ranges = {name: CALIBRATORS[config.calibrator](seen[name]) for name in ranges}
    grids = choose_grids(network, ranges, config)
    linears = equalize(reuse.linears, inputs, factors)
    means = {name: as_coded(name, mean) for name, mean in statistics.mean.items()}
    layers: list[LayerRecord] = []
    measure = layer_meter(network, calibration, grids, as_coded, layers)
    quantized = reconstruct(
        network,
        linears,
        grids,
        means,
        target,
        reuse.copies,
        lambda: calibration.batches(reconstruction),
        lambda model: open_session(model, SIMULATED),
        lambda n: tick(n * len(calibration.samples) / len(network.steps), "rounding"),
        measure,
    )
    return write_qdq(network, grids, quantized, config.weights == "u8"), tuple(layers)


SIMULATED = SessionConfig(integer_kernels=False)


def coded_tensors(network: Network) -> list[str]:
    """Tensors that become codes: what integer steps read and make.

    Logits of a matrix product stay float: its kernel accumulates in int32 and can give them
    directly, without one more rounding.
    """
    coded: dict[str, None] = {}
    for step in network.steps:
        if step.kind in ("linear", "pool"):
            coded |= dict.fromkeys(step.inputs)
            if step.output != network.output or step.node.op_type == "Conv":
                coded[step.output] = None
    for step in network.steps:  # renaming codes keeps them codes
        if step.kind == "shape" and step.inputs[0] in coded:
            coded[step.output] = None
    return list(coded)


def scaled_ranges(
    network: Network, statistics: Statistics, factors: dict[str, NDArray[np.float64]]
) -> dict[str, tuple[float, float]]:
    """Range of each tensor after its channels are scaled, within its activation's bounds."""
    limits = {step.output: (step.low, step.high) for step in network.steps}
    ranges = {}
    for name, low in statistics.low.items():
        factor = factors.get(name, 1.0)
        floor, ceiling = limits.get(name, (-np.inf, np.inf))
        ranges[name] = (
            float(max(min((low * factor).min(), 0.0), floor)),
            float(min(max((statistics.high[name] * factor).max(), 0.0), ceiling)),
        )
    return ranges


def choose_grids(
    network: Network, ranges: dict[str, tuple[float, float]], config: QuantizeConfig
) -> dict[str, Grid]:
    """One grid a tensor; steps that only rename or select codes keep that of their input."""
    unsigned = TARGETS[config.target].activations == "uint8"
    grids = {
        name: asymmetric(*limits) if unsigned else symmetric(*limits)
        for name, limits in ranges.items()
    }
    for step in network.steps:
        renames = step.kind == "shape" or step.node.op_type == "MaxPool"
        if renames and step.inputs[0] in grids and step.output in grids:
            grids[step.output] = grids[step.inputs[0]]
    return grids


def layer_meter(
    network: Network,
    calibration: Calibration,
    grids: dict[str, Grid],
    as_coded: Callable[[str, NDArray[Any]], NDArray[Any]],
    layers: list[LayerRecord],
) -> Any:
    """A watcher that appends each step's SQNR against the float network on a few images."""
    images = np.concatenate(list(calibration.batches(PROBE_IMAGES)))
    session = exposing(network, [step.output for step in network.steps], open_session)

    def measure(step: Step, codes: NDArray[Any]) -> None:
        grid = grids.get(step.output)
        reference = run_exposed(session, network, [step.output], images)[step.output]
        found = codes[: len(images)]
        if grid is not None:
            found = grid.dequantize(found)
            reference = as_coded(step.output, reference)
        layers.append(
            LayerRecord(
                name=step.output,
                operator=step.node.op_type,
                sqnr_db=sqnr_db(reference, found),
                scale=grid.scale if grid else None,
            )
        )

    return measure


def running_operators(content: bytes) -> Counter[str]:
    """Nodes by type in the graph that ONNX Runtime makes of a model and really runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(content, SessionConfig(optimized_path=path))
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def check_integer(network: Network, operators: Counter[str]) -> tuple[str, ...]:
    """Refuse a graph in which something that should be integer runs in float.

    Returns:
        Names of the steps that were meant to stay float.
    """
    kept = [s for s in network.steps if s.kind == "float"]
    allowed = Counter(s.node.op_type for s in kept)
    for operator in ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Clip", "Relu"):
        if operators[operator] > allowed[operator]:
            raise CheckError(
                f"{operators[operator]} {operator} of the quantized model run in float",
                "Install the onnxruntime version of constraints.txt; nothing was written",
            )
    if not kept and max(operators["QuantizeLinear"], operators["DequantizeLinear"]) > 1:
        raise CheckError(
            "the quantized model goes back to float between layers: "
            f"{operators['QuantizeLinear']} QuantizeLinear and "
            f"{operators['DequantizeLinear']} DequantizeLinear are left",
            "Install the onnxruntime version of constraints.txt; nothing was written",
        )
    return tuple(s.output for s in kept)


def logits(
    network: Network, content: bytes, calibration: Calibration
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Logits on the calibration images: float model, simulated int8, integer kernels."""
    sessions = (
        open_session(network.model.SerializeToString()),
        open_session(content, SIMULATED),
        open_session(content),
    )
    rows: list[list[NDArray[np.float32]]] = [[], [], []]
    for batch in calibration.batches(RECONSTRUCTION_IMAGES):
        for row, session in zip(rows, sessions, strict=True):
            row.append(session.run(None, {network.input: batch})[0].reshape(len(batch), -1))
    expected, simulated, found = (np.concatenate(row) for row in rows)
    return expected, simulated, found


def check_kernels(simulated: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """SQNR of the integer kernels' logits against the simulated ones; refuse saturation."""
    measured = sqnr_db(simulated, found)
    if measured < KERNEL_SQNR_DB:
        raise CheckError(
            f"the integer kernels of this machine are {measured:.1f} dB away from what the model "
            f"says, where rounding alone leaves {KERNEL_SQNR_DB:.0f} dB: they saturate",
            "Quantize with --target avx2, which keeps weights within what such kernels can add",
        )
    return measured


def leakage(source: Artifact, calibration: Calibration) -> tuple[tuple[str, ...], str | None]:
    """Calibration images that are also in the evaluation set, by content; and which set that is."""
    where = source.facts.data
    if where is None:
        return (), None
    evaluation = held_out(where, source.facts.data)
    known = {hashlib.sha256(sample.read()).hexdigest() for sample in evaluation.samples}
    return tuple(i.key for i in calibration.listed if i.sha256 in known), evaluation.name
