"""The 1,797 handwritten digits of scikit-learn are a real data set without a download.

They are the test part of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
https://archive.ics.uci.edu/dataset/80: 8x8 pixels, 17 levels of gray.
"""

import io
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.split import Split, stratified
from mobilenet_cli.pipeline.errors import DataError

NAME = "digits"
LEVELS = 16


class Digits:
    """The digits are read by their name alone."""

    def recognizes(self, source: str) -> bool:
        """Tell whether the digits are meant."""
        return source == NAME

    def has_splits(self, _source: str) -> bool:
        """Tell that their held-out part is the same for everybody who takes the same seed."""
        return True

    def open(self, _source: str, split: Split, seed: int) -> Dataset:
        """Read all digits, or a stratified part of them, as 8x8 grayscale PNG.

        Raises:
            DataError: scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise DataError(
                "the digits come with scikit-learn, which is not installed",
                'Install it with: pip install "mobilenet-cli[train]", or pass a folder of images',
            ) from error
        bunch = load_digits()
        samples = [
            Sample(f"digits/{index:04}.png", str(label), partial(_png, pixels))
            for index, (pixels, label) in enumerate(zip(bunch.images, bunch.target, strict=True))
        ]
        classes = tuple(str(name) for name in bunch.target_names)
        return Dataset(f"digits ({split})", stratified(samples, split, seed), classes)


def _png(pixels: NDArray[np.float64]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.round(pixels * (255 / LEVELS)).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()
