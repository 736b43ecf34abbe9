"""The pixels of one batch are augmented and normalized as the recipe says."""

import math
from typing import TYPE_CHECKING

import numpy as np

from mobilenet_cli.data.augment import erase, generator_of, mix, rand_augment
from mobilenet_cli.data.crop import CentreCrop, Crop, RandomCrop
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.training_batches import TrainBatch
from mobilenet_cli.pipeline.training.recipes import Recipe

if TYPE_CHECKING:
    import torch


def crop_of(recipe: Recipe, spec: InputSpec) -> Crop:
    """Return what makes a square of an image: a random crop, or evaluation's."""
    if recipe.area < 1:
        return RandomCrop(spec.resolution, scale=(recipe.area, 1.0))
    return CentreCrop(spec)


def augmented(
    batch: TrainBatch,
    recipe: Recipe,
    spec: InputSpec,
    classes: int,
    device: "torch.device",
    draw: tuple[int, ...],
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Make of a batch what the network trains on.

    Args:
        batch: the decoded images.
        recipe: how they are augmented.
        spec: the normalization and the order of channels.
        classes: the number of classes.
        device: the device that computes it.
        draw: the seed, epoch, step and rank from which all random numbers follow.

    Returns:
        The network's input [n, 3, R, R], and the probability of each class [n, classes].
    """
    import torch

    generator, images = generator_of(*draw), shares_of(batch, device)
    if recipe.magnitude:
        images = rand_augment(images, generator, magnitude=recipe.magnitude)
    images = normalized(images, spec)
    if recipe.rotation or recipe.zoom or recipe.shift:
        images = moved(images, recipe, generator)
    labels = torch.from_numpy(batch.labels).to(device)
    images, targets = mix(
        images, labels, classes, generator, mixup=recipe.mixup, cutmix=recipe.cutmix
    )
    if recipe.erase:
        images = erase(images, generator, recipe.erase)
    return images.contiguous(memory_format=torch.channels_last), targets


def shares_of(batch: TrainBatch, device: "torch.device") -> "torch.Tensor":
    """Return the pixels of a batch as floats [n, 3, R, R] in RGB order, 0..1."""
    import torch

    return torch.from_numpy(batch.pixels).to(device).permute(0, 3, 1, 2).float().div_(255)


def normalized(images: "torch.Tensor", spec: InputSpec) -> "torch.Tensor":
    """Return the network's input for images [n, 3, R, R] as ``shares_of`` makes them."""
    import torch

    mean, std = normalization(spec, images.device)
    images = images.flip(1) if spec.channels == "BGR" else images
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def normalization(spec: InputSpec, device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the mean and the standard deviation of each channel, [3, 1, 1] each."""
    import torch

    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (spec.mean, spec.std))
    return mean, std


def moved(images: "torch.Tensor", recipe: Recipe, generator: np.random.Generator) -> "torch.Tensor":
    """Rotate, zoom and shift each image [n, 3, H, W] at random."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    def uniform(limit: float) -> torch.Tensor:
        return torch.from_numpy(generator.uniform(-limit, limit, len(images)).astype(np.float32))

    angle, scale = uniform(math.radians(recipe.rotation)), 1 + uniform(recipe.zoom)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift_x, shift_y = uniform(2 * recipe.shift), uniform(2 * recipe.shift)
    rows = [torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)]
    theta = torch.stack(rows, 1).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
