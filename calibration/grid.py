"""A tensor is represented on an affine grid: ``real = scale * (code - zero_point)``."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CodeType = Literal["uint8", "int8"]


@dataclass(frozen=True)
class Grid:
    """A grid gives the 8-bit codes of a tensor their real values (ONNX operator QuantizeLinear).

    Attributes:
        scale: distance of neighbouring real values; positive.
        zero_point: the code that stands for 0.
        code_type: ``uint8`` or ``int8``.
    """

    scale: float
    zero_point: int
    code_type: CodeType = "uint8"

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.int8]:
        """Return NumPy's type of the codes."""
        return np.dtype(np.uint8) if self.code_type == "uint8" else np.dtype(np.int8)

    @property
    def low(self) -> float:
        """Return the smallest real value on the grid."""
        return self.scale * (int(np.iinfo(self.dtype).min) - self.zero_point)

    @property
    def high(self) -> float:
        """Return the largest real value on the grid."""
        return self.scale * (int(np.iinfo(self.dtype).max) - self.zero_point)

    def quantize(self, values: NDArray[np.floating]) -> NDArray[np.uint8 | np.int8]:
        """Return the nearest codes, ties to even, saturating, as QuantizeLinear does in float32."""
        limits = np.iinfo(self.dtype)
        codes = np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        saturated: NDArray[np.uint8 | np.int8]
        saturated = np.clip(codes, limits.min, limits.max).astype(self.dtype)
        return saturated

    def dequantize(self, codes: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the real values of codes."""
        real: NDArray[np.float32] = (codes.astype(np.float32) - self.zero_point) * np.float32(
            self.scale
        )
        return real


SCALE_OF_NOTHING = 1e-8  # of a tensor that is always 0: any grid will do, but 0 is no scale
SMALLEST_SCALE = 1e-30  # products of two scales must be numbers of float32


def asymmetric(low: float, high: float) -> Grid:
    """Return the uint8 grid that covers [low, high] and represents 0 exactly.

    Where neither end is 0 the grid is one step wider than the range: a range symmetric about 0,
    such as an image in [-1, 1], would otherwise put every one of 256 pixel values halfway between
    two codes, and rounding ties to even would use only half of the codes.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    steps = 254 if low < 0 < high else 255
    scale = _possible((high - low) / steps)
    return Grid(float(np.float32(scale)), int(np.clip(round(-low / scale), 0, 255)))


def symmetric(low: float, high: float) -> Grid:
    """Return the int8 grid with zero point 0 that covers [low, high], as TensorRT requires."""
    scale = _possible(max(-low, high, 0.0) / 127)
    return Grid(float(np.float32(scale)), 0, "int8")


def _possible(scale: float) -> float:
    return max(scale, SMALLEST_SCALE) if scale > 0 else SCALE_OF_NOTHING
