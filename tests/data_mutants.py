"""A child process gives damaged images and containers of images to the readers of data.

    python tests/data_mutants.py FOLDER FIRST LAST

Even numbers are images, odd ones containers; each is always the same damage.
"""

import io
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage import damaged_bytes, try_numbers
from PIL import Image

from mobilenet_cli.data.crop import DRAWS, CentreCrop, RandomCrop
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.pipeline.errors import DataError

SPEC = InputSpec(resolution=16, resize=16)
CROPS = (RandomCrop(16), CentreCrop(SPEC))
BLOCK = 512  # of a tar file
# Each form of image with the modes and options that lead to decoders of their own.
FORMS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
    ("JPEG", "RGB", {"subsampling": 0, "restart_marker_blocks": 2}),
    ("JPEG", "L", {}),
    ("JPEG", "CMYK", {}),
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "RGB", {"save_all": True}),
    *(("GIF", "P", {"save_all": several}) for several in (False, True)),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")),
    *(("PPM", mode, {}) for mode in ("1", "L", "RGB")),
    *(("TIFF", "RGB", {"compression": c}) for c in ("raw", "tiff_lzw", "jpeg", "tiff_deflate")),
    *(("TIFF", "1", {"compression": c}) for c in ("group3", "group4", "packbits")),
    *(("TIFF", mode, {}) for mode in ("CMYK", "LAB", "I;16", "F", "RGBA")),
    *(("WEBP", "RGB", {"lossless": exact}) for exact in (False, True)),
    ("WEBP", "RGBA", {"save_all": True}),
    ("AVIF", "RGB", {"speed": 10}),
)


def picture(mode: str, seed: int) -> Image.Image:
    """Return noise of 24x20 pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (20, 24, 4), np.uint8)
    if mode in ("I;16", "F"):
        return Image.fromarray(noise[..., 0].astype(np.uint16 if mode == "I;16" else np.float32))
    if mode == "LAB":
        return Image.fromarray(np.ascontiguousarray(noise[..., :3]), "LAB")
    return Image.fromarray(noise, "RGBA").convert("RGB").convert(mode)


def image_file(form: str, mode: str, options: dict[str, object]) -> bytes:
    """Return an undamaged image file."""
    content = io.BytesIO()
    more = {"append_images": [picture(mode, 1)]} if options.get("save_all") else {}
    picture(mode, 0).save(content, form, **options, **more)
    return content.getvalue()


def with_checksums(png: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of what they hold, so that it is decoded."""
    made, at = bytearray(png), 8
    while at + 12 <= len(made):
        length = int.from_bytes(made[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(made):
            break
        made[end : end + 4] = zlib.crc32(made[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(made)


def with_sums(tar: bytes) -> bytes:
    """Return a tar file whose headers have the sums of what they hold, as far as it has any."""
    made, at = bytearray(tar), 0
    while at + BLOCK <= len(made) and any(made[at : at + BLOCK]):
        made[at + 148 : at + 156] = b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + BLOCK])
        try:
            size = int(made[at + 124 : at + 135].strip(b"\0 ") or b"0", 8)
        except ValueError:
            break
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return bytes(made)


def record(content: bytes) -> bytes:
    """Return a record of a TFRecord file, with the checksums of what it holds."""

    def checksum(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(content))
    return length + checksum(length) + content + checksum(content)


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer, of less than 16 KiB."""
    length = len(content)
    return bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7]) + content


def example(image: bytes, label: bytes) -> bytes:
    """Return a ``tf.train.Example`` with an encoded image and the name of its class."""
    values = {b"image/encoded": image, b"image/class/text": label}
    features = b"".join(
        field(1, field(1, key) + field(2, field(1, field(1, value))))
        for key, value in values.items()
    )
    return field(1, features)


def archive(form: int, images: list[bytes]) -> bytes:
    """Return a WebDataset of images with labels, some names longer than a header holds."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as tar:
        for number, image in enumerate(images):
            name = f"{'d' * 90 * (number % 2)}/{'n' * 40 * (number % 2)}{number}"
            for ending, data in (("png", image), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def table(images: list[bytes], nested: bool, compression: str) -> bytes:
    """Return a parquet file of images with labels."""
    column = [{"bytes": image, "path": "x"} for image in images] if nested else images
    labels = [number % 2 for number in range(len(images))]
    content = io.BytesIO()
    made = pa.table({"image": column, "label": labels})
    pq.write_table(made, content, row_group_size=2, compression=compression)
    return content.getvalue()


class Attempts:
    """An attempt gives a damaged image, or a damaged file of images, to what reads such."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = [image_file(*form) for form in FORMS]
        small = self.images[5:8]
        self.examples = [example(image, b"%d" % n) for n, image in enumerate(small)]
        forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
        self.archives = [archive(form, small) for form in forms]
        self.tables = [
            table(small, nested, how)
            for nested, how in ((True, "snappy"), (False, "zstd"), (False, "none"))
        ]
        self.containers: tuple[Callable[[Random], tuple[str, bytes]], ...] = (
            self.tar,
            self.tar,
            self.tfrecord,
            self.parquet,
        )

    def __call__(self, number: int) -> None:
        draw = Random(number)
        if number % 2:
            self.read_container(*self.containers[number // 2 % len(self.containers)](draw))
        else:
            self.read_image(draw)

    def read_image(self, draw: Random) -> None:
        content = damaged_bytes(draw, draw.choice(self.images))
        if content.startswith(b"\x89PNG") and draw.random() < 0.8:
            content = with_checksums(content)
        if draw.random() < 0.5:
            assert prepare(content, "x", SPEC).shape == SPEC.shape
        else:
            draws = np.random.default_rng(0).random(DRAWS)
            assert draw.choice(CROPS)(content, "x", draws).shape == (16, 16, 3)

    def tar(self, draw: Random) -> tuple[str, bytes]:
        content = damaged_bytes(draw, draw.choice(self.archives))
        return "x.tar", with_sums(content) if draw.random() < 0.7 else content

    def tfrecord(self, draw: Random) -> tuple[str, bytes]:
        if draw.random() < 0.3:
            return "x.tfrecord", damaged_bytes(draw, b"".join(map(record, self.examples)))
        contents = [
            damaged_bytes(draw, content) if draw.random() < 0.5 else content
            for content in self.examples
        ]
        return "x.tfrecord", b"".join(map(record, contents))

    def parquet(self, draw: Random) -> tuple[str, bytes]:
        content = draw.choice(self.tables)
        if draw.random() < 0.5:
            return "x.parquet", damaged_bytes(draw, content)
        size = int.from_bytes(content[-8:-4], "little")  # of the footer, whose length stays right
        begin, footer = content[: -8 - size], damaged_bytes(draw, content[-8 - size : -8])
        return "x.parquet", begin + footer + struct.pack("<I", len(footer)) + b"PAR1"

    def read_container(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.write_bytes(content)
        dataset = open_dataset(str(path), "all")
        for sample in dataset.samples:
            try:
                prepare(sample.read(), sample.key, SPEC)
            except DataError:
                continue


if __name__ == "__main__":
    home = Path(sys.argv[1])
    try_numbers(Attempts(home), home, int(sys.argv[2]), int(sys.argv[3]))
