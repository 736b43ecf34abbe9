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
}
# Without Pillow's readers that start other programs or draw vectors.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # 0.27 GB as RGB; where Pillow begins to warn of decompression bombs
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
        mean: per channel, on the scale 0..1, in ``channels`` order.
        std: per channel, on the scale 0..1, in ``channels`` order.
        channels: ``RGB`` or ``BGR``.

    Raises:
        OptionError: a value is outside its domain.
    """

    resolution: int = 224
    resize: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = NORMALIZATIONS["inception"].mean
    std: tuple[float, float, float] = NORMALIZATIONS["inception"].std
    channels: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
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

    @classmethod
    def cropped(
        cls, resolution: int, fraction: float = 0.875, normalization: str = "inception"
    ) -> "InputSpec":
        """Return the input of a network whose images are cut from a larger frame.

        Args:
            resolution: the side of the network's input in pixels.
            fraction: the share of the frame's side that is kept.
            normalization: a key of ``NORMALIZATIONS``.
        """
        mean, std = NORMALIZATIONS[normalization]
        return cls(resolution=resolution, resize=round(resolution / fraction), mean=mean, std=std)


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
    """Map uint8 pixels [..., H, W, 3] in RGB order to float32 [..., 3, H, W] in the spec's."""
    if spec.channels == "BGR":
        pixels = pixels[..., ::-1]
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (spec.mean, spec.std))
    # Channels first while they are bytes, then in place: a sixth of the straightforward time.
    values = np.ascontiguousarray(np.moveaxis(pixels, -1, -3)).astype(np.float32)
    values /= np.float32(255)
    values -= mean
    values /= std
    return values


def prepare(encoded: bytes, key: str, spec: InputSpec) -> NDArray[np.float32]:
    """Prepare an image file's bytes as the network's input [3, resolution, resolution].

    Raises:
        DataError: the image cannot be decoded.
    """
    return normalize(resize_and_crop(decode(encoded, key), spec, key), spec)
