"""Parquet files of the Hugging Face hub have a column of images and one of labels."""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mobilenet_cli.data import imagenet
from mobilenet_cli.data.dataset import Block, Sample
from mobilenet_cli.data.epoch_order import WINDOW_BYTES
from mobilenet_cli.data.readers.files import MAX_BYTES, open_file, utf8_path
from mobilenet_cli.data.readers.shards import ShardFormat
from mobilenet_cli.pipeline.errors import DataError, need

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")
# Types, as pyarrow calls them, of encoded images, and of labels that name a class.
BYTES = ("binary", "large_binary", "binary_view", "fixed_size_binary", "null")
CLASSES = (*BYTES, "string", "large_string", "string_view", "integer", "floating", "boolean")
# Row groups are kept in memory up to this size: twice what epoch_order.py mixes, so that threads
# can begin the next images while others finish the last; and two in any case.
CACHE_BYTES = 2 * WINDOW_BYTES
MIN_GROUPS = 2
GROUP_BYTES = 2 << 30  # of images in a row group, which is read as a whole
BOMB_BYTES, BOMB_RATIO = 64 << 20, 30  # images that become so much larger are none


@dataclass(frozen=True)
class Table:
    """A table is a parquet file whose columns are known.

    Attributes:
        path: the file.
        file: the open file of pyarrow.
        image: the column of encoded images, or of structures with their ``bytes``.
        encoded: the path of the encoded bytes within the table.
        label: the column of labels, if there is one.
        classes: the names of the labels 0, 1, ...; synsets if the file is ImageNet's; or none.
    """

    path: Path
    file: Any
    image: str
    encoded: str
    label: str | None
    classes: tuple[str, ...]


def _read_tables(files: Mapping[Path, str]) -> Iterator[Sample | DataError]:
    """Find the rows of parquet files; a label is a class's name, or its synset where known.

    Raises:
        DataError: pyarrow is not installed, or a file's columns cannot be used.
    """
    rows = _RowGroups()
    for path, name in files.items():
        table = _opened(path)
        if isinstance(table, DataError):
            yield table
        else:
            yield from _samples(table, name, rows)


def _images(path: Path, name: str) -> Iterator[Sample | DataError]:
    """Find the rows of one parquet file."""
    yield from _read_tables({path: name})


def _opened(path: Path) -> Table | DataError:
    try:
        return open_table(path)
    except _UnreadableError as error:
        return error


def _samples(table: Table, name: str, rows: "_RowGroups") -> Iterator[Sample | DataError]:
    for group in range(table.file.num_row_groups):
        try:
            size = _checked_size(table, group)
            labels = _labels(table, group)
        except DataError as error:
            yield error
            continue
        except Exception as error:  # pyarrow raises whatever its C++ stumbles over
            yield _unreadable(table.path, error)
            continue
        block = Block(size)
        for row, value in enumerate(labels):
            key = f"{name}:{group}:{row}"
            read = partial(rows.image, table.path, group, row, key)
            yield Sample(key, _class_of(value, table.classes), read, block)


def _checked_size(table: Table, group: int) -> int:
    """Return the bytes that a group becomes, before any of it is read.

    Sizes of single columns would be closer, but asking pyarrow for those of a damaged file ends the
    process.

    Raises:
        DataError: they take too much memory, or there are more rows than bytes.
    """
    metadata, file = table.file.metadata, table.path.stat().st_size
    size = int(metadata.row_group(group).total_byte_size)
    if metadata.num_rows > file:
        raise DataError(
            f"{table.path} claims {metadata.num_rows:,} rows, more than its {file:,} bytes can "
            "hold",
            "Download it again",
        )
    if size > BOMB_BYTES and size > BOMB_RATIO * file:
        raise DataError(
            f"row group {group} of {table.path} becomes {size:,} bytes from {file:,}, as no "
            "images do",
            "Leave the file out",
        )
    if size > GROUP_BYTES:
        raise DataError(
            f"row group {group} of {table.path} has {size:,} bytes, which are read at once",
            "Write it with smaller row groups, such as row_group_size=100",
        )
    return max(0, size)


def _labels(table: Table, group: int) -> list[Any]:
    """Return the value of each row; a dictionary's values are not repeated in memory."""
    if table.label is None:
        return [None] * table.file.metadata.row_group(group).num_rows
    values: list[Any] = []
    for chunk in table.file.read_row_group(group, [table.label])[table.label].chunks:
        if hasattr(chunk, "dictionary"):
            names = chunk.dictionary.to_pylist()
            values += (None if i is None else names[i] for i in chunk.indices.to_pylist())
        else:
            values += chunk.to_pylist()
    return values


def open_table(path: Path) -> Table:
    """Open a parquet file, and find its columns.

    Raises:
        DataError: pyarrow is not installed, the file is corrupt, or its columns cannot be used.
    """
    need("pyarrow", f"{path} is a parquet file, and takes pyarrow", DataError)
    import pyarrow.parquet as pq

    try:
        open_file(path).close()
        with utf8_path(path) as name:
            schema = pq.read_schema(name)
            image, label, classes = _columns(path, schema)
            nested = [field.name for field in getattr(schema.field(image).type, "fields", [])]
            encoded = f"{image}.bytes" if "bytes" in nested else image
            # Values that a dictionary holds once stay once in memory.
            file = pq.ParquetFile(name, read_dictionary=[encoded, *filter(None, [label])])
        return Table(path, file, image, encoded, label, classes)
    except DataError:
        raise
    except Exception as error:  # pyarrow raises whatever its C++ stumbles over
        raise _unreadable(path, error) from error


def _columns(path: Path, schema: Any) -> tuple[str, str | None, tuple[str, ...]]:
    """Choose the columns by their names, or by what the datasets library notes about them.

    Returns:
        The column of images, that of labels if there is one, and the names of the classes.

    Raises:
        DataError: there is no column of images, or one of the two has a type that holds something
            else.
    """
    import pyarrow.types as types

    noted = _features(schema.metadata or {})
    of_kind = {
        kind: [name for name in schema.names if noted.get(name, {}).get("_type") == kind]
        for kind in ("Image", "ClassLabel")
    }
    images = [*(n for n in IMAGE_COLUMNS if n in schema.names), *of_kind["Image"]]
    if not images:
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}, but no image",
            f"Name the column of encoded images '{IMAGE_COLUMNS[0]}'",
        )
    stored = schema.field(images[0]).type
    stored = stored.value_type if types.is_dictionary(stored) else stored
    if types.is_struct(stored) and stored.get_field_index("bytes") >= 0:
        stored = stored.field("bytes").type
    if not _is_any(types, BYTES, stored):
        raise DataError(
            f"{path} has images of the type {stored} in its column '{images[0]}', not encoded ones",
            "Give the bytes of a JPEG or PNG file in each row",
        )
    labels = [*(n for n in LABEL_COLUMNS if n in schema.names), *of_kind["ClassLabel"]]
    if not labels:
        return images[0], None, ()
    kind = schema.field(labels[0]).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not _is_any(types, CLASSES, kind):
        raise DataError(
            f"{path} has labels of the type {kind} in its column '{labels[0]}', not one class for "
            "each image",
            "Give a column with the one class of each image",
        )
    names = noted.get(labels[0], {}).get("names")
    return images[0], labels[0], _class_names(names if isinstance(names, list) else [])


def _is_any(types: Any, names: Iterable[str], kind: Any) -> bool:
    """Tell whether a type is one of those that pyarrow calls so."""
    return any(getattr(types, f"is_{name}")(kind) for name in names)


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return what the datasets library notes about each column."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: noted for name, noted in features.items() if isinstance(noted, dict)}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def _class_names(listed: list[Any]) -> tuple[str, ...]:
    """Return names of classes; synsets where they are ImageNet's."""
    names = tuple(str(name) for name in listed)
    is_imagenet = len(names) == imagenet.CLASSES and names[0].startswith(imagenet.names()[0])
    return imagenet.synsets() if is_imagenet else names


def _class_of(value: Any, classes: tuple[str, ...]) -> str | None:
    """Return the class that a label means; None where it is hidden."""
    if isinstance(value, float):  # what pandas makes of integers of which some are missing
        value = None if value != value else int(value) if value.is_integer() else value
    if value is None or (value == -1 and not isinstance(value, bool)):  # how the hub hides one
        return None
    if isinstance(value, int) and classes:
        return classes[value] if 0 <= value < len(classes) else str(value)
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


class _UnreadableError(DataError):
    """A file is damaged, and others may be whole."""


def _unreadable(path: Path, error: Exception) -> DataError:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return _UnreadableError(f"{path} cannot be read as parquet ({why})", "Download it again")


class _RowGroups:
    """Row groups read last are kept for threads that go through them together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def image(self, path: Path, group: int, row: int, key: str) -> bytes:
        try:
            value = self._column(path, group)[row].as_py()
        except DataError:
            raise
        except Exception as error:  # pyarrow raises whatever its C++ stumbles over
            raise _unreadable(path, error) from error
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(encoded, bytes):
            raise DataError(f"{key} has no image bytes", "Embed the images in the file")
        if len(encoded) > MAX_BYTES:
            raise DataError(
                f"{key} has {len(encoded):,} bytes, more than an image of {MAX_BYTES:,}",
                "Scale the image down or remove it",
            )
        return encoded

    def _column(self, path: Path, group: int) -> Any:
        with self.lock:
            if (path, group) not in self.groups:
                table = open_table(path)
                read = table.file.read_row_group(group, [table.encoded])[table.image]
                self.groups[path, group] = read
                while len(self.groups) > MIN_GROUPS and self._bytes() > CACHE_BYTES:
                    self.groups.popitem(last=False)
            self.groups.move_to_end((path, group))
            return self.groups[path, group]

    def _bytes(self) -> int:
        return sum(column.nbytes for column in self.groups.values())


def class_names(path: Path) -> tuple[str, ...]:
    """Return the class names that a file lists; none where it cannot be read."""
    table = _opened(path)
    return () if isinstance(table, DataError) else table.classes


PARQUET = ShardFormat(
    ".parquet",
    "the column 'label'",
    _read_tables,
    _images,
    class_names,
)
