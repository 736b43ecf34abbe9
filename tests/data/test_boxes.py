"""Images with boxes in four formats, and everything that can be wrong with them."""

import json
import os
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

    def table(root: Path, images: dict[str, Objects]) -> None:
        rows = [
            f"{stem}.png,{SIZE[0]},{SIZE[1]},{label},{','.join(map(str, box))}\n"
            for stem, objects in images.items()
            for label, box in objects or [("", ("", "", "", ""))]
        ]
        heading = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        (root / "_annotations.csv").write_text(heading + "".join(rows))

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
        place = root / {"voc": "JPEGImages", "yolo": "images", "coco": "pictures"}.get(kind, "")
        place.mkdir(parents=True)
        for seed, stem in enumerate(images):
            (place / f"{stem}.png").write_bytes(encoded(seed=seed, size=SIZE))
        {"coco": coco, "csv": table, "voc": voc, "yolo": yolo}[kind](root, images)
        return root

    return make


def boxes_of(dataset: BoxDataset) -> list[tuple[str, str, list[float]]]:
    return [
        (Path(image.sample.key).stem, dataset.classes[label], [round(float(x), 3) for x in corners])
        for image in dataset.images
        for label, corners in zip(image.boxes.classes, image.boxes.corners, strict=True)
    ]


ANIMALS = {"a": [("dog", BOX), ("cat", (0.0, 0.0, 40.0, 32.0))], "b": [], "c": [("cat", BOX)]}


@pytest.mark.parametrize("kind", ["coco", "csv", "voc", "yolo"])
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


@pytest.mark.parametrize("kind", ["coco", "csv", "voc"])
def test_boxes_that_are_drawn_without_care_are_clipped(folder: Folder, kind: str) -> None:
    wide = (-3.0, -2.0, SIZE[0] + 3.0, SIZE[1] + 2.0)
    found = open_boxes(
        str(folder(kind, {stem: [("cat", wide)] for stem in "abcdefghijklm"})), "all"
    )
    assert found.objects == 13
    assert found.remarks[0].startswith("13 boxes reach outside their image")


@pytest.mark.parametrize("kind", ["coco", "csv", "voc", "yolo"])
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


@pytest.mark.parametrize("kind", ["coco", "csv", "voc", "yolo"])
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
        with pytest.raises(DataError, match=r"does not name the classes|cannot be understood"):
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
        ("cat", (i % 100 / 4, i // 400, i % 100 / 4 + 4.0, i // 400 + 4.0 + i % 400 // 100))
        for i in range(10_000)
    ]
    found = open_boxes(str(folder("yolo", {"a": many})), "all")
    assert found.objects == 10_000


@pytest.mark.parametrize("kind", ["coco", "csv", "voc", "yolo"])
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


@pytest.mark.parametrize("form", ["JPEG", "PNG", "late PNG", "TIFF", "WEBP"])
def test_boxes_of_turned_images_are_on_what_is_decoded(
    folder: Folder, encoded: Callable[..., bytes], form: str
) -> None:
    """YOLO's fractions are of the upright image; a format that gives sizes says what it means."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(size=SIZE, form=form.removeprefix("late "), exif=exif)
    if form == "late PNG":  # the chunk may follow the pixels
        start = turned.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(turned[start : start + 4])
        last = turned.index(b"IEND") - 4
        turned = turned[:start] + turned[end:last] + turned[start:end] + turned[last:]
    root = folder("yolo", ANIMALS)
    (root / "images" / "a.png").write_bytes(turned)
    first, *_ = open_boxes(str(root), "all").images
    assert first.size == SIZE[::-1]
    assert first.sample.read() == turned
    root = folder("coco", ANIMALS)
    (root / "pictures" / "a.png").write_bytes(turned)
    first, *_ = open_boxes(str(root), "all").images
    with pytest.raises(DataError, match="32x40 pixels, and its labels are for 40x32") as caught:
        first.sample.read()
    assert "remove an EXIF orientation" in caught.value.fix


@pytest.mark.parametrize("size", [(80, 64), (32, 32), (400, 32)])
def test_an_image_of_another_size_than_its_labels_is_not_read(
    folder: Folder, encoded: Callable[..., bytes], size: tuple[int, int]
) -> None:
    root = folder("voc", ANIMALS)
    (root / "JPEGImages" / "a.png").write_bytes(encoded(size=size))
    first, second, *_ = open_boxes(str(root), "all").images
    with pytest.raises(DataError, match=f"has {size[0]}x{size[1]} pixels, and its labels are for"):
        first.sample.read()
    assert second.sample.read()


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


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def corners(dataset: BoxDataset) -> list[list[float]]:
    return [row for image in dataset.images for row in image.boxes.corners.tolist()]


@pytest.mark.parametrize(
    "name",
    ["A.PNG", "photos/a.png", "C:\\data\\photos\\a.png", "https://example.org/a.png", "a"],
)
def test_coco_names_images_as_another_machine_did(folder: Folder, name: str) -> None:
    root = folder("coco", {"a": [("cat", BOX)]})
    rewrite(root / "labels.json", lambda d: d["images"][0].update(file_name=name))
    assert corners(open_boxes(str(root), "all")) == [list(BOX)]


def test_two_names_of_one_image_are_refused(folder: Folder) -> None:
    root = folder("coco", {"a": [("cat", BOX)], "b": []})
    rewrite(root / "labels.json", lambda d: d["images"][1].update(file_name="other/A.png"))
    with pytest.raises(DataError, match="lists 2 images of the file"):
        open_boxes(str(root), "all")


def test_names_are_compared_however_accents_are_composed(folder: Folder) -> None:
    root = folder("coco", {"caf\u00e9": [("cat", BOX)]})
    rewrite(root / "labels.json", lambda d: d["images"][0].update(file_name="cafe\u0301.png"))
    assert corners(open_boxes(str(root), "all")) == [list(BOX)]


@pytest.mark.parametrize("identifier", ["00a7", "1", 1.0, "photo one"])
def test_coco_ids_may_be_words(folder: Folder, identifier: object) -> None:
    root = folder("coco", {"a": [("cat", BOX)]})

    def change(document: dict) -> None:
        document["images"][0]["id"] = document["annotations"][0]["image_id"] = identifier

    rewrite(root / "labels.json", change)
    assert corners(open_boxes(str(root), "all")) == [list(BOX)]


def test_a_crowd_that_is_written_as_text_is_none(folder: Folder) -> None:
    root = folder("coco", {"a": [("cat", BOX)]})
    rewrite(root / "labels.json", lambda d: d["annotations"][0].update(iscrowd="0"))
    assert not open_boxes(str(root), "all").images[0].boxes.ignored.any()


def test_coco_behind_a_byte_order_mark(folder: Folder) -> None:
    root = folder("coco", {"a": [("cat", BOX)]})
    text = (root / "labels.json").read_text()
    (root / "labels.json").write_text(text, "utf-8-sig")
    assert corners(open_boxes(str(root), "all")) == [list(BOX)]


@pytest.mark.parametrize("size", [{}, {"width": 0, "height": 0}, {"width": None, "height": 32}])
def test_coco_without_sizes_takes_those_of_the_images(folder: Folder, size: dict) -> None:
    root = folder("coco", {"a": [("cat", BOX)]})

    def change(document: dict) -> None:
        image = document["images"][0]
        document["images"] = [{"id": image["id"], "file_name": image["file_name"], **size}]

    rewrite(root / "labels.json", change)
    assert open_boxes(str(root), "all").images[0].size == SIZE


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width>0</width><height>0</height></size>",
        f"<size><width>{SIZE[0]}.0</width><height>{SIZE[1]}.0</height></size>",
    ],
)
def test_voc_without_sizes_takes_those_of_the_images(folder: Folder, size: str) -> None:
    root = folder("voc", {"a": [("cat", BOX)]})
    (path,) = root.glob("Annotations/*.xml")
    before, _, after = path.read_text().replace("</size>", "<size>").split("<size>")
    path.write_text(before + size + after)
    assert open_boxes(str(root), "all").images[0].size == SIZE


def test_a_damaged_image_without_a_size_is_lost(folder: Folder) -> None:
    root = folder("voc", {"a": [("cat", BOX)], "b": [("cat", BOX)]})
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace(str(SIZE[0]), "0"))
    (root / "JPEGImages" / "a.png").write_bytes(b"\x89PNG")
    found = open_boxes(str(root), "all")
    assert [image.sample.key for image in found.images] == ["JPEGImages/b.png"]
    assert "a PNG image that is cut off" in found.lost[0].what


@pytest.mark.parametrize("name", ["A.JPEG", "a.webp", "a.TIF"])
def test_voc_finds_images_of_any_ending(folder: Folder, name: str) -> None:
    root = folder("voc", {"a": [("cat", BOX)]})
    (root / "JPEGImages" / "a.png").rename(root / "JPEGImages" / name)
    assert corners(open_boxes(str(root), "all")) == [list(BOX)]


def test_voc_lists_with_spaces_marks_and_lines_that_repeat(folder: Folder) -> None:
    root = folder("voc", {"my photo": [("cat", BOX)], "b": [("cat", BOX)]})
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("my photo\r\nmy photo\r\n", "utf-8-sig")
    (lists / "val.txt").write_text("b 1\n")
    for split, name in (("train", "my photo"), ("val", "b")):
        found = open_boxes(str(root), split)  # type: ignore[arg-type]
        assert [i.sample.key for i in found.images] == [f"JPEGImages/{name}.png"]


def test_pipes_among_labels_and_images_are_lost_and_do_not_hang(folder: Folder) -> None:
    voc, yolo = (folder(kind, {"a": [("cat", BOX)]}) for kind in ("voc", "yolo"))
    os.mkfifo(voc / "Annotations" / "b.xml")
    os.mkfifo(yolo / "images" / "b.png")
    for root in (voc, yolo):
        found = open_boxes(str(root), "all")
        assert (len(found.images), "is no file but a pipe" in found.lost[0].what) == (1, True)


def test_boxes_that_are_fractions_are_no_pixels(folder: Folder) -> None:
    root = folder("coco", {"a": [("cat", (0.1, 0.2, 0.5, 0.75))]})
    with pytest.raises(DataError, match=r"all lie in the first pixel .* Write them in pixels"):
        open_boxes(str(root), "all")


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (("train2017", "val2017"), "images/{}"),
        (("Train", "Val"), "images/{}"),
        (("training", "validation"), "{}/images"),
    ],
)
def test_yolo_splits_by_the_names_that_people_use(
    folder: Folder, names: tuple[str, str], place: str
) -> None:
    root = folder("yolo", {"a": [("cat", BOX)], "b": [("cat", BOX)]})
    for stem, name in zip("ab", names, strict=True):
        for kind, file in (("images", f"{stem}.png"), ("labels", f"{stem}.txt")):
            to = root / place.replace("images", kind).format(name)
            to.mkdir(parents=True)
            (root / kind / file).rename(to / file)
    for stem, split in zip("ab", ("train", "val"), strict=True):
        (image,) = open_boxes(str(root), split).images  # type: ignore[arg-type]
        assert Path(image.sample.key).name == f"{stem}.png"


def test_yolo_of_training_images_alone_is_divided(folder: Folder) -> None:
    root = folder("yolo", {"a": [("cat", BOX)], "b": [("cat", BOX)]})
    for kind in ("images", "labels"):
        (root / kind).rename(root / "train")
        (root / kind).mkdir()
        (root / "train").rename(root / kind / "train")
    assert len(open_boxes(str(root), "train").images) == 1


def test_yolo_without_training_images_has_those_of_val_before_those_of_test(folder: Folder) -> None:
    root = folder("yolo", {"a": [("cat", BOX)], "b": [("cat", BOX)]})
    for stem, name in zip("ab", ("test", "val"), strict=True):
        for kind, file in (("images", f"{stem}.png"), ("labels", f"{stem}.txt")):
            (root / kind / name).mkdir()
            (root / kind / file).rename(root / kind / name / file)
    found = open_boxes(str(root), "all").images
    assert [image.sample.key for image in found] == ["images/val/b.png"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("coco128.yaml", "path: x\nnames:\n  0: cat\n  1: dog\n"),
        ("coco.names", "cat\r\ndog\r\n"),
        ("labels/train/classes.txt", "cat\ndog\n"),
    ],
)
def test_yolo_names_in_files_of_other_names(folder: Folder, file: str, text: str) -> None:
    root = folder("yolo", {"a": [("cat", BOX)]})
    (root / "classes.txt").unlink()
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(text, newline="")
    (root / "compose.yml").write_text("services: {}\n")
    assert open_boxes(str(root), "all").classes == ("cat", "dog")


def test_yolo_names_that_contradict_each_other(folder: Folder) -> None:
    root = folder("yolo", {"a": [("cat", BOX)], "b": [("dog", BOX)]})
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    assert open_boxes(str(root), "all").classes == ("cat", "dog")
    (root / "data.yaml").write_text("names: [dog, cat]\n")
    with pytest.raises(DataError, match=r"name other classes, 2: cat, dog and 2: dog, cat"):
        open_boxes(str(root), "all")


def test_categories_beside_labels_of_yolo_are_no_coco(folder: Folder) -> None:
    root = folder("yolo", {"a": [("cat", BOX)]})
    notes = {"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}}
    (root / "notes.json").write_text(json.dumps(notes))  # as Label Studio writes it
    assert corners(open_boxes(str(root), "all")) == [list(BOX)]


def moved(root: Path, *pairs: tuple[str, str]) -> None:
    """Move files and folders below a folder."""
    for old, new in pairs:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)


PETS = {f"{name}{number}": [(name, BOX)] for number in range(4) for name in ("cat", "dog")}


def split_of(root: Path, split: str) -> list[str]:
    return [Path(i.sample.key).stem for i in open_boxes(str(root), split).images]  # type: ignore[arg-type]


@pytest.mark.parametrize("outer", ["", "VOCdevkit", "VOCtrainval_06-Nov-2007/VOCdevkit"])
def test_vocdevkit_holds_the_sets_of_years(folder: Folder, tmp_path: Path, outer: str) -> None:
    root = tmp_path / "devkit"
    for year, stems in (("2007", "ab"), ("2012", "cd")):
        one = folder("voc", {f"{stem}{n}": [("cat", BOX)] for stem in stems for n in range(2)})
        lists = one / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        for split, stem in zip(("train", "val"), stems, strict=True):
            (lists / f"{split}.txt").write_text(f"{stem}0\n{stem}1\n")
        (lists / "cat_train.txt").write_text(f"{stems[0]}0 1\n")
        (root / outer).mkdir(parents=True, exist_ok=True)
        one.rename(root / outer / f"VOC{year}")
    assert has_boxes(str(root))
    assert split_of(root, "train") == ["a0", "a1", "c0", "c1"]
    assert split_of(root, "val") == ["b0", "b1", "d0", "d1"]
    (root / outer / "VOC2012" / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(DataError, match="say what is held out, and others do not"):
        open_boxes(str(root), "train")


@pytest.mark.parametrize("names", [("train", "JPEGImages"), ("Train", "images")])
def test_voc_in_a_folder_for_each_split(
    folder: Folder, tmp_path: Path, names: tuple[str, str]
) -> None:
    root, (train, images) = tmp_path / "both", names
    for split, stem in ((train, "a"), ("test", "b")):
        one = folder("voc", {f"{stem}{number}": [(stem, BOX)] for number in range(2)})
        moved(one, ("JPEGImages", images))
        root.mkdir(exist_ok=True)
        one.rename(root / split)
    assert [split_of(root, split) for split in ("train", "val")] == [["a0", "a1"], ["b0", "b1"]]
    assert open_boxes(str(root), "val").classes == ("a", "b")


@pytest.mark.parametrize("place", ["annotations", "annotations/xmls"])
def test_voc_in_small_letters(folder: Folder, place: str) -> None:
    root = folder("voc", PETS)
    moved(root, ("Annotations", "x"), ("x", place), ("JPEGImages", "images"))
    assert len(boxes_of(open_boxes(str(root), "all"))) == len(PETS)


def test_voc_has_trainval_where_it_has_no_train(folder: Folder) -> None:
    root = folder("voc", PETS)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, stems in (("trainval", ["cat0", "dog0"]), ("test", ["cat1"])):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
    assert [split_of(root, s) for s in ("train", "val")] == [["cat0", "dog0"], ["cat1"]]
    (root / "ImageSets" / "Main" / "val.txt").write_text("dog0")
    assert split_of(root, "val") == ["cat1"]
    (root / "ImageSets" / "Main" / "train.txt").write_text("cat0\ndog0")
    with pytest.raises(
        DataError, match=r"1 image both in train\.txt and in val\.txt, such as dog0"
    ):
        open_boxes(str(root), "val")


def test_a_list_of_colours_beside_voc_is_no_yolo(folder: Folder) -> None:
    """CVAT writes ``labelmap.txt``, Roboflow ``README.roboflow.txt``."""
    root = folder("voc", PETS)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\ncat:::\n")
    assert len(open_boxes(str(root), "all").images) == len(PETS)


def test_yolo_in_capital_letters(folder: Folder) -> None:
    root = folder("yolo", PETS)
    moved(root, ("images", "Images"), ("labels", "Labels"), ("classes.txt", "Labels/classes.txt"))
    assert boxes_of(open_boxes(str(root), "all"))[0][:2] == ("cat0", "cat")
    moved(root, ("Images", "Train/Images"), ("Labels", "Train/Labels"))
    assert len(open_boxes(str(root), "all").images) == len(PETS)


def test_roboflow_writes_darknets_labels_beside_the_images(folder: Folder, tmp_path: Path) -> None:
    root = tmp_path / "both"
    for split, stem in (("train", "a"), ("valid", "b")):
        one = folder("yolo", {f"{stem}{number}": [("dog", BOX)] for number in range(2)})
        (root / split).mkdir(parents=True)
        for path in (*one.glob("images/*"), *one.glob("labels/*")):
            path.rename(root / split / path.name)
        (root / split / "_darknet.labels").write_text("dog\ncat\n")
        one.rename(tmp_path / split)
    assert [split_of(root, s) for s in ("train", "val")] == [["a0", "a1"], ["b0", "b1"]]
    assert open_boxes(str(root), "val").classes == ("dog", "cat")


@pytest.mark.parametrize(
    "text",
    [
        "path: {root}\ntrain: images/one\nval: images/two\n",
        "path: /nowhere/animals\ntrain: images/one\nval: images/two\n",
        "train: ../images/one\nval: ../images/two\ntest: ../images/three\n",
        "train: /content/animals/images/one\nvalid: [images/two]\n",
        "train: [images/one/]\nval:\n  - images/two\n",
        "path: .\ntrain: one.txt\nval: two.txt\n",
        "train: ./one.txt\nval: images/two\n",
    ],
)
def test_yolo_splits_of_a_yaml_file(folder: Folder, text: str) -> None:
    root = folder("yolo", PETS)
    (root / "classes.txt").unlink()
    for kind in ("images", "labels"):
        for path in list((root / kind).iterdir()):
            split = "two" if path.stem == "cat3" else "one"
            moved(root, (f"{kind}/{path.name}", f"{kind}/{split}/{path.name}"))
    rest = sorted({*PETS} - {"cat3"})
    (root / "one.txt").write_text("".join(f"./images/one/{stem}.png\n" for stem in rest))
    (root / "two.txt").write_text("data/custom/images/two/cat3.png\r\n")
    (root / "data.yaml").write_text(text.format(root=root) + "names: [cat, dog]\n")
    assert [split_of(root, split) for split in ("train", "val")] == [rest, ["cat3"]]
    assert boxes_of(open_boxes(str(root), "val"))[0][1] == "cat"
    assert not open_boxes(str(root), "val").remarks


def test_yolo_splits_of_lists_beside_the_folders(folder: Folder) -> None:
    root = folder("yolo", PETS)
    stems = [*PETS]
    (root / "train.txt").write_text("".join(f"data/images/{stem}.png\n" for stem in stems[2:]))
    (root / "valid.txt").write_text("".join(f"data/images/{stem}.png\n" for stem in stems[:2]))
    assert [split_of(root, split) for split in ("train", "val")] == [stems[2:], stems[:2]]
    assert not open_boxes(str(root), "val").remarks
    (root / "valid.txt").write_text("".join(f"data/images/{stem}.png\n" for stem in stems[:3]))
    with pytest.raises(
        DataError, match=r"has 1 image both to train on and held out, such as .*cat1"
    ):
        open_boxes(str(root), "val")


def test_yolo_of_a_yaml_file_that_holds_nothing_out_is_divided(folder: Folder) -> None:
    root = folder("yolo", PETS)
    (root / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
    train, val = split_of(root, "train"), split_of(root, "val")
    assert (len(train), len(val)) == (6, 2)
    assert not {*train} & {*val}


def test_yaml_that_repeats_itself_is_refused(folder: Folder) -> None:
    root = folder("yolo", PETS)
    (root / "classes.txt").unlink()
    rows = (
        f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (root / "data.yaml").write_text("a: &a [x]\n" + "\n".join(rows) + "\nnames: *i\n")
    with pytest.raises(DataError, match="repeats a part of itself"):
        open_boxes(str(root), "all")


def coco_folder(folder: Folder, tmp_path: Path, images: str) -> Path:
    """Write COCO as it is: two splits, with captions beside the boxes."""
    root = tmp_path / "whole"
    for split in ("train", "val"):
        one = folder("coco", {f"{split}{number}": [("cat", BOX)] for number in range(2)})
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        target = root / images.format(split)
        target.parent.mkdir(exist_ok=True)
        (one / "pictures").rename(target)
        document = json.loads((one / "labels.json").read_text())
        (one / "labels.json").rename(root / "annotations" / f"instances_{split}2017.json")
        captions = {"images": document["images"], "annotations": [{"image_id": 0, "caption": "x"}]}
        (root / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(captions))
        one.rename(tmp_path / split)
    return root


@pytest.mark.parametrize("images", ["{}2017", "images/{}2017"])
def test_coco_as_it_is_downloaded(folder: Folder, tmp_path: Path, images: str) -> None:
    root = coco_folder(folder, tmp_path, images)
    assert [split_of(root, s) for s in ("train", "val")] == [["train0", "train1"], ["val0", "val1"]]


def test_coco_with_the_images_to_evaluate_on_alone(folder: Folder, tmp_path: Path) -> None:
    root = coco_folder(folder, tmp_path, "{}2017")
    for path in (root / "train2017").iterdir():
        path.unlink()
    found = held_out_boxes(str(root), None)
    assert len(found.images) == 2
    assert found.remarks[0].startswith("the classes are those of 'val' alone, since none of the")
    with pytest.raises(DataError, match=r"none of the images that .*instances_train2017"):
        open_boxes(str(root), "train")


def test_coco_of_training_images_alone_is_divided(folder: Folder) -> None:
    root = folder("coco", PETS)
    moved(root, ("labels.json", "train/_annotations.coco.json"))
    assert (len(split_of(root, "train")), len(split_of(root, "val"))) == (6, 2)


def test_coco_of_both_splits_in_one_file_is_divided(folder: Folder) -> None:
    root = folder("coco", PETS)
    moved(root, ("labels.json", "annotations/instances_trainval2017.json"))
    train, val = split_of(root, "train"), split_of(root, "val")
    assert (len(train), len(val), {*train} & {*val}) == (6, 2, set())


def test_points_of_a_pose_are_no_outline(folder: Folder) -> None:
    root = folder("yolo", {"a": [("cat", BOX)], "b": []})
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text("kpt_shape: [4, 3]\nnames: [cat]\n")
    before = boxes_of(open_boxes(str(root), "all"))
    label = root / "labels" / "a.txt"
    label.write_text(label.read_text().strip() + " 0.1 0.1 2 0.9 0.1 1 0.9 0.9 0 0.5 0.5 2\n")
    assert boxes_of(open_boxes(str(root), "all")) == before


def two_folders(folder: Folder, text: str) -> Path:
    """Write YOLO's images of ``one`` and ``two`` below ``images/``, and a YAML file."""
    root = folder("yolo", PETS)
    (root / "classes.txt").unlink()
    for stem in PETS:
        place = "two" if stem == "cat3" else "one"
        for kind, ending in (("images", "png"), ("labels", "txt")):
            moved(root, (f"{kind}/{stem}.{ending}", f"{kind}/{place}/{stem}.{ending}"))
    (root / "data.yaml").write_text(f"{text}names: [cat, dog]\n")
    return root


def test_a_yaml_file_is_taken_by_its_word(folder: Folder) -> None:
    """Where what it names is there, no folder of a similar name counts."""
    root = two_folders(folder, "train: ../elsewhere/images/one\nval: images/two\n")
    for kind, ending in (("images", "png"), ("labels", "txt")):
        file = f"{kind}/one/cat0.{ending}"
        moved(root, (file, f"../elsewhere/{file}"))
    train = split_of(root / "data.yaml", "train")
    assert train == ["cat0"]


@pytest.mark.parametrize(
    ("text", "entry", "split"),
    [
        ("train: images/one\nval: images/three\n", "images/three", "val"),
        ("train: images/three\nval: images/two\n", "images/three", "train"),
        ("train: images/one\nval: [images/two, images/four]\n", "images/four", "val"),
        ("train: images/one\nval: three.txt\n", r"three\.txt", "val"),
        ("train: images/one\nval: images/empty\n", "images/empty", "val"),
    ],
)
def test_a_yaml_file_that_names_images_that_are_not_there(
    folder: Folder, text: str, entry: str, split: str
) -> None:
    root = two_folders(folder, text)
    (root / "images" / "empty").mkdir()
    config = root / "data.yaml"
    with pytest.raises(DataError, match=f"data.yaml names '{entry}' for {split}, where no images"):
        open_boxes(str(config), "val")
    for old, new in (("one", "train"), ("two", "val")):  # else folders' names would count
        for kind in ("images", "labels"):
            moved(root, (f"{kind}/{old}", f"{kind}/{new}"))
    config.write_text("train: images/train\nval: images/three\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"data.yaml names 'images/three' for val, where no images"):
        open_boxes(str(root), "val")


def test_a_yaml_file_is_a_set(folder: Folder) -> None:
    root = two_folders(folder, "train: images/one\nval: images/two\n")
    (root / "data.yaml").rename(root / "animals.yaml")
    (root / "other.names").write_text("x\ny\n")  # what was named counts alone
    source = str(root / "animals.yaml")
    assert has_boxes(source)
    assert split_of(Path(source), "val") == ["cat3"]
    assert open_boxes(source, "all").classes == ("cat", "dog")
    assert len(open_boxes(source, "all").images) == len(PETS)
    assert len(held_out_boxes(source, None).images) == 1
    (root / "animals.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"animals\.yaml cannot be understood"):
        open_boxes(source, "all")


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_a_set_is_the_same_by_its_folder_and_by_its_file(folder: Folder, kind: str) -> None:
    root = folder(kind, PETS)
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    file = str(root / {"coco": "labels.json", "yolo": "data.yaml"}[kind])
    for source, trained_on in ((str(root), file), (file, str(root))):
        assert len(held_out_boxes(source, trained_on).images) == 2


def test_images_of_a_list_that_are_not_there_are_lost(folder: Folder) -> None:
    root = two_folders(folder, "train: images/one\nval: two.txt\n")
    (root / "two.txt").write_text("images/two/cat3.png\nimages/two/gone.png\n")
    found = open_boxes(str(root), "val")
    assert [error.what for error in found.lost] == [f"{root}/images/two/gone.png does not exist"]
    assert (len(found.images), found.remarks) == (1, ())


def test_labels_that_are_no_files_or_too_large_lose_their_image(folder: Folder) -> None:
    root = folder("yolo", {stem: [("cat", BOX)] for stem in "abcd"})
    (root / "labels" / "a.txt").unlink()
    os.mkfifo(root / "labels" / "a.txt")
    with (root / "labels" / "b.txt").open("wb") as file:
        file.truncate(1 << 30)
    label = root / "labels" / "c.txt"
    label.write_bytes(label.read_text().encode("utf-16"))
    found = open_boxes(str(root), "all")
    assert [Path(image.sample.key).stem for image in found.images] == ["d"]
    for error, words in zip(
        found.lost, ("a.txt is no file", "b.txt has more than", "'utf-8' codec"), strict=True
    ):
        assert words in error.what
    (root / "classes.txt").write_bytes("cat\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"classes.txt is no text in UTF-8 .* Save it as UTF-8"):
        open_boxes(str(root), "all")


def test_coco_in_utf_16_and_as_a_pipe(folder: Folder, tmp_path: Path) -> None:
    path = folder("coco", ANIMALS) / "labels.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    assert has_boxes(str(path))
    assert len(open_boxes(str(path.parent), "all").images) == 3
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="is no set of images with boxes"):
        open_boxes(str(tmp_path / "pipe.json"), "all")


def test_tables_of_splits_by_their_folders_and_by_their_names(
    folder: Folder, tmp_path: Path
) -> None:
    root = tmp_path / "whole"
    for split, stems in (("train", "ab"), ("valid", "c")):
        one = folder("csv", {stem: [("cat" if stem == "c" else "dog", BOX)] for stem in stems})
        root.mkdir(exist_ok=True)
        one.rename(root / split)
    assert [split_of(root, split) for split in ("train", "val")] == [["a", "b"], ["c"]]
    assert boxes_of(open_boxes(str(root), "val")) == [("c", "cat", list(BOX))]
    for split, name in (("train", "train_labels.csv"), ("valid", "test_labels.csv")):
        moved(root, (f"{split}/_annotations.csv", f"data/{name}"), (split, f"images/{split}"))
    moved(root, ("images/train", "images/all"))
    (root / "images" / "valid" / "c.png").rename(root / "images" / "c.png")
    for stem in "ab":
        moved(root, (f"images/all/{stem}.png", f"images/{stem}.png"))
    assert [split_of(root, split) for split in ("train", "val")] == [["a", "b"], ["c"]]


def test_a_table_beside_other_labels_is_made_of_these(folder: Folder) -> None:
    root = folder("voc", ANIMALS)
    (root / "train_labels.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n")
    assert len(open_boxes(str(root), "all").images) == 3


@pytest.mark.parametrize(
    "text",
    [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\na,x,/m/01,1,0.1,0.2,0.3,0.4\n",
        "a.png,4,6,20,30,cat\nb.png,,,,,\n",
        "image,xmin,ymin,xmax,ymax\na.png,4,6,20,30\n",
        "image,label,x1,y1,x2,y2\na.png,cat,4,6,20,30\n",
        "filename;class;xmin;ymin;xmax;ymax\na.png;cat;4;6;20;30\n",
    ],
)
def test_tables_in_other_forms_are_named(folder: Folder, text: str) -> None:
    path = folder("csv", ANIMALS) / "_annotations.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"_annotations.csv has boxes in a form that is not read"):
        open_boxes(str(path.parent), "all")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.png,40,32,cat,x,0,1,1", "could not convert"),
        ("a.png,41,32,cat,0,0,9,9", "its rows say different sizes"),
    ],
)
def test_a_wrong_row_of_a_table_loses_its_image(folder: Folder, row: str, words: str) -> None:
    path = folder("csv", ANIMALS) / "_annotations.csv"
    path.write_text(f"{path.read_text()}{row}\n")
    found = open_boxes(str(path.parent), "all")
    (lost,) = found.lost
    assert words in lost.what
    assert "a.png" in lost.what
    assert len(found.images) == 2


def test_a_table_that_is_none(folder: Folder) -> None:
    path = folder("csv", ANIMALS) / "_annotations.csv"
    whole = path.read_text()
    path.write_text(f"{whole}a.png,40,32\n")
    with pytest.raises(DataError, match=r"is no table of boxes .line 6 has 3 values instead of 8"):
        open_boxes(str(path.parent), "all")


ORDERS = {
    "x1, y1, x2, y2": lambda a, b, c, d: (a, b, c, d),
    "x, y, width, height": lambda a, b, c, d: (a, b, c - a, d - b),
    "center x, center y, width, height": lambda a, b, c, d: (
        *((a + c) / 2, (b + d) / 2),
        *(c - a, d - b),
    ),
    "x1, x2, y1, y2": lambda a, b, c, d: (a, c, b, d),
    "y1, x1, y2, x2": lambda a, b, c, d: (b, a, d, c),
    "y, x, height, width": lambda a, b, c, d: (b, a, d - b, c - a),
}
# What a format makes of its four numbers, as corners in pixels.
READ = {
    "coco": lambda x, y, w, h: (x, y, x + w, y + h),
    "csv": lambda *corners: corners,
    "voc": lambda *corners: corners,
    "yolo": lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
}
OWN = {
    "coco": "x, y, width, height",
    "yolo": "center x, center y, width, height",
    "csv": "x1, y1, x2, y2",
    "voc": "x1, y1, x2, y2",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["coco", "csv", "voc", "yolo"])
def test_boxes_whose_numbers_are_in_another_order_are_refused(
    folder: Folder, kind: str, order: str
) -> None:
    """Most of them lie outside their image as they are read, and all within it in that order."""
    right = [(28.0, 1.0, 38.0, 5.0), (30.0, 8.0, 39.0, 31.0), (1.0, 20.0, 39.0, 31.0)]
    right += [(2.0, 3.0, 36.0, 9.0), BOX]
    unit = SIZE * 2 if kind == "yolo" else (1, 1, 1, 1)
    fractions = [tuple(n / u for n, u in zip(box, unit, strict=True)) for box in right]
    numbers = [READ[kind](*ORDERS[order](*box)) for box in fractions]
    pixels = [tuple(float(n * u) for n, u in zip(box, unit, strict=True)) for box in numbers]
    root = folder(kind, {stem: [("cat", box) for box in pixels] for stem in "ab"} | {"c": []})
    if order == OWN[kind]:
        open_boxes(str(root), "all")
        return
    with pytest.raises(DataError, match=rf"lie wrong .* as {OWN[kind]}, and rightly as ") as caught:
        open_boxes(str(root), "all")
    assert str(root) in caught.value.what
    # Where width and height are 1, what is right with y before x is right with x before y.
    x_first = {"y1, x1, y2, x2": "x1, y1, x2, y2", "y, x, height, width": "x, y, width, height"}
    named = x_first.get(order, order) if kind == "yolo" else order
    assert caught.value.what.endswith(f"as {named}")


def test_boxes_of_which_few_lie_wrong_are_in_their_order(folder: Folder) -> None:
    """Of 100, 40 reach outside as they are read, and none does as corners."""
    boxes = [(5.0, 5.0, 35.0 + (n < 40) * 6, 20.0 + n / 10) for n in range(100)]
    found = open_boxes(str(folder("coco", {"a": [("cat", box) for box in boxes]})), "all")
    assert found.remarks[0].startswith("40 boxes reach outside")


@pytest.mark.parametrize("names", [["cat", "dog", "emu"], ["cat", "dog"]])
def test_yolo_classes_that_count_from_1_are_refused(folder: Folder, names: list[str]) -> None:
    """With three names, the numbers 1 and 2 may mean the last two of them."""
    root = folder("yolo", ANIMALS)
    (root / "classes.txt").write_text("\n".join(names))
    for path in (root / "labels").iterdir():
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{int(line[0]) + 1}{line[1:]}\n" for line in lines))
    if len(names) == 3:
        assert [label for _, label, _ in boxes_of(open_boxes(str(root), "all"))] == [
            *("emu", "dog", "dog"),
        ]
        return
    with pytest.raises(DataError, match=r"classes 1 to 2 of 2 names, as if they counted from 1"):
        open_boxes(str(root), "all")
    (root / "classes.txt").rename(root / "data.yaml")
    (root / "data.yaml").write_text("names:\n  1: cat\n  2: dog\n")
    with pytest.raises(DataError, match=r"names count from 1, and classes count from 0"):
        open_boxes(str(root), "all")


def test_entries_of_a_yaml_file_count_as_they_are_written(folder: Folder) -> None:
    """A folder of the same name below that of the file is another."""
    root = two_folders(folder, "train: images/one\nval: ../other/images/two\n")
    other = root.parent / "other"
    for kind, ending in (("images", "png"), ("labels", "txt")):
        (other / kind / "two").mkdir(parents=True)
        for stem in ("x", "y"):
            source = root / kind / "two" / f"cat3.{ending}"
            (other / kind / "two" / f"{stem}.{ending}").write_bytes(source.read_bytes())
    assert split_of(root, "val") == ["x", "y"]
    config = root / "data.yaml"
    config.write_text(f"train: images/one\nval: {other}/images/two\nnames: [cat, dog]\n")
    assert split_of(root, "val") == ["x", "y"]
    (other / "val.txt").write_text("./images/two/x.png\n")
    config.write_text("path: ../other\ntrain: images/one\nval: val.txt\nnames: [cat, dog]\n")
    assert split_of(root, "val") == ["x"]


def test_a_missing_entry_of_a_yaml_file_is_named_with_the_folders_looked_in(folder: Folder) -> None:
    """What lies above the folder of a split is not that split."""
    root = folder("yolo", ANIMALS)
    config = root / "data.yaml"
    config.write_text("path: /nowhere\ntrain: images\nval: valid/images\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"names 'valid/images' for val, where no images") as caught:
        open_boxes(str(root), "val")
    assert f"looked for /nowhere/valid/images and {root}/valid/images" in caught.value.what
    assert caught.value.what.endswith(f"in /nowhere, {root}")


PETS_OF_THREE = ("cat", "dog", "emu")


def test_coco_annotations_that_count_from_another_number(folder: Folder) -> None:
    """All but one would be of the class, or in the image, beside their own."""
    every: dict[str, Objects] = {s: [(n, BOX)] for s, n in zip("abc", PETS_OF_THREE, strict=True)}
    path = folder("coco", every) / "labels.json"
    whole = json.loads(path.read_text())
    for key, what in (("category_id", "categories"), ("image_id", "images")):
        for step in (-1, 1):
            shifted = [a | {key: a[key] + step} for a in whole["annotations"]]
            path.write_text(json.dumps(whole | {"annotations": shifted}))
            with pytest.raises(DataError, match=rf"has {what} with the ids .* from another"):
                open_boxes(str(path), "all")
    stray = [*whole["annotations"], whole["annotations"][0] | {"category_id": 13}]
    path.write_text(json.dumps(whole | {"annotations": stray}))
    assert open_boxes(str(path), "all").remarks[0].startswith("1 box is of a class that is not")


@pytest.mark.parametrize("kind", ["coco", "csv", "voc", "yolo"])
def test_a_box_that_is_there_twice_counts_once(folder: Folder, kind: str) -> None:
    twice: Objects = [("cat", BOX), ("cat", BOX), ("dog", BOX)]
    found = open_boxes(str(folder(kind, {"a": twice})), "all")
    assert [name for _, name, _ in boxes_of(found)] == ["cat", "dog"]
    assert found.remarks[0].startswith(
        "1 box is there more than once in its class, and was counted once"
    )


@pytest.mark.parametrize("kind", ["coco", "csv", "voc"])
def test_boxes_of_which_none_lies_in_its_image_are_refused(folder: Folder, kind: str) -> None:
    """They are for larger images, or thousandths, as some models write them."""
    root = folder(kind, {"a": [("cat", (100.0, 200.0, 300.0, 400.0))], "b": []})
    with pytest.raises(DataError, match=r"no box of .* lies in its image; 1 box lies outside"):
        open_boxes(str(root), "all")


@pytest.mark.parametrize("kind", ["coco", "csv", "voc", "yolo"])
def test_classes_of_boxes_that_differ_in_capital_letters_are_refused(
    folder: Folder, kind: str
) -> None:
    root = folder(kind, {"a": [("cat", BOX), ("Cat", BOX)], "b": []})
    with pytest.raises(DataError, match="classes Cat and cat, which differ in capital letters"):
        open_boxes(str(root), "all")


def test_labels_that_are_misread_in_one_part_count_in_none(folder: Folder) -> None:
    """What is held out may have none of the classes by which that is seen."""
    root = two_folders(folder, "train: images/one\nval: images/two\n")
    for path in (root / "labels").rglob("*.txt"):
        lines = path.read_text().splitlines()
        numbers = {"one": "12", "two": "11"}[path.parent.name]
        path.write_text("".join(f"{numbers[int(line[0])]}{line[1:]}\n" for line in lines))
    for split in ("train", "val"):
        with pytest.raises(DataError, match="as if they counted from 1"):
            open_boxes(str(root), split)
