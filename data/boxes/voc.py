"""Pascal VOC's XML: a file for each image (host.robots.ox.ac.uk/pascal/VOC/, development kit).

Corners are taken as they are written, as edges in pixels from 0: so LabelImg and most programs
write them today. Those of Pascal's own files count pixels from 1, half a pixel beside.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.parsers import expat

from mobilenet_cli.data.boxes import box_dataset as remark
from mobilenet_cli.data.boxes.box_dataset import (
    BoxDataset,
    Corners,
    Labelled,
    Remarks,
    labelled_size,
    make_dataset,
    size_of,
)
from mobilenet_cli.data.boxes.find_images import ImageFinder
from mobilenet_cli.data.boxes.number_order import AS_CORNERS, refuse_other_order
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import is_image, read_bytes, read_file, read_text
from mobilenet_cli.data.readers.walk import folders_in
from mobilenet_cli.data.split import (
    HELD_OUT_NAMES,
    MAYBE_UNLABELLED,
    SPLIT_NAMES,
    TRAINING_NAMES,
    Split,
)
from mobilenet_cli.pipeline.errors import DataError, counted

MAX_BYTES = 1 << 26
DEEPEST = 32
LISTS = ("train", "trainval", *HELD_OUT_NAMES)
# Folders that hold a set: those of Pascal's archives, or of a split.
SET = re.compile(rf"VOC(devkit|\d{{4}}|trainval.*|test.*)|(?i:{'|'.join(SPLIT_NAMES)})")


@dataclass
class Element:
    """An element has its text and the elements in it, by name."""

    text: str = ""
    children: list[tuple[str, "Element"]] = field(default_factory=list)

    def all(self, name: str) -> list["Element"]:
        """Return the elements of a name in it."""
        return [element for found, element in self.children if found == name]

    def find(self, *path: str) -> str:
        """Return the text of the first element on a path.

        Raises:
            LookupError: there is none.
        """
        element = self
        for name in path:
            found = element.all(name)
            if not found:
                raise LookupError(f"there is no <{name}>")
            element = found[0]
        return element.text.strip()


def parse_xml(content: bytes) -> Element:
    """Parse XML without a document type and without entities of its own.

    Raises:
        ValueError: it is broken, or has one.
    """
    root = Element()
    stack = [root]

    def start(name: str, _attributes: dict[str, str]) -> None:
        if len(stack) > DEEPEST:
            raise ValueError(f"elements are nested deeper than {DEEPEST}")
        element = Element()
        stack[-1].children.append((name, element))
        stack.append(element)

    def text(data: str) -> None:
        stack[-1].text += data

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type of its own, which is not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
    return root


def labels_of(folder: Path) -> dict[Split, list[Path]]:
    """Find the XML files of each split; without splits, those of ``all``.

    Pascal's own ``VOCdevkit/`` holds a set for each year. Other sets have a folder for each split.

    Raises:
        DataError: a list of a split cannot be read, or has an image of another.
    """
    sets = _sets_in(folder) or [folder]
    by_name = {root.name.lower(): root for root in sets}
    train = next((by_name[name] for name in TRAINING_NAMES if name in by_name), None)
    held = next((by_name[name] for name in HELD_OUT_NAMES if name in by_name), None)
    if train is not None and held is not None:
        return {"train": _xml_in(train), "val": _xml_in(held)}
    parts = [_labels_of(root) for root in sets]
    if len({"all" in part for part in parts}) > 1:
        raise DataError(
            f"some of {', '.join(map(str, sets))} say what is held out, and others do not",
            "Give one of them, or add ImageSets/Main/train.txt and val.txt to each",
        )
    splits = dict.fromkeys(split for part in parts for split in part)
    return {split: [path for part in parts for path in part.get(split, ())] for split in splits}


def _sets_in(folder: Path) -> list[Path]:
    """Return the folders with annotations: this one, or those of years or of splits below it."""
    if _annotations(folder) is not None or any(folder.glob("*.xml")):
        return [folder]
    inner = (folder / name for name in folders_in(folder) if SET.fullmatch(name))
    return [found for place in inner for found in _sets_in(place) if _annotations(found)]


def _annotations(folder: Path) -> Path | None:
    """Return the folder of XML files, which some programs write in small letters."""
    names = {name.lower(): name for name in folders_in(folder)}
    if "annotations" not in names:
        return None
    place = folder / names["annotations"]
    inner = place / "xmls"  # of Oxford's pets
    return next((p for p in (place, inner) if any(p.glob("*.xml"))), None)


def _xml_in(root: Path) -> list[Path]:
    annotations = _annotations(root)
    return sorted([*(annotations.glob("*.xml") if annotations else ()), *root.glob("*.xml")])


def _labels_of(folder: Path) -> dict[Split, list[Path]]:
    """Find the XML files of one set."""
    lists, annotations = folder / "ImageSets" / "Main", _annotations(folder)
    found: dict[Split, list[Path]] = {}
    there = {name for name in LISTS if (lists / f"{name}.txt").is_file()}
    train = next((name for name in ("train", "trainval") if name in there), None)
    # Of trainval.txt, val.txt is a part.
    held_out = HELD_OUT_NAMES if train == "train" else MAYBE_UNLABELLED
    held = next((name for name in held_out if name in there), None)
    if annotations is not None and train is not None and held is not None:
        found["train"] = _listed(lists / f"{train}.txt", annotations)
        found["val"] = _listed(lists / f"{held}.txt", annotations)
        if both := sorted({*found["train"]} & {*found["val"]}):
            raise DataError(
                f"{lists} has {counted(len(both), 'image')} both in {train}.txt and in {held}.txt, "
                f"such as {both[0].stem}",
                "Leave each in one of them",
            )
        return found
    if held_folder := next(
        (folder / n for n in HELD_OUT_NAMES if any((folder / n).glob("*.xml"))), None
    ):
        if any((folder / "train").glob("*.xml")):
            found["train"] = sorted((folder / "train").glob("*.xml"))
        return found | {"val": sorted(held_folder.glob("*.xml"))}
    return {"all": files} if (files := _xml_in(folder)) else {}


def _listed(path: Path, annotations: Path) -> list[Path]:
    """Return the XML files that a list names, each once."""
    found = dict[Path, None]()
    for line in filter(None, map(str.strip, read_text(path).split("\n"))):
        # A list of one class has a second column: is it in the image?
        whole = (annotations / f"{line}.xml").is_file()
        name = line if whole else line.split()[0]
        stem = Path(name).stem if is_image(name) else name
        found[annotations / f"{stem}.xml"] = None
    return list(found)


def read(folder: Path, paths: list[Path], name: str) -> BoxDataset:
    """Read XML files and find their images.

    Raises:
        DataError: none can be read, or boxes are numbers in another order.
    """
    remarks, lost, finder = Remarks(), list[DataError](), ImageFinder()
    read_files: list[tuple[Path, Element]] = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError("it is too large")
            read_files.append((path, parse_xml(read_bytes(path))))
        except DataError as error:
            lost.append(error)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            lost.append(DataError(f"{path} is not readable XML ({why})", "Export it again"))
    classes = sorted({label for _, root in read_files for label in _names(root)})
    index = {label: place for place, label in enumerate(classes)}
    labelled: list[Labelled] = []
    folders = set[Path]()
    for path, root in read_files:
        try:
            annotation = root.all("annotation")[0]
            image = _image(folder, path, annotation, finder)
            if image is None:
                remarks.add(remark.NO_IMAGE, str(path))
                continue
            size = _size(annotation, image)
            boxes = list(_boxes(annotation, index))
        except DataError as error:
            lost.append(error)
            continue
        except (LookupError, ValueError, OverflowError) as error:
            lost.append(
                DataError(f"{path} is not as Pascal VOC has it ({error})", "Export it again")
            )
            continue
        folders.add(image.parent)
        key = str(image.relative_to(folder))
        labelled.append(Labelled(Sample(key, None, partial(read_file, image)), size, boxes))
    for image in _unlabelled(folders, {path.parent for path in paths}):
        remarks.add(remark.SKIPPED, str(image))
    refuse_other_order(str(folder), AS_CORNERS, labelled)
    return make_dataset(name, labelled, classes, remarks, lost)


def _unlabelled(images: set[Path], labels: set[Path]) -> list[Path]:
    """List the images in some folders that no XML file in others is named after."""
    stems = {path.stem for folder in labels for path in folder.glob("*.xml")}
    return [
        image
        for folder in sorted(images)
        for image in sorted(folder.iterdir())
        if is_image(image.name) and image.stem not in stems
    ]


def _names(root: Element) -> Iterator[str]:
    for annotation in root.all("annotation"):
        for found in annotation.all("object"):
            if found.all("name"):
                yield found.find("name")


def _boxes(
    annotation: Element, index: dict[str, int]
) -> Iterator[tuple[int, Corners, bool, float | None]]:
    for found in annotation.all("object"):
        left, top, right, bottom = (
            float(found.find("bndbox", end)) for end in ("xmin", "ymin", "xmax", "ymax")
        )
        difficult = found.all("difficult") and found.find("difficult").lower() in ("1", "true")
        yield index[found.find("name")], (left, top, right, bottom), bool(difficult), None


def _size(annotation: Element, image: Path) -> tuple[int, int]:
    """Return the size that the boxes are for; some programs leave it out."""
    if not any(element.children for element in annotation.all("size")):
        return size_of(image)
    width, height = (annotation.find("size", side) for side in ("width", "height"))
    return labelled_size(width or 0, height or 0, image)


def _image(folder: Path, path: Path, annotation: Element, finder: ImageFinder) -> Path | None:
    """Find the image of an XML file: by the name that it has, else by its own."""
    named = (
        Path(annotation.find("filename").replace("\\", "/")).name
        if annotation.all("filename")
        else ""
    )
    stem = path.stem
    roots = [place for place in list(path.parents)[1:3] if place.is_relative_to(folder)]
    names = ("JPEGImages", "images", "Images")
    named_so = [root / name for root in (roots or [folder]) for name in names]
    for place in (*named_so, path.parent):
        for name in (named, f"{stem}.jpg", f"{stem}.jpeg", f"{stem}.png", stem):
            if name and (image := finder.find(place, name)) is not None:
                return image
    return None
