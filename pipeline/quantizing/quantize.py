"""Folded ONNX to int8 ONNX: calibrated, reconstructed layer by layer, proven on real kernels.

The transformations are in ``calibration/``, and ``integer_network`` puts them in order; this file
chooses the images and proves the result: every convolution and matrix product is integer in the
graph that really runs, the kernels compute what the simulation says, and how close the logits are
to the float model's.
"""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.graph.widen_channels import widen
from mobilenet_cli.calibration.integer_network import RECONSTRUCTION_IMAGES, Quantized, build
from mobilenet_cli.calibration.kernels import TARGETS
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.artifacts.sidecar import refuse_overwrite
from mobilenet_cli.pipeline.errors import CheckError, OptionError
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.quantizing.calibration_images import Calibration, choose_images, leakage
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.float_layers import Judge, fewest, priced
from mobilenet_cli.pipeline.quantizing.proof import (
    ROUNDING,
    SIMULATED,
    calibration_runtime,
    check_integer,
    layer_meter,
    running_operators,
)
from mobilenet_cli.pipeline.runtime.integer_kernels import detect_target
from mobilenet_cli.pipeline.runtime.parity import compare, sqnr_db
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.quantization import LayerRecord, QuantizeRecord

MIN_SQNR_DB = 6.0  # of the logits: below, the error has more than a quarter of the signal's power
RANKING_IMAGES = 32  # enough to tell which layers matter


@dataclass(frozen=True)
class QuantizedModel:
    """An integer network, what was measured of each of its steps, and the file that holds it."""

    quantized: Quantized
    layers: tuple[LayerRecord, ...]
    content: bytes


def quantize(
    source: Artifact, config: QuantizeConfig, out: Path, progress: Progress = silent
) -> Artifact[QuantizeRecord]:
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
    facts = source.derived("quantize", config, "numpy", "onnx", "onnxruntime")

    def make(kept: tuple[str, ...], images: Calibration = calibration) -> QuantizedModel:
        network = parse(model, frozenset(kept))
        layers: list[LayerRecord] = []
        watch = partial(layer_meter, network, images, layers)
        runtime = calibration_runtime(images, progress, watch)
        quantized = build(
            network, images, config.kernels, config.calibrator, source.facts.grids, runtime
        )
        check_kernels(layers, config)
        content = with_facts(quantized.write(config.kernels), facts)
        return QuantizedModel(quantized, tuple(layers), content)

    made, drop = within_drop(source, config, calibration, make)
    network, content = made.quantized.network, made.content
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
        layers=made.layers,
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
    make: Callable[..., QuantizedModel],
) -> tuple[QuantizedModel, dict[str, Any]]:
    """The model as asked for, with the fewest layers in float, and what the record says of it."""
    if config.max_drop is None:
        return make(()), {}
    judge = Judge.of(source, config.data)
    made: dict[bytes, QuantizedModel] = {}

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
    layers, drop = priced(candidates, next(calibration.first_batches(1)))
    return made[candidates[-1].content], {
        "max_drop": config.max_drop,
        "drop": drop,
        "drop_data": judge.name,
        "drop_images": judge.images,
        "kept_float": layers,
    }


def check_kernels(layers: Sequence[LayerRecord], config: QuantizeConfig) -> None:
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
    for batch in calibration.first_batches(RECONSTRUCTION_IMAGES):
        for row, session in zip(rows, sessions, strict=True):
            row.append(session.run(None, {name: batch})[0].reshape(len(batch), -1))
    expected, simulated, found = (np.concatenate(row) for row in rows)
    return expected, simulated, found
