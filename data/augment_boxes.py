"""Batches of images with boxes are augmented on the device; a box stays around its object.

Images are moved as one affine map: cut, enlarged or made smaller, and mirrored, as SSD's program
does in three steps (Liu et al., arXiv:1512.02325, section 2.2, "Data augmentation"). Colours change
as in its section's reference (Howard, arXiv:1312.5402). Every random number comes from the NumPy
generator that is passed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobilenet_cli.data.augment import brightness, color, contrast

KEPT = 0.4  # share of an object's area that must be left for it to be one still


@dataclass(frozen=True)
class Window:
    """A window is the part of an image that is seen, as fractions of its side.

    Attributes:
        left: where it begins; below 0 where there is ground beside the image.
        top: likewise.
        width: of the window; above 1 makes objects smaller.
        height: likewise.
        mirrored: left and right change places.
    """

    left: float
    top: float
    width: float
    height: float
    mirrored: bool

    def boxes(self, corners: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Move boxes [n, 4], fractions of the image, into the window.

        Returns:
            The boxes that are seen, clipped, as fractions of the window; and for all boxes [n]
            whether enough of them is seen.
        """
        scale = np.array([self.width, self.height] * 2, np.float32)
        moved = (corners - np.array([self.left, self.top] * 2, np.float32)) / scale
        seen = np.clip(moved, 0, 1)
        if self.mirrored:
            seen = np.stack([1 - seen[:, 2], seen[:, 1], 1 - seen[:, 0], seen[:, 3]], axis=1)
        share = _areas(seen) / np.maximum(_areas(moved), np.finfo(np.float32).tiny)
        kept: NDArray[np.bool_] = (share >= KEPT) & (_areas(seen) > 0)
        return seen[kept].astype(np.float32), kept


def _areas(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    sides: NDArray[np.float32] = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    return sides


def draw_window(generator: np.random.Generator, zoom: float, mirror: bool) -> Window:
    """Draw a window: its sides are from ``1 - zoom`` to ``1 + zoom``, nearly of one shape.

    Args:
        generator: the random numbers.
        zoom: the largest change of size, as a fraction; 0 shows the whole image.
        mirror: every other one is mirrored.
    """
    side = float(np.exp(generator.uniform(np.log(1 - zoom), np.log(1 + zoom))))
    shape = float(np.exp(generator.uniform(-zoom, zoom) / 4))
    width, height = side * shape, side / shape
    left, top = (float(generator.uniform(min(0, 1 - s), max(0, 1 - s))) for s in (width, height))
    return Window(left, top, width, height, mirror and bool(generator.random() < 0.5))


def look_through(images: Tensor, windows: list[Window]) -> Tensor:
    """Return what is seen of each image [n, 3, H, W] through its window; ground is the mean."""
    rows = []
    for window in windows:
        across = -window.width if window.mirrored else window.width
        rows.append(
            [
                [across, 0.0, 2 * window.left + window.width - 1],
                [0.0, window.height, 2 * window.top + window.height - 1],
            ]
        )
    theta = torch.tensor(rows, dtype=images.dtype, device=images.device)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    ground = images.mean((2, 3), keepdim=True)
    return functional.grid_sample(images - ground, grid, align_corners=False) + ground


def other_light(images: Tensor, generator: np.random.Generator, strength: float) -> Tensor:
    """Change brightness, contrast and colour of images [n, 3, H, W] on the scale 0..1.

    Args:
        images: the images.
        generator: the random numbers.
        strength: the largest change of each, as ``data.augment`` has it, 0..1.
    """
    for change in (brightness, contrast, color):
        drawn = generator.uniform(-strength, strength, len(images)).astype(np.float32)
        images = change(images, torch.from_numpy(drawn).to(images.device))
    return images
