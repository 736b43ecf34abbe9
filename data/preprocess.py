"""The bytes of an image file become the array that a network expects."""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mobilenet_cli.pipeline.errors import DataError, OptionError

Interpolation = Literal["nearest", "bilinear", "bicubic"]
RESAMPLING = {
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
# Without Pillow's readers that start other programs or draw vectors.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # 0.27 GB as RGB; where Pillow begins to warn of decompression bombs
MAX_RESOLUTION = 1024  # 12 MB an image, and ten times that behind the first layer
WHITE_16 = 65535

# Both once for the process: warnings.catch_warnings is not safe in the threads that decode.
Image.MAX_IMAGE_PIXELS = None  # decode has the limit above, and names the file
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # e.g. corrupt EXIF


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """An input spec says how an image becomes a network's input; every stage reads it.

    The short side is resized to ``resize`` pixels, a ``resolution`` square is cut from the
    centre, and each channel becomes ``(value / 255 - mean) / std``.

    Attributes:
        resolution: side of the network's input in pixels.
        resize: length in pixels to which the short side is scaled before the crop.
        interpolation: Pillow's antialiased resampling filter.
        mean: per channel, on the scale 0..1, in ``channels`` order; of gray, three times the one.
        std: per channel, on the scale 0..1, likewise.
        channels: what the network's input has: ``RGB``, ``BGR``, or one channel of ``gray``.

    Raises:
        OptionError: a value is outside its domain.
    """

    resolution: int = 224
    resize: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = NORMALIZATIONS["inception"].mean
    std: tuple[float, float, float] = NORMALIZATIONS["inception"].std
    channels: Channels = "RGB"

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
        if self.interpolation not in RESAMPLING:
            raise OptionError(
                f"unknown interpolation '{self.interpolation}'",
                f"Use one of {', '.join(RESAMPLING)}",
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
    def cropped(
        cls,
        resolution: int,
        fraction: float = 0.875,
        normalization: str = "inception",
        gray: bool = False,
    ) -> "InputSpec":
        """Return the input of a network whose images are cut from a larger frame.

        Args:
            resolution: the side of the network's input in pixels.
            fraction: the share of the frame's side that is kept.
            normalization: as ``read_normalization`` takes it.
            gray: the network takes one channel.

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


def decode(encoded: bytes, key: str) -> Image.Image:
    """Decode an image file to upright RGB.

    Orientation from EXIF is applied; transparency is composed onto white; 16-bit grayscale is
    scaled to 8 bits; CMYK and palettes are converted.

    Args:
        encoded: the file's bytes, in one of ``FORMATS``; its name does not matter.
        key: what to call the image in an error, usually its path.

    Raises:
        DataError: not an image, truncated, corrupt, or larger than ``MAX_PIXELS``.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        check_size(image.size, key)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), key)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{key} is not an image in a known format ({', '.join(FORMATS)})",
            "Replace or remove the file",
        ) from error
    except Exception as error:  # decoders of corrupt files raise whatever they stumble over
        raise DataError(
            f"{key} cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})",
            "Replace or remove the file",
        ) from error


def check_size(size: tuple[int, int], key: str) -> None:
    """Refuse an image (width, height) larger than ``MAX_PIXELS`` before it takes that memory.

    Raises:
        DataError: it is larger.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{key} has {width}x{height} pixels, more than {MAX_PIXELS:,}",
            "Scale the image down or remove it",
        )


def _to_rgb(image: Image.Image, key: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > WHITE_16:
            raise DataError(f"{key} has 32-bit pixels", "Save it with 8 or 16 bits per channel")
        return Image.fromarray((values / (WHITE_16 / 255)).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(f"{key} has floating point pixels", "Save it with 8 bits per channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, spec: InputSpec, key: str = "image") -> NDArray[np.uint8]:
    """Scale the short side to ``spec.resize`` and cut the centre: [resolution, resolution, 3].

    Resampling only the part that is kept would be faster, but rounds 2 % of the pixels to the
    next level, since Pillow holds the box in float32.

    Raises:
        DataError: the image is so narrow that it would exceed ``MAX_PIXELS`` when resized.
    """
    size = frame(image.size, spec, key)
    resized = image.resize(size, RESAMPLING[spec.interpolation])
    left, top = ((length - spec.resolution) // 2 for length in size)
    return np.asarray(resized.crop((left, top, left + spec.resolution, top + spec.resolution)))


def frame(size: tuple[int, int], spec: InputSpec, key: str) -> tuple[int, int]:
    """Return the width and height that an image is scaled to before its centre is cut out.

    Raises:
        DataError: more than ``MAX_PIXELS``.
    """
    scale = spec.resize / min(size)
    width, height = (max(spec.resize, round(length * scale)) for length in size)
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{key} is {size[0]}x{size[1]} pixels, too narrow to cut a square from",
            "Crop the image or remove it",
        )
    return width, height


def normalize(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Map uint8 pixels [..., H, W, 3] in RGB order to float32 [..., C, H, W] in the spec's."""
    if spec.channels == "BGR":
        pixels = pixels[..., ::-1]
    elif spec.channels == "gray":
        weighted = pixels @ np.array(LUMA)
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


def prepare(encoded: bytes, key: str, spec: InputSpec) -> NDArray[np.float32]:
    """Prepare an image file's bytes as the network's input, of shape ``spec.shape``.

    Raises:
        DataError: the image cannot be decoded.
    """
    return normalize(resize_and_crop(decode(encoded, key), spec, key), spec)
