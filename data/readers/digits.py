"""The 1,797 handwritten digits of scikit-learn are a real data set without a download.

They are the test part of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
https://archive.ics.uci.edu/dataset/80: 8x8 pixels, 17 levels of gray.
"""

import importlib.util
import io
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.split import Split, stratified
from mobilenet_cli.pipeline.errors import DataError

NAME = "digits"
CLASSES = tuple("0123456789")
LEVELS = 16


class Digits:
    """The digits are read by their name alone."""

    def recognizes(self, source: str) -> bool:
        """Tell whether the digits are meant."""
        return source == NAME

    def has_splits(self, _source: str) -> bool:
        """Tell that their held-out part is the same for everybody."""
        return True

    def open(self, _source: str, split: Split) -> Dataset:
        """Read all digits, or a stratified part of them, as 8x8 grayscale PNG.

        Raises:
            DataError: scikit-learn is not installed.
        """
        rows = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)
        samples = [
            Sample(f"digits/{index:04}.png", str(row[-1]), partial(_png, row[:-1].reshape(8, 8)))
            for index, row in enumerate(rows)
        ]
        return Dataset(f"digits ({split})", stratified(samples, split), CLASSES)


def _file() -> Path:
    """Return where scikit-learn keeps them; importing it takes longer than most commands.

    Raises:
        DataError: scikit-learn is not installed.
    """
    library = importlib.util.find_spec("sklearn")
    if library is None or library.origin is None:
        raise DataError(
            "the digits come with scikit-learn, which is not installed",
            'Install it with: pip install "mobilenet-cli[train]", or pass a folder of images',
        )
    return Path(library.origin).with_name("datasets") / "data" / "digits.csv.gz"


def _png(pixels: NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.round(pixels * (255 / LEVELS)).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()
