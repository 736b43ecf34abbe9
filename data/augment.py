"""Whole batches of tensors are augmented on the device where they are.

Every random number comes from the NumPy generator that is passed, so that a step's augmentation
follows from its seed alone: ``generator_of(seed, epoch, step, rank)``. Each image of a batch gets
its own operations and strengths; there is no loop over images.

Images are float [n, 3, H, W]. ``rand_augment`` wants them on the scale 0..1, before they are
normalized; ``mix`` and ``erase`` take any scale.

kornia's RandAugment draws one policy for a whole batch, from torch's global state, which a resumed
run would have to carry along; this takes as long (1.8 against 2.1 ms an image of 224 pixels on one
core) without either. tests/data/test_augment.py compares the operations with Pillow's.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as Pillow
FILL = 0.5  # of what a warp brings in from outside
LEVELS = 256
MAX_STRENGTH = 10.0


def generator_of(seed: int, epoch: int, step: int, rank: int = 0) -> np.random.Generator:
    """Return the random numbers of one step of one process."""
    return np.random.default_rng([seed, epoch, step, rank, 1])  # 1: apart from data/training.py's


def mix(
    images: Tensor,
    labels: Tensor,
    classes: int,
    generator: np.random.Generator,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Blend each image with another one of the batch, and their labels with them.

    mixup (arXiv:1710.09412): ``l x + (1 - l) x'``. cutmix (arXiv:1905.04899): a box of the share
    ``1 - l`` comes from the other. ``l`` is drawn from Beta(alpha, alpha) for the batch; where
    both are on, each step is one of them by even chance.

    Args:
        images: [n, 3, H, W].
        labels: int64 [n].
        classes: how many there are.
        generator: the random numbers of all choices.
        mixup: its alpha; 0 for none.
        cutmix: its alpha; 0 for none.

    Returns:
        The images, and the probability of each class: float [n, classes].
    """
    targets = functional.one_hot(labels, classes).to(images.dtype)
    cut = generator.random() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cut else mixup
    if not alpha:
        return images, targets
    share = generator.beta(alpha, alpha)
    other = torch.from_numpy(generator.permutation(len(images))).to(images.device)
    if cut:
        height, width = images.shape[2:]
        side = math.sqrt(1 - share)
        y, x = int(generator.integers(height)), int(generator.integers(width))
        top, bottom = _clipped(y, side * height, height)
        left, right = _clipped(x, side * width, width)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = torch.lerp(images[other], images, share)
    return mixed, torch.lerp(targets[other], targets, share)


def _clipped(centre: int, length: float, limit: int) -> tuple[int, int]:
    return max(0, int(centre - length / 2)), min(limit, int(centre + length / 2))


def erase(
    images: Tensor,
    generator: np.random.Generator,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 10 / 3),
) -> Tensor:
    """Put noise N(0, 1) into a random box of each chosen image: arXiv:1708.04896.

    Args:
        images: [n, 3, H, W], normalized.
        generator: the random numbers of all choices.
        probability: that an image is chosen.
        area: smallest and largest share of the image.
        ratio: smallest and largest height / width of the box.
    """
    count, _, height, width = images.shape
    chosen = generator.random(count) < probability
    pixels = generator.uniform(*area, count) * height * width
    shape = np.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1]), count))
    high = np.minimum(np.sqrt(pixels * shape), height)
    wide = np.minimum(np.sqrt(pixels / shape), width)
    top = generator.random(count) * (height - high)
    left = generator.random(count) * (width - wide)
    rows, columns = np.arange(height), np.arange(width)
    inside = (rows >= top[:, None]) & (rows < (top + high)[:, None]) & chosen[:, None]
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    box = torch.from_numpy(inside[:, None, :, None] & across[:, None, None, :]).to(images.device)
    source = torch.Generator(images.device).manual_seed(int(generator.integers(1 << 62)))
    noise = torch.empty_like(images).normal_(generator=source)
    return torch.where(box, noise, images)


def rand_augment(
    images: Tensor,
    generator: np.random.Generator,
    *,
    layers: int = 2,
    magnitude: float = 9.0,
    spread: float = 0.5,
) -> Tensor:
    """Apply random ``OPERATIONS`` to each image, one after the other: arXiv:1909.13719.

    Args:
        images: [n, 3, H, W] on the scale 0..1.
        generator: the random numbers of all choices.
        layers: operations an image.
        magnitude: mean strength, 0 to ``MAX_STRENGTH``.
        spread: standard deviation of the strength, as timm adds it.
    """
    images = images.clone()
    operations = list(OPERATIONS.values())
    for _ in range(layers):
        choice = generator.integers(len(operations), size=len(images))
        strength = generator.normal(magnitude, spread, len(images)).clip(0, MAX_STRENGTH)
        sign = generator.choice([-1.0, 1.0], len(images))
        signed = (sign * strength / MAX_STRENGTH).astype(np.float32)
        for kind, operation in enumerate(operations):
            members = np.flatnonzero(choice == kind)
            if len(members):
                index = torch.from_numpy(members).to(images.device)
                amount = torch.from_numpy(signed[members]).to(images.device)
                images[index] = operation(images[index], amount).to(images.dtype)
    return images


# Each takes images [n, 3, H, W] on the scale 0..1 and strengths [n] in -1..1. Where a direction
# makes no sense, only the strength's size counts. The ranges are those of timm's "increasing" set.


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0..1."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) / (high - low).clamp(min=1 / LEVELS)
    return torch.where(high > low, stretched, images)


def equalize_histogram(images: Tensor, _: Tensor) -> Tensor:
    """Flatten the histogram of each channel, by Pillow's rule for 256 levels.

    With ``h`` the histogram and ``s = (sum(h) - last nonzero h) // 255``, level ``v`` becomes
    ``(s // 2 + sum(h[:v])) // s``; a channel with ``s = 0`` stays.
    """
    levels = (images * (LEVELS - 1)).round().long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], LEVELS, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    top = levels.amax(2, keepdim=True)
    step = (levels.shape[2] - counts.gather(2, top)) // (LEVELS - 1)
    before = counts.cumsum(2) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=LEVELS - 1)
    equal = table.gather(2, levels).to(images.dtype) / (LEVELS - 1)
    return torch.where(step[..., None] > 0, equal.reshape(images.shape), images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Return the negative image."""
    return 1 - images


def posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Keep 4 (weakest) to 0 of the 8 bits of each value."""
    width = 2 ** (8 - (4 - (4 * strength.abs()).floor()))
    width = width[:, None, None, None]
    return (images * (LEVELS - 1)).round().div(width).floor().mul(width) / (LEVELS - 1)


def solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Invert what is brighter than a threshold, from 1 (weakest) to 0."""
    return torch.where(images >= 1 - strength.abs()[:, None, None, None], 1 - images, images)


def solarize_add(images: Tensor, strength: Tensor) -> Tensor:
    """Brighten by up to 110 levels what is darker than the middle."""
    brighter = (images + strength.abs()[:, None, None, None] * 110 / 255).clamp(max=1)
    return torch.where(images < 0.5, brighter, images)


def brightness(images: Tensor, strength: Tensor) -> Tensor:
    """Move away from black, or towards it, by a factor of 1 ± 0.9."""
    return _blend(torch.zeros_like(images), images, strength)


def contrast(images: Tensor, strength: Tensor) -> Tensor:
    """Move away from the mean gray, or towards it."""
    return _blend(_gray(images).mean((2, 3), keepdim=True), images, strength)


def color(images: Tensor, strength: Tensor) -> Tensor:
    """Move away from gray, or towards it."""
    return _blend(_gray(images), images, strength)


def sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Move away from the smoothed image, or towards it; the border stays."""
    kernel = images.new_ones(3, 3)
    kernel[1, 1] = 5
    kernel = (kernel / 13).expand(3, 1, 3, 3)
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = functional.conv2d(images, kernel, groups=3)
    return _blend(smooth, images, strength)


def rotate(images: Tensor, strength: Tensor) -> Tensor:
    """Rotate by up to 30 degrees."""
    angle = strength * math.radians(30)
    cos, sin = angle.cos(), angle.sin()
    return _warp(images, cos, -sin, sin, cos)


def shear_x(images: Tensor, strength: Tensor) -> Tensor:
    """Move rows sideways by up to 0.3 of their distance from the middle."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, one, 0.3 * strength, zero, one)


def shear_y(images: Tensor, strength: Tensor) -> Tensor:
    """Move columns up or down by up to 0.3 of their distance from the middle."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, one, zero, 0.3 * strength, one)


def translate_x(images: Tensor, strength: Tensor) -> Tensor:
    """Move sideways by up to 0.45 of the width."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, one, zero, zero, one, x=0.9 * strength)  # the image is 2 wide


def translate_y(images: Tensor, strength: Tensor) -> Tensor:
    """Move up or down by up to 0.45 of the height."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, one, zero, zero, one, y=0.9 * strength)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auto_contrast": auto_contrast,
    "equalize": equalize_histogram,
    "invert": invert,
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}


def _gray(images: Tensor) -> Tensor:
    weights = images.new_tensor(GRAY)[:, None, None]
    return (images * weights).sum(1, keepdim=True)


def _blend(base: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """Return ``base + (1 + 0.9 strength) (images - base)``, kept within 0..1."""
    factor = (1 + 0.9 * strength)[:, None, None, None]
    return (base + factor * (images - base)).clamp(0, 1)


def _warp(
    images: Tensor,
    xx: Tensor,
    xy: Tensor,
    yx: Tensor,
    yy: Tensor,
    x: Tensor | None = None,
    y: Tensor | None = None,
) -> Tensor:
    """Take each pixel from ``(xx u + xy v + x, yx u + yy v + y)``, coordinates being -1..1."""
    zero = torch.zeros_like(xx)
    rows = [
        torch.stack([xx, xy, zero if x is None else x], 1),
        torch.stack([yx, yy, zero if y is None else y], 1),
    ]
    theta = torch.stack(rows, 1).to(images.dtype)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images - FILL, grid, align_corners=False) + FILL
