"""COCO's JSON: images, annotations with boxes, and categories (cocodataset.org, "Data format")."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
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
    labelled_size,
    make_dataset,
)
from mobilenet_cli.data.boxes.find_images import ImageFinder
from mobilenet_cli.data.boxes.number_order import AS_EDGES_AND_SIZE, refuse_other_order
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import open_file, read_bytes, read_file
from mobilenet_cli.data.readers.walk import folders_in
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.errors import DataError

# Where the file of a split is: of COCO itself, of Roboflow, and of everybody else.
PATTERNS = {
    "train": (
        *("annotations/instances*train*.json", "annotations/*train*.json"),
        *("train/*.json", "*train*.json"),
    ),
    "val": (
        *("annotations/instances*val*.json", "annotations/*val*.json"),
        *("val*/*.json", "*val*.json", "test/*.json", "annotations/instances*test*.json"),
    ),
}


def files(folder: Path) -> dict[Split, Path]:
    """Find the JSON file of each split; where there is but one file, that of ``all``."""
    found: dict[Split, Path] = {}
    for split in ("train", "val"):
        paths = (p for pattern in PATTERNS[split] for p in sorted(folder.glob(pattern)))
        # A file for both, such as instances_trainval.json, holds nothing out.
        fit = (p for p in paths if split == "train" or "train" not in p.name)
        path = next(filter(is_coco, fit), None)
        if path is not None:
            found[split] = path
    if len(found) == 1:
        return {"all": next(iter(found.values()))}
    if found:
        return found
    for path in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]):
        if is_coco(path):
            return {"all": path}
    return {}


def is_coco(path: Path) -> bool:
    """Tell whether a JSON file may be of this format, by its beginning and its end.

    Label Studio writes such categories beside labels of YOLO, without images and annotations.
    """
    try:
        with open_file(path) as file:
            head = file.read(1 << 16)
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            text = (head + file.read()).decode(json.detect_encoding(head), "replace")
    except (OSError, DataError):
        return False
    begins = text.lstrip("\ufeff \t\r\n")[:1] == "{"
    return begins and any(key in text for key in ('"annotations"', '"images"'))


def read(path: Path, name: str) -> BoxDataset:
    """Read a JSON file and find its images.

    Raises:
        DataError: it is broken, or has no images, or they are not there, or its boxes are
            numbers in another order.
    """
    remarks, lost, finder = Remarks(), list[DataError](), ImageFinder()
    document = _document(path)
    try:
        categories = _categories(document)
        _refuse_twice(path, "categories of the id", [c for c, _ in categories])
        _refuse_twice(path, "images of the id", [_id(i["id"]) for i in document["images"]])
        _refuse_twice(path, "images of the file", [_name(i) for i in document["images"]])
        # Some exports list a class twice, once as the parent of itself.
        names = list(dict.fromkeys(label for _, label in categories))
        index = {identifier: names.index(label) for identifier, label in categories}
        listed = {_id(i["id"]): i for i in document["images"]}
        boxes: dict[str, list[tuple[int, Corners, bool, float | None]]] = defaultdict(list)
        annotations = document.get("annotations", ())
        _refuse_shifted(path, "categories", index, [a["category_id"] for a in annotations])
        _refuse_shifted(path, "images", listed, [a["image_id"] for a in annotations])
        for annotation in annotations:
            _take(annotation, listed, index, boxes, remarks)
        root = _image_folder(path, list(map(_name, listed.values())), finder)
        files = {identifier: finder.find(root, _name(i)) for identifier, i in listed.items()}
        _refuse_twice(path, "images of the file", [str(f) for f in files.values() if f])
        labelled = []
        for identifier, image in listed.items():
            if (file := files[identifier]) is None:
                remarks.add(remark.NO_IMAGE, str(root / _name(image)))
                continue
            sample = Sample(_name(image), None, partial(read_file, file))
            try:
                size = labelled_size(image.get("width") or 0, image.get("height") or 0, file)
            except DataError as error:
                lost.append(error)
                continue
            labelled.append(Labelled(sample, size, boxes[identifier]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} is not as COCO has it ({type(error).__name__}: {error})",
            "It needs images, annotations and categories, as instances_val2017.json has",
        ) from error
    refuse_other_order(str(path), AS_EDGES_AND_SIZE, labelled)
    return make_dataset(name, labelled, names, remarks, lost)


def _id(value: object) -> str:
    """Return an id as it is compared: programs write 1, 1.0 and "1", and some words."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _categories(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return ids and names of the categories, in the order of their numbers if they have such."""
    found = [(_id(c["id"]), c["name"]) for c in document["categories"]]
    if unnamed := [identifier for identifier, name in found if not isinstance(name, str | int)]:
        raise ValueError(f"category {unnamed[0]} has no name")
    named = [(identifier, str(name)) for identifier, name in found]
    numbers = all(re.fullmatch(r"-?\d+", identifier) for identifier, _ in named)
    return sorted(named, key=lambda c: (int(c[0]), c[1])) if numbers else named


def _name(image: dict[str, Any]) -> str:
    """Return the path of an image, as programs on Windows write it, too."""
    return str(image["file_name"]).replace("\\", "/")


def _refuse_twice(path: Path, what: str, values: Sequence[int | str]) -> None:
    """Refuse a list of which labels could belong to either of two entries.

    Raises:
        DataError: a value occurs twice.
    """
    value, count = next(iter(Counter(values).most_common(1)), (0, 0))
    if count > 1:
        raise DataError(
            f"{path} lists {count} {what} {value}, and it is not said whose the boxes are",
            "Leave one of them, or give each its own",
        )


def _refuse_shifted(path: Path, what: str, ids: Iterable[str], named: Iterable[object]) -> None:
    """Refuse annotations that count from another number than what they name.

    Raises:
        MisreadError: all that they name is there but one, just before the first or behind the last
            id, and of most ids they lack just that at the other end.
    """
    used = set(map(_id, named))
    if used.issubset(ids):
        return
    if not all(re.fullmatch(r"-?\d{1,18}", identifier) for identifier in {*ids, *used}):
        return
    there, asked = set(map(int, ids)), set(map(int, used))
    first, last = min(there, default=0), max(there, default=0)
    for outside, opposite in ((last + 1, first), (first - 1, last)):
        if asked - there == {outside} and opposite not in asked and 2 * len(asked) > len(there):
            raise MisreadError(
                f"{path} has {what} with the ids {first} to {last}, and annotations name them "
                f"{min(asked)} to {max(asked)}, as if they counted from another number",
                "Let both count from the same",
            )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error})", "Download or export it again") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} is not a JSON object", "Give a file in COCO's format")
    return document


def _take(
    annotation: dict[str, Any],
    listed: dict[str, Any],
    index: dict[str, int],
    boxes: dict[str, list[tuple[int, Corners, bool, float | None]]],
    remarks: Remarks,
) -> None:
    """Add an annotation to the boxes of its image, or remark on why not."""
    image = _id(annotation["image_id"])
    if image not in listed:
        remarks.add(remark.NO_IMAGE, f"image {image}")
        return
    where = _name(listed[image])
    label = index.get(_id(annotation["category_id"]))
    if label is None:
        remarks.add(remark.UNKNOWN_CLASS, where)
        return
    box = annotation.get("bbox")
    if box:
        x, y, width, height = map(float, box)
        corners = (x, y, x + width, y + height)
    elif drawn := _around(annotation.get("segmentation")):
        remarks.add(remark.FROM_POLYGONS, where)
        corners = drawn
    else:
        remarks.add(remark.WITHOUT_BOX, where)
        return
    area = annotation.get("area")
    crowd = bool(int(annotation.get("iscrowd") or 0))  # also of "0"
    boxes[image].append((label, corners, crowd, None if area is None else float(area)))


def _around(polygons: Any) -> Corners | None:
    """Return the box around polygons [[x, y, x, y, ...], ...]; None of run lengths."""
    if not isinstance(polygons, list) or not any(polygons):
        return None
    xs = [float(x) for polygon in polygons for x in polygon[::2]]
    ys = [float(y) for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _image_folder(path: Path, names: list[str], finder: ImageFinder) -> Path:
    """Find the folder that the names of the images are in.

    Raises:
        DataError: none of the usual ones has any.
    """
    near = [path.parent, path.parent.parent]
    below = [f for folder in near for f in sorted(folder.iterdir()) if f.is_dir()]
    inner = [f / name for f in below if f.name.lower() == "images" for name in folders_in(f)]
    folders = (*near, *below, *(f / "images" for f in below), *inner)
    for folder in folders:
        if any((folder / name).is_file() for name in names[:100]):
            return folder
    for folder in folders:
        if any(finder.find(folder, name) for name in names[:100]):
            return folder
    raise DataError(
        f"none of the images that {path} lists is there, such as {names[0] if names else 'none'}",
        "Put the images beside the file, or into a folder beside it",
    )
