"""What several test files share."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of weights, images and reference results; the test is skipped without it."""
    folder = Path(os.environ.get("MOBILENET_CLI_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"the acceptance data is not at {folder} (set MOBILENET_CLI_SHARED)")
    return folder


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """Make an image file's bytes: a seeded picture, or one colour."""

    def make(
        seed: int = 0,
        size: tuple[int, int] = (40, 32),
        mode: str = "RGB",
        form: str = "PNG",
        color: int | tuple[int, ...] | None = None,
        **options: object,
    ) -> bytes:
        if color is not None:
            image = Image.new(mode, size, color)
        else:
            values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
            image = Image.fromarray(values).convert(mode)
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return make


@pytest.fixture
def class_folders(tmp_path: Path, encoded: Callable[..., bytes]) -> Callable[..., Path]:
    """Write PNG files into class folders: ``class_folders({"cat": 3, "dog": 5})``."""

    def make(counts: dict[str, int], root: str = "images") -> Path:
        folder = tmp_path / root
        for label, count in counts.items():
            (folder / label).mkdir(parents=True)
            for index in range(count):
                (folder / label / f"{index:03}.png").write_bytes(encoded(seed=index))
        return folder

    return make
