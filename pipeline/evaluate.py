"""Top-1 and top-5 accuracy of any artifact, on images as people have them.

Each thread decodes an image and runs the model on it before it takes the next. With one thread a
CPU, nothing waits: decoding and inference share the CPUs in the proportion of their costs.
"""

import difflib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.datasets import held_out
from mobilenet_cli.data.imagenet import BACKGROUND
from mobilenet_cli.data.loader import ordered_map
from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.pipeline.artifact import Artifact, Facts, write_atomically
from mobilenet_cli.pipeline.errors import (
    CheckError,
    DataError,
    ModelError,
    OptionError,
    StorageError,
)
from mobilenet_cli.pipeline.machine import usable_cpus
from mobilenet_cli.pipeline.predictor import Predictor, open_predictor
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.runs import Run
from mobilenet_cli.pipeline.session import CPU
from mobilenet_cli.reports.records import EvaluationRecord, Metric, PredictionsRecord

Z_95 = 1.959963984540054  # the standard normal's 97.5 % quantile
PREDICTIONS = TypeAdapter(list[PredictionsRecord])
RECORDS = TypeAdapter(list[EvaluationRecord])
TOP = 3  # classes of each image that are kept for the report


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of ``evaluate``.

    Attributes:
        data: images with labels, as ``open_dataset`` takes them; None takes the held-out part of
            the training data.
        provider: an execution provider's full name; a checkpoint runs in torch on that device.
        strict: an unreadable image is an error, not a line in the record.
        workers: threads that decode and infer; None takes every CPU this process may use.
    """

    data: str | None = None
    provider: str = CPU
    strict: bool = False
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says about one image.

    Attributes:
        key: the image's name.
        target: index of the right class.
        rank: how many classes come before it, 0 for the first.
        top: indices of the most probable classes, at most ``TOP``.
        probabilities: theirs, 0..1.
    """

    key: str
    target: int
    rank: int
    top: tuple[int, ...]
    probabilities: tuple[float, ...]


def evaluate(
    artifact: Artifact,
    config: EvaluateConfig,
    progress: Progress = silent,
    answers: list[Answer] | None = None,
) -> EvaluationRecord:
    """Count how often the right class is the model's first, and among its first five.

    Args:
        artifact: any model file.
        config: on which images, and how.
        progress: is told how many images are done.
        answers: takes what the model says about each readable image, in the order of the set.

    Raises:
        DataError: no data, labels that the model does not know, no readable image; or, if strict,
            the first unreadable one.
        ModelError: the model cannot be used.
        ProviderError: the provider cannot run it.
        CheckError: the model's output is NaN.
    """
    facts, dataset = artifact.facts, evaluation_set(artifact, config.data)
    targets = targets_of(dataset, facts.classes, artifact.path)
    images = top1 = top5 = 0  # counted as they come, so that memory does not grow with the set
    bad = [error.what for error in dataset.lost]
    if config.strict and dataset.lost:
        raise dataset.lost[0]
    with open_predictor(artifact, config.provider) as predictor:
        started = time.perf_counter()
        pairs = list(zip(dataset.samples, targets, strict=True))
        chunks = [pairs[i : i + predictor.batch] for i in range(0, len(pairs), predictor.batch)]
        workers = config.workers or usable_cpus()
        results = ordered_map(
            lambda chunk: answer_chunk(chunk, predictor, facts.input), chunks, workers, 2 * workers
        )
        for chunk, outcomes in zip(chunks, results, strict=True):
            for (sample, _), outcome in zip(chunk, outcomes, strict=True):
                if not isinstance(outcome, DataError):
                    images += 1
                    top1 += outcome.rank < 1
                    top5 += outcome.rank < 5
                    if answers is not None:
                        answers.append(outcome)
                elif config.strict:
                    raise outcome
                else:
                    bad.append(sample.key)
            done = images + len(bad) - len(dataset.lost)
            progress(done, len(pairs), f"{len(bad)} unreadable" if bad else "")
    seconds = time.perf_counter() - started
    if not images:
        raise DataError(
            f"none of the {len(bad)} images of {dataset.name} can be read, such as {bad[0]}",
            "Check that the files are images",
        )
    return EvaluationRecord(
        model=str(artifact.path),
        sha256=artifact.sha256,
        stage=facts.stage,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        provider=predictor.provider,
        images=images,
        bad_images=tuple(bad),
        top1=share(top1, images),
        top5=share(top5, images),
        top1_correct=top1,
        top5_correct=top5,
        images_per_second=len(dataset.samples) / seconds,
        seconds=seconds,
        preprocessing=preprocessing(facts),
    )


def evaluation_set(artifact: Artifact, data: str | None) -> Dataset:
    """The images on which to evaluate: never those that the model was trained on."""
    source = data or artifact.facts.data
    if source is None:
        raise OptionError(
            f"{artifact.path} does not say on which images to evaluate it",
            "Pass --data with a folder of images in class folders, or 'digits'",
        )
    return held_out(source, artifact.facts.data)


def targets_of(dataset: Dataset, classes: Sequence[str], model: Path) -> list[int]:
    """The output index of each sample's class; the set may have a subset of the classes.

    Where no label is a class of the model but all are numbers, they are indices of its classes.

    Raises:
        DataError: a sample has no label, or one that is no class of the model.
        ModelError: the model does not name its classes.
    """
    if not classes:
        raise ModelError(
            f"{model} does not name its classes, so labels cannot be compared",
            "Evaluate a model made by this tool",
        )
    labels = dict.fromkeys(sample.label for sample in dataset.samples)
    if None in labels:
        raise DataError(
            f"the images of {dataset.name} have no labels",
            "Put the images of each class into a folder named after it",
        )
    known = [label for label in labels if label is not None]
    index = {identifier: position for position, identifier in enumerate(classes)}
    if not index.keys() & labels.keys():
        index = _by_number(classes)
    if unknown := [label for label in known if label not in index]:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        raise DataError(
            f"{len(unknown)} of the {len(known)} classes of {dataset.name} are no classes of "
            f"{model}, such as '{unknown[0]}'",
            f"Name the folders like the model's classes: '{near[0] if near else classes[0]}'",
        )
    return [index[label] for label in (s.label for s in dataset.samples) if label is not None]


def _by_number(classes: Sequence[str]) -> dict[str, int]:
    """Labels that count the model's classes from 0, not counting a background class."""
    first = _class_offset(classes)
    return {str(position - first): position for position in range(first, len(classes))}


def _class_offset(classes: Sequence[str]) -> int:
    """How many outputs come before the first class that images have."""
    return int(list(classes[:1]) == [BACKGROUND])


def answer_chunk(
    chunk: Sequence[tuple[Sample, int]], predictor: Predictor, spec: InputSpec
) -> list[Answer | DataError]:
    """For each sample what the model says about it, or why it cannot be read."""
    loaded = [_load(sample, spec) for sample, _ in chunk]
    images = [image for image in loaded if not isinstance(image, DataError)]
    if not images:
        return [outcome for outcome in loaded if isinstance(outcome, DataError)]
    logits = predictor.logits(pad_batch(np.stack(images), predictor.batch))
    rows = iter(logits)
    return [
        image if isinstance(image, DataError) else answer_of(sample.key, target, next(rows))
        for image, (sample, target) in zip(loaded, chunk, strict=True)
    ]


def pad_batch(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Repeat the last image up to ``size``: a model may accept no other batch."""
    missing = size - len(images)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def _load(sample: Sample, spec: InputSpec) -> NDArray[np.float32] | DataError:
    try:
        return prepare(sample.read(), sample.key, spec)
    except DataError as error:
        return error


def answer_of(key: str, target: int, logits: NDArray[np.float32]) -> Answer:
    """Rank of the right class, and the most probable ones with their softmax."""
    rank = rank_of(target, logits, key)
    top = np.argsort(-logits, kind="stable")[:TOP]
    exponentials = np.exp(logits - logits.max(), dtype=np.float64)
    shares = exponentials[top] / exponentials.sum()
    return Answer(key, target, rank, tuple(top.tolist()), tuple(shares.tolist()))


def rank_of(target: int, logits: NDArray[np.float32], key: str) -> int:
    """How many classes come before ``target`` by falling logit; ties in order of index.

    Raises:
        CheckError: a logit is NaN, which has no order.
    """
    if np.isnan(logits).any():
        raise CheckError(f"the model's output for {key} is NaN", "Train or import the model again")
    before = (logits > logits[target]).sum() + (logits[:target] == logits[target]).sum()
    return int(before)


def share(correct: int, total: int) -> Metric:
    """Percentage with its 95 % Wilson score interval (E. B. Wilson, JASA 22, 1927, p. 209).

    With ``p = correct / total``: centre ``(p + z^2 / 2n) / (1 + z^2 / n)``, half width
    ``z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)``.
    """
    p, n = correct / total, total
    scale = 1 + Z_95**2 / n
    centre = (p + Z_95**2 / (2 * n)) / scale
    half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2)) / scale
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Metric(value=100 * p, low=100 * low, high=100 * high)


def preprocessing(facts: Facts) -> dict[str, str | int | float | tuple[float, ...]]:
    """What was done to the images, for the record."""
    spec = facts.input
    return {
        "decoder": f"Pillow {PIL.__version__}",
        "resize": spec.resize,
        "crop": spec.resolution,
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
        "channels": spec.channels,
        "class_offset": _class_offset(facts.classes),
    }


def evaluate_into(
    run: Run, artifact: Artifact, config: EvaluateConfig, progress: Progress = silent
) -> EvaluationRecord:
    """Evaluate, and keep the record and the answers in the run's folder.

    Raises:
        MobilenetError: as ``evaluate``, or StorageError: the folder cannot be written to.
    """
    answers: list[Answer] = []
    record = evaluate(artifact, config, progress, answers)
    source = config.data or artifact.facts.data
    assert source is not None  # evaluate would have raised
    merge_predictions(run.predictions, predictions_of(record, source, answers))
    merge_records(run.evaluation, [record])
    return record


def predictions_of(
    record: EvaluationRecord, source: str, answers: Sequence[Answer]
) -> PredictionsRecord:
    """The answers in columns."""
    return PredictionsRecord(
        model=record.model,
        sha256=record.sha256,
        data=record.data,
        source=source,
        data_fingerprint=record.data_fingerprint,
        provider=record.provider,
        keys=tuple(a.key for a in answers),
        targets=tuple(a.target for a in answers),
        ranks=tuple(a.rank for a in answers),
        top=tuple(a.top for a in answers),
        probabilities=tuple(tuple(round(p, 4) for p in a.probabilities) for a in answers),
    )


def load_predictions(path: Path) -> list[PredictionsRecord]:
    """The records of a file that ``merge_predictions`` wrote; none if there is no such file.

    Raises:
        StorageError: the file is something else.
    """
    try:
        return PREDICTIONS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} is not a list of prediction records", "Move the file away and evaluate again"
        ) from error


def merge_predictions(path: Path, record: PredictionsRecord) -> None:
    """Add a record to a file; it replaces an earlier one of the same model, data and provider."""

    def key(record: PredictionsRecord) -> tuple[str, str, str]:
        return Path(record.model).name, record.data, record.provider

    merged = {key(record): record for record in (*load_predictions(path), record)}
    write_atomically(path, PREDICTIONS.dump_json(list(merged.values())) + b"\n")


def load_records(path: Path) -> list[EvaluationRecord]:
    """The records of a file that ``merge_records`` wrote; none if there is no such file.

    Raises:
        StorageError: the file is something else.
    """
    try:
        return RECORDS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} is not a list of evaluation records", "Move the file away"
        ) from error


def merge_records(path: Path, records: Sequence[EvaluationRecord]) -> None:
    """Add records to a file; each replaces an earlier one of the same model, data and provider."""

    def key(record: EvaluationRecord) -> tuple[str, str, str]:
        return Path(record.model).name, record.data, record.provider

    merged = {key(record): record for record in (*load_records(path), *records)}
    write_atomically(path, RECORDS.dump_json(list(merged.values()), indent=2) + b"\n")
