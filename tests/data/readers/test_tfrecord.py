"""TFRecord shards as the Inception tutorial writes them, whole and damaged."""

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.readers.tfrecord import checksum
from mobilenet_cli.pipeline.errors import DataError

pytest.importorskip("google_crc32c")

GOLDEN = Path(__file__).parents[2] / "golden" / "inception.tfrecord"
HEADER = 12  # bytes: a record's length and its checksum


def varint(value: int) -> bytes:
    value %= 1 << 64  # as protobuf writes negative ones
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def part(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(
    image: bytes,
    label: int | None = None,
    packed: bool = True,
    others: Sequence[str] = (),
    **names: str,
) -> bytes:
    """A tf.train.Example with the features of an image."""
    features = {b"image/encoded": part(1, part(1, image))}
    features |= {name.encode(): part(1, part(1, b"x")) for name in others}
    for name, text in names.items():
        features[f"image/class/{name}".encode()] = part(
            1, part(1, text.encode("utf-8", "surrogateescape"))
        )
    if label is not None:
        value = part(1, varint(label)) if packed else varint(1 << 3) + varint(label)
        features[b"image/class/label"] = part(3, value)
    return part(1, b"".join(part(1, part(1, k) + part(2, v)) for k, v in features.items()))


def record(content: bytes) -> bytes:
    crc = checksum()
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", crc(length)) + content + struct.pack("<I", crc(content))


def write(path: Path, *contents: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(map(record, contents)))
    return path


def test_a_file_that_tensorflow_wrote():
    """By tf.io.TFRecordWriter of TensorFlow 2.21: two images of two pixels a side."""
    dataset = open_dataset(str(GOLDEN), "all")
    assert [s.label for s in dataset.samples] == ["n01440764", "n15075141"]
    assert [decode(s.read(), s.key).getpixel((1, 1)) for s in dataset.samples] == [
        (100, 100, 100),
        (101, 101, 101),
    ]
    assert dataset.lost == ()
    assert record(GOLDEN.read_bytes()[HEADER:-4]) != GOLDEN.read_bytes()  # two, not one
    (length,) = struct.unpack("<Q", GOLDEN.read_bytes()[:8])
    first = GOLDEN.read_bytes()[HEADER : HEADER + length]
    assert GOLDEN.read_bytes().startswith(record(first))  # so the tests below write what it writes


@pytest.mark.parametrize("packed", [True, False])
def test_labels_start_at_1(tmp_path, encoded, packed):
    contents = [example(encoded(seed=n), n, packed) for n in (1, 1000)]
    dataset = open_dataset(str(write(tmp_path / "x.tfrecord", *contents)), "all")
    assert [s.label for s in dataset.samples] == ["0", "999"]
    assert [s.read() for s in dataset.samples] == [encoded(seed=1), encoded(seed=1000)]
    assert dataset.samples[1].key == "x.tfrecord:1"


def test_an_image_feature_that_is_none_is_one_bad_image(tmp_path, encoded):
    group = b"\x0b"  # field 1 begins a group, which no Feature has
    entry = part(1, part(1, b"image/encoded") + part(2, group))
    path = write(tmp_path / "x.tfrecord", part(1, entry), example(encoded(), 2))
    bad, good = open_dataset(str(path), "all").samples
    assert good.read() == encoded()
    with pytest.raises(DataError, match=r"record 0 of .* is no tf.train.Example"):
        bad.read()


def labels_in(source: Path, split: str = "all") -> list[str | None]:
    return [sample.label for sample in open_dataset(str(source), split).samples]


def test_a_label_0_proves_that_labels_start_at_0(tmp_path, encoded):
    path = write(tmp_path / "x.tfrecord", *[example(encoded(), n) for n in (3, 0, 7)])
    assert labels_in(path) == ["3", "0", "7"]


def test_a_label_0_proves_it_for_all_files_of_the_set(tmp_path, encoded):
    train, val = ([example(encoded(), n) for n in numbers] for numbers in ((4, 0, 1), (4, 1)))
    write(tmp_path / "d" / "train-00000-of-00001", *train)
    path = write(tmp_path / "d" / "validation-00000-of-00001", *val)
    assert labels_in(tmp_path / "d", "val") == labels_in(path) == ["4", "1"]
    (tmp_path / "e").mkdir()
    write(tmp_path / "e" / "train" / "0.tfrecord", *train)
    write(tmp_path / "e" / "val" / "0.tfrecord", *val)
    assert labels_in(tmp_path / "e", "val") == ["4", "1"]
    assert labels_in(tmp_path / "e" / "val") == ["4", "1"]


def test_another_set_in_the_folder_proves_nothing(tmp_path, encoded):
    write(tmp_path / "cats.tfrecord", example(encoded(), 0))
    assert labels_in(write(tmp_path / "dogs.tfrecord", example(encoded(), 2))) == ["1"]


def test_what_tf_slim_writes_starts_at_0(tmp_path, encoded):
    path = write(tmp_path / "x.tfrecord", example(encoded(), 2))
    assert labels_in(path) == ["1"]
    (tmp_path / "labels.txt").write_text("0:daisy\n1:dandelion\n2:rose\n")
    assert labels_in(path) == ["2"]
    (tmp_path / "labels.txt").write_text("1:daisy\n2:dandelion\n")
    assert labels_in(path) == ["1"]
    features = ["image/format", "image/height", "image/width"]
    path = write(tmp_path / "y.tfrecord", example(encoded(), 2, others=features))
    assert labels_in(path) == ["2"]


def test_a_record_of_zeros_takes_no_time(tmp_path, encoded):
    """A hole of ten gigabytes whose length and checksum are right."""
    path = tmp_path / "x.tfrecord"
    length = struct.pack("<Q", 10 << 30)
    with path.open("wb") as file:
        file.write(length + struct.pack("<I", checksum()(length)))
        file.truncate(HEADER + (10 << 30))
        file.seek(0, 2)
        file.write(bytes(4) + record(example(encoded(), 1)))
    dataset = open_dataset(str(path), "all")
    assert len(dataset.samples) == 1
    assert dataset.lost[0].what == f"record 0 of {path} is no tf.train.Example"


def test_a_record_of_very_many_fields(tmp_path, encoded):
    content = part(1, part(1, b"") * 200_000)
    dataset = open_dataset(
        str(write(tmp_path / "x.tfrecord", content, example(encoded(), 1))), "all"
    )
    assert dataset.lost[0].what.endswith("has more fields than a tf.train.Example")


def test_names_that_are_none_or_not_utf8(tmp_path, encoded):
    contents = [example(encoded(), text="x" * 2000), example(encoded(), text="\udcfc")]
    dataset = open_dataset(str(write(tmp_path / "x.tfrecord", *contents)), "all")
    assert dataset.classes == ("\\xfc",)
    assert dataset.lost[0].what.endswith("has a class name of 2,000 bytes")


def test_names_come_before_numbers(tmp_path, encoded):
    contents = [example(encoded(), 1, text="daisy"), example(encoded(), 2, text="rose", synset="")]
    dataset = open_dataset(str(write(tmp_path / "x.tfrecords", *contents)), "all")
    assert dataset.classes == ("daisy", "rose")


def test_file_names_are_splits(tmp_path, encoded):
    one = example(encoded(), 1)
    for name, count in (("train-00000-of-00002", 2), ("train-00001-of-00002", 1)):
        write(tmp_path / "d" / name, *[one] * count)
    write(tmp_path / "d" / "validation-00000-of-00001", one)
    sizes = [len(open_dataset(str(tmp_path / "d"), s).samples) for s in ("train", "val", "all")]
    assert sizes == [3, 1, 4]


def test_label_below_0_is_one_lost_record(tmp_path, encoded):
    contents = [example(encoded(), 1), example(encoded(), -1), example(encoded(), 2)]
    dataset = open_dataset(str(write(tmp_path / "x.tfrecord", *contents)), "all")
    assert len(dataset.samples) == 2
    assert [e.what for e in dataset.lost] == [
        f"record 1 of {tmp_path}/x.tfrecord has a label that is no number from 0"
    ]


def test_image_with_a_bad_checksum_is_one_bad_image(tmp_path, encoded):
    path = write(tmp_path / "x.tfrecord", *[example(encoded(seed=n), 1) for n in range(3)])
    content = bytearray(path.read_bytes())
    second = len(content) // 3
    content[second + second // 2] ^= 1  # a bit in the middle of the second image
    path.write_bytes(content)
    bad: list[str] = []
    samples = open_dataset(str(path), "all").samples
    spec = InputSpec(resolution=32, resize=32)
    made = list(batches(samples, spec, 3, on_bad=lambda s, e: bad.append(f"{s.key} {e.what}")))
    assert made[0].indices == (0, 2)
    assert bad == [f"x.tfrecord:1 record 1 of {path} does not match its checksum"]


def test_damaged_length_loses_the_rest_of_the_file(tmp_path, encoded):
    path = write(tmp_path / "x.tfrecord", *[example(encoded(), 1)] * 3)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    dataset = open_dataset(str(path), "all")
    assert len(dataset.samples) == 1
    assert "record 1 of" in dataset.lost[0].what
    assert "has no valid header, so it and all after it" in dataset.lost[0].what


@pytest.mark.parametrize("cut", [1, 4, 100, 2000])
def test_shard_cut_off_in_the_middle(tmp_path, encoded, cut):
    whole = write(tmp_path / "d" / "train-00000-of-00002", *[example(encoded(), 1)] * 2)
    path = whole.with_name("train-00001-of-00002")
    path.write_bytes(whole.read_bytes()[:-cut])
    dataset = open_dataset(str(tmp_path / "d"), "all")
    assert len(dataset.samples) == 3
    assert [e.what for e in dataset.lost] == [
        f"record 1 of {path} is cut off, so it and all after it in this file are lost"
    ]
    assert all(decode(s.read(), s.key).size == (40, 32) for s in dataset.samples)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "x.tfrecord cannot be read"),
        (b"something else entirely", "record 0 of .* has no valid header"),
        (b"short", "record 0 of .* has no valid header"),
        (gzip.compress(b"records", mtime=0), "x.tfrecord is compressed.* Unpack it"),
        (zlib.compress(b"records"), "x.tfrecord is compressed.* Unpack it"),
    ],
)
def test_file_that_is_no_tfrecord(tmp_path, content, match):
    (tmp_path / "x.tfrecord").write_bytes(content)
    with pytest.raises(DataError, match=match):
        open_dataset(str(tmp_path / "x.tfrecord"), "all")


@pytest.mark.parametrize("content", [b"\xff" * 20, b"\x0a\x7f", b"\x0b", b"\x0a\x02\x0a\x05"])
def test_record_that_is_no_example(tmp_path, encoded, content):
    path = write(tmp_path / "x.tfrecord", content, example(encoded(), 1))
    dataset = open_dataset(str(path), "all")
    assert [s.label for s in dataset.samples] == ["0"]
    assert dataset.lost[0].what == f"record 0 of {path} is no tf.train.Example"


def test_record_without_an_image(tmp_path):
    path = write(tmp_path / "x.tfrecord", part(1, b""))
    (sample,) = open_dataset(str(path), "all").samples
    with pytest.raises(DataError, match=r"record 0 of .* has no image/encoded"):
        sample.read()
