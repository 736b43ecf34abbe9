"""The report's galleries show small pictures of evaluation images."""

import base64
import io
from collections.abc import Iterable, Sequence

from mobilenet_cli.data.boxes.open_boxes import held_out_boxes
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.open_dataset import held_out
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.reports.records.accuracy import AnswersRecord
from mobilenet_cli.reports.records.detection import BoxesRecord

SIDE = 128  # pixels
SIDE_WITH_BOXES = 256
QUALITY = 80


def pictures(record: AnswersRecord, trained_on: str | None, keys: Iterable[str]) -> dict[str, str]:
    """Return JPEG data URIs by key, at most ``SIDE`` pixels wide and high, or ``SIDE_WITH_BOXES``.

    Args:
        record: the answers; says which images they are of.
        trained_on: the model's training data.
        keys: of the images to show.

    Raises:
        DataError: the data set is gone, or is another one now.
    """
    samples: Sequence[Sample]
    if isinstance(record, BoxesRecord):
        boxes = held_out_boxes(record.source, trained_on)
        name, fingerprint, side = boxes.name, boxes.fingerprint, SIDE_WITH_BOXES
        samples = [image.sample for image in boxes.images]
    else:
        dataset = held_out(record.source, trained_on)
        name, fingerprint, side = dataset.name, dataset.fingerprint, SIDE
        samples = dataset.samples
    if fingerprint != record.data_fingerprint:
        raise DataError(
            f"the images of {name} are no longer those that were evaluated", "Evaluate again"
        )
    wanted = set(keys)
    return {s.key: data_uri(s.read(), s.key, side) for s in samples if s.key in wanted}


def data_uri(encoded: bytes, key: str, side: int = SIDE) -> str:
    """Return the picture, reduced, as a ``data:`` address that a page can hold."""
    image = decode(encoded, key)
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
