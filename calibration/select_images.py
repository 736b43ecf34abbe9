"""Images to calibrate on are chosen by a seed, as many of each class as possible."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mobilenet_cli.pipeline.errors import DataError, OptionError


def select(labels: Sequence[str | None], count: int, seed: int) -> list[int]:
    """Return positions of ``count`` samples, or all if there are fewer, in ascending order.

    Classes take turns: every class gives its n-th image before any gives its (n + 1)-th, and the
    images and the order of the classes within a turn are drawn with the seed.

    Args:
        labels: class of each sample; None for all in a folder without classes.
        count: how many to choose.
        seed: of the drawing.

    Raises:
        OptionError: ``count`` is not positive.
        DataError: there is nothing to choose from.
    """
    if count < 1:
        raise OptionError(
            f"cannot calibrate on {count} images", "Pass --calib-count 1 or more; 256 is usual"
        )
    if not labels:
        raise DataError("there are no calibration images", "Pass --calib-dir a folder with images")
    generator = np.random.default_rng(seed)
    turns: defaultdict[str | None, int] = defaultdict(int)
    keyed = []
    for position in generator.permutation(len(labels)):
        label = labels[position]
        keyed.append((turns[label], int(position)))
        turns[label] += 1
    # The permutation already shuffled classes within a turn; a stable sort keeps that order.
    keyed.sort(key=lambda item: item[0])
    return sorted(position for _, position in keyed[:count])
