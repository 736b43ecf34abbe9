"""Formats that keep many images in one file have files and splits in common."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.readers.files import refuse_same
from mobilenet_cli.data.readers.remote import is_local_copy
from mobilenet_cli.data.split import Split, stratified
from mobilenet_cli.pipeline.errors import DataError, counted, examples

SPLIT_WORDS = ("train", "training", "val", "valid", "validation", "test", "testing")
SHORT = {"training": "train", "testing": "test"}
NUMBERED = re.compile(r"(.*?)-(\d{3,7})-of-(\d{3,7})(?!\d)(.*)")  # train-00000-of-00064.tar
WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_WORDS)})(?![a-z])", re.IGNORECASE)
LABEL_LENGTH = 1000  # characters; folders, which name classes elsewhere, have at most 255
HELD_OUT_WORDS = (("val", "valid", "validation"), ("test",))  # the first that is there


@dataclass(frozen=True)
class ShardFormat:
    """A shard format keeps many images in one file, and a data set in one such file or several.

    Attributes:
        ending: how people know such a file by its name, such as ``.tar``.
        pattern: the pattern that the whole name of such a file matches.
        read: reads the samples of some files, which are given with names that tell them apart,
            with an error in place of samples that a file no longer has.
        images: reads all images of one file in their order, whatever their labels, given a name for
            the file; only as many at a time as the format keeps together.
        class_names: reads the names of the classes from a file that lists them.
    """

    ending: str
    pattern: re.Pattern[str]
    read: Callable[[Mapping[Path, str]], Iterable[Sample | DataError]]
    images: Callable[[Path, str], Iterator[Sample | DataError]]
    class_names: Callable[[Path], tuple[str, ...]] = lambda _: ()

    def recognizes(self, source: str) -> bool:
        """Tell whether this is such a file, or a folder of them."""
        return bool(self.files(Path(source)))

    def has_splits(self, source: str) -> bool:
        """Tell whether the files' names say which are for training and which are held out."""
        words = {_word(path) for path in self.files(Path(source))}
        return Path(source).is_dir() and "train" in words and len(words) > 1

    def files(self, root: Path) -> list[Path]:
        """List the files of this format: ``root``, or those in it, in ``data/`` or by split."""

        def matching(paths: Iterable[Path]) -> list[Path]:
            return sorted(path for path in paths if self.pattern.fullmatch(path.name))

        if not root.is_dir():
            return matching([root] if root.exists() else [])
        by_split = (path for word in SPLIT_WORDS for path in root.glob(f"{word}/*"))
        return matching(root.glob("*")) or matching(root.glob("data/*")) or matching(by_split)

    def open(self, source: str, split: Split) -> Dataset:
        """Find the samples of a split: in files named after it, or else divided by ``stratified``.

        The classes are those that the first file lists, or else the labels that occur.

        Args:
            source: the path of a file or of a folder of them.
            split: ``train``, ``val`` or ``all``.

        Raises:
            DataError: there are no images, or none for this split, or two files are the same.
        """
        files, named = self.files(Path(source)), self.has_splits(source)
        if named and split != "all":
            files = [path for path in files if _word(path) in _words_of(files, split)]
            if not files:
                raise DataError(
                    f"{source} has no file for '{split}'", f"Name it {split}-00000, for instance"
                )
        refuse_same(files)
        samples: list[Sample] = []
        chosen = Path(source).is_file() or is_local_copy(Path(source))  # a part, on purpose
        lost = [] if chosen else missing_shards(files)
        for found in self.read(_names(files)):
            if isinstance(found, DataError):
                lost.append(found)
            elif found.label is not None and len(found.label) > LABEL_LENGTH:
                lost.append(
                    DataError(
                        f"{found.key} has a label of {len(found.label):,} characters, more than "
                        f"{LABEL_LENGTH:,}",
                        "Give the name of a class",
                    )
                )
            else:
                samples.append(found)
        if not samples:
            raise next(iter(lost), _no_images(source))
        return Dataset(
            f"{Path(source)} ({split})",
            samples if named else stratified(samples, split),
            next(filter(None, map(self.class_names, files)), ()) or _classes_of(samples),
            tuple(lost),
        )


def missing_shards(paths: Iterable[Path]) -> list[DataError]:
    """Find files that the names of others promise, such as ``train-00000-of-00064.tar``.

    Returns:
        A sentence for each set of such files that is not whole. Some programs count from 1.
    """
    sets: dict[tuple[Path, str, str], set[int]] = {}
    for path in paths:
        if (named := NUMBERED.fullmatch(path.name)) is not None:
            prefix, number, total, _ = named.groups()
            sets.setdefault((path.parent, prefix, total), set()).add(int(number))
    errors = []
    for (folder, prefix, total), found in sets.items():
        first = int(0 not in found and int(total) in found)
        wanted = range(first, first + int(total))
        count = len(wanted) - sum(number in wanted for number in found)
        if count:
            some = islice((number for number in wanted if number not in found), 4)
            names = [f"{prefix}-{number:0{len(total)}}-of-{total}" for number in some]
            errors.append(
                DataError(
                    f"{folder} lacks {counted(count, 'file')} of {int(total):,}{examples(names)}",
                    "Download them, or rename the others if no more are wanted",
                )
            )
    return errors


def _no_images(source: str) -> DataError:
    return DataError(f"{source} contains no images", "Check that the files are whole")


def _classes_of(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Order the labels that occur: numbers by their value, names by the alphabet."""
    labels = {sample.label for sample in samples if sample.label is not None}
    if not all(label.isascii() and label.isdecimal() for label in labels):
        return tuple(sorted(labels))
    significant = {label: label.lstrip("0") for label in labels}  # int() refuses very long ones
    return tuple(sorted(labels, key=lambda x: (len(significant[x]), significant[x], x)))


def _names(files: Iterable[Path]) -> dict[Path, str]:
    """Name each file; where two in different folders are called the same, with its folder."""
    found = {path: path.name for path in files}
    if len(set(found.values())) < len(found):
        found = {path: f"{path.parent.name}/{path.name}" for path in found}
    return found


def _word(path: Path) -> str | None:
    """Return the split that a file's name or its folder's is about."""
    folder = path.parent.name if path.parent.name in SPLIT_WORDS else ""
    found = WORD.search(path.name) or WORD.search(folder)
    word = found[1].lower() if found else None
    return SHORT.get(word, word) if word else None


def _words_of(files: list[Path], split: Split) -> tuple[str, ...]:
    if split == "train":
        return ("train",)
    present = {_word(path) for path in files}
    return next((words for words in HELD_OUT_WORDS if present & set(words)), ())
