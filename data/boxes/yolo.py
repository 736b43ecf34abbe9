"""YOLO's text files: a line for each object, ``class x y width height`` as fractions of the image.

The centre comes first (docs.ultralytics.com/datasets/detect). Images lie in ``images/`` and text
files in ``labels/`` below one folder, in the same subfolders or with the two swapped; or both lie
in one folder. ``data.yaml`` or ``classes.txt`` names the classes.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

from mobilenet_cli.data.boxes import box_dataset as remark
from mobilenet_cli.data.boxes.box_dataset import (
    BoxDataset,
    Corners,
    Labelled,
    Remarks,
    make_dataset,
)
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.decode import upright_size
from mobilenet_cli.data.readers.files import is_image, read_file
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.errors import DataError, need

HELD_OUT = ("val", "valid", "validation", "test")  # the first that is there
CONFIGS = ("data.yaml", "data.yml", "dataset.yaml")
NAME_LISTS = ("classes.txt", "obj.names", "labels.txt")
ROUNDING = 1e-3  # above 1, by which programs round; clipped like any box that reaches outside


def images_of(folder: Path) -> dict[Split, list[Path]]:
    """Find the images of each split, with labels or without; without splits, those of ``all``."""
    for inner, outer in (("images", ""), ("", "images")):
        parts = {split: folder / inner / split / outer for split in ("train", *HELD_OUT)}
        held = next((parts[name] for name in HELD_OUT if _has_labels(parts[name])), None)
        if _has_labels(parts["train"]) and held is not None:
            return {"train": _images(parts["train"]), "val": _images(held)}
    for place in (folder / "images", folder):
        if _has_labels(place):
            return {"all": _images(place)}
    return {}


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_image(p.name)) if folder.is_dir() else []


def _has_labels(folder: Path) -> bool:
    found = _labels_folder(folder)
    lists = {*NAME_LISTS, "train.txt", "val.txt"}
    return folder.is_dir() and any(p.name not in lists for p in found.glob("*.txt"))


def _labels_folder(images: Path) -> Path:
    """Return where the text files of a folder of images are."""
    parts = list(images.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            swapped = Path(*parts[:place], "labels", *parts[place + 1 :])
            if swapped.is_dir():
                return swapped
    return images


def read(folder: Path, images: list[Path], name: str) -> BoxDataset:
    """Read the text files of images.

    Raises:
        DataError: no image can be read, or the names of the classes cannot.
    """
    remarks, lost = Remarks(), list[DataError]()
    names = class_names(folder)
    rows: list[tuple[Path, list[tuple[int, Corners]]]] = []
    labels = {path for place in {i.parent for i in images} for path in _text_files(place)}
    for path in sorted(labels - {_label(image) for image in images}):
        remarks.add(remark.NO_IMAGE, str(path))
    for image in images:
        label = _label(image)
        try:
            if not label.is_file():
                remarks.add(remark.NO_LABEL, str(image))
            rows.append((image, _rows(label) if label.is_file() else []))
        except (OSError, ValueError) as error:
            lost.append(DataError(f"{label} is not as YOLO has it ({error})", "Export it again"))
    if names is None:
        count = max((index for _, found in rows for index, _ in found), default=-1) + 1
        names = [str(index) for index in range(count)]
    labelled = []
    for image, found in rows:
        try:
            size = upright_size(image, str(image))
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
        key = str(image.relative_to(folder))
        labelled.append(Labelled(Sample(key, None, partial(read_file, image)), size, boxes))
    return make_dataset(name, labelled, names, remarks, lost)


def _label(image: Path) -> Path:
    return _labels_folder(image.parent) / f"{image.stem}.txt"


def _text_files(images: Path) -> list[Path]:
    files = _labels_folder(images).glob("*.txt")
    return [path for path in files if path.name not in NAME_LISTS]


def _rows(path: Path) -> list[tuple[int, Corners]]:
    """Read the lines of a text file.

    Raises:
        ValueError: a line is something else; says which.
    """
    found: list[tuple[int, Corners]] = []
    for number, line in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        values = line.split()
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


def class_names(folder: Path) -> list[str] | None:
    """Return the names of the classes; None where no file has them.

    Raises:
        DataError: the file that should have them cannot be understood.
    """
    for name in NAME_LISTS:
        for place in (folder, folder / "labels"):
            if (place / name).is_file():
                lines = (place / name).read_text("utf-8-sig", "replace").rstrip().split("\n")
                return [line.strip() for line in lines]
    for name in CONFIGS:
        if (folder / name).is_file():
            return _names_in(folder / name)
    return None


def _names_in(path: Path) -> list[str]:
    need("yaml", f"{path} names the classes, and is read by PyYAML", DataError)
    import yaml

    try:
        # Text as it stands: a class called no or 010 is neither false nor 8.
        document: Any = yaml.load(path.read_bytes(), Loader=yaml.BaseLoader)  # noqa: S506 - the loader that makes nothing but texts
        names = document["names"]
        if isinstance(names, dict):
            names = [names[str(index)] for index in range(len(names))]
        if not isinstance(names, list):
            raise TypeError(f"names is '{names}'")
        if others := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"one of names is {others[0]}")
        if str(document.get("nc", len(names))) != str(len(names)):
            raise TypeError(f"nc is {document['nc']}, and names are {len(names)}")
        return names
    except (yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} does not name the classes ({' '.join(str(error).split())[:100]})",
            "It needs names: [first, second], in the order of their numbers",
        ) from error
