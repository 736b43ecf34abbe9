"""Labels are read from a table beside the images, in the forms in which people have them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mobilenet_cli.data.open_dataset import held_out, open_dataset
from mobilenet_cli.pipeline.errors import DataError

CLASSES = ("cat", "dog", "emu")
STEMS = [f"i{number:02}" for number in range(12)]


def label(name: str) -> str:
    """Return the class that tests give an image, by the number in its name."""
    return CLASSES[int(Path(name).stem[1:]) % 3]


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def write(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), errors="surrogateescape")


def one_hot(stem: str) -> str:
    return ",".join(str(float(label(stem) == name)) for name in CLASSES)


JSON = [json.dumps({"file_name": f"{s}.jpg", "label": label(s)}) for s in STEMS]
KAGGLE = "/kaggle/input/x/train"
NUMBER = {"cat": 7, "dog": 5, "emu": 6}
HAM = "HAM_images_part_"


@pytest.mark.parametrize(
    ("folder", "file", "rows"),
    [
        ("", "labels.csv", ["filename,label", *(f"{s}.jpg,{label(s)}" for s in STEMS)]),
        ("train", "labels.csv", ["id,breed", *(f"{s},{label(s)}" for s in STEMS)]),
        ("train", "trainLabels.csv", ["image,level", *(f"{s},{label(s)}" for s in STEMS)]),
        ("train_images", "train.csv", ["id,label", *(f"{s}.jpg,{label(s)}" for s in STEMS)]),
        ("imgs", "labels.csv", [f"{s}.jpg,{label(s)}" for s in STEMS]),
        ("imgs", "a.csv", ["path,class", *(f"{KAGGLE}/{s}.jpg,{label(s)}" for s in STEMS)]),
        ("imgs", "a.csv", ["p;class", *(f"C:\\data\\imgs\\{s}.JPG;{label(s)}" for s in STEMS)]),
        ("imgs", "a.tsv", ["p\tage\tlabel", *(f"{s}.jpg\t9\t{label(s)}" for s in STEMS)]),
        ("x", "all.txt", [f"x/{s}.jpg {label(s)}" for s in STEMS]),
        ("", "metadata.jsonl", JSON),
        ("images", "train.csv", ["id,cat,dog,emu", *(f"{s},{one_hot(s)}" for s in STEMS)]),
        (f"{HAM}1", "m.csv", ["l,id,dx,age", *(f"L{s[1]},{s},{label(s)},80" for s in STEMS)]),
        (
            "",
            "a.csv",
            ["f,class id,class", *(f"{s}.jpg,{CLASSES.index(label(s))},{label(s)}" for s in STEMS)],
        ),
    ],
)
def test_tables_of_labels(tmp_path: Path, folder: str, file: str, rows: list[str]) -> None:
    root = images(tmp_path, *(str(Path(folder, f"{s}.jpg")) for s in STEMS))
    write(root / file, *rows)
    write(root / "sample_submission.csv", "id,label", *(f"{s},cat" for s in STEMS))
    whole, train, val = (open_dataset(str(root), part) for part in ("all", "train", "val"))
    assert whole.classes == train.classes == val.classes == CLASSES
    assert [(s.key, s.label) for s in whole.samples] == [
        (str(Path(folder, f"{s}.jpg")), label(s)) for s in STEMS
    ]
    assert not whole.lost
    assert all(sample.read() for sample in whole.samples)
    assert (len(train.samples), len(val.samples)) == (9, 3)


def test_lines_that_pandas_counts_are_no_names(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"images/{number}.jpg" for number in range(12)))
    rows = (f"{number},{11 - number},{CLASSES[number % 3]}" for number in range(12))
    write(root / "labels.csv", ",id,label", *rows)
    found = {s.key: s.label for s in open_dataset(str(root), "all").samples}
    assert found == {f"images/{11 - number}.jpg": CLASSES[number % 3] for number in range(12)}


def test_names_that_differ_in_their_case_are_told_apart(tmp_path: Path) -> None:
    names = [f"{a}{b}" for a in "xyz" for b in "pP"]
    root = images(tmp_path, *(f"images/{name}.jpg" for name in names))
    write(root / "labels.csv", "id,label", *(f"{name},{name[1]}" for name in names))
    found = open_dataset(str(root), "all")
    assert [(s.key, s.label) for s in found.samples] == sorted(
        (f"images/{name}.jpg", name[1]) for name in names
    )


def test_unlabelled_test_images_of_the_same_names_are_not_the_training_images(tmp_path: Path):
    names = [f"{part}/{s}.jpg" for part in ("test", "train") for s in STEMS]
    root = images(tmp_path, *names)
    write(root / "train.csv", "id,label", *(f"{s},{label(s)}" for s in STEMS))
    write(root / "test.csv", "id,patient", *(f"{s},{n // 4}" for n, s in enumerate(STEMS)))
    found = open_dataset(str(root), "all")
    assert [s.key for s in found.samples] == [f"train/{s}.jpg" for s in STEMS]


@pytest.mark.parametrize(
    "form", ["tables", "column", "flag", "folders", "outside", "in each", "of each"]
)
def test_parts_of_a_set_in_tables(tmp_path: Path, form: str) -> None:
    train, val = STEMS[:9], STEMS[9:]
    rows = {
        part: [f"{s}.jpg,{label(s)}" for s in some]
        for part, some in (("train", train), ("val", val))
    }
    if form == "tables":
        root = images(tmp_path, *(f"images/{s}.jpg" for s in STEMS))
        for part in rows:
            write(root / f"{part}.csv", "file,label", *rows[part])
    elif form == "column":
        root = images(tmp_path, *(f"images/{s}.jpg" for s in STEMS))
        both = (f"{row},{part}" for part in rows for row in rows[part])
        write(root / "data.csv", "file,label,split", *both)
    elif form == "flag":
        root = images(tmp_path, *(f"images/{s}.jpg" for s in STEMS))
        both = (f"{row},{part == 'val'}" for part in rows for row in rows[part])
        write(root / "data.csv", "file,label,is_valid", *both)
    elif form == "outside":
        paths = [f"{part}/{row}" for part in rows for row in rows[part]]
        root = images(tmp_path, *(f"data/{path.partition(',')[0]}" for path in paths))
        write(root / "labels.csv", "file,label", *paths)
    else:
        root = images(tmp_path, *(f"train/{s}.jpg" for s in train), *(f"val/{s}.jpg" for s in val))
        if form == "folders":
            both = (f"{part}/{row}" for part in rows for row in rows[part])
            write(root / "metadata.csv", "file_name,label", *both)
        elif form == "in each":
            for part in rows:
                write(root / part / "metadata.csv", "file_name,label", *rows[part])
        else:  # Roboflow
            for part, some in (("train", train), ("val", val)):
                lines = (f"{s}.jpg, {one_hot(s).replace(',', ', ')}" for s in some)
                write(root / part / "_classes.csv", "filename, cat, dog, emu", *lines)
    found = {part: open_dataset(str(root), part) for part in ("train", "val", "all")}  # type: ignore[arg-type]
    names = {part: [Path(s.key).stem for s in found[part].samples] for part in found}
    assert names == {"train": train, "val": val, "all": STEMS}
    assert all(s.label == label(s.key) for s in found["all"].samples)
    assert {f.classes for f in found.values()} == {CLASSES}
    assert [s.key for s in held_out(str(root), None).samples] == [
        s.key for s in found["val"].samples
    ]


def test_training_images_in_class_folders_and_others_by_a_table(tmp_path: Path) -> None:
    """So Tiny ImageNet has them."""
    train = (f"train/{label(s)}/images/{s}.jpg" for s in STEMS)
    root = images(tmp_path, *train, *(f"val/images/{s}.jpg" for s in STEMS))
    write(root / "val" / "val_annotations.txt", *(f"{s}.jpg\t{label(s)}\t0\t32" for s in STEMS))
    for part in ("train", "val"):
        found = open_dataset(str(root), part)  # type: ignore[arg-type]
        assert all(s.label == label(s.key) for s in found.samples)
        assert (len(found.samples), found.classes) == (12, CLASSES)


def test_class_folders_count_where_a_table_agrees_or_is_about_something_else(
    tmp_path: Path,
) -> None:
    root = images(tmp_path, *(f"{label(s)}/{s}.jpg" for s in STEMS))
    keys = sorted(f"{label(s)}/{s}.jpg" for s in STEMS)
    write(root / "index.csv", "path,label", *(f"{label(s)}/{s}.jpg,{label(s)[1]}" for s in STEMS))
    write(root / "people.csv", "path,who", *(f"{s}.jpg,{n % 2}" for n, s in enumerate(STEMS)))
    found = open_dataset(str(root), "all")
    assert [(s.key, s.label) for s in found.samples] == [(key, key[:3]) for key in keys]


BAD = [f"{s}.jpg" for s in STEMS if label(s) == "cat"]


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("bad.csv", ["filename,problem", *(f"{name},blurred" for name in BAD)]),
        ("bad.csv", ["file,problem", *(f"{n},{p}" for n, p in zip(BAD, "aabb", strict=True))]),
        ("remove.txt", [f"cat/{name} blurred" for name in BAD]),
        ("duplicates.csv", ["file,same_as", *(f"cat/{name},cat/{BAD[0]}" for name in BAD[1:])]),
        ("predictions.csv", ["image,class,score", *(f"{s}.jpg,dog,0.9" for s in STEMS)]),
        (
            "val_predictions.csv",
            ["image,class", *(f"{s}.jpg,{n % 2}" for n, s in enumerate(STEMS))],
        ),
        ("annotations.txt", [f"{name}\tcat\t0\t32" for name in BAD]),
    ],
)
@pytest.mark.parametrize("part", ["", "train/"])
def test_class_folders_count_where_a_table_names_few_images_or_answers(
    tmp_path: Path, file: str, rows: list[str], part: str
) -> None:
    """All images would be lost but those that are in such a table."""
    root = images(tmp_path, *(f"{part}{label(s)}/{s}.jpg" for s in STEMS))
    write(root / part / file, *rows)
    found = open_dataset(str(root), "train" if part else "all")
    assert found.classes == CLASSES
    assert sorted(s.key for s in found.samples) == sorted(
        f"{part}{label(s)}/{s}.jpg" for s in STEMS
    )


def test_a_list_of_test_images_beside_training_images_in_class_folders(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"train/{label(s)}/{s}.jpg" for s in STEMS), "test/a.jpg")
    images(tmp_path, *(f"test/{n}.jpg" for n in range(4)))
    write(
        root / "test.csv",
        "path,label",
        *(f"test/{n}.jpg,{'cat' if n % 2 else 'dog'}" for n in range(4)),
    )
    found = open_dataset(str(root), "train")
    assert (found.classes, len(found.samples)) == (CLASSES, len(STEMS))


def test_labels_of_images_beside_their_masks(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"photos/{s}.jpg" for s in STEMS), *(f"masks/{s}.png" for s in STEMS))
    rows = (f"photos/{s}.jpg,masks/{s}.png,{label(s)}" for s in STEMS)
    write(root / "set.csv", "image,mask,disease", *rows)
    found = open_dataset(str(root), "all")
    assert [(s.key, s.label) for s in found.samples] == [
        (f"photos/{s}.jpg", label(s)) for s in STEMS
    ]


def test_the_log_of_a_training_names_no_images(tmp_path: Path) -> None:
    """Its epochs are spelled like the images, which would be left out where it has no line."""
    root = images(tmp_path, *(f"{n}.jpg" for n in range(8)))
    write(root / "history.csv", "epoch,patience", *(f"{n},{n // 2}" for n in range(4)))
    assert [s.label for s in open_dataset(str(root), "all").samples] == [None] * 8


def test_a_table_that_contradicts_the_class_folders(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"{label(s)}/{s}.jpg" for s in STEMS))
    write(root / "labels.csv", "path,label", *(f"{s}.jpg,{n % 2}" for n, s in enumerate(STEMS)))
    with pytest.raises(DataError, match=r"labels\.csv gives images in one folder of .* different"):
        open_dataset(str(root), "all")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (["file,colour,shape", *(f"{s},{s[1]},{label(s)}" for s in STEMS)], "colour, shape"),
        (["id,class,category", *(f"{s},{label(s)},{s[1]}" for s in STEMS)], "class, category"),
        (["id,label", *(f"{s},{label(s)}" for s in STEMS), "i00,emu"], "two classes, cat and emu"),
        (["id,cat,dog", *(f"{s},1,1" for s in STEMS)], "several classes, cat and dog"),
        (["id,text", *(f"{s},photo {s}" for s in STEMS)], "their classes: text"),  # captions
        (["id,name", "0,cat", "1,dog"], "no class folders"),  # names of classes
        (
            ["id,width", *(f"{s},{40 + n % 2}" for n, s in enumerate(STEMS))],
            "their classes: width",
        ),
        (["id,score", *(f"{s},{n % 2}.5" for n, s in enumerate(STEMS))], "numbers such as 0.5"),
        (["id,label", *(f"{s},dog, big" for s in STEMS)], "2 columns, but line 2 has 3"),
        (["id,label", "i00,caf\udce9"], "no text in UTF-8"),
    ],
)
def test_tables_that_do_not_tell_the_class(tmp_path: Path, rows: list[str], problem: str) -> None:
    root = images(tmp_path, "0.jpg", "1.jpg", *(f"{s}.jpg" for s in STEMS))
    write(root / "labels.csv", *rows)
    with pytest.raises(DataError, match=problem):
        open_dataset(str(root), "train")
    flat = open_dataset(str(root), "all")  # to calibrate on, for instance
    assert {sample.label for sample in flat.samples} == {None}
    assert len(flat.samples) == 14


def test_lines_without_an_image_are_lost_and_images_without_a_line_are_left_out(tmp_path: Path):
    root = images(tmp_path, *(f"images/{s}.jpg" for s in STEMS[:-1]), "images/other.jpg")
    write(root / "labels.csv", "id,label", *(f"{s},{label(s)}" for s in STEMS))
    found = open_dataset(str(root), "all")
    assert [Path(s.key).stem for s in found.samples] == STEMS[:-1]
    (error,) = found.lost
    assert error.what.endswith(f"names images that are not in {root}, 1 of them: i11")


def test_the_classes_of_imagenets_validation_images_are_known_without_a_list(
    tmp_path: Path,
) -> None:
    names = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in range(1, 7)]
    root = images(tmp_path, *names)
    write(root / "val.txt", *(f"{name} {number % 2}" for number, name in enumerate(names)))
    assert open_dataset(str(root), "all").samples[0].label == "n01751748"


@pytest.mark.parametrize("inside", ["chest", "images"])
def test_a_set_that_was_packed_into_one_more_folder(tmp_path: Path, inside: str) -> None:
    parts = ("train/", "val/") if inside == "chest" else ("",)
    names = [f"{part}{label(s)}/{s}.jpg" for part in parts for s in STEMS]
    root = images(tmp_path, *(f"{inside}/{name}" for name in names))
    (root / "meta").mkdir()
    found = open_dataset(str(root), "all")
    assert found.classes == CLASSES
    assert [s.key for s in found.samples] == sorted(names)
    assert found.samples[0].read()


@pytest.mark.parametrize("other", ["annotations/trimaps", "masks"])
def test_images_and_their_masks_are_no_classes(tmp_path: Path, other: str) -> None:
    root = images(tmp_path, *(f"{place}/{s}.png" for s in STEMS for place in ("images", other)))
    with pytest.raises(
        DataError, match=f"no classes but folders .*: {min(other.split('/')[0], 'images')}"
    ):
        open_dataset(str(root), "all")


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (("rps", "rps-test-set"), "like parts of a set: rps, rps-test-set"),
        (("cars_train", "cars_test"), "like parts of a set: cars_test, cars_train"),
        (("EuroSAT",), "has one folder, EuroSAT, whose folders seem to be the classes"),
    ],
)
def test_class_folders_that_are_one_level_deeper(
    tmp_path: Path, parts: tuple[str, ...], problem: str
) -> None:
    root = images(tmp_path, *(f"{part}/{label(s)}/{s}.jpg" for part in parts for s in STEMS))
    with pytest.raises(DataError, match=problem):
        open_dataset(str(root), "train")


def test_parts_that_were_packed_into_one_more_folder(tmp_path: Path) -> None:
    names = [f"{part}/{part}/{label(s)}/{s}.jpg" for part in ("train", "val") for s in STEMS]
    root = images(tmp_path, *names)
    assert [s.key for s in open_dataset(str(root), "all").samples] == sorted(names)
    assert open_dataset(str(root), "val").classes == CLASSES


def test_an_image_in_two_parts_of_tables(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"images/{s}.jpg" for s in STEMS))
    for part, some in (("train", STEMS[:9]), ("val", STEMS[8:])):
        write(root / f"{part}.csv", "id,label", *(f"{s},{label(s)}" for s in some))
    with pytest.raises(DataError, match=r"images/i08\.jpg is in train and in val of"):
        open_dataset(str(root), "train")


def test_a_damaged_table_beside_another_is_lost(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"images/{s}.jpg" for s in STEMS))
    write(root / "train.csv", "id,label", *(f"{s},{label(s)}" for s in STEMS[:9]))
    write(root / "val.csv", "id,label", *(f"{s},{label(s)},?" for s in STEMS[9:]))
    found = open_dataset(str(root), "train")
    assert [error.what for error in found.lost] == [
        f"{root / 'val.csv'} has 2 columns, but line 2 has 3"
    ]


def test_an_image_in_two_parts_of_one_table(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"images/{s}.jpg" for s in STEMS))
    rows = [f"{s},{label(s)},{part}" for s in STEMS for part in ("train", "val")]
    write(root / "all.csv", "id,label,split", *rows)
    with pytest.raises(DataError, match="gives i00 two parts of the set, train and val"):
        open_dataset(str(root), "train")


NO_CLASSES = {
    "file_size": ("1024", "2048"),
    "bytes": ("1024", "2048"),
    "n": ("12.5 kB", "3 MB"),
    "license": ("1", "4"),
    "terms": ("CC BY 2.0", "CC0"),
    "sha1": ("ab" * 20, "cd" * 20),
    "id2": ("ab" * 16, "CD" * 16),
    "dateTaken": ("May", "June"),
    "when": ("2024-05-01 10:00", "2024-06-01 11:00"),
    "day": ("1.5.2024", "30/6/24"),
    "image_width": ("640", "480"),
    "dims": ("640x480", "480x640"),
    "coco_url": ("a", "b"),
    "source": ("https://x.org/a", "https://x.org/b"),
}


@pytest.mark.parametrize("name", NO_CLASSES)
def test_columns_about_something_else_are_no_classes(tmp_path: Path, name: str) -> None:
    root = images(tmp_path, *(f"{s}.jpg" for s in STEMS))
    cells = [NO_CLASSES[name][n % 2] for n in range(len(STEMS))]
    rows = list(zip(STEMS, cells, strict=True))
    write(root / "labels.csv", f"id,{name}", *(f"{s},{cell}" for s, cell in rows))
    with pytest.raises(DataError, match=f"none of its columns .*: {name}") as caught:
        open_dataset(str(root), "train")
    assert "label" in caught.value.fix
    write(root / "labels.csv", f"id,{name},kind", *(f"{s},{cell},{label(s)}" for s, cell in rows))
    assert open_dataset(str(root), "all").classes == CLASSES
    write(root / "labels.csv", f"id,{name},kind", *(f"{s},{cell},3" for s, cell in rows))
    with pytest.raises(DataError, match=f"none of its columns .*: {name}, kind"):
        open_dataset(str(root), "train")
    write(root / "labels.csv", f"id,{name},class", *(f"{s},{cell},{s[1]}" for s, cell in rows))
    assert open_dataset(str(root), "all").classes == ("0", "1")


def test_a_date_in_a_table_without_names_is_no_class(tmp_path: Path) -> None:
    root = images(tmp_path, *(f"{s}.jpg" for s in STEMS))
    write(root / "labels.csv", *(f"{s}.jpg,2024-05-0{s[2]},640" for s in STEMS))
    with pytest.raises(DataError, match="none of its columns"):
        open_dataset(str(root), "train")


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        ((json.dumps("cat"), json.dumps("cat "), json.dumps(["dog"])), ("cat", "dog")),
        (("1.0", "1", "0"), ("0", "1")),  # as pandas writes what it reads beside missing numbers
        (('"a"', '"A"', '"b"'), ("A", "a", "b")),
        (('"cat"', '"nan"', '"dog"'), ("cat", "dog")),
    ],
)
def test_one_class_that_is_written_in_two_ways(tmp_path: Path, cells, classes) -> None:
    root = images(tmp_path, *(f"{s}.jpg" for s in STEMS))
    rows = [f'{{"image": "{s}.jpg", "label": {cells[n % 3]}}}' for n, s in enumerate(STEMS)]
    write(root / "metadata.jsonl", *rows)
    found = open_dataset(str(root), "all")
    assert found.classes == classes
    assert {s.label for s in found.samples} - {None} == {*classes}


def test_a_space_behind_the_name_of_a_folder_makes_no_class(tmp_path: Path) -> None:
    root = images(tmp_path, "cat/a.jpg", "dog /b.jpg")
    assert open_dataset(str(root), "all").classes == ("cat", "dog")
    images(tmp_path, "cat /c.jpg")
    with pytest.raises(DataError, match="two folders of class cat"):
        open_dataset(str(root), "all")


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (("cat", "dog", "cat|dog"), r"several classes in 'cat\|dog'"),
        (("cat", "dog", "cat dog"), "several classes in 'cat dog'"),
        (("['cat']", "['cat', 'dog']", "['dog']"), "several classes in"),
        ((["cat"], ["cat", "dog"], ["dog"]), "several classes in"),
        (("cat", "Cat", "dog"), "classes Cat and cat, which differ in capital letters alone"),
    ],
)
def test_labels_that_are_several_classes_or_one_in_two_spellings(
    tmp_path: Path, labels, problem: str
) -> None:
    root = images(tmp_path, *(f"{s}.jpg" for s in STEMS))
    cells = [(f"{s}.jpg", labels[n % 3]) for n, s in enumerate(STEMS)]
    write(root / "a.jsonl", *(json.dumps({"image": image, "label": c}) for image, c in cells))
    with pytest.raises(DataError, match=problem):
        open_dataset(str(root), "train")
