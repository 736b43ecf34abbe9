"""TFRecord shards hold images as the Inception tutorial's build_imagenet_data.py writes them.

A file is a sequence of records ``length u64, crc u32 of it, content, crc u32 of that`` (little
endian, masked CRC-32C), and a content is a ``tf.train.Example``:
https://www.tensorflow.org/tutorials/load_data/tfrecord. Its few protobuf fields are walked here
without touching the image between them, so that the labels of a million images are found without
reading 140 GB; the checksum of a content is verified when its image is read.

Used are ``image/encoded`` and the class: ``image/class/synset``, else ``image/class/text``, else
the number ``image/class/label``. The Inception tutorial's numbers start at 1, 0 being background;
we count from 0. Those of TF-slim's converters (datasets/dataset_utils.py) start at 0, which is
proven by a label 0 anywhere in the set, by their labels.txt, or by their choice of features.
"""

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import open_file, read_part
from mobilenet_cli.data.readers.shards import WORD, ShardFormat
from mobilenet_cli.data.split import SPLIT_NAMES
from mobilenet_cli.pipeline.errors import DataError, need

HEADER = struct.Struct("<QI")
CRC = struct.Struct("<I")
CRC_DELTA = 0xA282EAD8
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # how a field of a protobuf message is encoded
IMAGE, LABEL = b"image/encoded", b"image/class/label"
NAMES = (b"image/class/synset", b"image/class/text")
SLIM = {b"image/encoded", b"image/format", LABEL, b"image/height", b"image/width"}
SLIM_CLASSES = "labels.txt"  # 0:daisy, 1:dandelion, ...
NAME_BYTES = 1000  # of a class; more is no name
PACKED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x9c", b"\x78\xda")  # gzip; zlib, RFC 1950, section 2.2
MAX_FIELDS = 100_000  # of a message: an Example has a dozen features


def checksum() -> Callable[[bytes], int]:
    """Return the masked CRC-32C that follows each part of a record.

    Raises:
        DataError: google-crc32c is not installed.
    """
    need("google_crc32c", "reading TFRecord files takes google-crc32c", DataError)
    import google_crc32c

    def masked(content: bytes) -> int:
        crc: int = google_crc32c.value(content)
        return ((crc >> 15 | crc << 17) + CRC_DELTA) & 0xFFFFFFFF

    return masked


@dataclass(frozen=True, slots=True)
class Record:
    """A record holds one image.

    Attributes:
        path: its file.
        name: what to call it.
        number: its position in the file.
        offset: where its content begins, in bytes.
        size: the length of its content in bytes.
        label: the name of its class, or its number in the file, or None.
        by_slim: whether it has just those features that TF-slim's converters write.
    """

    path: Path
    name: str
    number: int
    offset: int
    size: int
    label: str | int | None
    by_slim: bool


def _read_records(files: Mapping[Path, str]) -> Iterator[Sample | DataError]:
    """Find the images of TFRecord files; a damaged one is lost, and so are those after a cut.

    Raises:
        DataError: google-crc32c is not installed.
    """
    crc = checksum()
    records: list[Record] = []
    for path, name in files.items():
        for found in _records_of(crc, path, name):
            if isinstance(found, DataError):
                yield found
            else:
                records.append(found)
    first = 0 if _count_from_0(crc, files, records) else 1
    for record in records:
        label = record.label
        yield _sample(crc, record, str(label - first) if isinstance(label, int) else label)


def _images(path: Path, name: str) -> Iterator[Sample | DataError]:
    """Find the images of one TFRecord file.

    Raises:
        DataError: google-crc32c is not installed.
    """
    crc = checksum()
    for found in _records_of(crc, path, name):
        yield found if isinstance(found, DataError) else _sample(crc, found, None)


def _sample(crc: Callable[[bytes], int], record: Record, label: str | None) -> Sample:
    read = partial(_read, crc, record.path, record.number, record.offset, record.size)
    return Sample(record.name, label, read)


def _count_from_0(
    crc: Callable[[bytes], int], files: Mapping[Path, str], records: Sequence[Record]
) -> bool:
    """Tell whether numbers count from 0, by these records or by others of the set."""
    numbered = [record for record in records if isinstance(record.label, int)]
    if not numbered:
        return True
    if all(record.by_slim for record in numbered) or any(not r.label for r in numbered):
        return True
    folders = {path.parent for path in files}
    folders |= {parent.parent for parent in folders if parent.name in SPLIT_NAMES}
    if any(_first_line(folder / SLIM_CLASSES).startswith("0:") for folder in folders):
        return True
    stems = {_stem(path) for path in files}
    near = {path for folder in folders for path in TFRECORD.files(folder) if _stem(path) in stems}
    others = (
        found for path in sorted(near - files.keys()) for found in _records_of(crc, path, path.name)
    )
    return any(isinstance(found, Record) and found.label == 0 for found in others)


def _stem(path: Path) -> str:
    """Return what the names of all files of a set have in common."""
    return re.sub(r"\d+", "", WORD.sub("", path.name))


def _first_line(path: Path) -> str:
    try:
        with open_file(path) as file:
            return file.readline(NAME_BYTES).decode("utf-8", "surrogateescape")
    except (DataError, OSError):
        return ""


def _records_of(crc: Callable[[bytes], int], path: Path, name: str) -> Iterator[Record | DataError]:
    """Yield the records of one file; of a damaged one, those that can be found."""
    try:
        with (
            open_file(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bytes_,
        ):
            yield from _walk(crc, path, name, bytes_)
    except DataError as error:
        yield error
    except (OSError, ValueError) as error:  # the latter of an empty file
        yield DataError(f"{path} cannot be read ({error})", "Download it again")


def _walk(
    crc: Callable[[bytes], int], path: Path, name: str, content: mmap.mmap
) -> Iterator[Record | DataError]:
    position, number = 0, 0
    while position < len(content):
        header = content[position : position + HEADER.size]
        if len(header) < HEADER.size or _damaged(header, crc):
            packed = not number and header.startswith(PACKED)
            yield _packed(path) if packed else _lost_from(path, number, "has no valid header")
            return
        start, size = position + HEADER.size, HEADER.unpack(header)[0]
        if start + size + CRC.size > len(content):
            yield _lost_from(path, number, "is cut off")
            return
        try:
            features = _features(memoryview(content)[start : start + size])
            label, by_slim = _label(features), features.keys() == SLIM
        except ValueError as error:
            yield DataError(f"record {number} of {path} {error}", "Download the file again")
        else:
            yield Record(path, f"{name}:{number}", number, start, size, label, by_slim)
        position, number = start + size + CRC.size, number + 1


def _damaged(header: bytes, crc: Callable[[bytes], int]) -> bool:
    return HEADER.pack(HEADER.unpack(header)[0], crc(header[:8])) != header


def _packed(path: Path) -> DataError:
    return DataError(
        f"{path} is compressed, so images cannot be read singly",
        "Unpack it, or write it without TFRecordOptions",
    )


def _lost_from(path: Path, number: int, what: str) -> DataError:
    return DataError(
        f"record {number} of {path} {what}, so it and all after it in this file are lost",
        "Download the file again",
    )


def _read(crc: Callable[[bytes], int], path: Path, number: int, offset: int, size: int) -> bytes:
    content = read_part(path, f"record {number}", offset, size + CRC.size)
    record, footer = content[:size], content[size:]
    if len(footer) < CRC.size or CRC.unpack(footer)[0] != crc(record):
        raise DataError(
            f"record {number} of {path} does not match its checksum", "Download the file again"
        )
    try:
        encoded = _value(_features(memoryview(record)), IMAGE)
    except ValueError as error:
        raise DataError(f"record {number} of {path} {error}", "Download the file again") from error
    if not isinstance(encoded, memoryview):
        raise DataError(f"record {number} of {path} has no image/encoded", "Write the file again")
    return bytes(encoded)


def _label(features: dict[bytes, memoryview]) -> str | int | None:
    """Return the class of an Example: its synset or name, or its number as the file has it."""
    for name in NAMES:
        text = _value(features, name)
        if isinstance(text, memoryview) and len(text):
            if len(text) > NAME_BYTES:
                raise ValueError(f"has a class name of {len(text):,} bytes")
            return bytes(text).decode("utf-8", "surrogateescape")
    number = _value(features, LABEL)
    if isinstance(number, memoryview) or (number or 0) >= 1 << 63:  # above are negative ones
        raise ValueError("has a label that is no number from 0")
    return number


def _features(example: memoryview) -> dict[bytes, memoryview]:
    """Return ``Example.features.feature``: each name with its encoded Feature."""
    found: dict[bytes, memoryview] = {}
    for features in _parts(example, 1):
        for entry in _parts(features, 1):
            key, value = next(_parts(entry, 1), None), next(_parts(entry, 2), None)
            if key is not None and value is not None:
                found[bytes(key)] = value
    return found


def _value(features: dict[bytes, memoryview], name: bytes) -> memoryview | int | None:
    """Return the first value of a Feature: of its bytes_list (field 1) or int64_list (field 3)."""
    for number, values in _fields(features.get(name, memoryview(b""))):
        for _, value in _fields(values) if isinstance(values, memoryview) else ():
            packed = number == 3 and isinstance(value, memoryview)
            return _varint(value, 0)[0] if packed and isinstance(value, memoryview) else value
    return None


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the fields of a protobuf message: number and value.

    https://protobuf.dev/programming-guides/encoding
    """
    position = 0
    for _ in range(MAX_FIELDS):
        if position == len(message):
            return
        tag, position = _varint(message, position)
        kind = tag & 7
        if not tag >> 3:
            raise ValueError("is no tf.train.Example")  # as a hole of zeros is none
        if kind == VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == LENGTH:
            size, position = _varint(message, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError("is no tf.train.Example")
        if position + size > len(message):
            raise ValueError("is no tf.train.Example")
        yield tag >> 3, message[position : position + size]
        position += size
    raise ValueError("has more fields than a tf.train.Example")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("is no tf.train.Example")


TFRECORD = ShardFormat(
    ".tfrecord",
    f"the feature '{LABEL.decode()}'",
    _read_records,
    _images,
)
