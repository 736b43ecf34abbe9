"""Images lie in one folder for each class, with or without train/ and val/, or all in one."""

import contextlib
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Dataset, Sample, class_name
from mobilenet_cli.data.imagenet import synsets, validation_synset
from mobilenet_cli.data.readers.files import (
    is_archive,
    is_image,
    is_other_picture,
    read_file,
    refuse_same,
    same_place,
)
from mobilenet_cli.data.split import Split, stratified
from mobilenet_cli.pipeline.errors import DataError, counted, examples

TRAINING_FOLDERS = ("train", "training")  # the first that is there, in letters of either case
HELD_OUT_FOLDERS = ("val", "validation", "valid", "test", "testing")  # likewise
MAYBE_UNLABELLED = HELD_OUT_FOLDERS[-2:]
PARTS = (*TRAINING_FOLDERS, *HELD_OUT_FOLDERS)
# What macOS and network storage put among people's folders.
LITTER = ("__MACOSX", "@eaDir")
SYNSET = re.compile(r"(n\d{8})(?![0-9A-Za-z])")


class ImageFolder:
    """A folder of images has a folder for each class, perhaps below train/ and val/, or none."""

    def recognizes(self, source: str) -> bool:
        """Tell whether this is a folder."""
        return Path(source).is_dir()

    def has_splits(self, source: str) -> bool:
        """Tell whether the folder is divided into train/ and val/, or has one of them.

        A ``train`` beside other folders of images is a class, unless it has class folders itself.
        """
        root, folders = Path(source), _folders(Path(source))
        parts = _parts(folders)
        others = [name for name in folders if name not in parts.values()]
        labelled = any(_folders(root / part) for part in parts.values())
        if parts.keys() <= set(MAYBE_UNLABELLED):  # as where there is none
            return labelled and not others
        return labelled or not any(_has_images(root / name) for name in others)

    def has_classes(self, source: str) -> bool:
        """Tell whether there are class folders of images, of a split or two or more without one."""
        root, folders = Path(source), _folders(Path(source))
        splits = [root / part for part in _parts(folders).values()]
        if any(_has_images(f / name) for f in splits for name in _folders(f)):
            return True
        with_images = (name for name in folders if _has_images(root / name))
        return len(list(islice(with_images, 2))) == 2

    def open(self, source: str, split: Split) -> Dataset:
        """Find the images of a folder.

        ``root/train/<class>/`` and ``root/val/<class>/`` are splits, as are others of
        ``TRAINING_FOLDERS`` and ``HELD_OUT_FOLDERS``; ``root/<class>/`` is divided by
        ``stratified``; images directly in ``root`` have no label and are only ``all``, unless their
        names are those of ImageNet's validation set.

        Raises:
            DataError: the folder is missing or empty, a class has no images or occurs twice, or
                the split does not exist, or a folder belongs to two classes or splits by a link.
        """
        root = Path(source)
        name, unread = f"{root} ({split})", list[Path]()
        if not self.has_splits(source):
            samples, classes = _labelled(root, root, unread)
            if not classes and split != "all":
                raise DataError(
                    f"{root} has no class folders, so it cannot be divided for '{split}'",
                    "Put the images of each class into a folder named after it",
                )
            return Dataset(name, stratified(samples, split), classes, _lost(unread))
        places = _parts(_folders(root))
        train, held_out = _training_folder(places), _held_out_folder(root, places)
        parts = {"train": [train], "val": [held_out], "all": [train, held_out]}[split]
        samples, seen = FileSamples(), set[str]()
        both = [root / part for part in (train, held_out)]
        refuse_same(both)
        refuse_same(folder / name for folder in both for name in _folders(folder))
        for part in parts:
            if not (root / part).is_dir():
                if split == "all":
                    continue
                raise DataError(f"{root} has no {part}/ folder", f"Add {root / part}/<class>/*.jpg")
            found, classes = _labelled(root / part, root, unread)
            if not classes:
                raise DataError(
                    f"{root / part} has no class folders",
                    "Put the images of each class into a folder named after it",
                )
            samples.extend(found)
            seen.update(classes)
        return Dataset(name, samples, tuple(sorted(seen)), _lost(unread))


def _parts(folders: Iterable[str]) -> dict[str, str]:
    """Return the folders that are called like a part of a set, by that name in small letters."""
    return {name.lower(): name for name in folders if name.lower() in PARTS}


def _training_folder(parts: dict[str, str]) -> str:
    """Return the name of the folder of training images: train, or what there is in its place."""
    return next((parts[name] for name in TRAINING_FOLDERS if name in parts), TRAINING_FOLDERS[0])


def _held_out_folder(root: Path, parts: dict[str, str]) -> str:
    """Return the name of the folder of held-out images: val, or what there is in its place."""
    found = (
        parts[name]
        for name in HELD_OUT_FOLDERS
        # Many a test/ has no labels.
        if name in parts and (name not in MAYBE_UNLABELLED or _folders(root / parts[name]))
    )
    return next(found, HELD_OUT_FOLDERS[0])


def pictures_below(folder: Path) -> Iterator[str]:
    """Yield the pictures in a folder and below it, by their names within it, in a fixed order.

    Those of a kind that is not read come last, so that reading them says so.

    Raises:
        DataError: a folder cannot be read.
    """
    unread: list[Path] = []
    yield from _images_below(folder, unread)
    yield from (str(path.relative_to(folder)) for path in unread)


def nothing_in(folder: Path, fix: str) -> DataError:
    """Return the error for a folder without images: with archives, they must be unpacked.

    Args:
        folder: where no image is.
        fix: what to do where no archive is either.
    """
    with contextlib.suppress(OSError):
        archives = sorted(path.name for path in folder.iterdir() if is_archive(path.name))
        if archives:
            return DataError(
                f"{folder} contains no images but {counted(len(archives), 'archive')}"
                f"{examples(archives, 1)}",
                "Unpack it, and give the folder that holds the images",
            )
    return DataError(f"{folder} contains no images", fix)


def class_identifier(folder: str) -> str:
    """Return a folder's class: its name, or the synset it starts with (``n01440764_tench``)."""
    return class_of_name(folder) or class_name(folder)


def class_of_name(name: str) -> str | None:
    """Return the synset that a name starts with, as ImageNet's training images have it."""
    match = SYNSET.match(name)
    return match[1] if match else None


def _lost(unread: Iterable[Path]) -> tuple[DataError, ...]:
    return tuple(
        DataError(f"{path} is a picture of a kind that is not read", "Save it as JPEG or PNG")
        for path in unread
    )


def _labelled(
    folder: Path, root: Path, unread: list[Path]
) -> tuple["FileSamples", tuple[str, ...]]:
    """List samples by class folder, in order of names; without class folders they have no class.

    Pictures that are not read are added to ``unread``.
    """
    folders, loose = _entries(folder, unread)
    if folders and loose:
        raise DataError(
            f"{folder} has class folders and also loose images such as {loose[0]}",
            "Move the loose images into the folder of their class, or away",
        )
    if not folders and not loose:
        raise nothing_in(folder, "Give a folder of JPEG or PNG files, or of class folders")
    if loose:
        return _flat(folder, loose, root)
    by_class: dict[str, str] = {}
    for name in folders:
        label = class_identifier(name)
        if label in by_class:
            raise DataError(
                f"{folder} has two folders of class {label}: {by_class[label]} and {name}",
                "Put their images into one folder",
            )
        by_class[label] = name
    samples, places = FileSamples(), dict[Path, Path]()
    above = (root.resolve(), folder.resolve())
    for label, name in by_class.items():
        before = len(unread)
        images = list(_images_below(folder / name, unread, above, places))
        if not images:
            count = len(unread) - before
            but = f" but {count} of a kind that is not read, such as {unread[-1]}" if count else ""
            raise DataError(
                f"class folder {folder / name} contains no images{but}",
                "Save them as JPEG or PNG" if count else "Add images, or remove it",
            )
        samples.add(FileRun(str(folder / name), _prefix(folder / name, root), label), images)
    return samples, tuple(by_class)


def _flat(folder: Path, names: list[str], root: Path) -> tuple["FileSamples", tuple[str, ...]]:
    """Return images without class folders: labelled if all are ImageNet validation images."""
    known = all(validation_synset(name) is not None for name in names)
    samples = FileSamples()
    label = validation_synset if known else None
    samples.add(FileRun(str(folder), _prefix(folder, root), label), names)
    return samples, synsets() if known else ()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether this is a folder; a link to itself is none, and reading it says so."""
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def _folders(folder: Path) -> list[str]:
    """List the subfolders of a folder as ``_entries`` does; none of what cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not _is_hidden(e.name) and _is_folder(e))
    return []


def _has_images(folder: Path) -> bool:
    """Tell whether an image lies directly in a folder; none does where it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(is_image(e.name) and not _is_hidden(e.name) for e in entries)
    return False


def _entries(folder: Path, unread: list[Path] | None = None) -> tuple[list[str], list[str]]:
    """List the subfolders and the images of a folder, sorted; hidden ones and litter are left out.

    Pictures that are not read are added to ``unread``.
    """
    folders, images = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif is_image(entry.name):
                    images.append(entry.name)
                elif unread is not None and is_other_picture(entry.name):
                    unread.append(folder / entry.name)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error
    return sorted(folders), sorted(images)


def _images_below(
    folder: Path,
    unread: list[Path],
    above: tuple[Path, ...] = (),
    places: dict[Path, Path] | None = None,
) -> Iterator[str]:
    """Yield the images of a folder, then those of its subfolders, by their names within it.

    A link to a folder in which it lies is not followed.

    Args:
        folder: where to look.
        unread: pictures that are not read are added here.
        above: the folders in which it lies.
        places: the folders that were seen, whose images must not count again; None lets them.

    Raises:
        DataError: a folder cannot be read, or has been seen.
    """
    waiting = [("", folder, above)]  # some trees are deeper than Python recurses
    while waiting:
        prefix, place, above = waiting.pop()
        here = place.resolve()
        if any(path.is_relative_to(here) for path in above):
            continue
        if places is not None and places.setdefault(here, place) != place:
            raise same_place(places[here], place)
        folders, images = _entries(place, unread)
        yield from (prefix + image for image in images)
        inside = (*above, here)
        waiting += ((f"{prefix}{name}/", place / name, inside) for name in reversed(folders))


def _prefix(folder: Path, root: Path) -> str:
    prefix = str(folder.relative_to(root))
    return "" if prefix == "." else f"{prefix}/"


@dataclass(frozen=True)
class FileRun:
    """A run is the images of one folder.

    Attributes:
        folder: where they are.
        prefix: what comes before their names in the samples' keys.
        label: their class, or what tells it by a name.
    """

    folder: str
    prefix: str
    label: str | Callable[[str], str | None] | None

    def sample(self, name: str) -> Sample:
        """Return one image."""
        label = self.label(name) if callable(self.label) else self.label
        return Sample(self.prefix + name, label, partial(read_file, f"{self.folder}/{name}"))


class FileSamples(Sequence[Sample]):
    """These samples are made when they are asked for: a million of names take 40 MB."""

    def __init__(self) -> None:
        self._runs: list[tuple[FileRun, bytes, NDArray[np.uint32]]] = []
        self._ends: list[int] = []

    def add(self, run: FileRun, names: Iterable[str]) -> None:
        """Append the images of a folder."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.uint32)
        self._runs.append((run, b"".join(encoded), ends))
        self._ends.append(len(self) + len(ends))

    def extend(self, others: "FileSamples") -> None:
        """Append other samples."""
        before = len(self)
        self._runs += others._runs
        self._ends += (before + end for end in others._ends)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]  # of negative ones, and with an IndexError
        place = bisect_right(self._ends, index)
        run, names, ends = self._runs[place]
        at = index - (self._ends[place] - len(ends))
        name = names[int(ends[at - 1]) if at else 0 : int(ends[at])]
        return run.sample(os.fsdecode(name))
