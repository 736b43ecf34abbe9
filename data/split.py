"""One set of samples is divided into a training and a held-out part."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mobilenet_cli.data.dataset import Sample

Split = Literal["train", "val", "all"]
HELD_OUT = 0.2  # of every class


def stratified(samples: Sequence[Sample], split: Split, seed: int) -> list[Sample]:
    """Return the samples of one split, in their given order.

    A fifth of every class, rounded, is held out for ``val``: the first of a seeded permutation.
    A class of two images or more has at least one on either side.
    """
    if split == "all":
        return list(samples)
    by_class: dict[str | None, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        by_class[sample.label].append(index)
    generator = np.random.default_rng(seed)
    held_out: set[int] = set()
    for indices in by_class.values():
        count = round(len(indices) * HELD_OUT)
        if len(indices) > 1:
            count = max(1, count)
        held_out.update(int(i) for i in generator.permutation(indices)[:count])
    return [s for i, s in enumerate(samples) if (i in held_out) == (split == "val")]
