"""Augmentation of batches: the operations are Pillow's, and all chance comes from the generator."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

torch = pytest.importorskip("torch")

from mobilenet_cli.data import augment  # noqa: E402 - needs torch
from mobilenet_cli.data.augment import OPERATIONS, erase, generator_of, mix, rand_augment  # noqa: E402


def pictures(count: int = 4, side: int = 24) -> np.ndarray:
    """Smooth and noisy uint8 pictures [n, side, side, 3] that use a part of the levels each."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(20, 200, side)[None, :, None, None] * np.ones((count, 1, side, 3))
    noise = generator.integers(0, 40, (count, side, side, 3))
    return (ramp + noise).astype(np.uint8)


def tensor(pixels: np.ndarray) -> "torch.Tensor":
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def levels(images: "torch.Tensor") -> np.ndarray:
    return (images * 255).round().permute(0, 2, 3, 1).numpy().astype(np.int16)


PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageChops.invert(image),
    "posterize": lambda image, s: ImageOps.posterize(image, 4 - int(4 * abs(s))),
    "solarize": lambda image, s: ImageOps.solarize(image, 255 * (1 - abs(s))),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "sharpness": lambda image, s: Image.blend(image.filter(ImageFilter.SMOOTH), image, 1 + 0.9 * s),
}


@pytest.mark.parametrize("strength", [-0.7, 0.3, 0.9])
@pytest.mark.parametrize("name", PILLOW)
def test_operations_are_those_of_pillow(name, strength):
    pixels = pictures()
    made = levels(OPERATIONS[name](tensor(pixels), torch.full((4,), strength)))
    for image, result in zip(pixels, made, strict=True):
        expected = np.asarray(PILLOW[name](Image.fromarray(image), strength), np.int16)
        # Pillow rounds gray, mean and smoothed values to levels, then blends.
        assert np.abs(result - expected).max() <= 3
        assert np.abs(result - expected).mean() <= 1


def test_pictures_are_changed_by_every_operation():
    images = tensor(pictures())
    for name, operation in OPERATIONS.items():
        changed = operation(images, torch.full((4,), 0.8))
        assert (levels(changed) != levels(images)).mean() > 0.2, name
        assert changed.amin() >= 0
        assert changed.amax() <= 1


def test_one_level_is_left_as_it_is():
    images = torch.full((1, 3, 8, 8), 0.4)
    for name in ("auto_contrast", "equalize"):
        torch.testing.assert_close(OPERATIONS[name](images, torch.ones(1)), images)


def test_warps_move_what_they_say():
    images = torch.full((1, 3, 20, 20), 0.5)
    images[:, :, 10, 10] = 1.0

    def peak(name: str, strength: float) -> tuple[int, int]:
        moved = OPERATIONS[name](images, torch.tensor([strength]))[0, 0]
        return divmod(int(moved.argmax()), 20)

    assert peak("translate_x", 4 / 9) == (10, 6)  # 0.45 of 20 pixels is 9
    assert peak("translate_y", -4 / 9) == (14, 10)
    corner = torch.zeros(1, 3, 40, 40)
    corner[:, :, 19:21, 30:40] = 1.0  # to the right of the middle
    turned = OPERATIONS["rotate"](corner, torch.ones(1))[0, 0]
    y, x = np.argwhere(turned.numpy() > 0.9).mean(0) - 19.5
    assert abs(np.degrees(np.arctan2(abs(y), x)) - 30) < 2
    sheared = OPERATIONS["shear_x"](corner.transpose(2, 3), torch.ones(1))[0, 0]
    y, x = np.argwhere(sheared.numpy() > 0.9).mean(0) - 19.5
    assert abs(abs(x / y) - 0.3) < 0.05


def test_chance_is_the_generators_alone():
    images, labels = tensor(pictures(16)), torch.arange(16) % 5

    def whole(step: int, rank: int = 0) -> "torch.Tensor":
        generator = generator_of(0, 1, step, rank)
        made = rand_augment(images, generator)
        made, targets = mix(made, labels, 5, generator, mixup=0.2, cutmix=1.0)
        return torch.cat([erase(made, generator).flatten(1), targets], 1)

    torch.manual_seed(1)
    first = whole(3)
    torch.manual_seed(2)
    assert torch.equal(first, whole(3))
    assert not torch.equal(first, whole(4))
    assert not torch.equal(first, whole(3, rank=1))


def test_each_image_has_its_own_operations(monkeypatch):
    seen: dict[str, int] = {}
    for name in OPERATIONS:

        def count(images, strength, name=name):
            seen[name] = seen.get(name, 0) + len(images)
            assert strength.abs().amax() <= 1
            return images

        monkeypatch.setitem(augment.OPERATIONS, name, count)
    images = torch.rand(150, 3, 8, 8)
    torch.testing.assert_close(rand_augment(images, generator_of(0, 0, 0), layers=3), images)
    assert sum(seen.values()) == 450
    assert set(seen) == set(OPERATIONS)


def test_mixup_blends_images_and_labels_alike():
    images, labels = torch.eye(6)[:, :, None, None].expand(6, 6, 4, 4), torch.arange(6)
    mixed, targets = mix(images, labels, 6, generator_of(0, 0, 1), mixup=1.0)
    torch.testing.assert_close(mixed.mean((2, 3)), targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert ((targets > 0).sum(1) == 2).any()


def test_cutmix_gives_labels_the_share_of_their_pixels():
    images, labels = torch.eye(6)[:, :, None, None].expand(6, 6, 16, 12), torch.arange(6)
    shares = set()
    for step in range(20):
        mixed, targets = mix(images, labels, 6, generator_of(0, 0, step), cutmix=1.0)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(mixed.mean((2, 3)), targets)
        shares.add(round(float(targets.amax()), 3))
    assert len(shares) >= 8


def test_without_mixing_labels_are_certain():
    images = torch.rand(3, 3, 4, 4)
    same, targets = mix(images, torch.tensor([2, 0, 1]), 3, generator_of(0, 0, 0))
    assert same is images
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_both_mixtures_take_turns():
    images, labels = torch.eye(6)[:, :, None, None].expand(6, 6, 8, 8), torch.arange(6)
    blended = [
        len(mix(images, labels, 6, generator_of(0, 0, s), mixup=1.0, cutmix=1.0)[0].unique()) > 2
        for s in range(30)
    ]
    assert 5 < sum(blended) < 25


def test_erasing_fills_a_box_of_some_images_with_noise():
    images = torch.zeros(200, 3, 30, 30)
    made = erase(images, generator_of(0, 0, 0), probability=0.4)
    shares = (made != 0).all(1).float().mean((1, 2))
    erased = shares[shares > 0]
    assert 50 < len(erased) < 110
    assert erased.amin() > 0.01
    assert erased.amax() < 0.4
    noise = made[made != 0]
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
