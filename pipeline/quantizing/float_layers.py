"""The fewest layers stay in float by which top-1 drops no more than asked for.

Layers are ranked by what each alone gives back: the logits' SQNR of a network in which only that
layer stays in float, calibrated and corrected anew on a few images. In that order one layer after
the other joins those in float, each time in a network quantized from the start on all images and
evaluated as it would be shipped, until the limit is met. Then all of these networks are timed in
turns, so that every layer's price is known.
"""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import CheckError, counted
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate
from mobilenet_cli.pipeline.evaluating.evaluate_detector import evaluate_detector
from mobilenet_cli.pipeline.quantizing.quantizer import QuantizedModel, Quantizer
from mobilenet_cli.pipeline.quantizing.speed import time_models
from mobilenet_cli.pipeline.runtime.proving.parity import sqnr_db
from mobilenet_cli.pipeline.runtime.timing import ratio
from mobilenet_cli.reports.records.accuracy import EvaluationRecord
from mobilenet_cli.reports.records.detection import DetectionRecord
from mobilenet_cli.reports.records.quantization import FloatLayer

RANKING_IMAGES = 32  # enough to tell which layers matter
TIMING_NS = 5_000_000_000


@dataclass(frozen=True)
class Candidate:
    """A candidate is a quantized model with some layers in float.

    Attributes:
        kept: the layers in float, by the tensors they make.
        model: the quantized model.
        drop: the points of top-1 that it loses against the float model.
    """

    kept: tuple[str, ...]
    model: QuantizedModel
    drop: float


@dataclass(frozen=True)
class FloatChoice:
    """This is the model that is kept, with what is known of its layers in float.

    Attributes:
        model: the quantized model.
        drop: the points of top-1 that it loses; None where nobody asked.
        data: the name of the images on which that was measured.
        images: the number of these images.
        layers: the layers that stayed in float for it, and what each costs.
    """

    model: QuantizedModel
    drop: float | None = None
    data: str | None = None
    images: int | None = None
    layers: tuple[FloatLayer, ...] = ()


@dataclass(frozen=True)
class DropMeter:
    """A drop meter measures how much top-1 a quantized model loses against a float model.

    Attributes:
        source: the float model.
        data: the labelled images, as ``open_dataset`` takes them; None takes the model's own.
        accuracy: the float model's on them, in percent: top-1, or a detector's average precision.
        images: the number of images.
        name: the name of the images, for the record.
    """

    source: Artifact
    data: str | None
    accuracy: float
    images: int
    name: str

    @classmethod
    def of(cls, source: Artifact, data: str | None) -> "DropMeter":
        """Evaluate the float model.

        Raises:
            DataError: the images have no labels, or cannot be used.
            OptionError: no images are known.
        """
        accuracy, record = measured(source, data)
        return cls(source, data, accuracy, record.images, record.data)

    def drop(self, model: QuantizedModel) -> float:
        """Measure the points that a quantized model loses."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            path.write_bytes(model.content)
            made = replace(self.source, path=path, sha256=hashlib.sha256(model.content).hexdigest())
            return self.accuracy - measured(made, self.data)[0]


def measured(model: Artifact, data: str | None) -> tuple[float, EvaluationRecord | DetectionRecord]:
    """Evaluate a model.

    Returns:
        Its top-1 or its average precision, in percent, and the whole record.
    """
    if model.facts.task == "detection":
        found = evaluate_detector(model, EvaluateConfig(data=data))
        return found.ap.value, found
    record = evaluate(model, EvaluateConfig(data=data))
    return record.top1.value, record


def within_drop(quantizer: Quantizer) -> FloatChoice:
    """Quantize with the fewest layers in float by which top-1 drops no more than asked for.

    Raises:
        CheckError: top-1 drops by more even with all layers in float.
    """
    limit = quantizer.config.max_drop
    if limit is None:
        return FloatChoice(quantizer.make())
    meter = DropMeter.of(quantizer.source, quantizer.config.data)
    calibration = quantizer.calibration
    few = replace(calibration, samples=calibration.samples[:RANKING_IMAGES])

    def sqnr_alone(layer: str) -> float:
        expected, _, found = quantizer.outputs(quantizer.make((layer,), few), few)
        return min(map(sqnr_db, expected, found))

    def ranked() -> list[str]:
        layers = parse(quantizer.model).linears
        return sorted(layers, key=sqnr_alone, reverse=True)

    candidates = smallest_float_set(quantizer.make, ranked, meter.drop, limit)
    layers = time_float_layers(candidates, next(calibration.first_batches(1)))
    last = candidates[-1]
    return FloatChoice(last.model, last.drop, meter.name, meter.images, layers)


def smallest_float_set(
    make: Callable[[tuple[str, ...]], QuantizedModel],
    ranked: Callable[[], Sequence[str]],
    drop: Callable[[QuantizedModel], float],
    limit: float,
) -> list[Candidate]:
    """Try no, one, two, ... layers in float until a candidate keeps to the limit.

    Args:
        make: quantizes all but the layers given.
        ranked: gives the layers, those that matter most first; it is called only if none in float
            is too little.
        drop: measures the points of top-1 that a model loses.
        limit: the most points that it may lose.

    Returns:
        All candidates that were tried; the last one keeps to the limit.

    Raises:
        CheckError: even with all of them in float it drops by more.
    """
    candidates: list[Candidate] = []
    order: Sequence[str] = ()
    while True:
        kept = tuple(order[: len(candidates)])
        model = make(kept)
        candidates.append(Candidate(kept, model, drop(model)))
        if candidates[-1].drop <= limit:
            return candidates
        order = order or ranked()
        if len(kept) == len(order):
            raise CheckError(
                f"accuracy drops by {candidates[-1].drop:.2f} points even with "
                f"{counted(len(order), 'layer')} in float, all that there are",
                "Raise --max-drop, or use more images to measure it on",
            )


def time_float_layers(
    candidates: Sequence[Candidate], image: NDArray[np.float32]
) -> tuple[FloatLayer, ...]:
    """Measure what each layer in float costs, on one thread of this machine.

    Args:
        candidates: what ``smallest_float_set`` returned.
        image: a prepared image [1, 3, R, R].

    Returns:
        The layers in the order in which they were taken.
    """
    contents = [candidate.model.content for candidate in candidates]
    timings = time_models(contents, image, TIMING_NS) if candidates[1:] else []
    return tuple(
        FloatLayer(
            name=candidate.kept[-1],
            drop=candidate.drop,
            p50_ms=timing.percentile(50) / 1e6,
            slowdown=ratio(timing, timings[0])[0],
        )
        for candidate, timing in zip(candidates[1:], timings[1:], strict=True)
    )
