"""Formats that keep many images in one file have files and splits in common."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.split import Split, stratified
from mobilenet_cli.pipeline.errors import DataError

WORD = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test)(?![a-z])", re.IGNORECASE)
HELD_OUT_WORDS = (("val", "valid", "validation"), ("test",))  # the first that is there


def shard_files(root: Path, name: re.Pattern[str]) -> list[Path]:
    """List the files of one format: ``root`` itself, or those in it or in its ``data/``."""

    def matching(paths: Iterable[Path]) -> list[Path]:
        return sorted(path for path in paths if name.fullmatch(path.name))

    if not root.is_dir():
        return matching([root])
    return matching(root.glob("*")) or matching(root.glob("data/*"))


def has_split_names(root: Path, name: re.Pattern[str]) -> bool:
    """Tell whether the files' names say which are for training and which are held out."""
    words = {_word(path) for path in shard_files(root, name)}
    return root.is_dir() and "train" in words and len(words) > 1


def read_shards(
    root: Path,
    name: re.Pattern[str],
    split: Split,
    seed: int,
    read: Callable[[Path], Iterable[Sample | DataError]],
) -> tuple[list[Sample], tuple[DataError, ...]]:
    """Read the samples of a split: of files named after it, or else as ``stratified`` divides.

    Args:
        root: a file or a folder of them.
        name: what the files of this format are called.
        split: which part.
        seed: of the division where the names make none.
        read: a file's samples, and an error in place of those that the file no longer has.

    Returns:
        The samples, and the errors.

    Raises:
        DataError: there are no images, or none for this split.
    """
    files, named = shard_files(root, name), has_split_names(root, name)
    if named and split != "all":
        files = [path for path in files if _word(path) in _words_of(files, split)]
        if not files:
            raise DataError(
                f"{root} has no file for '{split}'", f"Name it {split}-00000, for instance"
            )
    samples: list[Sample] = []
    lost: list[DataError] = []
    for path in files:
        for found in read(path):
            if isinstance(found, DataError):
                lost.append(found)
            else:
                samples.append(found)
    if not samples and lost:
        raise lost[0]
    if not samples:
        raise DataError(f"{root} contains no images", "Check that the files are whole")
    return samples if named else stratified(samples, split, seed), tuple(lost)


def numbered(
    name: str, samples: list[Sample], classes: tuple[str, ...], lost: tuple[DataError, ...]
) -> Dataset:
    """Return a data set whose classes are those listed, or else the labels that occur."""
    if not classes:
        labels = {sample.label for sample in samples if sample.label is not None}
        digits = all(label.isdigit() for label in labels)
        classes = tuple(sorted(labels, key=(lambda x: (int(x), x)) if digits else None))
    return Dataset(name, samples, classes, lost)


def _word(path: Path) -> str | None:
    found = WORD.search(path.name)
    word = found[1].lower() if found else None
    return "train" if word == "training" else word


def _words_of(files: list[Path], split: Split) -> tuple[str, ...]:
    if split == "train":
        return ("train",)
    present = {_word(path) for path in files}
    return next((words for words in HELD_OUT_WORDS if present & set(words)), ())
