"""Every kind of image gives the pixels of an independent decode on white, in bounded memory."""

import bz2
import gzip
import io
import logging
import lzma
import re
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mobilenet_cli.data.decode import MEMORY, ORIENTATION, MemoryBudget, decode, upright_size
from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.pipeline.errors import DataError


def png(depth: int, kind: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """Write a PNG of one row of four pixels, independently of Pillow."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", 4, 1, depth, kind, 0, 0, 0)
    middle = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IHDR", header) + middle + chunk(b"IDAT", zlib.compress(b"\0" + rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (png(1, 0, b"\x50"), [0, 255, 0, 255]),
        (png(1, 0, b"\x50", b"\0\0"), [255, 255, 255, 255]),
        (png(2, 0, b"\x1b"), [0, 85, 170, 255]),
        (png(2, 0, b"\x1b", b"\0\1"), [0, 255, 170, 255]),
        (png(4, 0, b"\x05\xaf", b"\0\5"), [0, 255, 170, 255]),
        (png(8, 0, b"\0\x55\xaa\xff", b"\0\xaa"), [0, 85, 255, 255]),
        (png(16, 0, struct.pack(">4H", 0, 257 * 9, 257 * 200, 65535)), [0, 9, 200, 255]),
        (png(16, 0, struct.pack(">4H", 0, 257 * 9, 257 * 200, 65535), b"\x09\x09"), None),
        (png(8, 4, bytes([0, 255, 100, 0, 100, 128, 7, 255])), [0, 255, 177, 7]),
        (png(16, 2, struct.pack(">H", 257 * 60) * 12, struct.pack(">H", 257 * 60) * 3), [255] * 4),
    ],
)
def test_png_of_every_depth_and_transparency(file, expected):
    pixels = np.asarray(decode(file, "x")).astype(int)
    expected = [0, 255, 200, 255] if expected is None else expected
    assert np.abs(pixels[0] - np.array(expected)[:, None]).max() <= 1


SECOND_DECODER = {  # of TIFF with alpha it gives colours that are multiplied by it already
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "I;16", "CMYK", "YCbCr"),
    "PPM": ("1", "L", "RGB"),
    "GIF": ("L", "P"),
    "AVIF": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(
    ("form", "mode"), [(form, mode) for form, modes in SECOND_DECODER.items() for mode in modes]
)
def test_agrees_with_a_second_decoder(form, mode):
    cv2 = pytest.importorskip("cv2", reason="the extra interop is not installed")
    picture = Image.linear_gradient("L").resize((33, 22))
    shades = Image.merge("RGBA", [picture.rotate(angle) for angle in (0, 90, 180, 270)])
    if mode == "I;16":
        made = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    else:
        made = (shades if mode in ("LA", "RGBA") else shades.convert("RGB")).convert(mode)
    file = io.BytesIO()
    made.save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    read = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    read = read.astype(float) / (257 if read.dtype == np.uint16 else 1)
    read = read[..., None].repeat(3, 2) if read.ndim == 2 else read
    if read.shape[2] == 4:
        alpha = read[..., 3:] / 255
        read = read[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(decode(file.getvalue(), mode))[..., ::-1] - read).max() <= 1


def tiff(mode: str, *, bits: int, photometric: int, content: bytes) -> bytes:
    """Write a TIFF of four pixels, independently of Pillow."""
    samples = len(mode)
    entries = [
        (256, 4, 4), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, samples), (278, 4, 1), (279, 4, len(content)),
    ]  # fmt: skip
    padded = content + b"\0" * (len(content) % 2)
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    header = b"II*\0" + struct.pack("<I", 8 + len(padded))
    return header + padded + struct.pack("<H", len(entries)) + table + bytes(4)


def test_gray_tiff_of_12_bits_and_of_inverted_16_bits():
    twelve = tiff("I", bits=12, photometric=1, content=bytes.fromhex("000800fffffe"))
    assert np.asarray(decode(twelve, "x"))[0, :, 0].tolist() == [0, 128, 255, 255]
    values = struct.pack("<4H", 0, 257 * 55, 257 * 200, 65535)
    inverted = tiff("I", bits=16, photometric=0, content=values)
    assert np.asarray(decode(inverted, "x"))[0, :, 0].tolist() == [255, 200, 55, 0]


@pytest.mark.parametrize("mode", ["LAB", "YCbCr", "CMYK", "LA", "RGBA", "PA"])
def test_tiff_of_every_colour_space(mode):
    red = Image.new("RGB", (5, 4), (200, 30, 40))
    if mode == "LAB":
        from PIL import ImageCms

        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        made = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    else:
        made = red.convert("P").convert("PA") if mode == "PA" else red.convert(mode)
    expected = red.convert("P").convert("RGB") if mode == "PA" else red
    expected = red.convert("L").convert("RGB") if mode == "LA" else expected
    file = io.BytesIO()
    made.save(file, "TIFF")
    difference = np.asarray(decode(file.getvalue(), "x")).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 3


BOMBS = {
    "gif": b"GIF89a\xff\xff\xff\xff\0\0\0!\xf9\x04\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0",
    "webp": b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0\x2f" + struct.pack("<4I", 9000 * 16385, 0, 0, 0),
    "extended webp": b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x2f\0\xff\x1f\0" + b"\0" * 10,
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_memory_is_known_before_anything_is_decoded(kind, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(DataError, match=r"x (has [\d,]+ pixels, more than|takes .* GB of memory)"):
        decode(BOMBS[kind], "x")


def test_tile_of_a_small_tiff_is_no_bomb():
    entries = struct.pack("<HHII", 322, 4, 1, 60_000) + struct.pack("<HHII", 323, 4, 1, 60_000)
    whole = tiff("L", bits=8, photometric=1, content=bytes(4))
    table = whole.rindex(struct.pack("<HHII", 278, 4, 1, 1))
    tiled = bytearray(whole[:table] + entries + whole[table + 24 :])
    with pytest.raises(DataError, match=r"x takes 7\.2 GB of memory to decode"):
        decode(bytes(tiled), "x")


def test_threads_share_one_budget():
    budget, held, most = MemoryBudget(10), 0, 0
    lock = threading.Lock()

    def work():
        nonlocal held, most
        with budget.hold(4, "x"):
            with lock:
                held += 4
                most = max(most, held)
            with lock:
                held -= 4

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 4 <= most <= 8
    assert budget.free == 10
    with pytest.raises(DataError, match="x takes"):
        budget.hold(11, "x").__enter__()


def test_memory_is_given_back_whatever_happens(encoded):
    prepare(encoded(), "x", InputSpec(resolution=8, resize=8))
    with pytest.raises(DataError):
        prepare(encoded()[:60], "x", InputSpec(resolution=8, resize=8))
    assert MEMORY.free == MEMORY.total


def test_heic_is_said_to_be_heic():
    with pytest.raises(DataError, match="x is a HEIF image that cannot be read"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(30), "x")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_what_is_packed_is_said_to_be_packed(encoded, compress):
    with pytest.raises(DataError, match=r"x is compressed by \w+, not an image\. Unpack it"):
        decode(compress(encoded()), "x")


def test_what_decoders_say_themselves_is_not_shown(capfd):
    """The error of an image names it; libtiff's own line is about a tempfile.tif."""
    content = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(content, "TIFF", compression="tiff_lzw")
    damaged = bytearray(content.getvalue())
    damaged[100:140] = bytes(range(215, 255))
    with pytest.raises(DataError, match="x cannot be decoded"):
        decode(bytes(damaged), "x")
    logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_turned_by_its_own_property_alone(orientation):
    """EXIF, which phones write too, has no say in it (ISO/IEC 23008-12)."""
    pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    picture = Image.linear_gradient("L").resize((64, 48))
    colours = Image.merge("RGB", [picture.rotate(angle) for angle in (0, 90, 180)])
    exif = Image.Exif()
    exif[274] = orientation
    content = io.BytesIO()
    colours.save(content, "HEIF", exif=exif, quality=100, chroma=444)
    made = np.asarray(decode(content.getvalue(), "x")).astype(int)
    assert np.abs(made - np.asarray(colours)).max() <= 4


CUT = (
    {"format": "JPEG"},
    {"format": "PNG"},
    {"format": "GIF"},
    {"format": "BMP"},
    {"format": "AVIF"},
)
CUT += {"format": "TIFF"}, {"format": "TIFF", "compression": "tiff_lzw"}, {"format": "WEBP"}


@pytest.mark.parametrize("options", CUT, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("kept", [20, 0.1, 0.5])
def test_what_is_cut_off_is_called_by_its_format(options, kept):
    whole = io.BytesIO()
    Image.effect_noise((64, 48), 90).convert("RGB").save(whole, **options)
    content = whole.getvalue()[: kept if kept > 1 else int(kept * len(whole.getvalue()))]
    with pytest.raises(DataError) as refused:
        decode(content, "x")
    assert re.match(r"x (cannot be decoded|is an? \w+ image that is cut off)", refused.value.what)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b'<?xml version="1.0"?>\n<svg xmlns="a"/>', "an SVG drawing"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b'{"image": "iVBO"}', "JSON"),
        (b"data:image/png;base64,iVBO", "an image in base64"),
        (b"/9j/4AAQSkZJRg", "an image in base64"),
    ],
)
def test_what_people_take_for_an_image_is_named(content, what):
    with pytest.raises(DataError, match=f"x is {what}"):
        decode(content, "x")


def moved_behind(file: bytes, kind: bytes) -> bytes:
    """Put a chunk of a PNG behind its pixels, where some programs write it."""
    begin = file.index(kind) - 4
    stop = begin + 12 + int.from_bytes(file[begin : begin + 4], "big")
    end = file.rindex(b"IEND") - 4
    return file[:begin] + file[stop:end] + file[begin:stop] + file[end:]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
def test_size_without_decoding_is_that_of_what_is_decoded(form, orientation):
    """Boxes in fractions are scaled by it, and those in pixels are refused by it."""
    if form == "HEIF":
        pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    exif, content = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(content, form, exif=exif)
    files = [content.getvalue()]
    if form == "PNG":
        files.append(moved_behind(files[0], b"eXIf"))
        written = PngImagePlugin.PngInfo()
        written.add_itxt("XML:com.adobe.xmp", f'<a tiff:Orientation="{orientation}"/>')
        content = io.BytesIO()
        Image.new("L", (64, 48)).save(content, form, pnginfo=written)
        files.append(content.getvalue())
    turned = 5 <= orientation <= 8 and form != "HEIF"
    for file in files:
        size = upright_size(io.BytesIO(file), "x")
        assert size == decode(file, "x").size == ((48, 64) if turned else (64, 48))
