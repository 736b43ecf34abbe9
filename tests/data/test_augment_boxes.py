"""Boxes stay around their objects, however an image is moved."""

import numpy as np
import torch

from mobilenet_cli.data.augment_boxes import Window, draw_window, look_through, other_light


def test_a_box_is_where_its_object_is_seen() -> None:
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(200):
        images = torch.zeros(1, 3, 96, 96)
        left, top = rng.integers(0, 60, 2)
        width, height = rng.integers(12, 36, 2)
        images[..., top : top + height, left : left + width] = 1
        window = draw_window(rng, zoom=0.5, mirror=True)
        seen = look_through(images, [window])[0, 0]
        ground = float(seen.min())
        corners = np.array([[left, top, left + width, top + height]], np.float32) / 96
        moved, kept = window.boxes(corners)
        if not kept[0]:
            continue
        rows, columns = np.nonzero((seen > (1 + ground) / 2).numpy())
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 96
        np.testing.assert_allclose(moved[0], found, atol=1.6 / 96)
        compared += 1
    assert compared > 100


def test_a_window_keeps_what_is_seen_well_enough() -> None:
    corners = np.array([[0, 0, 0.5, 0.5], [0.4, 0.4, 1, 1], [0.9, 0.9, 1, 1]], np.float32)
    moved, kept = Window(0.0, 0.0, 0.8, 0.8, mirrored=False).boxes(corners)
    assert kept.tolist() == [True, True, False]
    np.testing.assert_allclose(moved, [[0, 0, 0.625, 0.625], [0.5, 0.5, 1, 1]], atol=1e-6)
    mirrored, _ = Window(0.0, 0.0, 1.0, 1.0, mirrored=True).boxes(corners[:1])
    np.testing.assert_allclose(mirrored, [[0.5, 0, 1, 0.5]], atol=1e-6)
    assert len(Window(0, 0, 1, 1, mirrored=False).boxes(corners[:0])[0]) == 0


def test_the_whole_image_is_the_image() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    window = draw_window(np.random.default_rng(0), zoom=0.0, mirror=False)
    torch.testing.assert_close(look_through(images, [window] * 2), images, atol=1e-5, rtol=0)
    turned = look_through(images, [Window(0, 0, 1, 1, mirrored=True)] * 2)
    torch.testing.assert_close(turned, images.flip(3), atol=1e-5, rtol=0)


def test_other_light_stays_within_the_range_and_follows_from_the_generator() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = [other_light(images, np.random.default_rng(1), 0.3) for _ in range(2)]
    assert torch.equal(*made)
    assert not torch.equal(made[0], images)
    assert made[0].min() >= 0
    assert made[0].max() <= 1
