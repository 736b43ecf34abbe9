"""Formats that keep many images in one file have files and splits in common."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.readers.files import refuse_same
from mobilenet_cli.data.readers.remote import is_local_copy
from mobilenet_cli.data.split import SPLIT_NAMES, Split, stratified
from mobilenet_cli.pipeline.errors import DataError, counted, examples

SHORT = {"training": "train", "testing": "test"}
NUMBERED = re.compile(r"(.*?)-(\d{3,7})-of-(\d{3,7})(?!\d)(.*)")  # train-00000-of-00064.tar
COUNTED = re.compile(r"((?:.*\D)?)(\d{3,7})(\.\w+)")  # train-0003.tar
WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_NAMES)})(?![a-z])", re.IGNORECASE)
# By the ending by which people know such a file: what its whole name matches.
NAMES = {
    ".parquet": re.compile(r".*\.parquet", re.IGNORECASE),
    ".tar": re.compile(r".*\.tar", re.IGNORECASE),
    ".tfrecord": re.compile(r".*(\.tfrecords?|-\d{5}-of-\d{5})", re.IGNORECASE),
}
LABEL_LENGTH = 1000  # characters; folders, which name classes elsewhere, have at most 255
HELD_OUT_WORDS = (("val", "valid", "validation"), ("test",))  # the first that is there


@dataclass(frozen=True)
class ShardFormat:
    """A shard format keeps many images in one file, and a data set in one such file or several.

    Attributes:
        ending: how people know such a file by its name, of ``NAMES``.
        labels: where the class of each image is written in it.
        read: reads the samples of some files, which are given with names that tell them apart,
            with an error in place of samples that a file no longer has.
        images: reads all images of one file in their order, whatever their labels, given a name for
            the file; only as many at a time as the format keeps together.
        class_names: reads the names of the classes from a file that lists them.
    """

    ending: str
    labels: str
    read: Callable[[Mapping[Path, str]], Iterable[Sample | DataError]]
    images: Callable[[Path, str], Iterator[Sample | DataError]]
    class_names: Callable[[Path], tuple[str, ...]] = lambda _: ()

    @property
    def pattern(self) -> re.Pattern[str]:
        """Return the pattern that the whole name of such a file matches."""
        return NAMES[self.ending]

    def recognizes(self, source: str) -> bool:
        """Tell whether this is such a file, or a folder of them."""
        return bool(self.files(Path(source)))

    def has_splits(self, source: str) -> bool:
        """Tell whether the files' names say which are for training and which are held out."""
        words = {split_word(path) for path in self.files(Path(source))}
        return Path(source).is_dir() and "train" in words and len(words) > 1

    def files(self, root: Path) -> list[Path]:
        """List the files of this format: ``root``, or those in it, in ``data/`` or by split."""

        def matching(paths: Iterable[Path]) -> list[Path]:
            return sorted(path for path in paths if self.pattern.fullmatch(path.name))

        if not root.is_dir():
            return matching([root] if root.exists() else [])
        by_split = (path for word in SPLIT_NAMES for path in root.glob(f"{word}/*"))
        return matching(root.glob("*")) or matching(root.glob("data/*")) or matching(by_split)

    def open(self, source: str, split: Split) -> Dataset:
        """Find the samples of a split: in files named after it, or else divided by ``stratified``.

        The classes are those that the first file lists, or else the labels that occur.

        Args:
            source: the path of a file or of a folder of them.
            split: ``train``, ``val`` or ``all``.

        Raises:
            DataError: there are no images, or none for this split, two files are the same, or two
                classes have one name.
        """
        files, named = self.files(Path(source)), self.has_splits(source)
        if named and split != "all":
            files = [path for path in files if split_word(path) in _words_of(files, split)]
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
        listed = next(filter(None, map(self.class_names, files)), ())
        if twice := [name for name, count in Counter(listed).items() if count > 1]:
            raise DataError(
                f"{source} calls several classes '{twice[0]}', whose images cannot be told apart",
                "Give each class a name of its own",
            )
        return Dataset(
            f"{Path(source)} ({split})",
            samples if named else stratified(samples, split),
            listed or classes_of(s.label for s in samples if s.label is not None),
            tuple(lost),
        )


def is_shard(name: str) -> bool:
    """Tell whether a file's name is that of many images in one file."""
    return any(pattern.fullmatch(name) for pattern in NAMES.values())


def missing_shards(paths: Iterable[Path], pattern: str = "") -> list[DataError]:
    """Find files that the names of others promise, such as ``train-00000-of-00064.tar``.

    Of shards that are counted without a total, as ``train-0003.tar``, those between two others are.

    Args:
        paths: the files that are there.
        pattern: the paths that are wanted, as a shell has it; all are where there is none.

    Returns:
        A sentence for each set of such files that is not whole. Some programs count from 1.
    """
    sets: dict[tuple[Path, str, str], dict[int, str]] = {}
    counts: dict[tuple[Path, str, int, str], set[int]] = {}
    for path in paths:
        if (named := NUMBERED.fullmatch(path.name)) is not None:
            prefix, number, total, ending = named.groups()
            sets.setdefault((path.parent, prefix, total), {})[int(number)] = ending
        elif (counted_so := COUNTED.fullmatch(path.name)) and is_shard(path.name):
            prefix, number, ending = counted_so.groups()
            counts.setdefault((path.parent, prefix, len(number), ending), set()).add(int(number))
    errors: list[DataError] = []
    for (folder, prefix, total), found in sets.items():
        first = int(0 not in found and int(total) in found)
        wanted = range(first, first + int(total))
        lacking = (
            f"{prefix}-{number:0{len(total)}}-of-{total}"
            for number in wanted
            if number not in found
        )
        ending = next(iter(found.values()))
        errors += _lack(folder, lacking, ending, pattern, f"of {int(total):,}")
    for (folder, prefix, width, ending), numbers in counts.items():
        between = range(min(numbers), max(numbers))
        if len(between) < 2 * len(numbers):  # other numbers are no places in an order
            lacking = (f"{prefix}{n:0{width}}" for n in between if n not in numbers)
            errors += _lack(
                folder, lacking, ending, pattern, f"between {min(numbers)} and {max(numbers)}"
            )
    return errors


def _lack(
    folder: Path, names: Iterator[str], ending: str, pattern: str, which: str
) -> Iterator[DataError]:
    """Yield an error for files that are not there, if there are any that a pattern wants."""
    if pattern:
        names = (name for name in names if fnmatch(f"{folder / name}{ending}", pattern))
    first = list(islice(names, 4))
    if count := len(first) + sum(1 for _ in names):
        yield DataError(
            f"{folder} lacks {counted(count, 'file')} {which}{examples(first)}",
            "Download them, or rename the others if no more are wanted",
        )


def _no_images(source: str) -> DataError:
    return DataError(f"{source} contains no images", "Check that the files are whole")


def classes_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Order the labels that occur: numbers by their value, names by the alphabet."""
    labels = set(labels)
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


def split_word(path: Path) -> str | None:
    """Return the split that a file's name or its folder's is about."""
    folder = path.parent.name if path.parent.name in SPLIT_NAMES else ""
    found = WORD.search(path.name) or WORD.search(folder)
    word = found[1].lower() if found else None
    return SHORT.get(word, word) if word else None


def _words_of(files: list[Path], split: Split) -> tuple[str, ...]:
    if split == "train":
        return ("train",)
    present = {split_word(path) for path in files}
    return next((words for words in HELD_OUT_WORDS if present & set(words)), ())
