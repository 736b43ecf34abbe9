"""ImageNet as people have it: the flat validation folder, parquet, WebDataset."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mobilenet_cli.data import imagenet
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import held_out, open_dataset
from mobilenet_cli.data.parts import cut
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.readers import parquet
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.evaluating.labels import targets_of

SPEC = InputSpec(resolution=32, resize=32)


def test_imagenet_class_list():
    assert len(set(imagenet.synsets())) == len(imagenet.names()) == 1000
    assert list(imagenet.synsets()) == sorted(imagenet.synsets())
    assert imagenet.synsets()[0] == "n01440764"
    assert imagenet.names()[134] != imagenet.names()[517]  # two kinds of crane


def test_validation_labels_are_those_of_the_folders(shared):
    for file in sorted((shared / "imagenet/val").glob("*/*")):
        assert imagenet.validation_synset(file.name) == file.parent.name


def test_flat_validation_folder(tmp_path, encoded):
    names = ["ILSVRC2012_val_00024327.JPEG", "ILSVRC2012_val_00044095.JPEG"]
    for name in names:
        (tmp_path / name).write_bytes(encoded())
    dataset = open_dataset(str(tmp_path), "all")
    assert [s.label for s in dataset.samples] == ["n01440764", "n01443537"]
    assert dataset.classes == imagenet.synsets()
    (tmp_path / "holiday.jpg").write_bytes(encoded())
    assert {s.label for s in open_dataset(str(tmp_path), "all").samples} == {None}


# --- parquet -----------------------------------------------------------------------------------


def write_parquet(
    path: Path, images: list[bytes], labels: list[object], names: list[str] | None = None
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"image": [{"bytes": b, "path": "x.png"} for b in images], "label": labels})
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


def test_parquet_rows_are_samples(tmp_path, encoded):
    images = [encoded(seed=i) for i in range(8)]
    write_parquet(tmp_path / "d" / "x.parquet", images, [0, 1] * 4, ["cat", "dog"])
    dataset = open_dataset(str(tmp_path / "d"), "all")
    assert dataset.classes == ("cat", "dog")
    assert [s.label for s in dataset.samples] == ["cat", "dog"] * 4
    assert [s.read() for s in dataset.samples] == images
    assert [s.read() for s in reversed(dataset.samples)] == images[::-1]
    assert sum(len(b.indices) for b in batches(dataset.samples, SPEC, 3, workers=4)) == 8


def test_parquet_file_names_are_splits(tmp_path, encoded):
    for name, count in (("train-0", 5), ("train-1", 2), ("test-0", 3)):
        write_parquet(tmp_path / "data" / f"{name}.parquet", [encoded()] * count, ["a"] * count)
    sizes = [len(open_dataset(str(tmp_path), s).samples) for s in ("train", "val", "all")]
    assert sizes == [7, 3, 10]
    assert len(held_out(str(tmp_path), None).samples) == 3
    write_parquet(tmp_path / "data" / "validation-0.parquet", [encoded()] * 4, ["a"] * 4)
    assert len(open_dataset(str(tmp_path), "val").samples) == 4


def test_two_classes_of_one_name_are_refused(tmp_path, encoded):
    path = tmp_path / "x.parquet"
    write_parquet(path, [encoded()] * 3, [0, 1, 2], ["crane", "dog", "crane"])
    with pytest.raises(DataError, match=r"x\.parquet calls several classes 'crane'"):
        open_dataset(str(path), "all")
    assert len(list(next(cut([str(path)])).images())) == 3  # predict asks for no classes


def test_parquet_without_split_names_is_divided(tmp_path, encoded):
    write_parquet(tmp_path / "d" / "x.parquet", [encoded()] * 10, ["a"] * 5 + ["b"] * 5)
    val = open_dataset(str(tmp_path / "d"), "val")
    assert Counter(s.label for s in val.samples) == {"a": 1, "b": 1}
    assert len(held_out(str(tmp_path / "d"), None).samples) == 10
    assert len(open_dataset(str(tmp_path / "d" / "x.parquet"), "all").samples) == 10


def test_parquet_of_imagenet_has_synsets(tmp_path, encoded):
    names = [f"{name}, something" for name in imagenet.names()]
    write_parquet(tmp_path / "x.parquet", [encoded()] * 2, [0, 999], names)
    dataset = open_dataset(str(tmp_path / "x.parquet"), "all")
    assert [s.label for s in dataset.samples] == [imagenet.synsets()[0], imagenet.synsets()[999]]


def test_cifar10_in_parquet(shared):
    pytest.importorskip("pyarrow")
    train, val = (open_dataset(str(shared / "cifar10"), s) for s in ("train", "val"))
    assert (len(train.samples), len(val.samples)) == (50_000, 5_000)
    assert train.classes == val.classes
    assert train.classes[:2] == ("airplane", "automobile")
    assert decode(val.samples[4999].read(), "x").size == (32, 32)


def test_corrupt_parquet(tmp_path, encoded):
    file = tmp_path / "x.parquet"
    write_parquet(file, [encoded()] * 5, ["a"] * 5)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_dataset(str(file), "all")


def test_parquet_without_images(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has the columns text, but no image"):
        open_dataset(str(tmp_path / "x.parquet"), "all")


def write_columns(path: Path, **columns: object) -> Path:
    """Write columns as pyarrow takes them; ``noted`` is what the datasets library says of them."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    noted = columns.pop("noted", None)
    table = pa.table(columns)
    if noted:
        content = json.dumps({"info": {"features": noted}})
        table = table.replace_schema_metadata({"huggingface": content})
    pq.write_table(table, path)
    return path


def labels_of(path: Path) -> list[str | None]:
    return [sample.label for sample in open_dataset(str(path), "all").samples]


@pytest.mark.parametrize("column", ["label", "labels", "fine_label", "cls", "species"])
def test_parquet_columns_of_labels(tmp_path, encoded, column):
    noted = {column: {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    columns = {"img": [encoded()] * 2, column: [1, 0], "coarse_label": [5, 6]}
    path = write_columns(tmp_path / "x.parquet", **columns, noted=noted)
    assert labels_of(path) == ["dog", "cat"]
    assert open_dataset(str(path), "all").classes == ("cat", "dog")


def test_parquet_column_of_images_by_its_kind(tmp_path, encoded):
    noted = {"photo": {"_type": "Image"}, "label": "int64", "other": None}
    columns = {"photo": [{"bytes": encoded(), "path": "x"}], "label": ["cat"]}
    path = write_columns(tmp_path / "x.parquet", **columns, noted=noted)
    assert open_dataset(str(path), "all").samples[0].read() == encoded()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, None, -1, 2], ["0", None, None, "2"]),
        ([0.0, None, float("nan"), 2.0], ["0", None, None, "2"]),
        (["0", None, "", "²"], ["0", None, "", "²"]),
        ([b"a", None, b"\xfc", b"b"], ["a", None, "\\xfc", "b"]),
        ([None] * 4, [None] * 4),
    ],
    ids=["integers", "floats", "texts", "bytes", "none"],
)
def test_parquet_labels_that_are_missing(tmp_path, encoded, labels, expected):
    path = write_columns(tmp_path / "x.parquet", image=[encoded()] * 4, label=labels)
    assert labels_of(path) == expected
    missing = sum(label is None for label in expected)
    dataset = open_dataset(str(path), "all").labelled()
    if missing < 4:
        assert len(dataset.samples) == 4 - missing
        assert [e.what for e in dataset.lost] == [
            f"x.parquet:0:{row} has no label" for row in range(4) if expected[row] is None
        ]
    else:
        assert len(dataset.samples) == 4


@pytest.mark.parametrize("labels", [[[0], [1, 2]], [{"a": 1}, {"a": 2}]])
def test_parquet_labels_that_are_no_single_class(tmp_path, encoded, labels):
    path = write_columns(tmp_path / "x.parquet", image=[encoded()] * 2, label=labels)
    with pytest.raises(DataError, match=r"x\.parquet has labels of the type (list|struct)"):
        open_dataset(str(path), "all")


def test_parquet_images_that_are_no_encoded_files(tmp_path):
    for images, kind in (([[1, 2]], "list"), (["aGk="], "string"), ([{"path": "x.png"}], "struct")):
        path = write_columns(tmp_path / "x.parquet", image=images, label=[0])
        with pytest.raises(DataError, match=f"has images of the type {kind}.* not encoded ones"):
            open_dataset(str(path), "all")


def test_parquet_of_views_as_polars_writes_them(tmp_path, encoded):
    pa = pytest.importorskip("pyarrow")
    images = pa.array([encoded()], pa.binary_view())
    path = write_columns(tmp_path / "x.PARQUET", image=images, label=pa.array(["a"], "string_view"))
    assert labels_of(path) == ["a"]
    assert open_dataset(str(path), "all").samples[0].read() == encoded()


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], "1 file of 3: train-00001-of-00003"),
        (["x-00001-of-00002", "x-00002-of-00002"], None),  # counted from 1
        (["x-00000-of-90000"], "89,999 files of 90,000, such as x-00001-of-90000, x-00002-of"),
        (["x-00000-of-00002-1f2e", "x-00001-of-00002-a0b1"], None),
        (["x0000", "x0001", "x0003", "y0001"], "1 file between 0 and 3: x0002"),
        (["000", "001"], None),
        (["2019", "2024"], None),  # years
    ],
)
def test_files_that_the_names_of_others_promise(tmp_path, encoded, names, missing):
    for name in names:
        write_parquet(tmp_path / f"{name}.parquet", [encoded()] * 2, [0, 1])
    lost = [error.what for error in open_dataset(str(tmp_path), "all").lost]
    parts = [str(part.problem) for part in cut([str(tmp_path)]) if part.problem]
    assert open_dataset(str(tmp_path / f"{names[0]}.parquet"), "all").lost == ()
    assert len(lost) == len(parts) == bool(missing)
    assert all(f"{tmp_path} lacks {missing}" in said for said in (*lost, *parts))


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [
        ("x-*.parquet", "2 files of 12: x-00001-of-00012, x-00011-of-00012"),
        ("./x-*-of-*", "2 files of 12"),
        ("x-000{00..11}-of-00012.parquet", None),  # named one by one: nothing matches says so
        ("x-0000?-of-00012.parquet", "1 file of 12: x-00001-of-00012"),
        ("x-0000[02]-of-*", None),
        ("x-00000-of-00012.parquet", None),
        ("y*.tar", "1 file between 0 and 3: y002"),
        ("y00[013].tar", None),
        ("y*.jpg", None),
    ],
)
def test_files_that_a_pattern_promises(tmp_path, monkeypatch, pattern, missing):
    monkeypatch.chdir(tmp_path)
    for number in {*range(12)} - {1, 11}:
        Path(f"x-{number:05}-of-00012.parquet").touch()
    for number in (0, 1, 3):
        Path(f"y{number:03}.tar").touch()
        Path(f"y{number:03}.jpg").touch()
    if "{" in pattern:
        with pytest.raises(DataError, match="nothing matches x-00001-of-00012"):
            list(cut([pattern]))
        return
    problems = [str(part.problem) for part in cut([pattern]) if part.problem]
    assert len(problems) == bool(missing)
    assert all(f"lacks {missing}" in said for said in problems)


def test_one_file_by_two_names_does_not_count_twice(tmp_path, encoded):
    write_parquet(tmp_path / "a.parquet", [encoded()], [0])
    (tmp_path / "b.parquet").symlink_to("a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet and \S+b\.parquet are the same"):
        open_dataset(str(tmp_path), "all")


def test_a_label_of_a_megabyte_is_lost_and_not_shown(tmp_path, encoded):
    path = write_columns(tmp_path / "x.parquet", image=[encoded()] * 2, label=["0" * 2**20, "1"])
    dataset = open_dataset(str(path), "all")
    assert [sample.label for sample in dataset.samples] == ["1"]
    assert [len(str(lost)) < 200 for lost in dataset.lost] == [True]


def test_parquet_values_of_a_dictionary_stay_once_in_memory(tmp_path):
    """Two hundred megabytes of one image, in a file of some kB."""
    path = write_columns(
        tmp_path / "x.parquet",
        image=[{"bytes": bytes(200_000)}] * 1000,
        label=["x" * 1000] * 1000,
    )
    tracked = pytest.importorskip("pyarrow").default_memory_pool()
    before = tracked.max_memory()
    dataset = open_dataset(str(path), "all")
    assert len(dataset.samples[7].read()) == 200_000
    assert tracked.bytes_allocated() < 20_000_000
    assert tracked.max_memory() - before < 20_000_000


def test_parquet_of_images_that_become_too_large(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [bytes([n]) * 1_000_000 for n in range(100)]
    table = pa.table({"image": images, "label": [0] * 100})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=False, compression="zstd")
    with pytest.raises(
        DataError, match=r"row group 0 of .* becomes .* bytes from .*, as no images"
    ):
        open_dataset(str(tmp_path / "x.parquet"), "all")
    monkeypatch.setattr(parquet, "BOMB_RATIO", 10_000_000)
    assert len(open_dataset(str(tmp_path / "x.parquet"), "all").samples) == 100
    monkeypatch.setattr(parquet, "GROUP_BYTES", 50_000_000)
    with pytest.raises(
        DataError, match=r"which are read at once. Write it with smaller row groups"
    ):
        open_dataset(str(tmp_path / "x.parquet"), "all")


@pytest.mark.parametrize("seed", range(6))
def test_parquet_with_damaged_bytes_is_lost_or_has_bad_images(tmp_path, encoded, seed):
    path = tmp_path / "x.parquet"
    write_parquet(path, [encoded(seed=i, size=(6, 4)) for i in range(4)], [0, 1, 2, None])
    whole = path.read_bytes()
    generator = np.random.default_rng(seed)
    for _ in range(50):
        content = bytearray(whole)
        for place in generator.integers(0, len(whole), 2):
            content[place] = generator.integers(256)
        path.write_bytes(content)
        try:
            for sample in open_dataset(str(path), "all").samples:
                sample.read()
        except DataError:
            pass


def test_parquet_row_without_bytes_is_one_bad_image(tmp_path, encoded):
    write_parquet(tmp_path / "x.parquet", [encoded(), None, encoded()], ["a"] * 3)  # type: ignore[list-item]
    bad: list[str] = []
    samples = open_dataset(str(tmp_path / "x.parquet"), "all").samples
    made = list(batches(samples, SPEC, 3, on_bad=lambda s, _: bad.append(s.key)))
    assert made[0].indices == (0, 2)
    assert bad == ["x.parquet:0:1"]


# --- WebDataset --------------------------------------------------------------------------------


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_webdataset(tmp_path, encoded):
    images = [encoded(seed=i) for i in range(3)]
    members: dict[str, bytes] = {}
    for i, image in enumerate(images):
        members |= {f"d/{i}.jpg": image, f"d/{i}.cls": f"{i * 7}\n".encode(), f"d/{i}.json": b"{}"}
    write_tar(tmp_path / "x.tar", members)
    dataset = open_dataset(str(tmp_path / "x.tar"), "all")
    assert [s.label for s in dataset.samples] == ["0", "7", "14"]
    assert dataset.classes == ("0", "7", "14")
    assert [s.read() for s in dataset.samples] == images
    assert dataset.samples[0].key == "x.tar/d/0.jpg"


def test_webdataset_takes_the_synset_of_a_name(tmp_path, encoded):
    write_tar(tmp_path / "d" / "x.tar", {"n01440764_10026.JPEG": encoded()})
    assert open_dataset(str(tmp_path / "d"), "all").samples[0].label == "n01440764"


def test_webdataset_file_names_are_splits(tmp_path, encoded):
    one = {"a.jpg": encoded(), "a.cls": b"0"}
    write_tar(tmp_path / "d" / "imagenet1k-train-0000.tar", one | {"b.jpg": encoded()})
    write_tar(tmp_path / "d" / "imagenet1k-validation-00.tar", one)
    sizes = [len(open_dataset(str(tmp_path / "d"), s).samples) for s in ("train", "val", "all")]
    assert sizes == [2, 1, 3]


def test_parquet_cut_off_is_lost_and_the_others_stay(tmp_path, encoded):
    for name in ("a", "b"):
        write_parquet(tmp_path / "d" / f"{name}.parquet", [encoded()] * 4, ["x"] * 4)
    file = tmp_path / "d" / "a.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    dataset = open_dataset(str(tmp_path / "d"), "all")
    assert [s.key for s in dataset.samples] == [
        "b.parquet:0:0",
        "b.parquet:0:1",
        "b.parquet:0:2",
        "b.parquet:1:0",
    ]
    assert "a.parquet cannot be read as parquet" in dataset.lost[0].what


# --- labels that are numbers -------------------------------------------------------------------


def test_numbers_index_the_classes_without_background(tmp_path, encoded, model_of):
    write_tar(tmp_path / "x.tar", {"a.jpg": encoded(), "a.cls": b"2"})
    dataset = open_dataset(str(tmp_path / "x.tar"), "all")
    assert targets_of(dataset, model_of(("n1", "n2", "n3"))) == [2]
    assert targets_of(dataset, model_of(("background", "n1", "n2", "n3"))) == [3]
    assert targets_of(dataset, model_of(("5", "2", "7"))) == [1]  # it is a class itself
    with pytest.raises(DataError, match="such as '2'"):
        targets_of(dataset, model_of(("n1", "n2")))


def test_all_forms_of_imagenet_give_the_same(shared, tmp_path, model_of):
    """Class folders, the flat folder, parquet and tar of the same images are the same set."""
    pytest.importorskip("pyarrow")
    files = sorted((shared / "imagenet/val").glob("*/*"))[::100]
    (tmp_path / "flat").mkdir()
    members: dict[str, bytes] = {}
    for file in files:
        (tmp_path / "flat" / file.name).symlink_to(file)
        label = imagenet.synsets().index(file.parent.name)
        members |= {f"{file.stem}.jpg": file.read_bytes(), f"{file.stem}.cls": str(label).encode()}
    write_tar(tmp_path / "x.tar", members)
    labels: list[object] = [imagenet.synsets().index(f.parent.name) for f in files]
    names = list(imagenet.names())
    write_parquet(tmp_path / "x.parquet", [f.read_bytes() for f in files], labels, names)

    def content(name: str) -> set[tuple[int, bytes]]:
        dataset = open_dataset(str(tmp_path / name), "all")
        targets = targets_of(dataset, model_of(imagenet.synsets()))
        return {(t, s.read()) for t, s in zip(targets, dataset.samples, strict=True)}

    expected = {(imagenet.synsets().index(f.parent.name), f.read_bytes()) for f in files}
    assert content("flat") == content("x.tar") == content("x.parquet") == expected
    assert len({t for t, _ in expected}) == len(np.unique(labels)) > 3
