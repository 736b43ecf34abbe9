"""Tar files give the samples that webdataset's own library gives, or say what they have lost."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from mobilenet_cli.data.imagenet import synsets
from mobilenet_cli.data.open_dataset import held_out, open_dataset
from mobilenet_cli.data.readers.files import MAX_BYTES
from mobilenet_cli.data.readers.tar import LONGEST_HEADER
from mobilenet_cli.pipeline.errors import DataError

BLOCK = 512


def write_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", format=form, encoding="utf-8") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def pairs(count: int, label_first: bool = True) -> list[tuple[str, bytes]]:
    """Members of ``count`` samples; image n is the text ``image n``, and its label n."""
    made: list[tuple[str, bytes]] = []
    for n in range(count):
        two = [(f"{n:03}.cls", b"%d" % n), (f"{n:03}.jpg", b"image %d" % n)]
        made += two if label_first else two[::-1]
    return made


def read(path: Path) -> tuple[list[tuple[str | None, bytes]], list[str]]:
    """Labels and contents, and what is lost."""
    dataset = open_dataset(str(path), "all").labelled()
    names = [sample.key for sample in dataset.samples]
    assert len(set(names)) == len(names)
    return [(s.label, s.read()) for s in dataset.samples], [str(e) for e in dataset.lost]


def whole(*numbers: int) -> list[tuple[str, bytes]]:
    return [(str(n), b"image %d" % n) for n in numbers]


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("bit", [0, 130 * 8, 151 * 8, 300 * 8])  # in name, size, checksum, group
def test_a_flipped_bit_in_a_header_loses_one_file(tmp_path, form, bit):
    path = write_tar(tmp_path / "x.tar", pairs(10), form)
    content = bytearray(path.read_bytes())
    content[4 * 2 * BLOCK + bit // 8] ^= 1  # the header of 002.cls
    path.write_bytes(content)
    samples, lost = read(path)
    assert samples == whole(0, 1, 3, 4, 5, 6, 7, 8, 9)
    assert "x.tar has a damaged header after 001.jpg, whose file is lost" in lost[0]
    assert lost[1:] == ["x.tar/002.jpg has no label. Label it, or leave it out."]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (0, "ends after 001.jpg without an end mark; it may be cut off"),
        (300, "is damaged: nothing after 001.jpg can be read"),
        (BLOCK + 1, "is cut off within 002.cls"),
    ],
)
def test_an_archive_that_is_cut_off(tmp_path, cut, message):
    members = [(name, content * 100) for name, content in pairs(4)]
    path = write_tar(tmp_path / "x.tar", pairs(2) + members[4:])
    path.write_bytes(path.read_bytes()[: 4 * 2 * BLOCK + cut])
    samples, lost = read(path)
    assert samples == whole(0, 1)
    assert len(lost) == 1
    assert message in lost[0]


def test_a_cut_before_the_last_label(tmp_path):
    path = write_tar(tmp_path / "x.tar", pairs(3, label_first=False))
    path.write_bytes(path.read_bytes()[: 5 * 2 * BLOCK])
    samples, lost = read(path)
    assert samples == whole(0, 1)
    assert [text.split(". ")[0] for text in lost] == [
        f"{path} ends after 002.jpg without an end mark; it may be cut off",
        "x.tar/002.jpg has no label",
    ]


@pytest.mark.parametrize("where", [1, 3 * BLOCK + 5])
def test_a_hole_of_zeros_is_no_end(tmp_path, where):
    path = write_tar(tmp_path / "x.tar", pairs(9))
    content = bytearray(path.read_bytes())
    start = 4 * 2 * BLOCK
    content[start : start + 4 * 2 * BLOCK + where] = bytes(4 * 2 * BLOCK + where)
    path.write_bytes(content)
    samples, lost = read(path)
    assert samples[:2] == whole(0, 1)
    assert samples[-3:] == whole(6, 7, 8)
    assert "has an end mark after 001.jpg, and goes on after it" in lost[0]


def test_bytes_that_are_missing_in_the_middle(tmp_path):
    path = write_tar(tmp_path / "x.tar", pairs(9))
    content = path.read_bytes()
    path.write_bytes(content[: 4 * 2 * BLOCK + 100] + content[4 * 2 * BLOCK + 777 :])
    samples, lost = read(path)
    assert samples[:2] == whole(0, 1)
    assert samples[2:] == whole(*range(3, 9))
    assert len(lost) == 2


@pytest.mark.parametrize("content", [b"", b"text", b"\x1f\x8b\x08" + bytes(600), b"x" * 5000])
def test_a_file_that_is_no_tar(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar (is no tar file|is compressed|ends after)"):
        open_dataset(str(tmp_path / "x.tar"), "all")


def test_damage_counts_under_strict_too(tmp_path, tiny, encoded):
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate

    members = [(f"{n}.{e}", c) for n in range(4) for e, c in (("cls", b"1"), ("png", encoded()))]
    path = write_tar(tmp_path / "x.tar", members)
    path.write_bytes(path.read_bytes()[:-10000])
    model = load_artifact(tiny / "fp32.onnx")
    record = evaluate(model, EvaluateConfig(data=str(path)))
    assert record.images + 1 <= 4
    assert record.bad_images
    with pytest.raises(DataError, match=r"x\.tar (is cut off|ends after)"):
        evaluate(model, EvaluateConfig(data=str(path), strict=True))


# --- headers that lie --------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_of_gigabytes_is_not_read(tmp_path, kind):
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(header("long", 10 << 30, kind))
        file.truncate((10 << 30) + BLOCK)  # a hole, which takes no room
        file.seek(0, 2)
        file.write(header("0.jpg", 7) + b"image 0".ljust(BLOCK, b"\0") + bytes(2 * BLOCK))
    dataset = open_dataset(str(path), "all")
    assert [sample.read() for sample in dataset.samples] == [b"image 0"]
    assert "has a header of 10,737,418,240 bytes" in dataset.lost[0].what
    assert LONGEST_HEADER < 10 << 30


def test_an_image_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(header("0.jpg", 10 << 30))
        file.truncate((10 << 30) + 3 * BLOCK)
    (sample,) = open_dataset(str(path), "all").samples
    with pytest.raises(DataError, match=r"0\.jpg has 10,737,418,240 bytes, more than"):
        sample.read()
    assert MAX_BYTES < 10 << 30


@pytest.mark.parametrize("size", ["-1", "9" * 30, "9" * 5000, "²", "", "0x10", "1e9"])
def test_a_size_that_is_none(tmp_path, size):
    value = f"size={size}\n".encode()
    length = next(n for n in range(10_000) if n == len(f"{n} ") + len(value))
    record = f"{length} ".encode() + value
    blocks = -(-len(record) // BLOCK) * BLOCK
    path = tmp_path / "x.tar"
    path.write_bytes(
        header("pax", len(record), b"x")
        + record.ljust(blocks, b"\0")
        + header("0.jpg", 7)
        + b"image 0".ljust(BLOCK, b"\0")
        + header("1.jpg", 7)
        + b"image 1".ljust(BLOCK, b"\0")
        + bytes(2 * BLOCK)
    )
    contents = [sample.read() for sample in open_dataset(str(path), "all").samples]
    assert contents == [b"image 0", b"image 1"] if size == "" else contents == [b"image 1"]


def test_sparse_members_are_named(tmp_path):
    path = tmp_path / "x.tar"
    old = bytearray(header("0.jpg", 512, b"S"))
    old[482] = 1  # one more block of its map
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    path.write_bytes(
        bytes(old) + bytes(BLOCK) + b"data".ljust(BLOCK, b"\0")
        + header("1.jpg", 7) + b"image 1".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)
    )  # fmt: skip
    dataset = open_dataset(str(path), "all")
    assert [sample.read() for sample in dataset.samples] == [b"image 1"]
    assert "keeps 0.jpg as a sparse file" in dataset.lost[0].what


# --- what a sample is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [
        [("0.cls", b"0"), ("0.jpg", b"a"), ("1.cls", b"1"), ("1.jpg", b"b"), ("0.cls", b"2"),
         ("0.jpg", b"c")],
        [("0.jpg", b"a"), ("0.cls", b"0"), ("0.jpg", b"b"), ("0.cls", b"1"), ("1.jpg", b"c"),
         ("1.cls", b"2")],
        [("0.jpg", b"a"), ("0.seg.png", b"x"), ("0.cls", b"0"), ("1.png", b"y"), ("1.jpg", b"b"),
         ("1.cls", b"1"), ("2.depth.png", b"c"), ("2.cls", b"2")],
        [("./._0.jpg", b"x"), ("./0.JPG", b"a"), ("./._0.cls", b"5"), ("./0.CLS", b"0"),
         ("./1.Jpeg", b"b"), ("./1.cls", b"1"), ("./2.PNG", b"c"), ("./2.Cls", b"2")],
        [("d/._0.jpg", b"x"), ("d/0.jpg", b"a"), ("d/._0.cls", b"5"), ("d/0.cls", b"0"),
         ("d/1.jpg", b"b"), ("d/.DS_Store", b"x"), ("d/1.cls", b"1"), ("d/2.jpg", b"c"),
         ("d/2.cls", b"\xef\xbb\xbf2\r\n")],
        [("__info__", b"x"), ("__meta__/0.jpg", b"y"), ("a.b/0.jpg", b"a"), ("a.b/0.cls", b"0"),
         ("1.jpg", b"b"), ("noextension", b"z"), ("1.cls", b"1"), ("2.jpg", b"c"), ("2.cls", b"2")],
    ],
    ids=["key-again", "key-again-at-once", "several-images", "names", "macos", "descriptions"],
)  # fmt: skip
def test_members_make_samples(tmp_path, members):
    samples, lost = read(write_tar(tmp_path / "x.tar", members))
    assert samples == [("0", b"a"), ("1", b"b"), ("2", b"c")]
    assert lost == []


def test_a_sample_whose_image_is_unclear_is_named(tmp_path):
    members = [
        *[("0.left.jpg", b"a"), ("0.right.jpg", b"b"), ("0.cls", b"0")],
        *[("1.jpg", b"c"), ("1.cls", b"1"), ("2.cls", b"2"), ("2.psd", b"d")],
    ]
    samples, lost = read(write_tar(tmp_path / "x.tar", members))
    assert samples == [("1", b"c")]
    assert "has several images (0.left.jpg, 0.right.jpg)" in lost[0]
    assert "has no image, beside cls, psd" in lost[1]


def test_labels_that_only_look_like_numbers(tmp_path):
    texts = ["²", "9" * 900, "7", "07"]
    members = [(f"{n}.{e}", c) for n, t in enumerate(texts) for e, c in (("jpg", b"x"), ("cls", t.encode()))]  # fmt: skip # noqa: E501
    assert open_dataset(str(write_tar(tmp_path / "x.tar", members)), "all").classes == (
        "07",
        "7",
        "9" * 900,
        "²",
    )
    assert open_dataset(str(write_tar(tmp_path / "y.tar", members[2:])), "all").classes == (
        "07",
        "7",
        "9" * 900,
    )


def test_labels_that_are_not_utf8_stay_apart(tmp_path):
    members = [
        ("0.jpg", b"x"),
        ("0.cls", b"Fr\xfchling"),
        ("1.jpg", b"y"),
        ("1.cls", b"Fr\xf6hling"),
    ]
    assert len(open_dataset(str(write_tar(tmp_path / "x.tar", members)), "all").classes) == 2


def test_folders_within_an_archive_are_classes(tmp_path):
    cats = write_tar(tmp_path / "d/a.tar", [(f"./pets/cat/{n}.{n}.jpg", b"c") for n in range(3)])
    dogs = write_tar(tmp_path / "d/b.tar", [("pets/dog/old/0.jpg", b"d"), ("pets/dog/1.jpg", b"d")])
    samples, lost = read(cats.parent)
    assert sorted(samples) == [("cat", b"c")] * 3 + [("dog", b"d")] * 2
    assert lost == []
    assert {s.label for s in open_dataset(str(dogs), "all").samples} == {None}  # it has one folder


def test_a_text_beside_class_folders_leaves_them_classes(tmp_path):
    members = [("d/cat/0.jpg", b"c"), ("d/dog/1.jpg", b"d"), ("d/LICENSE.txt", b"x")]
    samples, lost = read(write_tar(tmp_path / "x.tar", members))
    assert (samples, lost) == ([("cat", b"c"), ("dog", b"d")], [])


def test_folders_of_synsets_and_names_of_the_validation_set(tmp_path):
    path = write_tar(
        tmp_path / "x.tar", [("n01440764/0.JPEG", b"a"), ("ILSVRC2012_val_00044095.JPEG", b"b")]
    )
    assert read(path)[0] == [("n01440764", b"a"), ("n01443537", b"b")]
    assert synsets()[:2] == ("n01440764", "n01443537")


def test_folders_that_are_parts_are_no_classes(tmp_path):
    for parts in (("train", "val"), ("Training", "Testing")):
        members = [(f"{part}/cat/{part}.jpg", b"x") for part in parts]
        path = write_tar(tmp_path / "x.tar", members)
        with pytest.raises(DataError, match=r"holds the folders .*, which are parts"):
            open_dataset(str(path), "all")


def test_captions_are_no_classes(tmp_path):
    members = [(f"{f}/0.{e}", b"x") for f in "ab" for e in ("jpg", "txt")]
    assert {s.label for s in open_dataset(str(write_tar(tmp_path / "x.tar", members)), "all").samples} == {None}  # fmt: skip # noqa: E501


def test_an_archive_of_archives(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("n01440764.tar", b"x"), ("n01443537.tar", b"y")])
    with pytest.raises(DataError, match=r"x\.tar holds 2 tar files.*Unpack it"):
        open_dataset(str(path), "all")


def test_archives_in_folders_of_splits(tmp_path):
    write_tar(tmp_path / "train" / "0000.tar", pairs(3))
    write_tar(tmp_path / "validation" / "0000.tar", pairs(2))
    sizes = [len(open_dataset(str(tmp_path), s).samples) for s in ("train", "val", "all")]
    assert sizes == [3, 2, 5]
    assert len(held_out(str(tmp_path), None).samples) == 2
    keys = [sample.key for sample in open_dataset(str(tmp_path), "all").samples]
    assert len(set(keys)) == 5


# --- the library itself ------------------------------------------------------------------------


def library_samples(path: Path) -> list[tuple[str, bytes]]:
    """Label and image of each sample that ``webdataset`` reads, of those that have both.

    Raises:
        ValueError: the library refuses the archive.
    """
    wds = pytest.importorskip(
        "webdataset.tariterators", reason="the extra interop is not installed"
    )
    with path.open("rb") as file:
        members = wds.tar_file_expander([{"url": str(path), "stream": file}])
        found = list(wds.group_by_keys(members))
    made = []
    for sample in found:
        plain = [sample[end] for end in ("jpg", "jpeg", "png") if end in sample]
        others = [content for end, content in sample.items() if end.endswith(".png")]
        if "cls" in sample and (plain or others):
            made.append((sample["cls"].decode(), (plain or others)[0]))
    return made


@pytest.mark.parametrize("seed", range(60))
def test_samples_are_those_of_the_library(tmp_path, seed):
    generator = random.Random(seed)
    keys = ["0", "1", "a/0", "a.b/1", "./0", "._0", "__x__/0", "ß", "x" * 150, "..", "n"]
    endings = ["jpg", "JPG", "cls", "cls", "CLS", "seg.png", "png", "json", "jpeg", "txt", ""]
    members: list[tuple[str, bytes]] = []
    for n in range(generator.randrange(1, 14)):
        key = generator.choice(keys)
        for ending in generator.sample(endings, generator.randrange(1, 5)):
            text = str(generator.randrange(3)) if ending.lower() == "cls" else f"{n}{ending}"
            members.append((f"{key}.{ending}" if ending else key, text.encode()))
    form = generator.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    path = write_tar(tmp_path / "x.tar", members, form)
    try:
        expected = library_samples(path)
    except ValueError:  # one name twice in a sample, which is two samples to us
        return
    if expected:
        assert read(path)[0] == expected


def test_most_archives_of_that_test_are_read_by_the_library(tmp_path):
    """So that the test above compares something."""
    compared = library_samples(write_tar(tmp_path / "x.tar", pairs(3)))
    assert compared == whole(0, 1, 2)
