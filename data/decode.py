"""The bytes of an image file become upright RGB pixels, in memory that is known beforehand."""

import contextlib
import ctypes
import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, _imaging, features

from mobilenet_cli.pipeline.errors import DataError, TooLargeError

REPLACE = "Replace or remove the file"
# Without Pillow's readers that start other programs or draw vectors.
FORMATS = ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]
if features.check("avif"):
    FORMATS.append("AVIF")
try:
    import pillow_heif  # type: ignore[import-not-found, unused-ignore]  # an extra
except ImportError:
    HEIF_HINT = 'Install its reader with: pip install "mobilenet-cli[heif]", or save it as JPEG'
else:
    pillow_heif.register_heif_opener(thumbnails=False)
    FORMATS.append("HEIF")
    HEIF_HINT = REPLACE
AVIF = rb".{4}ftypavi[fs]"
HEIF = rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"  # ISO/IEC 23008-12
UNPACK = "Unpack it, and give the images in it"
SAVE = "Save it as JPEG or PNG"
SEND = "Decode it, and give the bytes of the image"
# What a file is that no decoder knows, by its first bytes, and what to do with it.
KINDS = tuple(
    (re.compile(start, re.DOTALL | re.IGNORECASE), kind, fix)
    for start, kind, fix in (
        *(
            (start, f"{name} image that is cut off or damaged", REPLACE)
            for name, start in (
                ("a JPEG", rb"\xff\xd8\xff"),
                ("a PNG", rb"\x89PNG"),
                ("a GIF", rb"GIF8"),
                ("a BMP", rb"BM.{4}\0{4}"),
                ("a TIFF", rb"II[*+]\0|MM\0[*+]"),
                ("a WebP", rb"RIFF.{4}WEBP"),
                *([("an AVIF", AVIF)] if "AVIF" in FORMATS else []),
            )
        ),
        (AVIF, "an AVIF image, which is not read", SAVE),
        (HEIF, "a HEIF image that cannot be read", HEIF_HINT),
        (rb"\x1f\x8b", "compressed by gzip, not an image", UNPACK),
        (rb"BZh", "compressed by bzip2, not an image", UNPACK),
        (rb"\xfd7zXZ", "compressed by xz, not an image", UNPACK),
        (rb"\(\xb5/\xfd", "compressed by zstd, not an image", UNPACK),
        (rb"PK\x03\x04", "a zip archive, not an image", UNPACK),
        (rb"7z\xbc\xaf", "a 7z archive, not an image", UNPACK),
        (rb"Rar!", "a RAR archive, not an image", UNPACK),
        (rb"\xff\x0a|.{4}JXL ", "a JPEG XL image, which is not read", SAVE),
        (rb"\xff\x4f\xff\x51|.{4}jP  ", "a JPEG 2000 image, which is not read", SAVE),
        (rb"8BPS", "a Photoshop file, which is not read", SAVE),
        (rb"%PDF", "a PDF document, not an image", SAVE),
        (rb"\s*(<\?xml[^>]*>\s*)?<svg", "an SVG drawing, which is not read", SAVE),
        (rb"\s*<(!doctype html|html)", "a web page, not an image", "Download the image again"),
        (rb"version https://git-lfs", "a pointer of Git LFS, not an image", "Run 'git lfs pull'"),
        (rb"data:image/|/9j/|iVBORw0KGgo", "an image in base64", SEND),
        (rb'\s*[{\[]\s*["{\[}]', "JSON, not an image", "Give the bytes of an image"),
    )
)
HEAD_BYTES = 512  # by which ``KINDS`` tell files
MAX_PIXELS = 89_478_485  # 0.27 GB as RGB; where Pillow begins to warn of decompression bombs
BUDGET = 900_000_000  # bytes that images may take while they are decoded, of all threads together
BAND = 1 << 20  # pixels that are converted at a time
WHITE_16 = 65535
# Bytes a pixel that Pillow takes for a mode, where it is not 4; and that a decoder takes besides:
# measured, or of libjpeg the coefficients of three components.
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
DECODER_BYTES = {"JPEG": 6, "MPO": 6, "PPM": 12, "WEBP": 20, "AVIF": 24, "HEIF": 24}
# TIFF 6.0, sections 3, 8 and 15.
BITS, PHOTOMETRIC, SAMPLES, STRIP_ROWS, TILE_WIDTH, TILE_ROWS = 258, 262, 277, 278, 322, 323
WHITE_IS_ZERO = 0
ORIENTATION = 274  # EXIF tag
SIDEWAYS = range(5, 9)  # values of it by which width and height change places

# Both once for the process: warnings.catch_warnings is not safe in the threads that decode.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # e.g. corrupt EXIF


# What libtiff and Pillow say of a file themselves does not name it; our error does.
logging.getLogger("PIL").addHandler(logging.NullHandler())
with contextlib.suppress(AttributeError, OSError):  # where libtiff's functions are not to be had
    _LIBTIFF = ctypes.CDLL(_imaging.__file__)
    _LIBTIFF.TIFFSetErrorHandler(None)
    _LIBTIFF.TIFFSetWarningHandler(None)


class MemoryBudget:
    """A budget is the memory that all threads together may take for what they decode."""

    def __init__(self, total: int) -> None:
        self.total = self.free = total
        self.changed = threading.Condition()

    @contextmanager
    def hold(self, size: int, key: str) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them.

        Raises:
            TooLargeError: it is more than all.
        """
        if size > self.total:
            raise TooLargeError(
                f"{key} takes {size / 1e9:.1f} GB of memory to decode, more than "
                f"{self.total / 1e9:.1f}",
                "Scale the image down, or save it as JPEG or PNG with 8 bits per channel",
            )
        with self.changed:
            self.changed.wait_for(lambda: self.free >= size)
            self.free -= size
        try:
            yield
        finally:
            with self.changed:
                self.free += size
                self.changed.notify_all()


MEMORY = MemoryBudget(BUDGET)


def decode(encoded: bytes, key: str) -> Image.Image:
    """Decode an image file to upright RGB; ``decoded`` says how.

    Raises:
        DataError: not an image, truncated, corrupt, or it takes too much memory.
    """
    with decoded(encoded, key) as image:
        return image.copy()


@contextmanager
def decoded(encoded: bytes, key: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Decode an image file to upright RGB, and hold the memory that it takes.

    Orientation from EXIF or XMP is applied; transparency is composed onto white; deep grayscale is
    scaled to 8 bits; CMYK, YCbCr, CIELAB and palettes are converted.

    Args:
        encoded: the file's bytes, in one of ``FORMATS``; its name does not matter.
        key: what to call the image in an error, usually its path.
        max_pixels: the most that it may have.

    Raises:
        TooLargeError: it has more pixels, or takes more memory than ``BUDGET``.
        DataError: not an image, truncated or corrupt.
    """
    if not encoded:
        raise DataError(f"{key} is empty", REPLACE)
    with _reported(encoded, key):
        # Some formats take memory when they are opened.
        claimed = _claimed_cost(encoded, key, max_pixels)
        image = None if claimed else _opened(encoded, key, max_pixels)
        cost = claimed if image is None else _cost(image, encoded)
    with MEMORY.hold(cost, key):
        with _reported(encoded, key):
            opened = _opened(encoded, key, max_pixels) if image is None else image
            rgb = _upright_rgb(opened, encoded, key)
        del image, opened
        try:
            yield rgb
        finally:
            rgb.close()  # before the memory is another's


@contextmanager
def _reported(encoded: bytes, key: str) -> Iterator[None]:
    """Turn whatever a decoder raises into our error."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        for start, kind, fix in KINDS:
            if start.match(encoded):
                raise DataError(f"{key} is {kind}", fix) from error
        raise DataError(
            f"{key} is not an image in a known format ({', '.join(FORMATS)})", REPLACE
        ) from error
    except Image.DecompressionBombError as error:
        (pixels, *_) = re.findall(r"\d+", str(error))
        raise _too_many(int(pixels), key) from error
    except Exception as error:  # decoders of corrupt files raise whatever they stumble over
        raise DataError(
            f"{key} cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})",
            REPLACE,
        ) from error


def upright_size(source: BinaryIO, key: str) -> tuple[int, int]:
    """Return width and height of an image as ``decoded`` turns it, from its header.

    Raises:
        DataError: not an image.
    """
    head = source.read(HEAD_BYTES)
    source.seek(0)
    with _reported(head, key), Image.open(source, formats=FORMATS) as image:
        metadata = {"Raw profile type exif", "XML:com.adobe.xmp"} & image.info.keys()
        told = image.format != "PNG" or metadata or _has_exif(source)
        if image.format == "TIFF" or not told:
            return image.size  # of a TIFF as it is turned; a PNG would be decoded to find out
        turned = image.getexif().get(ORIENTATION) in SIDEWAYS
        return (image.height, image.width) if turned else image.size


def _has_exif(source: BinaryIO) -> bool:
    """Tell whether a PNG has a chunk of EXIF data (PNG specification, section 11.3.4.5)."""
    place = source.tell()
    source.seek(8)  # behind the signature
    found = False
    while not found and len(header := source.read(8)) == 8:  # length and type
        found = header[4:] == b"eXIf"
        source.seek(int.from_bytes(header[:4]) + 4, os.SEEK_CUR)  # behind the check sum
    source.seek(place)
    return found


def check_size(size: tuple[int, int], key: str, most: int = MAX_PIXELS) -> None:
    """Refuse an image (width, height) with more pixels before it takes that memory.

    Raises:
        TooLargeError: it is larger.
    """
    if size[0] * size[1] > most:
        raise _too_many(size[0] * size[1], key, most)


def _too_many(pixels: int, key: str, most: int = MAX_PIXELS) -> TooLargeError:
    return TooLargeError(
        f"{key} has {pixels:,} pixels, more than {most:,}",
        "Scale the image down or remove it",
    )


def _opened(encoded: bytes, key: str, most: int) -> Image.Image:
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    check_size(image.size, key, most)
    return image


def _claimed_cost(encoded: bytes, key: str, most: int) -> int:
    """Return the bytes that a GIF or WebP takes, from its header; 0 of other formats.

    GIF89a specification, section 18; RFC 9649, sections 2.5 to 2.7.
    """
    head, size = encoded[:30].ljust(30, b"\0"), None
    if head.startswith(b"GIF8"):
        size, bytes_ = (_little(head[6:8]), _little(head[8:10])), 1 + 2 + 4
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        bytes_ = 8 + DECODER_BYTES["WEBP"]
        if head[12:16] == b"VP8X":
            size = _little(head[24:27]) + 1, _little(head[27:30]) + 1
        elif head[12:16] == b"VP8L":
            both = _little(head[21:25])
            size = (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
        else:
            size = _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF
    if size is None:
        return 0
    check_size(size, key, most)
    return max(1, size[0] * size[1]) * bytes_


def _little(content: bytes) -> int:
    return int.from_bytes(content, "little")


def _cost(image: Image.Image, encoded: bytes) -> int:
    """Return the bytes that decoding an opened image takes, with its RGB pixels."""
    pixels = image.width * image.height
    each = MODE_BYTES.get(image.mode, 4) + DECODER_BYTES.get(image.format or "", 0)
    if image.mode == "CMYK":
        each += 2  # a fourth component's coefficients
    if image.mode != "RGB" or _transparent(image):
        each += 4
    if image.format == "PNG":  # asking it for its orientation decodes it
        turned = b"rientation" in encoded or b"eXIf" in encoded
    else:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    if turned:
        each += 4
    return pixels * each + 2 * _piece_bytes(image)


def _piece_bytes(image: Image.Image) -> int:
    """Return the bytes of a TIFF's strip or tile, which is decoded as a whole."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 0
    if TILE_WIDTH in tags:
        pixels = int(tags[TILE_WIDTH]) * int(tags.get(TILE_ROWS, image.height))
    else:
        pixels = image.width * min(image.height, int(tags.get(STRIP_ROWS, image.height)))
    bits = max(8, *map(int, (1, *tags.get(BITS, (1,)))))
    return pixels * int(tags.get(SAMPLES, 1)) * bits // 8


def _transparent(image: Image.Image) -> bool:
    return image.has_transparency_data or "transparency" in image.info


def _upright_rgb(image: Image.Image, encoded: bytes, key: str) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    white = 4095 if tuple(tags.get(BITS, ())) == (12,) else WHITE_16
    inverted = image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.format == "PNG":
        _scale_transparent_value(image, depth=encoded[24])
    if image.mode == "RGB" and not _transparent(image):
        return image
    rgb = Image.new("RGB", image.size)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows)))
        if image.mode.startswith("I"):
            made = _deep(band, white, inverted, key)
        elif image.mode == "F":
            raise DataError(f"{key} has floating point pixels", "Save it with 8 bits per channel")
        else:
            made = _opaque(band)
        rgb.paste(made, (0, top))
    image.close()  # now, not when its cycle of references is found
    return rgb


def _scale_transparent_value(image: Image.Image, depth: int) -> None:
    """Bring the transparent value of a PNG to the depth of Pillow's pixels, which is another."""
    value = image.info.get("transparency")
    if image.mode == "L" and depth in (2, 4) and isinstance(value, int):
        image.info["transparency"] = value * 255 // ((1 << depth) - 1)
    elif image.mode == "RGB" and depth == 16 and isinstance(value, tuple):
        image.info["transparency"] = tuple(v >> 8 for v in value)


def _deep(image: Image.Image, white: int, inverted: bool, key: str) -> Image.Image:
    values: NDArray[np.float32] = np.asarray(image).astype(np.float32)
    if values.min() < 0 or values.max() > white:
        raise DataError(f"{key} has 32-bit pixels", "Save it with 8 or 16 bits per channel")
    transparent = image.info.get("transparency")
    shown = white - values if inverted else values
    gray = (shown / np.float32(white / 255)).round().astype(np.uint8)
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        lab, srgb = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is not None:
            return converted
    if image.mode == "La":
        image = image.convert("LA")
    if not _transparent(image):
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
