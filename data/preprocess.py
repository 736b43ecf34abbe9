"""The bytes of an image file become the array that a network expects."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.data.decode import MAX_PIXELS, decoded
from mobilenet_cli.pipeline.errors import DataError, OptionError

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Pixels = NDArray[np.uint8] | NDArray[np.float32]
RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Normalization(NamedTuple):
    """A normalization makes ``(value / 255 - mean) / std`` of a channel's values.

    Attributes:
        mean: the mean of each channel, on the scale 0..1.
        std: the standard deviation of each channel, on the scale 0..1.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# By the names that people know: Inception's maps 0..255 to -1..1.
NORMALIZATIONS = {
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "-1..1": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0..1": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0..255": Normalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
Channels = Literal["RGB", "BGR", "gray"]
# Of red, green and blue in gray, ITU-R BT.601 as Pillow has it: in 65536ths.
LUMA = (19595, 38470, 7471)
MAX_RESOLUTION = 1024  # 12 MB an image, and ten times that behind the first layer
Convention = Literal["keras", "torchvision", "hugging-face", "tf-slim", "stretch"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
SLIM_FRACTION = 0.875  # of each side, slim/preprocessing/inception_preprocessing.py
MAX_FRAME = MAX_PIXELS // 4  # pixels of an image that is resized; 0.09 GB


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """An input spec says how an image becomes a network's input; every stage reads it.

    The short side is resized to ``resize`` pixels, a ``resolution`` square is cut from the
    centre, and each channel becomes ``(value / 255 - mean) / std``. Libraries differ in how they
    round; a network is measured best as the library that published it would:

    * ``keras``: the long side is rounded, the offset of the square rounded down
      (keras/src/layers/preprocessing/image_preprocessing/center_crop.py).
    * ``torchvision``: the long side is rounded down, the offset to the nearest, halves to even
      (torchvision/transforms/functional.py, ``_compute_resized_output_size`` and ``center_crop``).
    * ``hugging-face``: both are rounded down (transformers/image_transforms.py,
      ``get_resize_output_image_size`` and ``center_crop``).
    * ``tf-slim``: the centre of ``SLIM_FRACTION`` of both sides is squashed to the square by
      bilinear interpolation without antialiasing (models/research/slim/preprocessing/
      inception_preprocessing.py, ``preprocess_for_eval``).
    * ``stretch``: nothing is cut; the whole image is resized to the square, as detectors do.

    Attributes:
        resolution: side of the network's input in pixels.
        resize: length in pixels to which the short side is scaled before the crop.
        interpolation: Pillow's antialiased resampling filter.
        mean: per channel, on the scale 0..1, in ``channels`` order; of gray, three times the one.
        std: per channel, on the scale 0..1, likewise.
        channels: what the network's input has: ``RGB``, ``BGR``, or one channel of ``gray``.
        convention: whose arithmetic it is, one of ``CONVENTIONS``.

    Raises:
        OptionError: a value is outside its domain.
    """

    resolution: int = 224
    resize: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = NORMALIZATIONS["inception"].mean
    std: tuple[float, float, float] = NORMALIZATIONS["inception"].std
    channels: Channels = "RGB"
    convention: Convention = "keras"

    def __post_init__(self) -> None:
        if self.resolution > MAX_RESOLUTION:
            raise OptionError(
                f"no network here takes images of {self.resolution} pixels a side",
                f"Choose a resolution of at most {MAX_RESOLUTION}",
            )
        if self.resolution < 1 or self.resize < self.resolution:
            raise OptionError(
                f"cannot cut {self.resolution} pixels from an image resized to {self.resize}",
                "Choose a resolution of at least 1 and a resize of at least the resolution",
            )
        if self.convention == "stretch" and self.resize != self.resolution:
            raise OptionError(
                f"an image that is stretched to {self.resolution} pixels has no frame of "
                f"{self.resize} pixels",
                "Give the same resize and resolution",
            )
        if self.interpolation not in RESAMPLING:
            raise OptionError(
                f"unknown interpolation '{self.interpolation}'",
                f"Use one of {', '.join(RESAMPLING)}",
            )
        if self.convention not in CONVENTIONS:
            raise OptionError(
                f"unknown convention of preprocessing '{self.convention}'",
                f"Use one of {', '.join(CONVENTIONS)}",
            )
        if not all(math.isfinite(v) for v in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise OptionError(
                f"mean {self.mean} and std {self.std} cannot normalize an image",
                "Give three finite means and three positive standard deviations",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of one image as the network takes it: [channels, rows, columns]."""
        return (1 if self.channels == "gray" else 3, self.resolution, self.resolution)

    @classmethod
    def stretched(cls, resolution: int, normalization: str = "inception") -> "InputSpec":
        """Return the input of a network that sees whole images, resized to a square.

        Raises:
            OptionError: the normalization cannot be understood.
        """
        return cls.cropped(resolution, 1.0, normalization, convention="stretch")

    @classmethod
    def cropped(
        cls,
        resolution: int,
        fraction: float = 0.875,
        normalization: str = "inception",
        gray: bool = False,
        convention: Convention = "keras",
    ) -> "InputSpec":
        """Return the input of a network whose images are cut from a larger frame.

        Args:
            resolution: the side of the network's input in pixels.
            fraction: the share of the frame's side that is kept.
            normalization: as ``read_normalization`` takes it.
            gray: the network takes one channel.
            convention: whose arithmetic it is.

        Raises:
            OptionError: the normalization cannot be understood, or does not fit the channels.
        """
        (mean, std), channels = read_normalization(normalization, gray)
        return cls(
            resolution=resolution,
            resize=round(resolution / fraction),
            mean=mean,
            std=std,
            channels=channels,
            convention=convention,
        )


def read_normalization(text: str, gray: bool = False) -> tuple[Normalization, Channels]:
    """Understand what a person says about a network's pixels, such as ``bgr 0..255``.

    Args:
        text: an order of channels (``rgb`` unless ``bgr`` or ``gray`` is said), and a key of
            ``NORMALIZATIONS`` or numbers: ``mean/std``, each one number or one for each channel
            with commas between; a std of 1 may be left out. If one of the numbers is above 1, they
            belong to pixels 0..255, otherwise to 0..1.
        gray: the network takes one channel.

    Returns:
        The normalization, in the order of the channels, and that order.

    Raises:
        OptionError: the text says something else, or does not fit the number of channels.
    """
    orders: dict[str, Channels] = {"rgb": "RGB", "bgr": "BGR", "gray": "gray", "grey": "gray"}
    words = text.lower().replace("\N{MINUS SIGN}", "-").replace(":", " ").split()
    named = [orders[word] for word in words if word in orders]
    values = [word for word in words if word not in orders]
    if len(values) != 1 or len(named) > 1:
        raise _not_understood(text)
    channels = named[0] if named else "gray" if gray else "RGB"
    if (channels == "gray") != gray:
        raise OptionError(
            f"the normalization '{text}' does not fit a network that takes "
            f"{'one channel' if gray else 'three channels'}",
            "Say gray of networks with one channel, and of these alone",
        )
    found = NORMALIZATIONS.get(values[0])
    if found is not None and channels == "BGR":
        found = Normalization(found.mean[::-1], found.std[::-1])
    found = found or _numbers(text, values[0])
    if gray and len({*zip(*found, strict=True)}) > 1:
        raise OptionError(
            f"the normalization '{text}' has three means, but the network takes one channel",
            "Give one mean and one std, as in 'gray 0.5/0.5'",
        )
    return found, channels


def _numbers(text: str, value: str) -> Normalization:
    """Read ``mean/std``."""
    rows = []
    for part in f"{value}/1".split("/")[:2]:
        try:
            row = [float(number) for number in part.split(",")]
        except ValueError as error:
            raise _not_understood(text) from error
        if len(row) not in (1, 3) or value.count("/") > 1:
            raise _not_understood(text)
        rows.append(row if len(row) == 3 else row * 3)
    scale = 255 if max(map(abs, (*rows[0], *rows[1]))) > 1 else 1
    mean, std = ((a / scale, b / scale, c / scale) for a, b, c in rows)
    return Normalization(mean, std)


def _not_understood(text: str) -> OptionError:
    return OptionError(
        f"the normalization '{text}' is not understood",
        f"Pass one of {', '.join(NORMALIZATIONS)}, or mean/std as in "
        "0.485,0.456,0.406/0.229,0.224,0.225; with bgr or gray before it where that is meant, as "
        "in 'bgr 103.939,116.779,123.68/1'",
    )


def resize_and_crop(image: Image.Image, spec: InputSpec, key: str = "image") -> Pixels:
    """Make the square that the network sees of an image: [resolution, resolution, 3], 0..255.

    Resampling only the part that is kept would be faster, but rounds 2 % of the pixels to the
    next level, since Pillow holds the box in float32.

    Returns:
        Bytes; of TF-slim, which interpolates without rounding, floats.

    Raises:
        DataError: the image is so narrow that it would exceed ``MAX_FRAME`` when resized.
    """
    if spec.convention == "tf-slim":
        return _slim_square(image, spec)
    size = frame(image.size, spec, key)
    left, top = offset(size, spec)
    resized = image.resize(size, RESAMPLING[spec.interpolation])
    return np.asarray(resized.crop((left, top, left + spec.resolution, top + spec.resolution)))


def square_of_bytes(image: Image.Image, spec: InputSpec, key: str = "image") -> NDArray[np.uint8]:
    """Return the square of ``resize_and_crop``, rounded to bytes where it is not of bytes.

    Raises:
        DataError: as ``resize_and_crop``.
    """
    pixels = resize_and_crop(image, spec, key)
    # NumPy would round bytes through half-precision floats, which takes as long as decoding.
    return np.asarray(pixels if pixels.dtype == np.uint8 else np.rint(pixels), np.uint8)


def frame(size: tuple[int, int], spec: InputSpec, key: str) -> tuple[int, int]:
    """Return the width and height that an image is scaled to before its centre is cut out.

    Raises:
        DataError: more than ``MAX_FRAME`` pixels.
    """
    if spec.convention == "stretch":
        return spec.resolution, spec.resolution
    short = min(size)
    if spec.convention == "keras":
        scale = spec.resize / short
        width, height = (max(spec.resize, round(length * scale)) for length in size)
    else:
        width, height = (int(spec.resize * length / short) for length in size)
    if width * height > MAX_FRAME:
        raise DataError(
            f"{key} is {size[0]}x{size[1]} pixels, too narrow to cut a square from",
            "Crop the image or remove it",
        )
    return width, height


def offset(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Return where the square begins, from the left and from the top of a frame of this size."""
    left, top = (length - spec.resolution for length in size)
    if spec.convention == "torchvision":
        return round(left / 2), round(top / 2)
    return left // 2, top // 2


def slim_fraction(spec: InputSpec) -> float:
    """Return the share of rows and of columns that TF-slim keeps."""
    usual = round(spec.resolution / SLIM_FRACTION) == spec.resize
    return SLIM_FRACTION if usual else spec.resolution / spec.resize


def _slim_square(image: Image.Image, spec: InputSpec) -> NDArray[np.float32]:
    """Cut the centre (tf.image.central_crop) and squash it (tf.image.resize_bilinear).

    The latter is TensorFlow's of before half-pixel centres: output pixel ``i`` lies at input
    ``i * size / side`` (tensorflow/core/kernels/image/image_resizer_state.h).
    """
    fraction = slim_fraction(spec)
    left, top = (int((length - length * fraction) / 2) for length in image.size)
    kept = np.asarray(image.crop((left, top, image.width - left, image.height - top)))
    (above, below, y), (before, after, x) = (
        _neighbours(length, spec.resolution) for length in kept.shape[:2]
    )
    x, y = x[:, None], y[:, None, None]

    def across(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        first, second = (kept[rows][:, columns].astype(np.float32) for columns in (before, after))
        blended: NDArray[np.float32] = first + (second - first) * x
        return blended

    upper = across(above)
    square: NDArray[np.float32] = upper + (across(below) - upper) * y
    return square


def _neighbours(
    length: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the input pixels on both sides of each output pixel, and the share of the second."""
    places = np.arange(side, dtype=np.float32) * np.float32(length / side)
    first = places.astype(np.int64)
    return first, np.minimum(first + 1, length - 1), places - first.astype(np.float32)


def normalize(pixels: Pixels, spec: InputSpec) -> NDArray[np.float32]:
    """Map pixels 0..255 [..., H, W, 3] in RGB order to float32 [..., C, H, W] in the spec's."""
    if spec.channels == "BGR":
        pixels = pixels[..., ::-1]
    elif spec.channels == "gray":
        weighted = np.rint(pixels).astype(np.int64) @ np.array(LUMA)
        pixels = ((weighted + (1 << 15)) >> 16).astype(np.uint8)[..., None]
    count = spec.shape[0]
    mean, std = (np.array(v[:count], np.float32)[:, None, None] for v in (spec.mean, spec.std))
    # Channels first while they are bytes, then in place: a sixth of the straightforward time.
    values = np.ascontiguousarray(np.moveaxis(pixels, -1, -3)).astype(np.float32)
    values /= np.float32(255)
    values -= mean
    values /= std
    return values


def denormalize(values: NDArray[np.float32], spec: InputSpec) -> NDArray[np.uint8]:
    """Return the pixels uint8 [..., H, W, 3] in RGB order that ``normalize`` makes these values of.

    Gray becomes three equal channels, whose luma is the same gray.
    """
    count = spec.shape[0]
    mean, std = (np.array(v[:count], np.float32)[:, None, None] for v in (spec.mean, spec.std))
    scaled = np.rint((values * std + mean) * np.float32(255))
    pixels: NDArray[np.uint8] = np.moveaxis(scaled.astype(np.uint8), -3, -1)
    if spec.channels == "gray":
        return np.repeat(pixels, 3, axis=-1)
    return pixels[..., ::-1] if spec.channels == "BGR" else pixels


@dataclass(frozen=True)
class Square:
    """A square is what a network sees of an image, before it is normalized.

    Attributes:
        pixels: [resolution, resolution, 3], RGB, as ``resize_and_crop`` makes them.
        size: width and height of the upright image.
    """

    pixels: Pixels
    size: tuple[int, int]


def square_of_file(encoded: bytes, key: str, spec: InputSpec) -> Square:
    """Decode an image file's bytes, and cut the square out.

    Raises:
        DataError: the image cannot be decoded.
    """
    with decoded(encoded, key) as image:
        return Square(resize_and_crop(image, spec, key), image.size)


def prepare(encoded: bytes, key: str, spec: InputSpec) -> NDArray[np.float32]:
    """Prepare an image file's bytes as the network's input, of shape ``spec.shape``.

    Raises:
        DataError: the image cannot be decoded.
    """
    return normalize(square_of_file(encoded, key, spec).pixels, spec)
