"""Parquet files of the Hugging Face hub have a column of images and one of labels."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mobilenet_cli.data import imagenet
from mobilenet_cli.data.dataset import Block, Sample
from mobilenet_cli.data.epoch_order import WINDOW_BYTES
from mobilenet_cli.data.readers.shards import ShardFormat
from mobilenet_cli.pipeline.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"
# Row groups are kept in memory up to this size: twice what epoch_order.py mixes, so that threads
# can begin the next images while others finish the last; and two in any case.
CACHE_BYTES = 2 * WINDOW_BYTES
MIN_GROUPS = 2


def _read_tables(files: Mapping[Path, str]) -> Iterator[Sample | DataError]:
    """Find the rows of parquet files; a label is a class's name, or its synset where known.

    Raises:
        DataError: pyarrow is not installed, or a file has no column of images.
    """
    rows = _RowGroups()
    for path, name in files.items():
        try:
            yield from _samples(path, name, rows)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            yield DataError(
                f"{path} cannot be read as parquet ({' '.join(str(error).split())[:200]})",
                "Download it again",
            )


def _samples(path: Path, name: str, rows: "_RowGroups") -> Iterator[Sample]:
    file = _open(path)
    schema = file.schema_arrow
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if image is None:
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}, but no image",
            f"Name the column of encoded images '{IMAGE_COLUMNS[0]}'",
        )
    classes = names_listed(schema.metadata or {})
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        labels: list[Any] = [None] * metadata.num_rows
        if LABEL_COLUMN in schema.names:
            labels = file.read_row_group(group, [LABEL_COLUMN])[LABEL_COLUMN].to_pylist()
        block = Block(metadata.total_byte_size)
        for row, label in enumerate(labels):
            key = f"{name}:{group}:{row}"
            read = partial(rows.image, path, image, group, row)
            yield Sample(key, _label(label, classes), read, block)


def class_names(path: Path) -> tuple[str, ...]:
    """Read the class names that a file lists; none where it cannot be read."""
    try:
        return names_listed(_open(path).schema_arrow.metadata or {})
    except (OSError, ValueError):
        return ()


def names_listed(metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """Return the label names that the datasets library notes; synsets if it is ImageNet."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = tuple(str(name) for name in features[LABEL_COLUMN]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
    is_imagenet = len(names) == imagenet.CLASSES and names[0].startswith(imagenet.names()[0])
    return imagenet.synsets() if is_imagenet else names


def _label(value: object, classes: tuple[str, ...]) -> str | None:
    if value is None or value == -1:  # how the hub marks a hidden label
        return None
    if isinstance(value, int) and classes:
        return classes[value] if 0 <= value < len(classes) else str(value)
    return str(value)


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            f"{path} is a parquet file, and pyarrow is not installed",
            'Install it with: pip install "mobilenet-cli[parquet]"',
        ) from error
    return pq.ParquetFile(path)


class _RowGroups:
    """Row groups read last are kept for threads that go through them together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def image(self, path: Path, column: str, group: int, row: int) -> bytes:
        try:
            value = self._column(path, column, group)[row].as_py()
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({' '.join(str(error).split())[:200]})", "Download it again"
            ) from error
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(encoded, bytes):
            raise DataError(
                f"{path.name}:{group}:{row} has no image bytes", "Embed the images in the file"
            )
        return encoded

    def _column(self, path: Path, column: str, group: int) -> Any:
        with self.lock:
            if (path, group) not in self.groups:
                self.groups[path, group] = _open(path).read_row_group(group, [column])[column]
                while len(self.groups) > MIN_GROUPS and self._bytes() > CACHE_BYTES:
                    self.groups.popitem(last=False)
            self.groups.move_to_end((path, group))
            return self.groups[path, group]

    def _bytes(self) -> int:
        return sum(column.nbytes for column in self.groups.values())


PARQUET = ShardFormat(re.compile(r".*\.parquet"), _read_tables, class_names)
