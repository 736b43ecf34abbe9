"""Calibration images are chosen, hashed, and checked against the evaluation set."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.integer_network import RECONSTRUCTION_IMAGES
from mobilenet_cli.calibration.select_images import select
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.runtime.proving.probe_images import none_readable
from mobilenet_cli.pipeline.runtime.proving.task_images import task_images
from mobilenet_cli.reports.records.quantization import CalibrationImage

BATCH = 8
# Float activations of so few images stay in the caches: ranges take 0.8 of the time, and 0.6 of the
# memory, that they take with BATCH. Where a session is short, more of them cost more.
RANGE_BATCH = 2
PIXELS = 224 * 224  # of the images that these numbers are meant for


def at_once(count: int, spec: InputSpec) -> int:
    """Return how many images to run at a time, so that memory does not grow with resolution."""
    return max(1, count * PIXELS // max(PIXELS, spec.resolution**2))


@dataclass(frozen=True)
class Calibration:
    """A calibration has the images that were chosen.

    Attributes:
        samples: readable ones, in the order of the data set.
        listed: their names and hashes.
        bad: names of unreadable ones, and what the set itself has lost, a sentence each.
        spec: how they are prepared.
    """

    samples: tuple[Sample, ...]
    listed: tuple[CalibrationImage, ...]
    bad: tuple[str, ...]
    spec: InputSpec

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    @property
    def held(self) -> list[Sample]:
        """List the images that rounding and biases are made on: from everywhere in the order."""
        few = min(RECONSTRUCTION_IMAGES, len(self.samples))
        return [self.samples[index * len(self.samples) // few] for index in range(few)]

    def first_batches(self, count: int) -> Iterator[NDArray[np.float32]]:
        """Return the first ``count`` of ``held``, prepared, ``BATCH`` at a time, or fewer."""
        for batch in batches(self.held[:count], self.spec, at_once(BATCH, self.spec)):
            yield batch.images

    def all_batches(self) -> Iterator[NDArray[np.float32]]:
        """Return all prepared images, ``RANGE_BATCH`` at a time; of large ones fewer."""
        for batch in batches(self.samples, self.spec, at_once(RANGE_BATCH, self.spec)):
            yield batch.images


def choose_images(source: Artifact, folder: str | None, count: int, seed: int) -> Calibration:
    """Select the calibration images, hash them, and set aside those that cannot be read.

    Args:
        source: the model to calibrate; says how images are prepared.
        folder: as ``open_dataset`` takes it; None takes the model's training images.
        count: how many images.
        seed: of the choice.

    Raises:
        DataError: there are no images, or none can be read.
        OptionError: ``count`` is not positive.
    """
    where = folder or source.facts.data
    if where is None:
        raise DataError(
            f"{source.path} does not say what it was trained on, so there are no images to "
            "calibrate with",
            "Pass --calib-dir a folder with a few hundred typical images",
        )
    dataset = task_images(source.facts, where, "train")
    samples = dataset.samples
    chosen = [samples[i] for i in select([s.label for s in samples], count, seed)]
    bad: list[tuple[str, DataError]] = []
    readable = [
        chosen[i]
        for batch in batches(
            *(chosen, source.facts.input, BATCH),
            on_bad=lambda sample, error: bad.append((sample.key, error)),
        )
        for i in batch.indices
    ]
    if not readable:
        raise none_readable(where, len(bad), bad[0][1])
    listed = tuple(
        CalibrationImage(key=s.key, sha256=hashlib.sha256(s.read()).hexdigest()) for s in readable
    )
    unread = (*(error.what for error in dataset.lost), *(key for key, _ in bad))
    return Calibration(tuple(readable), listed, unread, source.facts.input)


def leakage(source: Artifact, calibration: Calibration) -> tuple[tuple[str, ...], str | None]:
    """Find calibration images that are also in the evaluation set, by content."""
    where = source.facts.data
    if where is None:
        return (), None
    evaluation = task_images(source.facts, where, "val")
    known = set()
    for sample in evaluation.samples:
        with contextlib.suppress(DataError):  # evaluation will count it as bad
            known.add(hashlib.sha256(sample.read()).hexdigest())
    return tuple(i.key for i in calibration.listed if i.sha256 in known), evaluation.name
