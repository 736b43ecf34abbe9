"""Decoding ahead of the consumer, in threads: Pillow and NumPy let go of the interpreter lock."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.pipeline.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
OnBad = Callable[[Sample, DataError], None]


@dataclass(frozen=True)
class Batch:
    """Prepared images, and which samples they are.

    Attributes:
        images: float32 [n, 3, resolution, resolution].
        indices: position of each image's sample in the sequence given to ``batches``.
    """

    images: NDArray[np.float32]
    indices: tuple[int, ...]


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int
) -> Generator[R, None, None]:
    """``map(function, items)`` in threads, at most ``ahead`` items ahead of the consumer.

    Memory is bounded by ``ahead`` results. An exception of ``function`` is raised in its turn.
    """
    iterator = iter(items)
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(iterator, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(iterator, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def batches(
    samples: Sequence[Sample],
    spec: InputSpec,
    size: int,
    workers: int | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[Batch]:
    """Decode and prepare samples in their order, ``size`` at a time; the last batch may be short.

    Args:
        samples: the images to read.
        spec: how to prepare them.
        size: images in a batch; a bad image leaves its batch shorter, never the next one fuller.
        workers: threads; None takes every CPU this process may use.
        on_bad: told of an image that cannot be read, which is then left out.

    Raises:
        DataError: an image cannot be read and ``on_bad`` is None.
    """
    workers = workers or len(os.sched_getaffinity(0))

    def load(sample: Sample) -> NDArray[np.float32] | DataError:
        try:
            return prepare(sample.read(), sample.key, spec)
        except DataError as error:
            return error

    loaded = ordered_map(load, samples, workers, ahead=2 * size + workers)
    for start in range(0, len(samples), size):
        images: list[NDArray[np.float32]] = []
        indices: list[int] = []
        for index, result in enumerate(islice(loaded, size), start):
            if not isinstance(result, DataError):
                images.append(result)
                indices.append(index)
            elif on_bad is None:
                raise result
            else:
                on_bad(samples[index], result)
        if images:
            yield Batch(np.stack(images), tuple(indices))
