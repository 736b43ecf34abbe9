"""The report's galleries show small pictures of evaluation images."""

import base64
import io
from collections.abc import Iterable

from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.open_dataset import held_out
from mobilenet_cli.pipeline.errors import DataError

SIDE = 128  # pixels
QUALITY = 80


def pictures(
    source: str, trained_on: str | None, fingerprint: str, keys: Iterable[str]
) -> dict[str, str]:
    """Return JPEG data URIs by key, at most ``SIDE`` pixels wide and high.

    Raises:
        DataError: the data set is gone, or is another one now.
    """
    dataset = held_out(source, trained_on)
    if dataset.fingerprint != fingerprint:
        raise DataError(
            f"the images of {dataset.name} are no longer those that were evaluated",
            "Evaluate again",
        )
    wanted = set(keys)
    return {
        sample.key: data_uri(sample.read(), sample.key)
        for sample in dataset.samples
        if sample.key in wanted
    }


def data_uri(encoded: bytes, key: str) -> str:
    """Return the picture, reduced, as a ``data:`` address that a page can hold."""
    image = decode(encoded, key)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
