"""Images with boxes are opened by what the user wrote: a COCO file, or a folder of labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_cli.data.boxes import box_dataset, coco, shapes, table, voc, yolo
from mobilenet_cli.data.boxes.box_dataset import BoxDataset
from mobilenet_cli.data.split import HELD_OUT, Split
from mobilenet_cli.pipeline.errors import DataError


@dataclass(frozen=True)
class BoxFormat:
    """A format finds its labels in a folder, and reads those of a split.

    Attributes:
        parts: what a split is read from, for each split that the folder has; ``all`` where it has
            none; nothing where the folder is of another format.
        read: reads such a part, given the folder and a name for messages.
    """

    parts: Callable[[Path], dict[Split, Any]]
    read: Callable[[Path, Any, str], BoxDataset]


BOX_FORMATS = {
    "COCO": BoxFormat(coco.files, lambda _, path, name: coco.read(path, name)),
    "Pascal VOC": BoxFormat(voc.labels_of, voc.read),
    "YOLO": BoxFormat(yolo.images_of, yolo.read),
    "CSV": BoxFormat(table.files, table.read),
}


def has_boxes(source: str) -> bool:
    """Tell whether a path is a file or a folder with boxes, in any format, or ``shapes``."""
    if source == shapes.NAME:
        return True
    path = Path(source)
    if path.is_dir():
        return any(found.parts(path) for found in BOX_FORMATS.values())
    if yolo.folder_of(path) != path:
        return True
    return path.suffix == ".json" and path.is_file() and coco.is_coco(path)


def open_boxes(source: str, split: Split) -> BoxDataset:
    """Find the images of a set and read their boxes; images are read later, one at a time.

    Where a set has no splits, always the same fifth of its images is ``val``.

    Args:
        source: a JSON file of COCO, a YAML file of YOLO, a folder with labels in one of
            ``BOX_FORMATS``, or ``shapes``.
        split: ``train``, ``val`` (held out), or ``all``.

    Raises:
        DataError: there are no labels, or those of two formats, or they cannot be read.
    """
    if source == shapes.NAME:
        return shapes.open_shapes(split)
    path = Path(source)
    name = f"{source} ({split})"
    if not path.exists():
        raise DataError(f"data '{source}' does not exist", "Give a folder of images and labels")
    if path.suffix == ".json" and path.is_file():
        return _divided(coco.read(path, name), split)
    found = _parts_of(path)
    if found is None:
        raise DataError(
            f"{source} is no set of images with boxes",
            "Give a JSON file in COCO's format, a YAML file of YOLO, or a folder with labels",
        )
    if len(found) != 1:
        raise _not_one(source, list(found))
    ((kind, parts),) = found.items()
    reader = BOX_FORMATS[kind]
    if "all" in parts:
        return _divided(reader.read(path, parts["all"], name), split)
    if split == "all":
        return joined([reader.read(path, part, name) for part in parts.values()], name)
    if split not in parts:
        raise DataError(f"{source} has no labels for '{split}'", "Add them, or name another folder")
    # Both are read, so that the classes are the same whichever split is asked for.
    whole: dict[Split, BoxDataset] = {}
    remarks: tuple[str, ...] = ()
    for part, files in parts.items():
        try:
            whole[part] = reader.read(path, files, name)
        except DataError as error:
            if part == split or isinstance(error, box_dataset.MisreadError):
                raise
            # Many download the labels of all images of COCO, and the images to evaluate on alone.
            remarks = (f"the classes are those of '{split}' alone, since {error.what}",)
    found_split = _with_classes(whole[split], _all_classes(list(whole.values())))
    return replace(found_split, remarks=(*found_split.remarks, *remarks))


def held_out_boxes(source: str, trained_on: str | None) -> BoxDataset:
    """Return the images of a set that a model was not trained on, as ``open_dataset.held_out``.

    Raises:
        DataError: as ``open_boxes``.
    """
    return _part(source, trained_on, "val")


def not_held_out_boxes(source: str, trained_on: str | None) -> BoxDataset:
    """Return what ``held_out_boxes`` leaves; all of a set without splits, unless trained on it.

    Raises:
        DataError: as ``open_boxes``.
    """
    return _part(source, trained_on, "train")


def _part(source: str, trained_on: str | None, split: Split) -> BoxDataset:
    path = Path(source)
    same = trained_on is not None and _labels(Path(trained_on)) == _labels(path)
    divided = source == shapes.NAME or any(split in p for p in (_parts_of(path) or {}).values())
    return open_boxes(source, split if same or divided else "all")


def _labels(path: Path) -> Path:
    """Return what tells two sets apart, of which one may be given by its folder, or by a file."""
    whole = coco.files(path).get("all", path) if path.is_dir() else path
    return yolo.folder_of(whole).resolve()


def _parts_of(path: Path) -> dict[str, dict[Split, Any]] | None:
    """Return what a folder has in each format; None of a file that is not YOLO's YAML.

    Raises:
        DataError: a format's labels contradict themselves.
    """
    if yolo.folder_of(path) != path:
        return {"YOLO": parts} if (parts := yolo.images_of(path)) else {}
    if not path.is_dir():
        return None
    found = {kind: parts for kind, f in BOX_FORMATS.items() if (parts := f.parts(path))}
    # Tables are often made of other labels, beside which they lie.
    return {k: parts for k, parts in found.items() if k != "CSV" or len(found) == 1}


def _not_one(source: str, kinds: list[str]) -> DataError:
    if kinds:
        return DataError(
            f"{source} has labels of {' and of '.join(kinds)}, and it is not said which count",
            "Leave those of one format in the folder",
        )
    return table.other_table(Path(source)) or DataError(
        f"{source} has no labels with boxes",
        "It needs COCO's JSON, Annotations/*.xml of Pascal VOC, labels/*.txt of YOLO, or a "
        f"table of {table.HEADING}",
    )


def _divided(dataset: BoxDataset, split: Split) -> BoxDataset:
    if split == "all":
        return dataset
    count = len(dataset.images)
    if count < 2:
        raise DataError(f"{dataset.name} has one image, which cannot be divided", "Add images")
    order = np.random.default_rng(0).permutation(count)
    held = {int(place) for place in order[: max(1, round(count * HELD_OUT))]}
    images = [im for place, im in enumerate(dataset.images) if (place in held) == (split == "val")]
    return replace(dataset, images=images)


def joined(parts: list[BoxDataset], name: str) -> BoxDataset:
    """Put sets together whose classes may be in different orders."""
    classes = _all_classes(parts)
    same = [_with_classes(part, classes) for part in parts]
    return BoxDataset(
        name,
        [image for part in same for image in part.images],
        classes,
        tuple(text for part in same for text in part.remarks),
        tuple(error for part in same for error in part.lost),
        next((part.absent for part in same if part.absent), ""),
    )


def _all_classes(parts: list[BoxDataset]) -> tuple[str, ...]:
    """Return the classes of all parts: as they are where all have the same, else sorted."""
    if len({part.classes for part in parts}) == 1:
        return parts[0].classes
    return tuple(sorted({label for part in parts for label in part.classes}))


def _with_classes(dataset: BoxDataset, classes: tuple[str, ...]) -> BoxDataset:
    if dataset.classes == classes:
        return dataset
    turned = np.array([classes.index(label) for label in dataset.classes], np.int64)
    images = [
        box_dataset.BoxImage(
            image.sample,
            image.size,
            box_dataset.Boxes(
                image.boxes.corners,
                turned[image.boxes.classes],
                image.boxes.ignored,
                image.boxes.areas,
            ),
        )
        for image in dataset.images
    ]
    return replace(dataset, images=images, classes=classes)
