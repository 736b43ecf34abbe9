"""TFRecord shards hold images as the Inception tutorial's build_imagenet_data.py writes them.

A file is a sequence of records ``length u64, crc u32 of it, content, crc u32 of that`` (little
endian, masked CRC-32C), and a content is a ``tf.train.Example``:
https://www.tensorflow.org/tutorials/load_data/tfrecord. Its few protobuf fields are walked here
without touching the image between them, so that the labels of a million images are found without
reading 140 GB; the checksum of a content is verified when its image is read.

Used are ``image/encoded`` and the class: ``image/class/synset``, else ``image/class/text``, else
the number ``image/class/label``. That one starts at 1, 0 being background; we count from 0.
"""

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import open_file, read_part
from mobilenet_cli.data.readers.shards import ShardFormat
from mobilenet_cli.pipeline.errors import DataError

HEADER = struct.Struct("<QI")
CRC = struct.Struct("<I")
CRC_DELTA = 0xA282EAD8
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # how a field of a protobuf message is encoded
IMAGE, LABEL = b"image/encoded", b"image/class/label"
NAMES = (b"image/class/synset", b"image/class/text")


def checksum() -> Callable[[bytes], int]:
    """Return the masked CRC-32C that follows each part of a record.

    Raises:
        DataError: google-crc32c is not installed.
    """
    try:
        import google_crc32c
    except ImportError as error:
        raise DataError(
            "reading TFRecord files takes google-crc32c, which is not installed",
            'Install it with: pip install "mobilenet-cli[tfrecord]"',
        ) from error

    def masked(content: bytes) -> int:
        crc: int = google_crc32c.value(content)
        return ((crc >> 15 | crc << 17) + CRC_DELTA) & 0xFFFFFFFF

    return masked


def _read_records(files: Mapping[Path, str]) -> Iterator[Sample | DataError]:
    """Find the images of TFRecord files; a damaged one is lost, and so are those after a cut.

    Raises:
        DataError: google-crc32c is not installed.
    """
    crc = checksum()
    for path, name in files.items():
        yield from _samples(crc, path, name)


def _samples(crc: Callable[[bytes], int], path: Path, name: str) -> Iterator[Sample | DataError]:
    """Yield the records of one file; of a damaged one, those that can be found."""
    try:
        with (
            open_file(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bytes_,
        ):
            yield from _records(crc, path, name, bytes_)
    except DataError as error:
        yield error
    except (OSError, ValueError) as error:  # the latter of an empty file
        yield DataError(f"{path} cannot be read ({error})", "Download it again")


def _records(
    crc: Callable[[bytes], int], path: Path, name: str, content: mmap.mmap
) -> Iterator[Sample | DataError]:
    position, number = 0, 0
    while position < len(content):
        header = content[position : position + HEADER.size]
        if len(header) < HEADER.size or _damaged(header, crc):
            yield _lost_from(path, number, "has no valid header")
            return
        start, size = position + HEADER.size, HEADER.unpack(header)[0]
        if start + size + CRC.size > len(content):
            yield _lost_from(path, number, "is cut off")
            return
        try:
            label = _label(_features(memoryview(content)[start : start + size]))
        except ValueError as error:
            yield DataError(f"record {number} of {path} {error}", "Download the file again")
        else:
            read = partial(_read, crc, path, number, start, size)
            yield Sample(f"{name}:{number}", label, read)
        position, number = start + size + CRC.size, number + 1


def _damaged(header: bytes, crc: Callable[[bytes], int]) -> bool:
    return HEADER.pack(HEADER.unpack(header)[0], crc(header[:8])) != header


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
    encoded = _value(_features(memoryview(record)), IMAGE)
    if not isinstance(encoded, memoryview):
        raise DataError(f"record {number} of {path} has no image/encoded", "Write the file again")
    return bytes(encoded)


def _label(features: dict[bytes, memoryview]) -> str | None:
    """Return the class of an Example: its synset or name, or its number counted from 0."""
    for name in NAMES:
        text = _value(features, name)
        if isinstance(text, memoryview) and len(text):
            return bytes(text).decode("utf-8", "replace")
    number = _value(features, LABEL)
    if number is None:
        return None
    if not isinstance(number, int) or not 1 <= number < 1 << 63:  # above are negative ones
        raise ValueError("has a label outside its range, which starts at 1")
    return str(number - 1)


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
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
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


TFRECORD = ShardFormat(re.compile(r".*(\.tfrecords?|-\d{5}-of-\d{5})"), _read_records)
