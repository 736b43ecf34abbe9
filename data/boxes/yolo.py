"""YOLO's text files: a line for each object, ``class x y width height`` as fractions of the image.

The centre comes first (docs.ultralytics.com/datasets/detect). Images lie in ``images/`` and text
files in ``labels/`` below one folder, in the same subfolders or with the two swapped; or both lie
in one folder. ``data.yaml`` or ``classes.txt`` names the classes; the former, or ``train.txt`` and
``val.txt``, may name the images of each split.
"""

import contextlib
import math
import os.path
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mobilenet_cli.data.boxes import box_dataset as remark
from mobilenet_cli.data.boxes.box_dataset import (
    BoxDataset,
    Corners,
    Labelled,
    MisreadError,
    Remarks,
    make_dataset,
    size_of,
)
from mobilenet_cli.data.boxes.number_order import AS_MIDDLE_AND_SIZE, refuse_other_order
from mobilenet_cli.data.class_files import yaml_document
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import MAX_TEXT, is_image, read_bytes, read_file, read_text
from mobilenet_cli.data.readers.walk import folders_in, images_below
from mobilenet_cli.data.split import HELD_OUT_NAMES, SPLIT_NAMES, TRAINING_NAMES, Split
from mobilenet_cli.pipeline.errors import DataError, counted, examples

YEAR = re.compile(r"\d{4}$")  # images/train2017, as in Ultralytics' copy of COCO
YAML = (".yaml", ".yml")
CONFIGS = ("data.yaml", "data.yml", "dataset.yaml")
NAME_LISTS = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
# LabelImg's lie among the labels, Roboflow's among the images.
LISTS_IN = ("", "labels", "Labels", "labels/train", "train/labels", "train")
LABELS = ("labels", "Labels", "LABELS")
DARKNET = "obj_train_data"
ROUNDING = 1e-3  # above 1, by which programs round; clipped like any box that reaches outside


def images_of(source: Path) -> dict[Split, list[Path]]:
    """Find the images of each split, with labels or without; without splits, those of ``all``.

    What a YAML file or lists of images say counts, and else how folders are called.

    Args:
        source: the folder of a set, or its YAML file.

    Raises:
        DataError: the same image is in two splits, or the YAML file names images that are not
            there.
    """
    told, wrong = _told(source)
    found = told if "val" in told else _by_folders(folder_of(source)) or told
    if wrong is not None and (found or source.is_file()):  # else it may be of another format
        raise wrong
    return found


def folder_of(source: Path) -> Path:
    """Return the folder of a set that is given by it, or by its YAML file."""
    return source.parent if source.suffix.lower() in YAML and source.is_file() else source


def _by_folders(folder: Path) -> dict[Split, list[Path]]:
    """Find the images of each split by what folders are called."""
    images = _child(folder, "images")
    divided = _parts(images, ""), _parts(folder, "images"), _parts(folder, "")
    for parts in divided:
        train, held = (
            next(filter(None, map(parts.get, n)), None) for n in (TRAINING_NAMES, HELD_OUT_NAMES)
        )
        if train is not None and held is not None:
            return {"train": _images(train), "val": _images(held)}
    for place in (images, folder, folder / DARKNET):
        if _has_labels(place):
            return {"all": _images(place)}
    # Train without val, or the other way round.
    alone = [parts[n] for parts in divided for n in SPLIT_NAMES if n in parts]
    return {"all": _images(alone[0])} if alone else {}


def _told(source: Path) -> tuple[dict[Split, list[Path]], DataError | None]:
    """Return the images of each split that a YAML file or lists name, and what is wrong with these.

    Raises:
        DataError: the same image is in two splits.
    """
    try:
        entries, roots = _entries_of(source)
    except DataError as error:
        return {}, error
    found: dict[str, list[Path]] = {"train": [], "val": []}
    for split, named in entries.items():
        for entry in named:
            if not (images := _named(roots, entry)):
                written = " and ".join(str(_written(root, entry)) for root in roots)
                return {}, DataError(
                    f"{_config(source) or source} names '{entry}' for {split}, where no images are;"
                    f" looked for {written}, and for the end of it in {', '.join(map(str, roots))}",
                    "Correct the path, or remove the line",
                )
            found[split] += images
    train, val = (list(dict.fromkeys(found[split])) for split in ("train", "val"))
    if not train or not any(_label(image).is_file() for image in (*train, *val)):
        return {}, None
    both = set(train) & set(val)
    if not val or both == set(train) == set(val):  # as in COCO128
        return {"all": train}, None
    if both:
        raise DataError(
            f"{source} has {counted(len(both), 'image')} both to train on and held out, such as "
            f"{min(both)}",
            "Name each once, in the YAML file or in the lists of images",
        )
    return {"train": train, "val": val}, None


def _entries_of(source: Path) -> tuple[dict[str, list[str]], list[Path]]:
    """Return what a YAML file names for each split, or the lists of images; and where that is.

    Raises:
        DataError: the YAML file cannot be read.
    """
    folder = folder_of(source)
    roots = [folder]
    entries: dict[str, list[str]] = {}
    if (config := _config(source)) is not None:
        document: Any = yaml_document(config, read_text(config, MAX_TEXT))
        document = document if isinstance(document, dict) else {}
        place = document.get("path")
        if isinstance(place, str) and _written(folder, place) != folder:
            roots.insert(0, _written(folder, place))
        for split, names in (("train", TRAINING_NAMES), ("val", HELD_OUT_NAMES)):
            named: Any = next((document[n] for n in names if document.get(n)), [])
            listed = named if isinstance(named, list) else [named]
            entries[split] = [entry for entry in listed if isinstance(entry, str)]
    if not entries.get("train"):
        lists = {
            split: next((n for n in names if (folder / f"{n}.txt").is_file()), None)
            for split, names in (("train", TRAINING_NAMES), ("val", HELD_OUT_NAMES))
        }
        if all(lists.values()):
            entries = {split: [f"{name}.txt"] for split, name in lists.items()}
    return entries, roots


def _named(roots: Sequence[Path], entry: str) -> list[Path]:
    """Return the images that an entry stands for, a folder of them or a list."""
    path = _found(roots, entry, _ends(entry, split=True))
    if path is not None and path.is_dir():
        return _images(path) or [path / name for name in _deeper(path)]
    if path is None or path.suffix != ".txt":
        return []
    lines = [line for line in map(str.strip, _lines(path)) if is_image(line)]
    places = list(dict.fromkeys([path.parent, *roots]))
    images = [_found(places, line, _ends(line)) for line in lines]
    if not any(images):
        return []
    # What is not there is named where it is read.
    return [image or _written(roots[0], line) for image, line in zip(images, lines, strict=True)]


def _deeper(folder: Path) -> list[str]:
    with contextlib.suppress(DataError):
        return list(images_below(folder, []))
    return []


def _written(root: Path, entry: str) -> Path:
    """Return what an entry means as it is written, which may be a path on another machine."""
    return Path(os.path.normpath(root / entry.replace("\\", "/")))


def _ends(entry: str, split: bool = False) -> list[str]:
    """Return the ends of a path, of which one may be right where the whole is not.

    Args:
        entry: the path, such as ``../train/images``, as Roboflow writes it for ``train/images``.
        split: only those with the folder that is called like a split: what lies above it is not it.
    """
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    named = [n for n, part in enumerate(parts) if YEAR.sub("", part.lower()) in SPLIT_NAMES]
    last = named[-1] if split and named else len(parts) - 1
    return ["/".join(parts[start:]) for start in range(last + 1)]


def _found(roots: Sequence[Path], entry: str, ends: Sequence[str]) -> Path | None:
    """Return the file or folder that an entry means: as it is written, or else by an end of it."""
    written = [_written(root, entry) for root in roots]
    paths = (*written, *(root / end for root in roots for end in ends))
    exists = os.path.exists  # which never raises, however long the name
    return next((path for path in paths if exists(path)), None)


def _child(folder: Path, name: str) -> Path:
    """Return a folder in another, in letters of either case."""
    return folder / next((n for n in folders_in(folder) if n.lower() == name), name)


def _parts(folder: Path, inner: str) -> dict[str, Path]:
    """Return the folders of labelled images that are called like a part of a set."""
    found: dict[str, Path] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = YEAR.sub("", place.name.lower())
        if name in SPLIT_NAMES:
            images = _child(place, inner) if inner else place
            if _has_labels(images):
                found.setdefault(name, images)
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_image(p.name)) if folder.is_dir() else []


def _has_labels(folder: Path) -> bool:
    """Tell whether text files have the names of images; others are notes, and names of classes."""
    stems = {image.stem for image in _images(folder)}
    return bool(stems) and any(path.stem in stems for path in _labels_folder(folder).glob("*.txt"))


def _labels_folder(images: Path) -> Path:
    """Return where the text files of a folder of images are."""
    parts = list(images.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place].lower() == "images":
            for labels in LABELS:
                swapped = Path(*parts[:place], labels, *parts[place + 1 :])
                if swapped.is_dir():
                    return swapped
    return images


def read(source: Path, images: list[Path], name: str) -> BoxDataset:
    """Read the text files of images.

    Raises:
        DataError: no image can be read, or the names of the classes cannot, or boxes are numbers
            in another order.
    """
    remarks, lost, folder = Remarks(), list[DataError](), folder_of(source)
    names, pose = class_names(source), _points_of(source)
    rows: list[tuple[Path, list[tuple[int, Corners]]]] = []
    places = {image.parent for image in images}
    labels = {path for place in places for path in _text_files(place)}
    there = {_label(image) for place in places for image in _images(place)}
    for path in sorted(labels - there):
        remarks.add(remark.NO_IMAGE, str(path))
    for image in images:
        label = _label(image)
        try:
            if not label.exists() and image.exists():
                remarks.add(remark.NO_LABEL, str(image))
            rows.append((image, _rows(label, pose) if label.exists() else []))
        except DataError as error:
            lost.append(error)
        except (OSError, ValueError) as error:
            lost.append(DataError(f"{label} is not as YOLO has it ({error})", "Export it again"))
    if names is not None:
        _refuse_from_1(source, names, {index for _, found in rows for index, _ in found})
    else:
        count = max((index for _, found in rows for index, _ in found), default=-1) + 1
        names = [str(index) for index in range(count)]
    labelled = []
    for image, found in rows:
        try:
            size = size_of(image)
        except DataError as error:
            lost.append(error)
            continue
        boxes: list[tuple[int, Corners, bool, float | None]] = []
        for index, fractions in found:
            if index >= len(names):
                remarks.add(remark.UNKNOWN_CLASS, str(image))
                continue
            x, y, width, height = (f * s for f, s in zip(fractions, size * 2, strict=True))
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            boxes.append((index, corners, False, None))
        key = str(image.relative_to(folder) if image.is_relative_to(folder) else image)
        labelled.append(Labelled(Sample(key, None, partial(read_file, image)), size, boxes))
    refuse_other_order(str(source), AS_MIDDLE_AND_SIZE, labelled)
    return make_dataset(name, labelled, names, remarks, lost)


def _refuse_from_1(source: Path, names: Sequence[str], found: set[int]) -> None:
    """Refuse labels whose classes seem to count from 1: each would be the class behind its own.

    Raises:
        MisreadError: there is none of class 0, and the last has the number of the names.
    """
    if found and 0 not in found and max(found) == len(names):
        raise MisreadError(
            f"the labels of {source} have the classes {min(found)} to {max(found)} of "
            f"{counted(len(names), 'name')}, as if they counted from 1, but classes count from 0",
            "Write 0 for the first name, 1 for the second and so on",
        )


def _label(image: Path) -> Path:
    return _labels_folder(image.parent) / f"{image.stem}.txt"


def _text_files(images: Path) -> list[Path]:
    files = _labels_folder(images).glob("*.txt")
    return [path for path in files if path.name not in NAME_LISTS]


def _lines(path: Path) -> list[str]:
    """Return the lines of a list of images, whose names may be in any letters."""
    return read_bytes(path, MAX_TEXT).decode("utf-8-sig", "surrogateescape").splitlines()


def _points_of(source: Path) -> int:
    """Return how many numbers follow a box for the points of a pose, as a YAML file says."""
    with contextlib.suppress(DataError, KeyError, TypeError, ValueError):
        if (config := _config(source)) is not None:
            count, numbers = yaml_document(config, read_text(config, MAX_TEXT))["kpt_shape"]
            return int(count) * int(numbers)
    return 0


def _rows(path: Path, pose: int = 0) -> list[tuple[int, Corners]]:
    """Read the lines of a text file.

    Args:
        path: the file.
        pose: how many numbers for the points of a pose follow each box.

    Raises:
        ValueError: a line is something else; says which.
    """
    found: list[tuple[int, Corners]] = []
    for number, line in enumerate(read_bytes(path, MAX_TEXT).decode("utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        values = line.split()
        if pose and len(values) == 5 + pose:
            values = values[:5]
        if len(values) > 5 and len(values) % 2:  # a polygon, as segmentation has it
            index, points = values[0], [float(v) for v in values[1:]]
            left, right = min(points[::2]), max(points[::2])
            top, bottom = min(points[1::2]), max(points[1::2])
            numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        elif len(values) == 5:
            index, numbers = values[0], [float(v) for v in values[1:]]
        else:
            raise ValueError(f"line {number} has {len(values)} values instead of 5")
        if not index.isdecimal():
            raise ValueError(f"line {number} has the class '{index}', which is no number")
        if any(math.isfinite(v) and abs(v) > 1 + ROUNDING for v in numbers):
            largest = max(numbers, key=abs)
            raise ValueError(f"line {number} has {largest:g}, which is no fraction of the image")
        x, y, width, height = numbers
        found.append((int(index), (x, y, width, height)))
    return found


def class_names(source: Path) -> list[str] | None:
    """Return the names of the classes; None where no file has them.

    Raises:
        DataError: the file that should have them cannot be understood, or two have others.
    """
    folder, config = folder_of(source), _config(source)
    if config is not None and config == source and _names_classes(config):
        return _names_in(config)
    places = [folder / place / name for name in NAME_LISTS for place in LISTS_IN]
    listed = next((p for p in [*places, *sorted(folder.glob("*.names"))] if p.is_file()), None)
    if listed is None:
        return None if config is None else _names_in(config)
    text = "\n".join(read_text(listed, MAX_TEXT).splitlines()).rstrip()
    names = [line.strip() for line in text.split("\n")] if text else []
    if config is None or not _names_classes(config):
        return names
    if (others := _names_in(config)) != names:
        raise DataError(
            f"{listed} and {config} name other classes, {_some(names)} and {_some(others)}",
            "Leave the one that is right",
        )
    return names


def _some(names: list[str]) -> str:
    return f"{len(names)}{examples(names)}"


def _config(source: Path) -> Path | None:
    """Return the YAML file of a set, if there is one."""
    folder = folder_of(source)
    if folder != source:
        return source
    usual = [folder / name for name in CONFIGS]
    return next((path for path in [*usual, *_configs(folder)] if path.is_file()), None)


def _configs(folder: Path) -> list[Path]:
    """Return the YAML files in a folder that name classes, whatever they are called."""
    return [p for p in sorted(folder.glob("*.y*ml")) if p.is_file() and _names_classes(p)]


def _names_classes(path: Path) -> bool:
    """Tell whether a YAML file has names on its first level."""
    with contextlib.suppress(DataError):
        text = read_bytes(path, MAX_TEXT)
        return re.search(rb"^(\xef\xbb\xbf)?names\s*:", text, re.MULTILINE) is not None
    return False


def _names_in(path: Path) -> list[str]:
    fix = "It needs names: [first, second], in the order of their numbers"
    document = yaml_document(path, read_text(path, MAX_TEXT))
    try:
        names = document["names"]
        if isinstance(names, dict):
            if "0" not in names and str(len(names)) in names:
                raise TypeError("names count from 1, and classes count from 0")
            names = [names[str(index)] for index in range(len(names))]
        if not isinstance(names, list):
            raise TypeError(f"names is '{names}'")
        if others := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"one of names is {others[0]}")
        if str(document.get("nc", len(names))) != str(len(names)):
            raise TypeError(f"nc is {document['nc']}, and names are {len(names)}")
        return names
    except (KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:100]
        raise DataError(f"{path} does not name the classes ({why})", fix) from error
