"""Batches to train on: which images a step takes, decoded ahead of it.

Decoding is in threads: simplejpeg, Pillow and torch release the interpreter's lock, so that two
threads are faster than two processes, which must copy each batch (docs/training-data.md).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.crop import DRAWS, Cut, mirrored
from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.epoch_order import epoch_order
from mobilenet_cli.data.loader import OnBad, ordered_map
from mobilenet_cli.pipeline.errors import DataError, OptionError


@dataclass(frozen=True)
class TrainBatch:
    """What one process trains on in one step.

    Attributes:
        pixels: uint8 [n, side, side, 3]; the views of an image lie side by side.
        labels: int64 [n], the index of each one's class.
        indices: int64 [n], which samples they are.
        step: within the epoch, from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    step: int


@dataclass(frozen=True)
class Share:
    """Which process of several this is.

    Attributes:
        rank: from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1


def class_indices(dataset: Dataset, classes: Sequence[str]) -> NDArray[np.int64]:
    """The position of each sample's label among the classes: int64 [samples].

    Raises:
        DataError: a label is none of the classes, or there are fewer than two classes.
    """
    if len(classes) < 2:
        raise DataError(
            f"{dataset.name} has only {len(classes)} class",
            "A classifier needs at least two; put each class's images in a folder of its own",
        )
    position = {name: index for index, name in enumerate(classes)}
    unknown = [sample for sample in dataset.samples if sample.label not in position]
    if unknown:
        label = unknown[0].label
        what = "no label" if label is None else f"the label '{label}', which is none of the classes"
        raise DataError(
            f"{len(unknown)} of the {len(dataset.samples)} images of {dataset.name} have {what} "
            f"({classes[0]}, ..., {classes[-1]}), such as {unknown[0].key}",
            "Correct the labels, or leave these images out",
        )
    labels = (position[sample.label] for sample in dataset.samples if sample.label is not None)
    return np.fromiter(labels, np.int64, len(dataset.samples))


def steps_of(count: int, size: int) -> int:
    """Steps of an epoch: full batches, or one that is short."""
    return max(1, count // size)


@dataclass(frozen=True)
class Squares:
    """Squares that are the same in every epoch, and need to be cut only once.

    Attributes:
        most: how many to keep.
        kept: by the index of their sample.
    """

    most: int
    kept: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def keep(self, index: int, square: NDArray[np.uint8]) -> None:
        """Keep a copy, without the image around it, unless enough are kept."""
        if len(self.kept) < self.most:
            self.kept[index] = square.copy()


def training_batches(
    samples: Sequence[Sample],
    labels: NDArray[np.int64],
    cut: Cut,
    size: int,
    *,
    mirror: bool = False,
    views: int = 1,
    squares: Squares = Squares(0),
    seed: int,
    epoch: int,
    first_step: int = 0,
    share: Share = Share(),
    workers: int | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[TrainBatch]:
    """The batches of one epoch, from a step on: decoded, cropped, in bytes.

    Which images a step takes, and every random number, follow from ``seed``, ``epoch``, the step
    and the place in the batch: never from threads, from the number of processes, or from where
    the run was interrupted. What does not fill a batch is left to another epoch's order.

    An image that cannot be read is reported, and the next one of the batch takes its place too,
    so that all batches have their size.

    Args:
        samples: the images.
        labels: int64 [samples], as ``class_indices`` gives them.
        cut: makes the square; ``RandomCrop`` or ``CentreCrop``.
        size: images in a step, of all processes together.
        mirror: reflect every other image, and every other view of an image.
        views: how many times a step takes each image.
        squares: takes some from here, and keeps others for later epochs, where ``cut`` always
            cuts the same.
        seed: of the run.
        epoch: from 0.
        first_step: where to begin.
        share: this process takes every ``world``-th image of each step.
        workers: threads; None takes every CPU this process may use.
        on_bad: told of each image that cannot be read.

    Raises:
        DataError: an image cannot be read and ``on_bad`` is None, or none of a batch can.
        OptionError: a batch cannot be divided among the processes.
    """
    if size < 1 or size % share.world:
        raise OptionError(
            f"batches of {size} images cannot be divided among {share.world} processes",
            f"Choose a multiple of {share.world}",
        )
    workers = workers or len(os.sched_getaffinity(0))
    order = epoch_order(samples, seed, epoch)
    steps = range(first_step, steps_of(len(samples), size))
    chosen = [order[step * size : (step + 1) * size][share.rank :: share.world] for step in steps]

    def tasks() -> Iterator[tuple[int, NDArray[np.float64]]]:
        for step, indices in zip(steps, chosen, strict=True):
            draws = np.random.default_rng([seed, epoch, step]).random((size, 1 + DRAWS))
            mine = draws[share.rank :: share.world]
            yield from zip(indices.tolist(), mine[: len(indices)], strict=True)

    def load(task: tuple[int, NDArray[np.float64]]) -> list[NDArray[np.uint8]] | DataError:
        index, numbers = task
        square = squares.kept.get(index)
        if square is None:
            sample = samples[index]
            try:
                square = cut(sample.read(), sample.key, numbers[1:])
            except DataError as error:
                return error
            squares.keep(index, square)
        turned = numbers[0] < 0.5
        return [
            mirrored(square) if mirror and turned != view % 2 else square for view in range(views)
        ]

    loaded = ordered_map(load, tasks(), workers, ahead=2 * (size // share.world) + workers)
    for step, indices in zip(steps, chosen, strict=True):
        results = list(islice(loaded, len(indices)))
        readable: list[list[NDArray[np.uint8]]] = []
        places: list[int] = []
        for place, result in enumerate(results):
            if not isinstance(result, DataError):
                readable.append(result)
                places.append(place)
            elif on_bad is None:
                raise result
            else:
                on_bad(samples[indices[place]], result)
        if not readable:
            raise DataError(
                f"none of the {len(indices)} images of a batch can be read, such as "
                f"{samples[indices[0]].key}",
                "Check that the files are images",
            )
        # The readable image at or after each place, the last one where none follows.
        taken = np.searchsorted(places, np.arange(len(indices))).clip(max=len(places) - 1)
        used = indices[np.array(places)[taken]].repeat(views)
        pixels = np.stack([view for place in taken for view in readable[place]])
        yield TrainBatch(pixels, labels[used], used, step)
