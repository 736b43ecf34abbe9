"""From the bytes of one image file to the array a network expects."""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Literal

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
# 178 megapixels, Pillow's own limit against decompression bombs: 0.5 GB as RGB.
MAX_PIXELS = 178_956_970


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How an image becomes a network's input: the one description that every stage reads.

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
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
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


def decode(encoded: bytes, key: str, min_side: int = 0) -> Image.Image:
    """Decode an image file to upright RGB.

    Orientation from EXIF is applied; transparency is composed onto white; 16-bit grayscale is
    scaled to 8 bits; CMYK and palettes are converted.

    Args:
        encoded: the file's bytes, in any format that Pillow reads.
        key: what to call the image in an error, usually its path.
        min_side: when positive, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as
            no side falls below this many pixels.

    Raises:
        DataError: not an image, truncated, or larger than ``MAX_PIXELS``.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from half of its limit on; ours is the hard one below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{key} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}",
                "Scale the image down or remove it",
            )
        if min_side:
            image.draft(None, (min_side, min_side))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise DataError(
            f"{key} is not an image in a known format", "Replace or remove the file"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{key} has more than {MAX_PIXELS:,} pixels", "Scale the image down or remove it"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # What Pillow's decoders raise for truncated or corrupt files.
        raise DataError(
            f"{key} cannot be decoded ({error})", "Replace or remove the file"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image, dtype=np.float32)
        return Image.fromarray((values / 257.0).clip(0, 255).round().astype(np.uint8)).convert(
            "RGB"
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Scale the short side to ``spec.resize`` and cut the centre: [resolution, resolution, 3]."""
    side = spec.resolution
    scale = spec.resize / min(image.size)
    width, height = (max(spec.resize, round(length * scale)) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    # Resampling only what the crop keeps gives the same pixels for a fraction of the work.
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, (left + side) * x, (top + side) * y)
    return np.asarray(image.resize((side, side), RESAMPLING[spec.interpolation], box=box))


def normalize(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Map uint8 pixels [..., H, W, 3] in RGB order to float32 [..., 3, H, W] in the spec's."""
    if spec.channels == "BGR":
        pixels = pixels[..., ::-1]
    mean, std = (np.array(values, dtype=np.float32) for values in (spec.mean, spec.std))
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def prepare(encoded: bytes, key: str, spec: InputSpec) -> NDArray[np.float32]:
    """One image file's bytes to the network's input [3, resolution, resolution].

    Raises:
        DataError: the image cannot be decoded.
    """
    return normalize(resize_and_crop(decode(encoded, key), spec), spec)
