"""One set of samples is divided into a training and a held-out part."""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample

Split = Literal["train", "val", "all"]
HELD_OUT = 0.2  # of every class
# What people call folders, lists and files of a split; of several that are there, the first counts.
TRAINING_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "validation", "valid", "test", "testing")
MAYBE_UNLABELLED = HELD_OUT_NAMES[-2:]
SPLIT_NAMES = (*TRAINING_NAMES, *HELD_OUT_NAMES)


def stratified(samples: Sequence[Sample], split: Split) -> Sequence[Sample]:
    """Return the samples of one split, in their given order.

    A fifth of every class, rounded, is held out for ``val``: the first of a permutation,
    always the same one.
    A class of two images or more has at least one on either side.
    """
    if split == "all":
        return samples
    by_class: dict[str | None, array[int]] = defaultdict(lambda: array("q"))
    for index, sample in enumerate(samples):
        by_class[sample.label].append(index)
    generator = np.random.default_rng(0)
    held_out = np.zeros(len(samples), bool)
    for indices in by_class.values():
        count = round(len(indices) * HELD_OUT)
        if len(indices) > 1:
            count = max(1, count)
        held_out[generator.permutation(np.array(indices))[:count]] = True
    return Chosen(samples, np.flatnonzero(held_out == (split == "val")))


class Chosen(Sequence[Sample]):
    """These are some of the samples of a sequence, in the order of their places there."""

    def __init__(self, samples: Sequence[Sample], places: NDArray[np.int64]) -> None:
        self._samples, self._places = samples, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Chosen": ...
    def __getitem__(self, index: int | slice) -> "Sample | Chosen":
        if isinstance(index, slice):
            return Chosen(self._samples, self._places[index])
        return self._samples[int(self._places[index])]
