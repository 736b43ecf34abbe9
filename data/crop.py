"""An image file becomes the square of bytes that training sees: a random crop, or the centre.

A JPEG is decoded by libjpeg-turbo (simplejpeg), at 1/2, 1/4 or 1/8 of its size where the crop
still has enough pixels then: the inverse transform of 8x8 blocks gives smaller blocks directly.
Other ratios exist but have no vector code and take longer than the whole image (measured: 7/8 at
1.55 ms, whole at 1.09 ms, 1/2 at 0.95 ms for photographs of 500x400). What is not a plain upright
JPEG goes through ``decode.py``, which knows everything.
"""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.data.decode import MEMORY, ORIENTATION, check_size, decoded
from mobilenet_cli.data.preprocess import InputSpec, frame, offset, square_of_bytes

ATTEMPTS = 10  # to find a crop within the image, as everybody's random-resized-crop
DRAWS = 4 * ATTEMPTS  # random numbers that a cut may use
START_OF_SCAN = b"\xff\xda"  # JPEG marker
HUFFMAN_PROCESSES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")  # SOF0, SOF1, SOF2
NO_FRAMES = (b"\xff\xc4", b"\xff\xc8", b"\xff\xcc")  # DHT, JPG, DAC lie among the SOF markers
METADATA = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
PLAIN_BYTES = 9  # a pixel: coefficients of progressive files, and the result
PLAIN = frozenset({"Gray", "YCbCr", "RGB"})

# Encoded bytes, the image's name, DRAWS numbers in 0..1 -> uint8 [side, side, 3].
Crop = Callable[[bytes, str, NDArray[np.float64]], NDArray[np.uint8]]
Box = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True)
class RandomCrop:
    """A random part of random shape is scaled to a square (arXiv:1409.4842, section 6).

    Attributes:
        side: the side of the result in pixels.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height; drawn evenly in its logarithm.
    """

    side: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, encoded: bytes, key: str, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the crop as uint8 [side, side, 3], RGB.

        Raises:
            DataError: the image cannot be decoded.
        """
        square = self._quickly(encoded, key, draws)
        if square is not None:
            return square
        with decoded(encoded, key) as image:
            edges = edges_of(self.box(*image.size, draws), *image.size)
            cut = np.array(image.crop(edges))  # torch warns of arrays that cannot be written
        return scale(cut, self.side, self.side, "bilinear")

    def _quickly(
        self, encoded: bytes, key: str, draws: NDArray[np.float64]
    ) -> NDArray[np.uint8] | None:
        """Return nearly the same pixels of a plain JPEG, which is perhaps decoded scaled down."""
        size = _plain_jpeg_size(encoded, key)
        if size is None:
            return None
        box = self.box(*size, draws)
        width, height = (math.ceil(n * self.side / m) for n, m in zip(size, box[2:], strict=True))
        with _plain_pixels(encoded, size, (width, height), key) as pixels:
            if pixels is None:
                return None
            by = pixels.shape[1] / size[0], pixels.shape[0] / size[1]
            scaled = box[0] * by[0], box[1] * by[1], box[2] * by[0], box[3] * by[1]
            return resize(pixels, scaled, self.side)

    def box(self, width: int, height: int, draws: NDArray[np.float64]) -> Box:
        """Choose where to cut an image of this size; the largest allowed centre if nothing fits."""
        low, high = (math.log(v) for v in self.ratio)
        for area, shape, x, y in draws.reshape(ATTEMPTS, 4).tolist():
            pixels = width * height * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + shape * (high - low))
            w, h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
            if w <= width and h <= height:
                return x * (width - w), y * (height - h), w, h
        w = min(width, height * self.ratio[1])
        h = min(height, width / self.ratio[0])
        return (width - w) / 2, (height - h) / 2, w, h


@dataclass(frozen=True)
class CentreCrop:
    """The square that evaluation sees is the same in every epoch; it is not normalized yet.

    Attributes:
        spec: its size and that of the frame around it.
        margin: what is decoded scaled down is still so many times as large as the frame.
    """

    spec: InputSpec
    margin: int = 1

    def __call__(self, encoded: bytes, key: str, _draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the square as uint8 [resolution, resolution, 3], RGB.

        Raises:
            DataError: the image cannot be decoded.
        """
        made = self.quickly(encoded, key)
        if made is not None:
            return made[0]
        with decoded(encoded, key) as image:
            return square_of_bytes(image, self.spec, key)

    def quickly(self, encoded: bytes, key: str) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
        """Return nearly the same pixels in 0.6 of the time, within two levels if decoded whole.

        With them comes the size of the image, width and height.

        None of what is not a plain JPEG, of nearest neighbours, which only Pillow finds, and of
        TF-slim's interpolation.

        Raises:
            DataError: the image is larger than ``MAX_PIXELS``, or too narrow for the frame.
        """
        size = _plain_jpeg_size(encoded, key)
        slim = self.spec.convention == "tf-slim"
        if size is None or self.spec.interpolation == "nearest" or slim:
            return None
        width, height = frame(size, self.spec, key)
        side = self.spec.resolution
        left, top = offset((width, height), self.spec)
        wanted = width * self.margin, height * self.margin
        with _plain_pixels(encoded, size, wanted, key) as pixels:
            if pixels is None:
                return None
            scaled = scale(pixels, width, height, self.spec.interpolation)
            return scaled[top : top + side, left : left + side], size


def resize(pixels: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.uint8]:
    """Scale a box of an image [H, W, 3] to a square [side, side, 3]."""
    left, top, right, bottom = edges_of(box, pixels.shape[1], pixels.shape[0])
    return scale(pixels[top:bottom, left:right], side, side, "bilinear")


def edges_of(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the whole pixels of a box in an image: left, top, right and bottom."""
    left, top = int(box[0]), int(box[1])
    right = min(max(round(box[0] + box[2]), left + 1), width)
    return left, top, right, min(max(round(box[1] + box[3]), top + 1), height)


def scale(
    pixels: NDArray[np.uint8], width: int, height: int, mode: Literal["bilinear", "bicubic"]
) -> NDArray[np.uint8]:
    """Scale an image [H, W, 3] to [height, width, 3].

    With torch's antialiased filters for bytes: the same pixels as Pillow's, within one level
    (bicubic: two), in a third of the time, since they use the CPU's vector instructions.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(image, (height, width), mode=mode, antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


def mirrored(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirror an image [H, W, 3] left to right; torch's copy takes a tenth of NumPy's time."""
    writable = np.require(square, requirements="W")  # Pillow's are not, and torch warns of that
    pixels = torch.from_numpy(writable).permute(2, 0, 1)[None]
    return pixels.flip(3)[0].permute(1, 2, 0).numpy()


@contextmanager
def _plain_pixels(
    encoded: bytes, size: tuple[int, int], wanted: tuple[int, int], key: str
) -> Iterator[NDArray[np.uint8] | None]:
    """Decode a plain JPEG to RGB [H, W, 3], at a fraction of its size not below the wanted one.

    None where it is damaged, or merely odd: Pillow decides.
    """
    with MEMORY.hold(size[0] * size[1] * PLAIN_BYTES, key):
        try:
            pixels: NDArray[np.uint8] | None = simplejpeg.decode_jpeg(
                encoded, "RGB", min_width=wanted[0], min_height=wanted[1], min_factor=2
            )
        except ValueError:
            pixels = None
        yield pixels


def _plain_jpeg_size(encoded: bytes, key: str) -> tuple[int, int] | None:
    """Return width and height of a JPEG that only needs decoding; None of anything else.

    Of the processes of ISO/IEC 10918-1 (table B.1) only baseline, extended and progressive Huffman
    coding are taken: libjpeg-turbo's scaled decoder overflows its buffer on a lossless file.

    Raises:
        DataError: it is larger than ``MAX_PIXELS``.
    """
    if not encoded.startswith(b"\xff\xd8"):
        return None
    process, has_metadata = _segments(encoded)
    if process not in HUFFMAN_PROCESSES or (has_metadata and not _upright(encoded)):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
    except (ValueError, OSError, SyntaxError):  # a header that Pillow may yet understand
        return None
    check_size((width, height), key)
    return (width, height) if space in PLAIN else None


def _upright(encoded: bytes) -> bool:
    """Tell whether neither EXIF nor XMP turns the image; Pillow reads both."""
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            return bool(image.getexif().get(ORIENTATION, 1) == 1)
    except Exception:  # decoders raise whatever they stumble over; decoded() says what it is
        return False


def _segments(encoded: bytes) -> tuple[bytes, bool]:
    """Go through the segments before the image (ISO/IEC 10918-1, annex B).

    Searching the first 64 KiB for metadata takes 37 microseconds, all under the interpreter's lock.

    Returns:
        The marker of the coding process, empty if there is none; and whether there is EXIF or XMP.
    """
    place, process, has_metadata = 2, b"", False
    while (marker := encoded[place : place + 2]) not in (START_OF_SCAN, b""):
        if b"\xff\xc0" <= marker <= b"\xff\xcf" and marker not in NO_FRAMES:
            process = marker
        has_metadata |= encoded[place + 4 : place + 33].startswith(METADATA)
        filled = marker == b"\xff\xff"  # any number of these bytes may precede a marker
        place += 1 if filled else 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    return process, has_metadata
