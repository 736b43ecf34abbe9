"""A stage proves its result on probe images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import normalize
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.errors import DataError, counted
from mobilenet_cli.pipeline.runtime.proving.task_images import task_images

NOISE = "seeded noise"


def probe_images(facts: Facts, data: str | None, count: int) -> tuple[NDArray[np.float32], str]:
    """Return prepared images [count, C, R, R], and where they come from.

    They are real images of ``data``, or else of the set the model was trained on. Where neither
    is known they are seeded noise, and the second value says so. There are fewer where some cannot
    be read, which training, ``quantize`` and ``evaluate`` name.

    Raises:
        DataError: the data set cannot be read, or none of the images can.
    """
    source = data or facts.data
    if source is None:
        side = facts.input.resolution
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        return normalize(pixels, facts.input), NOISE
    chosen = spread_samples(facts, source, count)
    bad: list[DataError] = []
    read = batches(chosen, facts.input, count, on_bad=lambda _, error: bad.append(error))
    images = [batch.images for batch in read]
    if not images:
        raise none_readable(source, len(bad), bad[0])
    return np.concatenate(images), source


def decoded_images(
    facts: Facts, source: str, count: int
) -> tuple[list[NDArray[np.uint8]], tuple[str, ...]]:
    """Return images [rows, columns, 3] of any size, and why others cannot be read.

    Raises:
        DataError: the data set cannot be read, or none of the images can.
    """
    images: list[NDArray[np.uint8]] = []
    bad: list[DataError] = []
    for sample in spread_samples(facts, source, count):
        try:
            images.append(np.asarray(decode(sample.read(), sample.key)))
        except DataError as error:
            bad.append(error)
    if not images:
        raise none_readable(source, len(bad), bad[0])
    return images, tuple(error.what for error in bad)


def none_readable(source: str, tried: int, first: DataError) -> DataError:
    """Return the error for a data set of which every image that was tried is unreadable.

    Args:
        source: the data set.
        tried: how many images.
        first: why the first one is.
    """
    return DataError(
        f"no image of {source} can be read: {counted(tried, 'image')} tried, such as: {first.what}",
        first.fix,
    )


def spread_samples(facts: Facts, source: str, count: int) -> Sequence[Sample]:
    """Return at most ``count`` samples of a data set, spread over its classes.

    Raises:
        DataError: the data set cannot be read.
    """
    samples = task_images(facts, source, "all").samples
    step = max(1, len(samples) // count)  # the classes come in order
    return samples[::step][:count]
