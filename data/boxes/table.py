"""Tables with a row for each box: ``filename,width,height,class,xmin,ymin,xmax,ymax``.

So Roboflow (``_annotations.csv``) and the tutorials of TensorFlow's object detection
(``train_labels.csv``) write them. Corners are in pixels, and taken as edges that count from 0.
"""

import csv
import re
from collections import defaultdict
from functools import partial
from pathlib import Path

from mobilenet_cli.data.boxes import box_dataset as remark
from mobilenet_cli.data.boxes.box_dataset import (
    BoxDataset,
    Corners,
    Labelled,
    Remarks,
    labelled_size,
    make_dataset,
)
from mobilenet_cli.data.boxes.find_images import ImageFinder
from mobilenet_cli.data.boxes.number_order import AS_CORNERS, refuse_other_order
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import is_image, open_file, read_file, read_text
from mobilenet_cli.data.readers.shards import HELD_OUT_WORDS, split_word
from mobilenet_cli.data.split import SPLIT_NAMES, Split
from mobilenet_cli.pipeline.errors import DataError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NEEDED = {"filename", "class", *CORNERS}
HEADING = "filename,width,height,class,xmin,ymin,xmax,ymax"
EDGES = {"xmin", "x_min", "x1", "left", "bbox", "bbox_x"}  # in headings of tables in other forms
PLACES = ("", "annotations", "data", *SPLIT_NAMES)
MAX_BYTES = 1 << 28
Row = dict[str, str]


def files(folder: Path) -> dict[Split, list[Path]]:
    """Find the tables of each split, by their names or their folders'; else those of ``all``."""
    tables = [path for path in _tables(folder) if {*_first_row(path)} >= NEEDED]
    words = {path: split_word(path) for path in tables}
    held = next((names for names in HELD_OUT_WORDS if {*names} & {*words.values()}), ())
    train, val = ([p for p in tables if words[p] in names] for names in (("train",), held))
    if train and val:
        return {"train": train, "val": val}
    return {"all": tables} if tables else {}


def other_table(folder: Path) -> DataError | None:
    """Return the error for a table of boxes in another form, as Open Images and RetinaNet have."""
    for path in _tables(folder):
        row = _first_row(path)
        unnamed = len(row) == 6 and is_image(row[0]) and all(_is_number(v) for v in row[1:5])
        if unnamed or EDGES & {value for cell in row for value in re.split(r"[;\t]", cell)}:
            return DataError(
                f"{path} has boxes in a form that is not read",
                f"Write them as {HEADING}, in pixels",
            )
    return None


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() or not text


def _tables(folder: Path) -> list[Path]:
    return [path for place in PLACES for path in sorted((folder / place).glob("*.csv"))]


def _first_row(path: Path) -> list[str]:
    """Return the first row in small letters; nothing of what cannot be read."""
    try:
        with open_file(path) as file:
            line = file.read(1 << 12).decode("utf-8-sig", "replace").partition("\n")[0]
        return [value.strip().lower() for value in next(csv.reader([line]), [])]
    except (OSError, DataError, csv.Error):
        return []


def _rows(path: Path) -> list[Row]:
    """Return the rows of a table by the names of their columns.

    Raises:
        DataError: it cannot be read, or a row has more or fewer values than the first.
    """
    heading = _first_row(path)
    found = []
    try:
        for number, row in enumerate(csv.reader(read_text(path, MAX_BYTES).splitlines()), 1):
            if len(row) not in (0, len(heading)):
                raise ValueError(f"line {number} has {len(row)} values instead of {len(heading)}")
            if row and number > 1:
                found.append(dict(zip(heading, map(str.strip, row), strict=True)))
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path} is no table of boxes ({error})", "Export it again") from error
    return found


def read(folder: Path, paths: list[Path], name: str) -> BoxDataset:
    """Read tables and find their images.

    Raises:
        DataError: a table cannot be read, or no image can, or boxes are numbers in another order.
    """
    remarks, lost, finder = Remarks(), list[DataError](), ImageFinder()
    named: dict[tuple[Path, str], list[Row]] = defaultdict(list)
    for path in paths:
        for row in _rows(path):
            named[path, row["filename"].replace("\\", "/")].append(row)
    by_image: dict[Path, list[Row]] = defaultdict(list)
    for (path, file), rows in named.items():
        if (image := _image(folder, path, file, finder)) is None:
            remarks.add(remark.NO_IMAGE, f"{path}: {file}")
        else:
            by_image[image] += rows
    # A row without a class says that its image has no boxes.
    classes = sorted({row["class"] for rows in by_image.values() for row in rows} - {""})
    labelled = []
    for image, rows in by_image.items():
        try:
            sizes = {labelled_size(r.get("width") or 0, r.get("height") or 0, image) for r in rows}
            if len(sizes) > 1:
                raise ValueError("its rows say different sizes")
            boxes = [_box(row, classes) for row in rows if row["class"]]
        except DataError as error:
            lost.append(error)
            continue
        except (ValueError, OverflowError) as error:
            lost.append(
                DataError(f"the boxes of {image} cannot be read ({error})", "Correct its rows")
            )
            continue
        sample = Sample(str(image.relative_to(folder)), None, partial(read_file, image))
        labelled.append(Labelled(sample, sizes.pop(), boxes))
    refuse_other_order(", ".join(map(str, paths)), AS_CORNERS, labelled)
    return make_dataset(name, labelled, classes, remarks, lost)


def _box(row: Row, classes: list[str]) -> tuple[int, Corners, bool, float | None]:
    left, top, right, bottom = (float(row[end]) for end in CORNERS)
    return classes.index(row["class"]), (left, top, right, bottom), False, None


def _image(folder: Path, path: Path, name: str, finder: ImageFinder) -> Path | None:
    """Find an image beside the table, or in the folders where programs put them."""
    inner = ("images", f"images/{split_word(path)}", f"{split_word(path)}")
    roots = (path.parent, *(root / place for root in (path.parent, folder) for place in inner))
    return next((found for root in (*roots, folder) if (found := finder.find(root, name))), None)
