"""Folded ONNX becomes int8: calibrated, reconstructed layer by layer, proven on kernels.

The transformations are in ``calibration/``, and ``integer_network`` puts them in order. The room
around this file chooses the images and proves the result: every convolution and matrix product is
integer in the graph that really runs, the kernels compute what the simulation says, and how close
the logits are to the float model's.
"""

import time
from pathlib import Path

from mobilenet_cli.pipeline.artifacts.artifact import Artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.sidecar import refuse_overwrite
from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.quantizing.calibration_images import leakage
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.float_layers import FloatChoice, within_drop
from mobilenet_cli.pipeline.quantizing.kit import kit_folder, write_kit
from mobilenet_cli.pipeline.quantizing.proof import check_integer, joins_outputs, running_operators
from mobilenet_cli.pipeline.quantizing.quantizer import Quantizer
from mobilenet_cli.pipeline.quantizing.speed import speed_of
from mobilenet_cli.pipeline.quantizing.tune import tune
from mobilenet_cli.pipeline.runtime.machine import peak_rss_mb
from mobilenet_cli.pipeline.runtime.proving.parity import compare_outputs
from mobilenet_cli.reports.records.quantization import QuantizeRecord

MIN_SQNR_DB = 6.0  # of the logits: below, the error has more than a quarter of the signal's power


def quantize(
    source: Artifact, config: QuantizeConfig, out: Path, progress: Progress = silent
) -> Artifact[QuantizeRecord]:
    """Write ``out``: the same classifier in 8-bit integers.

    A model for another machine's CPU gets a proof kit beside it, which is run there.

    Raises:
        ModelError: the model is quantized already, not folded, or has nothing to quantize.
        DataError: the calibration images cannot be used, or a tensor is NaN or infinite
            on them.
        CheckError: the result is not integer, or the kernels here do not compute what the
            simulation says; nothing is written.
        StorageError: ``out`` cannot be written.
    """
    started = time.monotonic()
    refuse_overwrite(out, [source.path])
    folder = kit_folder(out)
    quantizer = Quantizer.prepare(source, config, progress)
    tuning = None
    if quantizer.config.tune:
        quantizer, tuning = tune(quantizer)
    chosen = within_drop(quantizer)
    record = prove(quantizer, chosen, started).model_copy(update={"tuning": tuning})
    if chosen.model.proofs:
        write_kit(folder, quantizer, chosen.model)
        record = record.model_copy(update={"kit": folder.name})
    return save_artifact(out, chosen.model.content, quantizer.facts, record)


def prove(quantizer: Quantizer, chosen: FloatChoice, started: float) -> QuantizeRecord:
    """Prove that a quantized model is integer, and measure how close it is to the float one.

    Args:
        quantizer: what it was made by.
        chosen: the model, and what its layers in float are worth.
        started: when the stage began, by ``time.monotonic``.

    Raises:
        CheckError: it is not integer, or another function.
    """
    source, config, calibration = quantizer.source, quantizer.config, quantizer.calibration
    network, operators = chosen.model.network, running_operators(chosen.model.content)
    if config.kernels.cpu:
        check_integer(network, operators)
    expected, simulated, found = quantizer.outputs(chosen.model)
    boxes = source.facts.boxes
    parity = compare_outputs(expected, simulated if config.cross else found, boxes)
    kernels = None if config.cross else compare_outputs(simulated, found, boxes)
    if not parity.sqnr_db >= MIN_SQNR_DB:
        raise CheckError(
            f"the int8 model is not the float model's function: {parity.sqnr_db:.1f} dB SQNR and "
            f"{100 * parity.agreement:.1f} % agreement on the calibration images",
            "Calibrate on images like those the model will see; nothing was written",
        )
    leaked, against = leakage(source, calibration)
    floats = {layer.name for layer in chosen.model.layers if not layer.integer}
    return QuantizeRecord(
        images=len(calibration),
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
        kernel_sqnr_db=kernels.sqnr_db if kernels else None,
        kernels_equal=kernels is not None and kernels.max_abs_error == 0,
        operators=dict(operators),
        layers=chosen.model.layers,
        float_layers=tuple(
            step.output
            for step in network.steps
            if step.output in floats and not joins_outputs(step, network)
        ),
        max_drop=config.max_drop,
        drop=chosen.drop,
        drop_data=chosen.data,
        drop_images=chosen.images,
        drop_measure="AP" if boxes else "top-1",
        kept_float=chosen.layers,
        speed=None
        if config.cross
        else speed_of(source.path, chosen.model.content, next(calibration.first_batches(1))),
        seconds=time.monotonic() - started,
        peak_rss_mb=peak_rss_mb(),
    )
