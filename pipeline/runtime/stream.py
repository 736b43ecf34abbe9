"""Images stream through a model: each thread decodes a batch, runs it, and takes the next.

With one thread a CPU, and one CPU a call of the model, nothing waits: decoding and inference share
the CPUs in the proportion of their costs. At most a few batches a thread are in memory.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.loader import ordered_map
from mobilenet_cli.data.preprocess import InputSpec, Pixels, Square, normalize, square_of_file
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.predictor import Predictor

T = TypeVar("T")
R = TypeVar("R")
Size = tuple[int, int]  # width and height


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """An outcome is what became of one image.

    Attributes:
        sample: the image; None of what a damaged file no longer gives.
        sha256: hexadecimal SHA-256 of the encoded bytes; empty where they cannot be read.
        answer: what was made of the model's output, or why there is none.
    """

    sample: Sample | None
    sha256: str
    answer: R | DataError


@dataclass(frozen=True, slots=True)
class Answers(Generic[R]):
    """These are the outcomes of one batch, and what it took.

    Attributes:
        outcomes: one for each image, in their order.
        decoding: seconds of reading, decoding and scaling.
        inference: seconds in the model.
    """

    outcomes: list[Outcome[R]]
    decoding: float
    inference: float


@dataclass(frozen=True)
class Stream(Generic[R]):
    """A stream answers images.

    Attributes:
        predictor: what runs the model.
        spec: how images are prepared.
        finish: makes an answer of an image, its output and its size, in the thread that ran the
            model; an image whose output it refuses with a DataError gets that for an answer.
        square: cuts the square out of a file's bytes as ``data.preprocess.square_of_file`` does.
    """

    predictor: Predictor
    spec: InputSpec
    finish: Callable[[Sample, NDArray[np.float32], Size], R]
    square: Callable[[bytes, str, InputSpec], Square] = square_of_file

    def answers(
        self, batches: Iterable[Sequence[Sample | DataError]], workers: int | None = None
    ) -> Iterator[Answers[R]]:
        """Answer batches in their order, in threads; None is one for each CPU there is to use."""
        workers = workers or usable_cpus()
        return ordered_map(self.answer, batches, workers, 2 * workers)

    def answer(self, batch: Sequence[Sample | DataError]) -> Answers[R]:
        """Answer one batch, on one CPU."""
        started = time.perf_counter()
        loaded = [self._load(found) for found in batch]
        images = [square.pixels for _, square in loaded if not isinstance(square, DataError)]
        decoded = time.perf_counter()
        rows: Iterator[NDArray[np.float32]] = iter(())
        if images:
            stacked = np.concatenate([image[None] for image in images])
            rows = iter(self.predictor.logits(self._padded(stacked)))
        finished = time.perf_counter()
        outcomes = [
            self._outcome(found, sha256, square, rows)
            for found, (sha256, square) in zip(batch, loaded, strict=True)
        ]
        return Answers(outcomes, decoded - started, finished - decoded)

    def _load(self, found: Sample | DataError) -> tuple[str, Square | DataError]:
        sha256 = ""
        try:
            if isinstance(found, DataError):
                raise found
            encoded = found.read()
            sha256 = hashlib.sha256(encoded).hexdigest()
            square = self.square(encoded, found.key, self.spec)
            if not self.predictor.takes_pixels:
                square = replace(square, pixels=normalize(square.pixels, self.spec))
            return sha256, square
        except DataError as error:
            return sha256, error

    def _padded(self, images: Pixels) -> Pixels:
        """Repeat the last image where the model takes whole batches only."""
        missing = self.predictor.batch - len(images) if self.predictor.whole_batches else 0
        if not missing:
            return images
        return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])

    def _outcome(
        self,
        found: Sample | DataError,
        sha256: str,
        square: Square | DataError,
        rows: Iterator[NDArray[np.float32]],
    ) -> Outcome[R]:
        if isinstance(found, DataError):
            return Outcome(None, sha256, found)
        if isinstance(square, DataError):
            return Outcome(found, sha256, square)
        try:
            return Outcome(found, sha256, self.finish(found, next(rows), square.size))
        except DataError as error:
            return Outcome(found, sha256, error)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last of which may be shorter; lazily."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
