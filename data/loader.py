"""Images are decoded ahead, in threads: Pillow and NumPy let go of the interpreter's lock."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from threading import get_ident
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
    """A batch has prepared images, and says which samples they are.

    Attributes:
        images: float32 [n, 3, resolution, resolution].
        indices: position of each image's sample in the sequence given to ``batches``.
    """

    images: NDArray[np.float32]
    indices: tuple[int, ...]


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int
) -> Generator[R, None, None]:
    """Yield ``map(function, items)``, computed in threads at most ``ahead`` items ahead.

    Memory is bounded by ``ahead`` results. An exception of ``function`` is raised in its turn.
    """
    iterator = iter(items)
    waiting: deque[Future[R]] = deque()
    own: set[int] = set()
    pool = ThreadPoolExecutor(workers, initializer=lambda: own.add(get_ident()))
    try:
        waiting.extend(pool.submit(function, item) for item in islice(iterator, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(iterator, 1))
            yield result
    finally:
        # Garbage may be collected in any thread: one of the pool's cannot wait for itself.
        pool.shutdown(wait=get_ident() not in own, cancel_futures=True)


def usable_threads() -> int:
    """Count the CPUs that this process may use, each of which is worth a thread that decodes."""
    return len(os.sched_getaffinity(0))


def collect_readable(
    results: Iterable[R | DataError], samples: Sequence[Sample], on_bad: OnBad | None
) -> tuple[list[R], list[int]]:
    """Separate what was read from what could not be.

    Args:
        results: what reading each sample gave: a value, or why it cannot be read.
        samples: the samples, in the same order.
        on_bad: is told of each sample that cannot be read.

    Returns:
        The values, and the positions of their samples.

    Raises:
        DataError: a sample cannot be read and ``on_bad`` is None.
    """
    values: list[R] = []
    positions: list[int] = []
    for position, result in enumerate(results):
        if not isinstance(result, DataError):
            values.append(result)
            positions.append(position)
        elif on_bad is None:
            raise result
        else:
            on_bad(samples[position], result)
    return values, positions


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
        workers: the number of threads; None takes every CPU this process may use.
        on_bad: is told of an image that cannot be read, which is then left out.

    Raises:
        DataError: an image cannot be read and ``on_bad`` is None.
    """
    workers = workers or usable_threads()

    def load(sample: Sample) -> NDArray[np.float32] | DataError:
        try:
            return prepare(sample.read(), sample.key, spec)
        except DataError as error:
            return error

    # It is closed here: in an end that garbage collection brings, Ctrl-C would be lost.
    with closing(ordered_map(load, samples, workers, ahead=2 * size + workers)) as loaded:
        for start in range(0, len(samples), size):
            chosen = samples[start : start + size]
            images, places = collect_readable(islice(loaded, size), chosen, on_bad)
            if images:
                yield Batch(np.stack(images), tuple(start + place for place in places))
