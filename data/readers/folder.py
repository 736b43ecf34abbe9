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
from mobilenet_cli.data.readers.files import Places, is_archive, read_file, refuse_same
from mobilenet_cli.data.readers.label_table import listed, why_not
from mobilenet_cli.data.readers.shards import WORD, is_shard
from mobilenet_cli.data.readers.walk import entries_of, folders_in, has_images, images_below
from mobilenet_cli.data.split import (
    HELD_OUT_NAMES,
    MAYBE_UNLABELLED,
    SPLIT_NAMES,
    TRAINING_NAMES,
    Split,
    stratified,
)
from mobilenet_cli.pipeline.errors import DataError, counted, examples

# Folders that hold a set, and folders that lie beside its images: none is a class.
WRAPPERS = ("data", "dataset", "image", "images", "img", "imgs", "jpeg", "jpg", "png")
NO_CLASSES = frozenset(
    {
        *("annotations", "imagesets", "jpegimages", "labels", "masks", "segmentationclass"),
        *("segmentationobject", "segmentations", "trimaps", *WRAPPERS),
    }
)
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
        root = _set_in(Path(source))
        if (found := listed(root)) is not None:
            return found.has_splits
        folders = folders_in(root)
        parts = _parts(folders)
        others = [name for name in folders if name not in parts.values()]
        labelled = any(folders_in(root / part) for part in parts.values())
        if parts.keys() <= set(MAYBE_UNLABELLED):  # as where there is none
            return labelled and not others
        return labelled or not any(has_images(root / name) for name in others)

    def has_classes(self, source: str) -> bool:
        """Tell whether there are class folders of images, of a split or two or more without one."""
        root = _set_in(Path(source))
        if listed(root) is not None:
            return True
        folders = folders_in(root)
        splits = [root / part for part in _parts(folders).values()]
        if any(has_images(f / name) for f in splits for name in folders_in(f)):
            return True
        with_images = (name for name in folders if has_images(root / name))
        return len(list(islice(with_images, 2))) == 2

    def open(self, source: str, split: Split) -> Dataset:
        """Find the images of a folder.

        ``root/train/<class>/`` and ``root/val/<class>/`` are splits, as are others of
        ``TRAINING_NAMES`` and ``HELD_OUT_NAMES``; ``root/<class>/`` is divided by
        ``stratified``; images directly in ``root`` have no label and are only ``all``, unless their
        names are those of ImageNet's validation set.

        Raises:
            DataError: the folder is missing or empty, a class has no images or occurs twice, or
                the split does not exist, or a folder belongs to two classes or splits by a link, or
                classes are called like splits.
        """
        name, root = f"{Path(source)} ({split})", _set_in(Path(source))
        if (table := listed(root)) is not None:
            samples = FileSamples()
            samples.add(FileRun(str(root), "", table.labels.get), table.of(split))
            chosen = samples if table.has_splits else stratified(samples, split)
            return Dataset(name, chosen, table.classes, table.lost)
        unread, lost = list[Path](), list[DataError]()
        if not self.has_splits(source):
            _refuse_parts(root)
            samples, classes = _labelled(root, root, unread, lost)
            if not classes and split != "all":
                raise _no_classes(root, f", so it cannot be divided for '{split}'")
            if len(classes) == 1 and split != "all":
                _refuse_one(root)
            return Dataset(name, stratified(samples, split), classes, _lost(unread))
        places = _parts(folders_in(root))
        train, held_out = _training_folder(places), _held_out_folder(root, places)
        parts = {"train": [train], "val": [held_out], "all": [train, held_out]}[split]
        samples, seen = FileSamples(), set[str]()
        both = [root / part for part in (train, held_out)]
        refuse_same(both)
        refuse_same(folder / name for folder in both for name in folders_in(folder))
        for part in parts:
            if not (root / part).is_dir():
                if split == "all":
                    continue
                raise why_not(root) or DataError(
                    f"{root} has no {part}/ folder", f"Add {root / part}/<class>/*.jpg"
                )
            found, classes = _labelled(_inner_part(root, part), root, unread, lost)
            if not classes:
                raise why_not(root) or _no_classes(root / part)
            samples.extend(found)
            seen.update(classes)
        return Dataset(name, samples, tuple(sorted(seen)), (*lost, *_lost(unread)))


def _parts(folders: Iterable[str]) -> dict[str, str]:
    """Return the folders that are called like a part of a set, by that name in small letters."""
    return {name.lower(): name for name in folders if name.lower() in SPLIT_NAMES}


def _set_in(root: Path) -> Path:
    """Return the folder that holds a set: the one inside, where it was packed into one more.

    Such a folder has train/ and val/, or is called ``images`` and holds class folders.
    """
    while listed(root) is None and (inside := _only_folder(root)) is not None:
        places = folders_in(inside)
        parts = _parts(places)
        divided = any(n in parts for n in TRAINING_NAMES) and any(
            n in parts for n in HELD_OUT_NAMES
        )
        wrapped = inside.name.lower() in WRAPPERS and len(_with_images(inside, places)) > 1
        if not (divided or wrapped or listed(inside) is not None):
            break
        root = inside
    return root


def _inner_part(root: Path, part: str) -> Path:
    """Return the folder of a part: the one inside, where that is called the same."""
    inside = root / part / part
    return inside if folders_in(root / part) == [part] and folders_in(inside) else root / part


def _refuse_one(root: Path) -> None:
    """Refuse one class where a table was to tell several, or where its folders seem to be them.

    Raises:
        DataError: there is such a table, or there are such folders.
    """
    if (problem := why_not(root)) is not None:
        raise problem
    inside = next((root / name for name in folders_in(root)), root)
    if len(_with_images(inside, folders_in(inside))) > 1:
        raise DataError(
            f"{root} has one folder, {inside.name}, whose folders seem to be the classes",
            f"Give {inside} itself",
        )


def _only_folder(root: Path) -> Path | None:
    """Return the folder that holds all images of another, if one does and is no part of a set."""
    if has_images(root):
        return None
    found = _with_images(root, folders_in(root))
    return root / found[0] if len(found) == 1 and found[0].lower() not in SPLIT_NAMES else None


def _with_images(root: Path, folders: Iterable[str]) -> list[str]:
    """Return the first two folders with images in them or below."""

    def holds(name: str) -> bool:
        with contextlib.suppress(DataError):
            return next(images_below(root / name, []), None) is not None
        return True  # what cannot be read is said where it is opened

    return list(islice(filter(holds, folders), 2))


def _no_classes(folder: Path, so: str = "") -> DataError:
    """Return the error for a folder of images of which nothing says the classes."""
    return why_not(folder) or DataError(
        f"{folder} has no class folders{so}",
        "Put the images of each class into a folder named after it, or write the name of each "
        f"image, a comma and its class into {folder / 'labels.csv'}",
    )


def _rest(name: str) -> str:
    """Return what a name says beside the part of a set."""
    return re.sub(r"[\W_]|set", "", WORD.sub("", name.lower()))


def _have_same(one: Path, other: Path) -> bool:
    """Tell whether a folder is in both of two."""
    return bool(set(folders_in(one)) & set(folders_in(other)))


def _refuse_parts(root: Path) -> None:
    """Refuse folders such as ``seg_train`` and ``seg_test``, which would be taken for classes.

    Raises:
        DataError: one is called like a held-out part, and two of three hold for it and another:
            that is called like a training part, their names are else the same, and so is a folder
            in them; or all are called like images and what is known of them.
    """
    folders = folders_in(root)
    words = {name: found[1].lower() for name in folders if (found := WORD.search(name))}
    for name in [name for name, word in words.items() if word not in TRAINING_NAMES]:
        for other in folders:
            if other == name or words.get(other) in HELD_OUT_NAMES:
                continue
            signs = other in words, _rest(other) == _rest(name)
            if all(signs) or (any(signs) and _have_same(root / name, root / other)):
                raise DataError(
                    f"{root} has folders that are called like parts of a set: "
                    f"{min(name, other)}, {max(name, other)}",
                    "Call them train and val, with the folders of the classes directly in them",
                )
    about = [name for name in folders if name.lower() in NO_CLASSES]
    if len(about) == len(folders) and not {name.lower() for name in about} <= set(WRAPPERS):
        raise DataError(
            f"{root} has no classes but folders that are called like parts of a set"
            f"{examples(about)}",
            "Put the images of each class into a folder named after it, or give the folder that "
            "holds such folders; images with boxes are for --task detect",
        )


def _training_folder(parts: dict[str, str]) -> str:
    """Return the name of the folder of training images: train, or what there is in its place."""
    return next((parts[name] for name in TRAINING_NAMES if name in parts), TRAINING_NAMES[0])


def _held_out_folder(root: Path, parts: dict[str, str]) -> str:
    """Return the name of the folder of held-out images: val, or what there is in its place."""
    found = (
        parts[name]
        for name in HELD_OUT_NAMES
        # Many a test/ has no labels.
        if name in parts and (name not in MAYBE_UNLABELLED or _is_labelled(root / parts[name]))
    )
    return next(found, HELD_OUT_NAMES[0])


def _is_labelled(folder: Path) -> bool:
    return bool(folders_in(folder)) or listed(folder) is not None


def pictures_below(folder: Path) -> Iterator[str]:
    """Yield the pictures in a folder and below it, by their names within it, in a fixed order.

    Those of a kind that is not read come last, so that reading them says so.

    Raises:
        DataError: a folder cannot be read.
    """
    unread: list[Path] = []
    yield from images_below(folder, unread)
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
    folder: Path, root: Path, unread: list[Path], lost: list[DataError]
) -> tuple["FileSamples", tuple[str, ...]]:
    """List samples by class folder, in order of names; without class folders they have no class.

    Pictures that are not read are added to ``unread``, and what a table lacks to ``lost``.
    """
    if (table := listed(folder)) is not None:
        labelled = FileSamples()
        labelled.add(FileRun(str(folder), _prefix(folder, root), table.labels.get), table.of("all"))
        lost += table.lost
        return labelled, table.classes
    folders, loose = entries_of(folder, unread)
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
    samples, places = FileSamples(), Places()
    above = (root.resolve(), folder.resolve())
    for label, name in by_class.items():
        before = len(unread)
        images = list(images_below(folder / name, unread, above, places))
        if not images:
            raise _empty_class(folder / name, unread[before:])
        samples.add(FileRun(str(folder / name), _prefix(folder / name, root), label), images)
    return samples, tuple(by_class)


def _empty_class(folder: Path, unread: list[Path]) -> DataError:
    """Return the error for a class folder without images, which may be no class."""
    what = f"class folder {folder} contains no images"
    if unread:
        but = f" but {len(unread)} of a kind that is not read, such as {unread[-1]}"
        return DataError(f"{what}{but}", "Save them as JPEG or PNG")
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if is_shard(path.name):
                return DataError(
                    f"{what} but {path.name}", f"Give {folder} itself, if that has them"
                )
    return DataError(what, "Add images, or remove it")


def _flat(folder: Path, names: list[str], root: Path) -> tuple["FileSamples", tuple[str, ...]]:
    """Return images without class folders: labelled if all are ImageNet validation images."""
    known = all(validation_synset(name) is not None for name in names)
    samples = FileSamples()
    label = validation_synset if known else None
    samples.add(FileRun(str(folder), _prefix(folder, root), label), names)
    return samples, synsets() if known else ()


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
