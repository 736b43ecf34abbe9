"""Images with boxes in three formats, and everything that can be wrong with them."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenet_cli.data.boxes.box_dataset import BoxDataset
from mobilenet_cli.data.boxes.open_boxes import (
    has_boxes,
    held_out_boxes,
    not_held_out_boxes,
    open_boxes,
)
from mobilenet_cli.data.boxes.voc import parse_xml
from mobilenet_cli.data.decode import ORIENTATION
from mobilenet_cli.pipeline.errors import DataError

SIZE = (40, 32)
BOX = (4.0, 6.0, 20.0, 30.0)
Objects = list[tuple[str, tuple[float, float, float, float]]]
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, encoded: Callable[..., bytes]) -> Folder:
    """Write images and labels: ``folder("voc", {"a": [("cat", BOX)], "b": []})``."""

    def coco(root: Path, images: dict[str, Objects]) -> None:
        names = sorted({label for objects in images.values() for label, _ in objects})
        listed = [
            {"id": i, "file_name": f"{stem}.png", "width": SIZE[0], "height": SIZE[1]}
            for i, stem in enumerate(images)
        ]
        annotations = [
            {"id": 0, "image_id": i, "category_id": 10 + names.index(label), "iscrowd": 0}
            | {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
            for i, objects in enumerate(images.values())
            for label, box in objects
        ]
        categories = [{"id": 10 + i, "name": name} for i, name in enumerate(names)]
        document = {"images": listed, "annotations": annotations, "categories": categories}
        (root / "labels.json").write_text(json.dumps(document))

    def voc(root: Path, images: dict[str, Objects]) -> None:
        (root / "Annotations").mkdir()
        for stem, objects in images.items():
            rows = "".join(
                f"<object><name>{label}</name><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
                f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
                for label, b in objects
            )
            size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
            text = f"<annotation><filename>{stem}.png</filename>{size}{rows}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(text)

    def yolo(root: Path, images: dict[str, Objects]) -> None:
        (root / "labels").mkdir()
        names = sorted({label for objects in images.values() for label, _ in objects})
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
        for stem, objects in images.items():
            lines = [
                f"{names.index(label)} {(b[0] + b[2]) / 2 / SIZE[0]} {(b[1] + b[3]) / 2 / SIZE[1]} "
                f"{(b[2] - b[0]) / SIZE[0]} {(b[3] - b[1]) / SIZE[1]}\n"
                for label, b in objects
            ]
            (root / "labels" / f"{stem}.txt").write_text("".join(lines))

    def make(kind: str, images: dict[str, Objects]) -> Path:
        root = tmp_path / kind
        place = root / {"voc": "JPEGImages", "yolo": "images", "coco": "pictures"}[kind]
        place.mkdir(parents=True)
        for seed, stem in enumerate(images):
            (place / f"{stem}.png").write_bytes(encoded(seed=seed, size=SIZE))
        {"coco": coco, "voc": voc, "yolo": yolo}[kind](root, images)
        return root

    return make


def boxes_of(dataset: BoxDataset) -> list[tuple[str, str, list[float]]]:
    return [
        (Path(image.sample.key).stem, dataset.classes[label], [round(float(x), 3) for x in corners])
        for image in dataset.images
        for label, corners in zip(image.boxes.classes, image.boxes.corners, strict=True)
    ]


ANIMALS = {"a": [("dog", BOX), ("cat", (0.0, 0.0, 40.0, 32.0))], "b": [], "c": [("cat", BOX)]}


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_every_format_gives_the_same(folder: Folder, kind: str) -> None:
    root = folder(kind, ANIMALS)
    assert has_boxes(str(root))
    found = open_boxes(str(root), "all")
    assert found.classes == ("cat", "dog")
    assert boxes_of(found) == [
        ("a", "dog", [4, 6, 20, 30]),
        ("a", "cat", [0, 0, 40, 32]),
        ("c", "cat", [4, 6, 20, 30]),
    ]
    assert [len(image.boxes) for image in found.images] == [2, 0, 1]  # an empty image counts
    assert found.images[0].size == SIZE
    assert found.images[0].boxes.areas.tolist() == [16 * 24, 40 * 32]
    assert found.images[0].sample.read().startswith(b"\x89PNG")
    assert (found.remarks, found.lost) == ((), ())


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_boxes_that_are_not_as_they_should_be_are_counted(folder: Folder, kind: str) -> None:
    wrong: Objects = [
        ("cat", (-4.0, 6.0, 20.0, 30.0)),  # reaches outside
        ("cat", (20.0, 30.0, 4.0, 6.0)),  # swapped
        ("cat", (5.0, 5.0, 5.0, 9.0)),  # no area
        ("cat", (float("nan"), 0.0, 4.0, 4.0)),
        ("cat", BOX),
    ]
    found = open_boxes(str(folder(kind, {"a": wrong, "b": []})), "all")
    assert [corners for _, _, corners in boxes_of(found)] == [
        [0, 6, 20, 30],
        [4, 6, 20, 30],
        [4, 6, 20, 30],
    ]
    counts = {text.split(" ", 1)[1].split(",")[0][:30]: text.split()[0] for text in found.remarks}
    assert counts == {
        "box reaches outside its image and was clipped"[:30]: "1",
        "box has its corners swapped and was turned"[:30]: "1",
        "box lies outside its image or has no area"[:30]: "1",
        "box has no finite corners and was left out"[:30]: "1",
    }
    assert all("such as in" in text and "a.png" in text for text in found.remarks)


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_a_label_of_an_image_that_is_not_there(folder: Folder, kind: str) -> None:
    root = folder(kind, ANIMALS)
    next(root.rglob("a.png")).unlink()
    found = open_boxes(str(root), "all")
    assert [Path(image.sample.key).stem for image in found.images] == ["b", "c"]
    (remark,) = found.remarks
    assert remark.startswith("1 label has no image and was left out")


def test_an_image_without_labels(folder: Folder) -> None:
    root = folder("yolo", ANIMALS)
    (root / "labels" / "c.txt").unlink()
    found = open_boxes(str(root), "all")
    assert [len(image.boxes) for image in found.images] == [2, 0, 0]
    assert found.remarks == (
        f"1 image has no label and counts as empty, such as in {root}/images/c.png",
    )
    root = folder("voc", ANIMALS)
    (root / "Annotations" / "c.xml").unlink()
    found = open_boxes(str(root), "all")
    assert len(found.images) == 2
    assert found.remarks == (
        f"1 image has no label and was left out, such as in {root}/JPEGImages/c.png",
    )


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_a_broken_label_loses_one_image(folder: Folder, kind: str) -> None:
    root = folder(kind, ANIMALS)
    label = next(iter([*root.glob("Annotations/a.xml"), *root.glob("labels/a.txt")]))
    label.write_text("<annotation><size>")
    found = open_boxes(str(root), "all")
    assert len(found.images) == 2
    assert len(found.lost) == 1
    assert str(label) in found.lost[0].what
    for path in label.parent.iterdir():
        path.write_bytes(b"\xff\x00")
    with pytest.raises(DataError, match=r"has no images with labels; .* is not"):
        open_boxes(str(root), "all")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0 0.5 0.5 0.2", "line 1 has 4 values instead of 5"),
        ("cat 0.5 0.5 0.2 0.2", "has the class 'cat', which is no number"),
        ("-1 0.5 0.5 0.2 0.2", "has the class '-1'"),
        ("0 320 240 100 80", "line 1 has 320, which is no fraction of the image"),
        ("0 0.5 x 0.2 0.2", "could not convert"),
    ],
)
def test_a_line_of_yolo_that_is_none(folder: Folder, line: str, problem: str) -> None:
    root = folder("yolo", ANIMALS)
    (root / "labels" / "a.txt").write_text(line)
    (lost,) = open_boxes(str(root), "all").lost
    assert problem in lost.what


def test_yolo_polygons_names_and_classes_out_of_range(folder: Folder) -> None:
    root = folder("yolo", ANIMALS)
    (root / "labels" / "a.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n7 0.5 0.5 0.1 0.1\n")
    found = open_boxes(str(root), "all")
    assert boxes_of(found)[0] == ("a", "dog", [4, 3.2, 20, 16])
    assert found.remarks[0].startswith("1 box is of a class that is not listed")
    (root / "classes.txt").unlink()
    assert open_boxes(str(root), "all").classes == tuple("01234567")
    for text in ("names: [cat, dog, cow]", "names:\n  0: cat\n  1: dog\n  2: cow\n"):
        (root / "data.yaml").write_text(f"path: .\n{text}")
        assert open_boxes(str(root), "all").classes == ("cat", "dog", "cow")
    (root / "data.yaml").write_text("nc: 3\nnames: [no, 010, ~]")
    assert open_boxes(str(root), "all").classes == ("no", "010", "~")
    wrong = ("nc: 3", "names: [", "names: 3", "names: {a: b}", "names: cat", "- cat")
    for text in (*wrong, "names: [[cat]]", "nc: 2\nnames: [cat]"):
        (root / "data.yaml").write_text(text)
        with pytest.raises(DataError, match="does not name the classes"):
            open_boxes(str(root), "all")


@pytest.mark.parametrize(("text", "name"), [("cat\n\ndog", "''"), ("cat\ndog\ncat\n", "'cat'")])
def test_yolo_classes_have_names_of_their_own(folder: Folder, text: str, name: str) -> None:
    root = folder("yolo", ANIMALS)
    (root / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=f"have the name {name} more than once or empty"):
        open_boxes(str(root), "all")


@pytest.mark.parametrize(
    "text", ["cat\ndog", "cat\r\ndog\r\n", "\ufeffcat\ndog\n\n", "cat \ndog\n"]
)
def test_yolo_names_are_all_read_however_their_file_ends(folder: Folder, text: str) -> None:
    root = folder("yolo", ANIMALS)
    (root / "classes.txt").write_bytes(text.encode())
    label = root / "labels" / "a.txt"
    label.write_bytes(b"\xef\xbb\xbf" + label.read_bytes())
    found = open_boxes(str(root), "all")
    assert found.classes == ("cat", "dog")
    assert [name for _, name, _ in boxes_of(found)] == ["dog", "cat", "cat"]
    assert (found.remarks, found.lost) == ((), ())


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("images", {"id": 0}, "2 images of the id 0"),
        ("images", {"file_name": "a.png"}, r"2 images of the file a\.png"),
        ("categories", {"id": 10}, "2 categories of the id 10"),
    ],
)
def test_coco_that_lists_something_twice(folder: Folder, part: str, change, words: str) -> None:
    path = folder("coco", ANIMALS) / "labels.json"
    document = json.loads(path.read_text())
    document[part][1] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=f"lists {words}, and it is not said whose the boxes are"):
        open_boxes(str(path), "all")


def test_coco_of_a_class_that_is_its_own_parent_and_of_windows(folder: Folder) -> None:
    path = folder("coco", ANIMALS) / "labels.json"
    document = json.loads(path.read_text())
    document["categories"].append({"id": 0, "name": "dog", "supercategory": "none"})
    for image in document["images"]:
        image["file_name"] = f"pictures\\{image['file_name']}"
    path.write_text(json.dumps(document))
    found = open_boxes(str(path), "all")
    assert found.classes == ("dog", "cat")
    assert [name for _, name, _ in boxes_of(found)] == ["dog", "cat", "cat"]


def test_voc_lists_may_name_files(folder: Folder) -> None:
    root = folder("voc", ANIMALS)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(b"a.png\r\n")
    (root / "ImageSets" / "Main" / "val.txt").write_bytes(b"b.png\r\nc.png\r\n")
    assert len(open_boxes(str(root), "val").images) == 2


def test_two_formats_in_one_folder(folder: Folder, tmp_path: Path) -> None:
    voc = folder("voc", ANIMALS)
    (voc / "labels.json").write_text((folder("coco", ANIMALS) / "labels.json").read_text())
    with pytest.raises(DataError, match="has labels of COCO and of Pascal VOC, and it is not said"):
        open_boxes(str(voc), "all")
    with pytest.raises(DataError, match="has no labels with boxes"):
        open_boxes(str(tmp_path), "all")
    with pytest.raises(DataError, match="does not exist"):
        open_boxes(str(tmp_path / "none"), "all")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match="is no set of images with boxes"):
        open_boxes(str(tmp_path / "x.png"), "all")


def changed(root: Path, **annotation: object) -> BoxDataset:
    """Open a COCO file whose first annotation is changed."""
    path = root / "labels.json"
    document = json.loads(path.read_text())
    document["annotations"][0] |= annotation
    path.write_text(json.dumps(document))
    return open_boxes(str(path), "all")


def test_coco_segmentations_crowds_areas_and_unknown_categories(folder: Folder) -> None:
    root = folder("coco", ANIMALS)
    drawn = changed(root, bbox=None, segmentation=[[4, 6, 20, 6, 20, 30]])
    assert boxes_of(drawn)[0] == ("a", "dog", [4, 6, 20, 30])
    assert drawn.remarks[0].startswith("1 box was drawn around a segmentation")
    lengths = {"counts": "abc", "size": [32, 40]}
    crowd = changed(root, bbox=[4, 6, 16, 24], segmentation=lengths, iscrowd=1, area=99)
    assert crowd.images[0].boxes.ignored.tolist() == [True, False]
    assert crowd.images[0].boxes.areas[0] == 99
    assert crowd.remarks[0].startswith("1 box is of crowds")
    without = changed(root, bbox=[], segmentation=lengths)
    assert without.remarks[0].startswith("1 annotation has no box and no polygon")
    unknown = changed(root, bbox=[4, 6, 16, 24], category_id=99)
    assert unknown.remarks[0].startswith("1 box is of a class that is not listed")
    elsewhere = changed(root, image_id=99)
    assert elsewhere.remarks[0].startswith("1 label has no image and was left out")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"images": [', "is not JSON"),
        ('{"images": [{"id": 1}], "categories": []}', "is not as COCO has it .KeyError"),
        ('{"images": 3, "categories": []}', "is not as COCO has it .TypeError"),
        ('{"images": [], "categories": []}', "is there, such as none"),
        ("[" * 100_000 + '"images"', "does not exist|is no set|is not JSON"),
    ],
)
def test_a_broken_coco_file(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        open_boxes(str(path), "all")


def test_xml_is_parsed_safely() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><a>&c;</a>'
    for content in (bomb, b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'):
        with pytest.raises(ValueError, match="document type"):
            parse_xml(content)
    with pytest.raises(ValueError, match="nested deeper"):
        parse_xml(b"<a>" * 100)
    assert parse_xml(b"<a><b> x&lt;y </b></a>").find("a", "b") == "x<y"


def test_ten_thousand_boxes(folder: Folder) -> None:
    many: Objects = [
        ("cat", (i % 30, i // 400, i % 30 + 4.0, i // 400 + 4.0)) for i in range(10_000)
    ]
    found = open_boxes(str(folder("yolo", {"a": many})), "all")
    assert found.objects == 10_000


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_a_set_without_splits_is_divided_by_a_seed(folder: Folder, kind: str) -> None:
    root = str(folder(kind, {f"i{n}": [("cat", BOX)] for n in range(10)}))
    train, val = open_boxes(root, "train"), open_boxes(root, "val")
    keys = [{image.sample.key for image in part.images} for part in (train, val)]
    assert [len(k) for k in keys] == [8, 2]
    assert not keys[0] & keys[1]
    assert len(held_out_boxes(root, None).images) == 10
    assert len(held_out_boxes(root, root).images) == 2
    assert len(not_held_out_boxes(root, root).images) == 8


def test_splits_of_voc_and_yolo_are_taken(folder: Folder) -> None:
    root = folder("voc", ANIMALS)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c  1\n")
    assert [i.sample.key for i in held_out_boxes(str(root), None).images] == ["JPEGImages/c.png"]
    val = open_boxes(str(root), "val")
    assert val.classes == ("cat", "dog")  # of all splits, though c has cats alone
    assert boxes_of(val) == [("c", "cat", [4, 6, 20, 30])]
    root = folder("yolo", ANIMALS)
    for split, stems in (("train", "ab"), ("valid", "c")):
        for kind, end in (("images", "png"), ("labels", "txt")):
            (root / kind / split).mkdir()
            for stem in stems:
                (root / kind / f"{stem}.{end}").rename(root / kind / split / f"{stem}.{end}")
    assert len(open_boxes(str(root), "train").images) == 2
    assert boxes_of(open_boxes(str(root), "val")) == [("c", "cat", [4, 6, 20, 30])]
    assert len(open_boxes(str(root), "all").images) == 3


def test_boxes_of_turned_images_are_on_what_is_decoded(
    folder: Folder, encoded: Callable[..., bytes]
) -> None:
    """YOLO's fractions are of the upright image; a format that gives sizes says what it means."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(size=SIZE, form="JPEG", exif=exif)
    root = folder("yolo", ANIMALS)
    (root / "images" / "a.png").write_bytes(turned)
    first, *_ = open_boxes(str(root), "all").images
    assert first.size == SIZE[::-1]
    assert first.sample.read() == turned
    root = folder("coco", ANIMALS)
    (root / "pictures" / "a.png").write_bytes(turned)
    first, *_ = open_boxes(str(root), "all").images
    with pytest.raises(DataError, match=r"32×40 pixels as it is shown, .* on 40×32"):
        first.sample.read()


def test_image_that_claims_billions_of_pixels_is_named(folder: Folder) -> None:
    root = folder("yolo", ANIMALS)
    header = b"IHDR" + b"\0\0\xea\x60" * 2
    image = root / "images" / "a.png"
    content = image.read_bytes()
    start = content.index(b"IHDR")
    broken = content[:start] + header + content[start + 12 : start + 17]
    crc = zlib.crc32(broken[start:]).to_bytes(4, "big")
    image.write_bytes(broken + crc + content[start + 21 :])
    (lost,) = open_boxes(str(root), "all").lost
    assert "a.png has 3,600,000,000 pixels" in lost.what


def test_bccd(shared: Path) -> None:
    bccd = str(shared / "detect" / "bccd")
    train, val = open_boxes(bccd, "train"), open_boxes(bccd, "val")
    assert (len(train.images), len(val.images)) == (205, 87)
    assert train.classes == val.classes == ("Platelets", "RBC", "WBC")
    assert np.concatenate([i.boxes.corners for i in train.images]).min() >= 0
