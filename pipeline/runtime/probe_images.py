"""A stage proves its result on probe images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import normalize
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.runtime.task_images import task_images

NOISE = "seeded noise"


def probe_images(facts: Facts, data: str | None, count: int) -> tuple[NDArray[np.float32], str]:
    """Return prepared images [count, C, R, R], and where they come from.

    They are real images of ``data``, or else of the set the model was trained on. Where neither
    is known they are seeded noise, and the second value says so.

    Raises:
        DataError: the data set cannot be read.
    """
    source = data or facts.data
    if source is None:
        side = facts.input.resolution
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        return normalize(pixels, facts.input), NOISE
    chosen = spread_samples(facts, source, count)
    images = np.concatenate([b.images for b in batches(chosen, facts.input, count)])
    return images, source


def spread_samples(facts: Facts, source: str, count: int) -> Sequence[Sample]:
    """Return at most ``count`` samples of a data set, spread over its classes.

    Raises:
        DataError: the data set cannot be read.
    """
    samples = task_images(facts, source, "all").samples
    step = max(1, len(samples) // count)  # the classes come in order
    return samples[::step][:count]
