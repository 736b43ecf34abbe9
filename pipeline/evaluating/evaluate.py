"""Any artifact's top-1 and top-5 accuracy is measured here, on images as people have them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.runs import Run, run_of
from mobilenet_cli.pipeline.errors import (
    CheckError,
    DataError,
    counted,
)
from mobilenet_cli.pipeline.evaluating.answers import Answer, keeping_answers
from mobilenet_cli.pipeline.evaluating.labels import (
    class_offset,
    evaluation_set,
    label_indices,
    relabelled,
)
from mobilenet_cli.pipeline.evaluating.records import evaluations_of
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.runtime.predictor import open_predictor, top_classes
from mobilenet_cli.pipeline.runtime.session import CPU
from mobilenet_cli.pipeline.runtime.stream import Stream, batched
from mobilenet_cli.reports.accuracy_statistics import wilson_interval
from mobilenet_cli.reports.records.accuracy import EvaluationRecord

TOP = 3  # classes of each image that are kept for the report


@dataclass(frozen=True)
class EvaluateConfig:
    """These are the settings of ``evaluate``.

    Attributes:
        data: images with labels, as ``open_dataset`` takes them; None takes the held-out part of
            the training data.
        provider: an execution provider's full name; a checkpoint runs in torch on that device.
        strict: an unreadable image is an error, not a line in the record.
        workers: threads that decode and infer; None takes every CPU this process may use.
        class_map: a file that says which classes of the model the images' classes are.
    """

    data: str | None = None
    provider: str = CPU
    strict: bool = False
    workers: int | None = None
    class_map: Path | None = None


def evaluate(
    artifact: Artifact,
    config: EvaluateConfig,
    progress: Progress = silent,
    keep: Callable[[Answer], None] = lambda _: None,
) -> EvaluationRecord:
    """Count how often the right class is the model's first, and among its first five.

    Args:
        artifact: any model file.
        config: on which images, and how.
        progress: is told how many images are done.
        keep: takes what the model says about each readable image, in the order of the set.

    Raises:
        DataError: no data, labels that the model does not know, no readable image; or, if strict,
            the first unreadable one.
        ModelError: the model cannot be used.
        ProviderError: the provider cannot run it.
        CheckError: the model's output is NaN.
    """
    facts, given = artifact.facts, evaluation_set(artifact, config.data)
    dataset = relabelled(given, config.class_map, facts)
    targets = label_indices(dataset, facts.classes, artifact.path)
    images = top1 = top5 = 0  # counted as they come, so that memory does not grow with the set
    bad = [error.what for error in dataset.lost]
    if config.strict and dataset.lost:
        raise dataset.lost[0]
    with open_predictor(artifact, config.provider) as predictor:

        def finish(sample: Sample, logits: NDArray[np.float32]) -> Answer:
            return answer_of(sample.key, targets[str(sample.label)], logits, predictor.independent)

        started = time.perf_counter()
        stream = Stream(predictor, facts.input, finish)
        for found in stream.answers(batched(dataset.samples, predictor.batch), config.workers):
            for outcome in found.outcomes:
                if not isinstance(outcome.answer, DataError):
                    images += 1
                    top1 += outcome.answer.rank < 1
                    top5 += outcome.answer.rank < 5
                    keep(outcome.answer)
                elif config.strict:
                    raise outcome.answer
                elif outcome.sample is not None:
                    bad.append(outcome.sample.key)
            done = images + len(bad) - len(dataset.lost)
            progress(done, len(dataset.samples), f"{len(bad)} unreadable" if bad else "")
    seconds = time.perf_counter() - started
    if not images:
        raise DataError(
            f"no image of {dataset.name} can be read: {counted(len(bad), 'file')} tried, such as "
            f"{bad[0]}",
            "Check that the files are images",
        )
    return EvaluationRecord(
        model=str(artifact.path),
        sha256=artifact.sha256,
        stage=facts.stage,
        data=dataset.name,
        data_fingerprint=given.fingerprint,
        provider=predictor.provider,
        images=images,
        bad_images=tuple(bad),
        top1=wilson_interval(top1, images),
        top5=wilson_interval(top5, images),
        top1_correct=top1,
        top5_correct=top5,
        images_per_second=len(dataset.samples) / seconds,
        seconds=seconds,
        preprocessing=preprocessing(facts),
    )


def answer_of(
    key: str, target: int, logits: NDArray[np.float32], independent: bool = False
) -> Answer:
    """Return the rank of the right class, and the most probable classes as ``top_classes``."""
    rank = rank_of(target, logits, key)
    top, probabilities = top_classes(logits, TOP, independent)
    return Answer(key, target, rank, tuple(top), tuple(probabilities))


def rank_of(target: int, logits: NDArray[np.float32], key: str) -> int:
    """Return how many classes come before ``target`` by falling logit; ties in order of index.

    Raises:
        CheckError: a logit is NaN, which has no order.
    """
    if np.isnan(logits).any():
        raise CheckError(f"the model's output for {key} is NaN", "Train or import the model again")
    before = (logits > logits[target]).sum() + (logits[:target] == logits[target]).sum()
    return int(before)


def preprocessing(facts: Facts) -> dict[str, str | int | float | tuple[float, ...]]:
    """Return what was done to the images, for the record."""
    spec = facts.input
    return {
        "decoder": f"Pillow {PIL.__version__}",
        "resize": spec.resize,
        "crop": spec.resolution,
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
        "channels": spec.channels,
        "class_offset": class_offset(facts.classes),
    }


def evaluate_and_keep(
    artifact: Artifact, config: EvaluateConfig, run: Run | None, progress: Progress = silent
) -> EvaluationRecord:
    """Evaluate, and keep the record and the answers in a run's folder.

    Args:
        artifact: any model file.
        config: on which images, and how.
        run: the run; None takes the one in whose folder the model lies, if any.
        progress: is told how many images are done.

    Raises:
        MobilenetError: whatever ``evaluate`` raises, or the folder cannot be written to.
    """
    run = run or run_of(artifact.path)
    if run is None:
        return evaluate(artifact, config, progress)
    with keeping_answers(run, artifact.path) as keeper:
        record = evaluate(artifact, config, progress, keeper.add)
        source = config.data or artifact.facts.data
        assert source is not None  # evaluate would have raised
        keeper.finish(run, record, source)
    evaluations_of(run).merge(record)
    return record
