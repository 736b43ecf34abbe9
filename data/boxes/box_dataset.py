"""A set of images with boxes, and what is wrong with them, said once and counted."""

import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Dataset, Sample, class_name, printable, refuse_capitals
from mobilenet_cli.data.decode import upright_size
from mobilenet_cli.data.readers.files import open_file
from mobilenet_cli.pipeline.errors import DataError

# What becomes of a box that is not as it should be, as the end of a sentence.
CLIPPED = "boxes reach outside their image and were clipped"
OUTSIDE = "boxes lie outside their image or have no area, and were left out"
REVERSED = "boxes have their corners swapped and were turned"
REPEATED = "boxes are there more than once in their class, and were counted once"
NOT_FINITE = "boxes have no finite corners and were left out"
UNKNOWN_CLASS = "boxes are of a class that is not listed, and were left out"
IGNORED = "boxes are of crowds or marked as difficult, and count neither way"
FROM_POLYGONS = "boxes were drawn around a segmentation, since none was given"
WITHOUT_BOX = "annotations have no box and no polygon, and were left out"
NO_IMAGE = "labels have no image and were left out"
NO_LABEL = "images have no label and count as empty"
SKIPPED = "images have no label and were left out"
# Words of these sentences where only one thing is counted.
SINGULAR = {
    **{"annotations": "annotation", "boxes": "box", "images": "image", "labels": "label"},
    **{"are": "is", "count": "counts", "have": "has", "lie": "lies", "reach": "reaches"},
    **{"their": "its", "were": "was"},
}
Corners = tuple[float, float, float, float]


class MisreadError(DataError):
    """Labels evidently mean something else than what they are read as, in all parts of a set."""


class Remarks:
    """Remarks are counted by what they say; the first place of each is remembered."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, what: str, where: str) -> None:
        """Count a remark.

        Args:
            what: the end of a sentence that begins with a number.
            where: the image or file.
        """
        self.counts[what] += 1
        self.first.setdefault(what, printable(where))

    def sentences(self) -> tuple[str, ...]:
        """Return each remark with its number."""
        return tuple(
            f"{count} {singular(what) if count == 1 else what}, such as in {self.first[what]}"
            for what, count in self.counts.items()
        )


def singular(what: str) -> str:
    """Say of one thing what is said of several."""
    return re.sub(r"\w+", lambda word: SINGULAR.get(word[0], word[0]), what)


@dataclass(frozen=True)
class Boxes:
    """These are the objects in one image.

    Attributes:
        corners: float32 [n, 4], left, top, right, bottom in pixels; within the image, with area.
        classes: int64 [n], indices of the set's classes.
        ignored: bool [n], boxes that count neither as found nor as missed.
        areas: float32 [n] in square pixels, by which objects are small or large.
    """

    corners: NDArray[np.float32]
    classes: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class BoxImage:
    """This is one image, not yet read, with its objects.

    Attributes:
        sample: the image.
        size: width and height in pixels that the boxes are for.
        boxes: its objects.
    """

    sample: Sample
    size: tuple[int, int]
    boxes: Boxes


@dataclass(frozen=True)
class BoxDataset:
    """This is a set of images with boxes, in a fixed order.

    Attributes:
        name: where they come from, as the user wrote it, with the split.
        images: the images.
        classes: names of the classes, in the order of their indices.
        remarks: what was wrong with labels and was mended, a sentence each.
        lost: what cannot be read.
        absent: the first image, or label of one, that is not there; nothing where all are.
    """

    name: str
    images: Sequence[BoxImage]
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    lost: tuple[DataError, ...] = ()
    absent: str = ""

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 of names, sizes and boxes: tells two sets apart without any image."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for image in self.images:
            digest.update(f"{image.sample.key}\0{image.size}\n".encode())
            boxes = image.boxes
            for part in (boxes.corners, boxes.classes, boxes.ignored, boxes.areas):
                digest.update(part.tobytes())
        return digest.hexdigest()

    @property
    def objects(self) -> int:
        """Return the number of objects in all images."""
        return sum(len(image.boxes) for image in self.images)


@dataclass(frozen=True)
class Labelled:
    """This is what a format says about one image, before it is checked.

    Attributes:
        sample: the image.
        size: width and height in pixels.
        boxes: the class's index, the corners in pixels, whether it is ignored, and its area if
            the format has one.
    """

    sample: Sample
    size: tuple[int, int]
    boxes: Sequence[tuple[int, Corners, bool, float | None]] = field(default_factory=tuple)


def size_of(image: Path) -> tuple[int, int]:
    """Return width and height of an image as it is shown.

    Raises:
        DataError: it cannot be read.
    """
    with io.BufferedReader(open_file(image)) as file:
        return upright_size(file, str(image))


def labelled_size(width: float | str, height: float | str, image: Path) -> tuple[int, int]:
    """Return the size that boxes are for: the image's own where some program wrote none, or 0.

    Raises:
        ValueError: what is written is no size.
        OverflowError: likewise.
        DataError: none is written, and the image cannot be read.
    """
    size = int(float(width)), int(float(height))
    return size if min(size) > 0 else size_of(image)


def checked(labelled: Labelled, remarks: Remarks) -> BoxImage:
    """Make boxes that lie in their image and have an area; all others are remarked on."""
    width, height = labelled.size
    kept: list[tuple[int, Corners, bool, float]] = []
    seen = set[tuple[int, Corners]]()
    key = labelled.sample.key
    for label, corners, ignored, area in labelled.boxes:
        if not all(map(math.isfinite, corners)):
            remarks.add(NOT_FINITE, key)
            continue
        if (label, corners) in seen:
            remarks.add(REPEATED, key)
            continue
        seen.add((label, corners))
        left, right = sorted(corners[::2])
        top, bottom = sorted(corners[1::2])
        if (left, top, right, bottom) != tuple(corners):
            remarks.add(REVERSED, key)
        inside = (
            max(left, 0.0),
            max(top, 0.0),
            min(right, float(width)),
            min(bottom, float(height)),
        )
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            remarks.add(OUTSIDE, key)
            continue
        if inside != (left, top, right, bottom):
            remarks.add(CLIPPED, key)
            area = None
        if ignored:
            remarks.add(IGNORED, key)
        own = (inside[2] - inside[0]) * (inside[3] - inside[1])
        usable = area is not None and math.isfinite(area) and area > 0
        kept.append((label, inside, ignored, float(area) if usable and area else own))
    boxes = Boxes(
        np.array([corners for _, corners, _, _ in kept], np.float32).reshape(-1, 4),
        np.array([label for label, *_ in kept], np.int64),
        np.array([ignored for *_, ignored, _ in kept], bool),
        np.array([area for *_, area in kept], np.float32),
    )
    read = partial(_read_as_labelled, labelled.sample.read, key, labelled.size)
    return BoxImage(replace(labelled.sample, read=read), labelled.size, boxes)


def _read_as_labelled(read: Callable[[], bytes], key: str, size: tuple[int, int]) -> bytes:
    """Read an image, and refuse one of another size than that for which its boxes were drawn.

    Raises:
        DataError: it cannot be read, or is of another size, as where its EXIF orientation turns it.
    """
    encoded = read()
    width, height = upright_size(io.BytesIO(encoded), key)
    if size == (width, height):
        return encoded
    turned = "Draw the boxes on it as it is shown, or remove an EXIF orientation that turns it"
    raise DataError(
        f"{key} has {width}x{height} pixels, and its labels are for {size[0]}x{size[1]}",
        turned if size == (height, width) else "Export the labels again",
    )


def make_dataset(
    name: str,
    labelled: Iterable[Labelled],
    classes: Sequence[str],
    remarks: Remarks,
    lost: Sequence[DataError] = (),
) -> BoxDataset:
    """Check all boxes and make the set.

    Args:
        name: of the set, for people.
        labelled: what the format says of each image.
        classes: their names, in the order of their indices.
        remarks: of what was wrong so far; what is wrong with boxes is added.
        lost: what cannot be read.

    Raises:
        DataError: there are no images, a class has no name or that of another, or boxes are no
            pixels, or none lies in its image.
    """
    names = tuple(map(class_name, classes))
    if wrong := [name for name, count in Counter(names).items() if count > 1 or not name.strip()]:
        raise DataError(
            f"the classes of {printable(name)} have the name '{wrong[0]}' more than once or empty",
            "Give each class a name of its own, and leave no empty line between them",
        )
    refuse_capitals(name, names)
    images = [checked(one, remarks) for one in labelled]
    if not images:
        first = f"; {lost[0].what}" if lost else ""
        raise DataError(
            f"{name} has no images with labels{first}", "Check that images and labels lie together"
        )
    if remarks.counts[OUTSIDE] and not any(len(image.boxes) for image in images):
        raise DataError(
            f"no box of {printable(name)} lies in its image; {remarks.sentences()[0]}",
            "Write them in pixels of these images",
        )
    if _are_fractions(images):
        raise DataError(
            f"the boxes of {printable(name)} all lie in the first pixel of their images, as "
            "fractions do",
            "Write them in pixels",
        )
    absent = remarks.first.get(NO_IMAGE, "")
    return BoxDataset(printable(name), images, names, remarks.sentences(), tuple(lost), absent)


def _are_fractions(images: Sequence[BoxImage]) -> bool:
    """Tell whether no box reaches beyond 1, as where somebody divided them by the image's size."""
    ends = [image.boxes.corners.max() for image in images if len(image.boxes)]
    return bool(ends) and max(ends) <= 1 and all(min(image.size) > 1 for image in images)


def as_dataset(boxes: BoxDataset) -> Dataset:
    """Return the images of a set without their boxes."""
    return Dataset(boxes.name, [i.sample for i in boxes.images], boxes.classes, boxes.lost)
