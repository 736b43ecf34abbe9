"""Pascal VOC's XML: a file for each image (host.robots.ox.ac.uk/pascal/VOC/, development kit).

Corners are taken as they are written, as edges in pixels from 0: so LabelImg and most programs
write them today. Those of Pascal's own files count pixels from 1, half a pixel beside.
"""

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
    make_dataset,
)
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import is_image, read_file
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.errors import DataError

HELD_OUT = ("val", "valid", "validation", "test")  # the first that is there
MAX_BYTES = 1 << 26
DEEPEST = 32


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

    Raises:
        DataError: a list of a split cannot be read.
    """
    lists, annotations = folder / "ImageSets" / "Main", folder / "Annotations"
    found: dict[Split, list[Path]] = {}
    train, held_out = lists / "train.txt", [lists / f"{name}.txt" for name in HELD_OUT]
    held = next((path for path in held_out if path.is_file()), None)
    if train.is_file() and held is not None:
        for split, path in (("train", train), ("val", held)):
            names = read_file(path).decode("utf-8", "replace").split("\n")
            # A list of one class has a second column: is it in the image?
            listed = [name.split()[0] for name in names if name.strip()]
            stems = [Path(name).stem if is_image(name) else name for name in listed]
            found[split] = [annotations / f"{stem}.xml" for stem in stems]  # type: ignore[index]
        return found
    if held_folder := next((folder / n for n in HELD_OUT if any((folder / n).glob("*.xml"))), None):
        if any((folder / "train").glob("*.xml")):
            found["train"] = sorted((folder / "train").glob("*.xml"))
        return found | {"val": sorted(held_folder.glob("*.xml"))}
    return (
        {"all": files}
        if (files := sorted([*annotations.glob("*.xml"), *folder.glob("*.xml")]))
        else {}
    )


def read(folder: Path, paths: list[Path], name: str) -> BoxDataset:
    """Read XML files and find their images.

    Raises:
        DataError: none can be read.
    """
    remarks, lost = Remarks(), list[DataError]()
    read_files: list[tuple[Path, Element]] = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError("it is too large")
            read_files.append((path, parse_xml(path.read_bytes())))
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
            image = _image(folder, path, annotation)
            if image is None:
                remarks.add(remark.NO_IMAGE, str(path))
                continue
            size = (int(annotation.find("size", "width")), int(annotation.find("size", "height")))
            if min(size) < 1:
                raise ValueError(f"the image's size is {size[0]}x{size[1]}")
            boxes = list(_boxes(annotation, index))
        except (LookupError, ValueError) as error:
            lost.append(
                DataError(f"{path} is not as Pascal VOC has it ({error})", "Export it again")
            )
            continue
        folders.add(image.parent)
        key = str(image.relative_to(folder))
        labelled.append(Labelled(Sample(key, None, partial(read_file, image)), size, boxes))
    for image in _unlabelled(folders, {path.parent for path in paths}):
        remarks.add(remark.SKIPPED, str(image))
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
        difficult = found.all("difficult") and found.find("difficult") == "1"
        yield index[found.find("name")], (left, top, right, bottom), bool(difficult), None


def _image(folder: Path, path: Path, annotation: Element) -> Path | None:
    """Find the image of an XML file: by the name that it has, else by its own."""
    named = (
        Path(annotation.find("filename").replace("\\", "/")).name
        if annotation.all("filename")
        else ""
    )
    for place in (folder / "JPEGImages", folder / "images", path.parent):
        for candidate in (named, *(f"{path.stem}{end}" for end in (".jpg", ".jpeg", ".png"))):
            if candidate and (place / candidate).is_file():
                return place / candidate
    return None
