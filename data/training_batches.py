"""Batches to train on are planned, and decoded ahead of their step.

Decoding is in threads: simplejpeg, Pillow and torch release the interpreter's lock, so that two
threads are faster than two processes, which must copy each batch (docs/training-data.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.crop import DRAWS, Crop, mirrored
from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.epoch_order import epoch_order
from mobilenet_cli.data.loader import OnBad, collect_readable, ordered_map, usable_threads
from mobilenet_cli.pipeline.errors import DataError, OptionError, counted


@dataclass(frozen=True)
class TrainBatch:
    """A batch is what one process trains on in one step.

    Attributes:
        pixels: uint8 [n, side, side, 3], RGB; the views of an image lie side by side.
        labels: int64 [n], the index of each image's class.
        indices: int64 [n], the position of each image among the samples.
        step: the step within the epoch, from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    step: int


@dataclass(frozen=True)
class RankShard:
    """A shard is the part of each batch that one of several processes trains on.

    Attributes:
        rank: the process's number, from 0.
        world: the number of processes; each takes every ``world``-th image.
    """

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class CachedCrops:
    """Crops that are the same in every epoch are made once and kept in memory.

    Attributes:
        capacity: the largest number of crops to keep.
        crops: uint8 [side, side, 3] by the position of their sample.
        lock: several threads decode images, and two of them must not take the last place.
    """

    capacity: int
    crops: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, index: int, crop: NDArray[np.uint8]) -> None:
        """Keep a copy, without the image around it, while there is room."""
        if len(self.crops) >= self.capacity:
            return
        kept = crop.copy()
        with self.lock:
            if len(self.crops) < self.capacity:
                self.crops[index] = kept


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """These are the images of a training, and what becomes of each in every epoch.

    Attributes:
        samples: the images.
        labels: int64 [samples], as ``class_indices`` gives them.
        crop: makes a square of an image; ``RandomCrop`` or ``CentreCrop``.
        mirror: reflects every other image, and every other view of an image.
        views: how many times a step takes each image.
        cache: crops that are kept for later epochs; only for a crop that is always the same.
    """

    samples: Sequence[Sample]
    labels: NDArray[np.int64]
    crop: Crop
    mirror: bool = False
    views: int = 1
    cache: CachedCrops = CachedCrops(0)

    def load(self, index: int, draws: NDArray[np.float64]) -> list[NDArray[np.uint8]] | DataError:
        """Read the views of one image, uint8 [side, side, 3] each; or return why it cannot be read.

        Args:
            index: the image's position among the samples.
            draws: ``1 + DRAWS`` random numbers, 0..1: one for the reflection, others for the crop.
        """
        crop = self.cache.crops.get(index)
        if crop is None:
            sample = self.samples[index]
            try:
                crop = self.crop(sample.read(), sample.key, draws[1:])
            except DataError as error:
                return error
            self.cache.add(index, crop)
        reflected = draws[0] < 0.5
        return [
            mirrored(crop) if self.mirror and reflected != view % 2 else crop
            for view in range(self.views)
        ]


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """A plan says which images each step of an epoch takes, and with which random numbers.

    Both follow from ``seed``, ``epoch``, the step and the place in the batch: never from threads,
    from the number of processes, or from where the training was interrupted. What does not fill a
    batch is left to another epoch's order.

    Attributes:
        samples: the images of the training.
        batch: the number of images in a step, of all processes together.
        seed: the seed of the training.
        epoch: the epoch, from 0.
        first_step: the step to begin with.
        shard: the part of each batch that this process takes.

    Raises:
        OptionError: a batch cannot be divided among the processes.
    """

    samples: Sequence[Sample]
    batch: int
    seed: int
    epoch: int
    first_step: int = 0
    shard: RankShard = RankShard()

    def __post_init__(self) -> None:
        world = self.shard.world
        if self.batch < 1 or self.batch % world:
            raise OptionError(
                f"batches of {self.batch} images cannot be divided among {world} processes",
                f"Choose a multiple of {world}",
            )

    @property
    def images_per_step(self) -> int:
        """Return the number of images that this process takes in a full step."""
        return self.batch // self.shard.world

    @cached_property
    def steps(self) -> dict[int, NDArray[np.int64]]:
        """Return the positions of the images [n] that this process takes, by step."""
        order = epoch_order(self.samples, self.seed, self.epoch)
        rank, world = self.shard.rank, self.shard.world
        return {
            step: order[step * self.batch : (step + 1) * self.batch][rank::world]
            for step in range(self.first_step, steps_per_epoch(len(self.samples), self.batch))
        }

    def tasks(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the position of each image in turn, and its ``1 + DRAWS`` random numbers."""
        rank, world = self.shard.rank, self.shard.world
        for step, indices in self.steps.items():
            generator = np.random.default_rng([self.seed, self.epoch, step])
            mine = generator.random((self.batch, 1 + DRAWS))[rank::world]
            yield from zip(indices.tolist(), mine[: len(indices)], strict=True)


def class_indices(dataset: Dataset, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the position of each sample's label among the classes: int64 [samples].

    Raises:
        DataError: a label is none of the classes, or there are fewer than two classes.
    """
    if len(classes) < 2:
        raise DataError(
            f"{dataset.name} has only {counted(len(classes), 'class', 'classes')}",
            "A classifier needs at least two; put each class's images in a folder of its own",
        )
    position = {name: index for index, name in enumerate(classes)}
    unknown = [sample for sample in dataset.samples if sample.label not in position]
    if unknown:
        label = unknown[0].label
        what = "no label" if label is None else f"the label '{label}', which is none of the classes"
        share = f"{len(unknown)} of {counted(len(dataset.samples), 'image')}"
        raise DataError(
            f"{unknown[0].key} of {dataset.name} has {what} ({classes[0]}, ..., {classes[-1]}); "
            f"this concerns {share}",
            "Correct the labels, or leave these images out",
        )
    labels = (position[sample.label] for sample in dataset.samples if sample.label is not None)
    return np.fromiter(labels, np.int64, len(dataset.samples))


def steps_per_epoch(count: int, batch: int) -> int:
    """Count the steps of an epoch over ``count`` images: full batches, or one that is short."""
    return max(1, count // batch)


def training_batches(
    images: TrainingImages,
    plan: EpochPlan,
    workers: int | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[TrainBatch]:
    """Yield the batches of one epoch: decoded, cropped, in bytes.

    An image that cannot be read is reported, and the next one of the batch takes its place too,
    so that all batches have their size.

    Args:
        images: the images, and what becomes of them.
        plan: which of them each step takes.
        workers: the number of threads; None takes every CPU this process may use.
        on_bad: is told of each image that cannot be read.

    Raises:
        DataError: an image cannot be read and ``on_bad`` is None, or none of a batch can.
    """
    workers = workers or usable_threads()
    loaded = ordered_map(
        lambda task: images.load(*task),
        plan.tasks(),
        workers,
        ahead=2 * plan.images_per_step + workers,
    )
    for step, indices in plan.steps.items():
        samples = [images.samples[index] for index in indices]
        readable, places = collect_readable(islice(loaded, len(indices)), samples, on_bad)
        if not readable:
            raise DataError(
                f"none of the {len(indices)} images of a batch can be read, such as "
                f"{samples[0].key}",
                "Check that the files are images",
            )
        # The readable image at or after each place, the last one where none follows.
        taken = np.searchsorted(places, np.arange(len(indices))).clip(max=len(places) - 1)
        used = indices[np.array(places)[taken]].repeat(images.views)
        pixels = np.stack([view for place in taken for view in readable[place]])
        yield TrainBatch(pixels, images.labels[used], used, step)
