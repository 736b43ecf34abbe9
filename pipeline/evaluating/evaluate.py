"""Any artifact's top-1 and top-5 accuracy is measured here, on images as people have them."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.runs import Run, run_of
from mobilenet_cli.pipeline.errors import DataError, NotFiniteError
from mobilenet_cli.pipeline.evaluating.answers import Answer, keeping_answers
from mobilenet_cli.pipeline.evaluating.labels import (
    class_offset,
    evaluation_set,
    label_indices,
    relabelled,
)
from mobilenet_cli.pipeline.evaluating.records import evaluations_of
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.runtime.cluster import SentModel, on_cluster
from mobilenet_cli.pipeline.runtime.predictor import (
    Predictor,
    open_predictor,
    refuse_not_finite,
    top_classes,
)
from mobilenet_cli.pipeline.runtime.proving.probe_images import none_readable
from mobilenet_cli.pipeline.runtime.session import CPU
from mobilenet_cli.pipeline.runtime.stream import Size, Stream, batched
from mobilenet_cli.reports.accuracy_statistics import wilson_interval
from mobilenet_cli.reports.records.accuracy import EvaluationRecord

Answered = tuple[str, Answer | DataError]  # an image's name, and what the model says
RUN = 1000  # images that an actor of a cluster evaluates at a time
SHIFTED = 5  # labels that must seem to be off by one
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
        cluster: the address of a Ray cluster that does it, or ``auto``.
    """

    data: str | None = None
    provider: str = CPU
    strict: bool = False
    workers: int | None = None
    class_map: Path | None = None
    cluster: str | None = None


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
        NotFiniteError: the model's output is NaN or infinite.
    """
    facts, given = artifact.facts, evaluation_set(artifact, config.data)
    dataset = relabelled(given, config.class_map, facts)
    targets = targets_by_label(given, dataset, artifact)
    off: dict[int, Counter[int]] = {-1: Counter(), 1: Counter()}
    images = top1 = top5 = 0  # counted as they come, so that memory does not grow with the set
    bad = [error.what for error in dataset.lost]
    first: DataError | None = None
    if config.strict and dataset.lost:
        raise dataset.lost[0]
    with answering(artifact, config, given, targets) as (provider, answered):
        started = time.perf_counter()
        for key, answer in answered:
            if not isinstance(answer, DataError):
                images += 1
                top1 += answer.rank < 1
                top5 += answer.rank < 5
                if (by := answer.top[0] - answer.target) in off:
                    off[by][answer.target] += 1
                keep(answer)
            elif config.strict or isinstance(answer, NotFiniteError):
                raise answer
            else:
                bad.append(key)
                first = first or answer
            done = images + len(bad) - len(dataset.lost)
            progress(done, len(dataset.samples), f"{len(bad)} unreadable" if bad else "")
    seconds = time.perf_counter() - started
    if not images:
        raise none_readable(dataset.name, len(bad), first or dataset.lost[0])
    return EvaluationRecord(
        model=str(artifact.path),
        sha256=artifact.sha256,
        stage=facts.stage,
        data=dataset.name,
        data_fingerprint=given.fingerprint,
        provider=provider,
        images=images,
        bad_images=tuple(bad),
        top1=wilson_interval(top1, images),
        top5=wilson_interval(top5, images),
        top1_correct=top1,
        top5_correct=top5,
        images_per_second=len(dataset.samples) / seconds,
        seconds=seconds,
        preprocessing=preprocessing(facts),
        label_shift=label_shift(off, top1, images),
    )


def targets_by_label(given: Dataset, dataset: Dataset, artifact: Artifact) -> dict[str, int]:
    """Return the output index of each label as it was given, before classes got other names."""
    targets = label_indices(dataset, artifact)
    if given is dataset:
        return targets
    pairs = zip(given.samples, dataset.samples, strict=True)
    return {str(before.label): targets[str(after.label)] for before, after in pairs}


@contextmanager
def answering(
    artifact: Artifact, config: EvaluateConfig, dataset: Dataset, targets: Mapping[str, int]
) -> Iterator[tuple[str, Iterator[Answered]]]:
    """Load the model, here or on a cluster, to answer all images in their order.

    Yields:
        What runs the model, and each image's name with its answer, or why it cannot be read.
    """
    if config.cluster is not None:
        yield config.provider, answer_on_cluster(artifact, config, dataset, targets)
        return
    with open_predictor(artifact, config.provider) as predictor:
        answered = answers(predictor, artifact, targets, dataset.samples, config.workers)
        yield predictor.provider, answered


def answers(
    predictor: Predictor,
    artifact: Artifact,
    targets: Mapping[str, int],
    samples: Iterable[Sample],
    workers: int | None,
) -> Iterator[Answered]:
    """Yield what the model says about each image, or why it says nothing."""

    def finish(sample: Sample, logits: NDArray[np.float32], _size: Size) -> Answer:
        target = targets[str(sample.label)]
        refuse_not_finite(logits, sample.key)
        rank = rank_of(target, logits)
        top, probabilities = top_classes(logits, TOP, predictor.independent)
        return Answer(sample.key, target, rank, tuple(top), tuple(probabilities))

    stream = Stream(predictor, artifact.facts.input, finish)
    for found in stream.answers(batched(samples, predictor.batch), workers):
        for outcome in found.outcomes:
            assert outcome.sample is not None  # these are samples
            yield outcome.sample.key, outcome.answer


def answer_on_cluster(
    artifact: Artifact, config: EvaluateConfig, dataset: Dataset, targets: Mapping[str, int]
) -> Iterator[Answered]:
    """Yield the same from a Ray cluster, whose machines open the data set themselves.

    Raises:
        MobilenetError: whatever ``on_cluster`` raises, or a machine finds other images.
    """
    data, total = config.data or artifact.facts.data, len(dataset.samples)
    known = replace(config, data=data), dataset.fingerprint, dict(targets)
    make = partial(EvaluateWorker, SentModel.of(artifact), *known)
    ranges = [(first, min(first + RUN, total)) for first in range(0, total, RUN)]
    found = on_cluster(str(config.cluster), make, ranges, config.provider, ordered=True)
    return chain.from_iterable(found)


class EvaluateWorker:
    """A worker evaluates runs of a data set, in an actor of a cluster.

    Args:
        model: the model file.
        config: on which images, and how.
        fingerprint: the data set that the driver has found.
        targets: the output index of each label.
        cpus: threads.

    Raises:
        DataError: this machine finds another data set.
    """

    def __init__(
        self,
        model: SentModel,
        config: EvaluateConfig,
        fingerprint: str,
        targets: Mapping[str, int],
        cpus: int,
    ) -> None:
        self.targets, self.cpus = targets, cpus
        opened = ExitStack()  # until the process ends
        with model.on_disk() as self.artifact:
            self.predictor = opened.enter_context(open_predictor(self.artifact, config.provider))
        self.dataset = evaluation_set(self.artifact, config.data)
        if self.dataset.fingerprint != fingerprint:
            raise DataError(
                f"a machine of the cluster finds other images in {self.dataset.name}",
                "Put the same images on every machine, under the same path",
            )

    def __call__(self, run: tuple[int, int]) -> list[Answered]:
        """Evaluate a run of samples."""
        samples = self.dataset.samples[slice(*run)]
        return list(answers(self.predictor, self.artifact, self.targets, samples, self.cpus))


def rank_of(target: int, logits: NDArray[np.float32]) -> int:
    """Return how many classes come before ``target`` by falling logit; ties in order of index."""
    before = (logits > logits[target]).sum() + (logits[:target] == logits[target]).sum()
    return int(before)


def label_shift(off: Mapping[int, Counter[int]], right: int, images: int) -> int:
    """Tell by how much the labels seem to be off, by what the model says of most images.

    Args:
        off: how many images of each class the model calls the class before, -1, or after it, 1.
        right: how many it calls as their label does.
        images: how many there are.

    Returns:
        -1 or 1 where that class, for several labels, is the first of most images and the label's
        of few; else 0.
    """
    for by, found in off.items():
        if found.total() > max(images / 2, 3 * right) and len(found) >= SHIFTED:
            return by
    return 0


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
