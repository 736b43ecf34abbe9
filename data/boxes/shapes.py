"""Rendered shapes on noise are a set of images with boxes without a download, for a first try.

Three classes, a quarter of a thousand images of 96x96 pixels. Each follows from its number alone.
"""

import io
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from mobilenet_cli.data.boxes.box_dataset import (
    BoxDataset,
    Corners,
    Labelled,
    Remarks,
    make_dataset,
)
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.split import Split

NAME = "shapes"
CLASSES = ("disc", "square", "triangle")
SIDE = 96
COUNT = 250
HELD_OUT = 50  # the last ones
SMALLEST, LARGEST = 18, 56  # sides of a shape in pixels
MOST = 3  # shapes in an image
CLEAR = 60.0  # levels between a shape's and its ground's brightness


def open_shapes(split: Split) -> BoxDataset:
    """Return the images of a split with their boxes; they are rendered when they are read."""
    first, last = {"train": (0, COUNT - HELD_OUT), "val": (COUNT - HELD_OUT, COUNT)}.get(
        split, (0, COUNT)
    )
    labelled = []
    for number in range(first, last):
        sample = Sample(f"{NAME}/{number:04}.png", None, partial(_png, number))
        boxes = [(label, corners, False, None) for label, corners in _shapes(number)]
        labelled.append(Labelled(sample, (SIDE, SIDE), boxes))
    return make_dataset(f"{NAME} ({split})", labelled, CLASSES, Remarks())


def _shapes(number: int) -> list[tuple[int, Corners]]:
    """Place shapes so that none covers another's middle."""
    rng = np.random.default_rng([number, 0])
    found: list[tuple[int, Corners]] = []
    for _ in range(int(rng.integers(1, MOST + 1))):
        size = rng.integers(SMALLEST, LARGEST)
        left, top = rng.integers(0, SIDE - size, 2)
        corners = (float(left), float(top), float(left + size), float(top + size))
        middle = np.array([left + size / 2, top + size / 2])
        apart = (
            np.abs(middle - np.array([(c[0] + c[2]) / 2, (c[1] + c[3]) / 2])).max()
            > (size + c[2] - c[0]) / 2
            for _, c in found
        )
        if all(apart):
            found.append((int(rng.integers(len(CLASSES))), corners))
    return found


def _png(number: int) -> bytes:
    """Draw an image: a ground of noise, and shapes of other brightness."""
    rng = np.random.default_rng([number, 1])
    ground = rng.uniform(40, 215, 3)
    noise = rng.normal(0, 18, (SIDE, SIDE, 3))
    picture = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for label, (left, top, right, bottom) in _shapes(number):
        colour = rng.uniform(0, 255, 3)
        if abs(colour.mean() - ground.mean()) < CLEAR:
            colour = (ground + 128) % 256
        ink = tuple(int(v) for v in colour)
        box = (left, top, right - 1, bottom - 1)  # Pillow's ends are inside
        if label == 0:
            pen.ellipse(box, fill=ink)
        elif label == 1:
            pen.rectangle(box, fill=ink)
        else:
            pen.polygon(
                [((left + right) / 2, top), (left, bottom - 1), (right - 1, bottom - 1)], ink
            )
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
