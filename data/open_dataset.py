"""A data set is opened by what the user wrote: a built-in name or a path."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mobilenet_cli.data.dataset import Dataset, as_path
from mobilenet_cli.data.readers.digits import Digits
from mobilenet_cli.data.readers.files import is_archive, is_packed
from mobilenet_cli.data.readers.folder import ImageFolder
from mobilenet_cli.data.readers.parquet import PARQUET
from mobilenet_cli.data.readers.remote import is_address, local_copy, other_address
from mobilenet_cli.data.readers.shards import ShardFormat
from mobilenet_cli.data.readers.tfrecord import TFRECORD
from mobilenet_cli.data.readers.webdataset import WEBDATASET
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.errors import DataError


class Reader(Protocol):
    """A reader finds the images of data sets of one kind; a source is a name or a local path."""

    def recognizes(self, source: str) -> bool:
        """Tell whether a name or a path is of this kind."""

    def has_splits(self, source: str) -> bool:
        """Tell whether the data set says itself what is held out from training."""

    def open(self, source: str, split: Split) -> Dataset:
        """Find the samples of a split: of its own, or as ``stratified`` makes them."""


# In the order in which they are asked.
DATASETS: dict[str, Reader] = {
    "digits": Digits(),
    "parquet": PARQUET,
    "WebDataset": WEBDATASET,
    "TFRecord": TFRECORD,
    "image folder": ImageFolder(),
}
SHARDS = tuple(reader for reader in DATASETS.values() if isinstance(reader, ShardFormat))


def open_dataset(source: str, split: Split) -> Dataset:
    """Find the samples of a data set; images are read later, one at a time.

    Args:
        source: ``digits``, or the path of what a reader in ``DATASETS`` recognizes, or the
            address of its files as ``local_copy`` takes it.
        split: ``train``, ``val`` (held out), or ``all``.

    Raises:
        DataError: there is no such data set, it has no images or not this split, or its classes
            are contradictory.
    """
    path = _path(source)
    dataset = _reader(path).open(path, split)
    return replace(dataset, name=f"{source} ({split})") if is_address(source) else dataset


def held_out(source: str, trained_on: str | None) -> Dataset:
    """Return the images of ``source`` that a model was not trained on.

    That is its val part where the set has one of its own or was the training data, as held out
    by ``open_dataset``; and otherwise all of it.

    Args:
        source: a name, a path or an address that ``open_dataset`` takes.
        trained_on: the model's training data, written in the same way.

    Raises:
        DataError: ``open_dataset`` cannot open it.
    """
    return _part(source, trained_on, "val")


def not_held_out(source: str, trained_on: str | None) -> Dataset:
    """Return the images of ``source`` that are not kept for evaluation: what ``held_out`` leaves.

    That is its train part, or all of a set that has no parts and was not the training data.
    Arguments and errors are those of ``held_out``.
    """
    return _part(source, trained_on, "train")


def _part(source: str, trained_on: str | None, split: Split) -> Dataset:
    path = _path(source)
    if _reader(path).has_splits(path):
        return open_dataset(source, split)
    same = trained_on is not None and trained_on == source
    if trained_on is not None and not same:
        same = Path(path).resolve() == Path(as_path(trained_on)).resolve()
    return open_dataset(source, split if same else "all")


def _path(source: str) -> str:
    return str(local_copy(source)) if is_address(source) else as_path(source)


def _reader(source: str) -> Reader:
    if _has_class_folders(source):
        return ImageFolder()
    found = [reader for reader in DATASETS.values() if reader.recognizes(source)]
    endings = [reader.ending for reader in found if isinstance(reader, ShardFormat)]
    if len(endings) > 1:
        raise DataError(
            f"{source} holds {' and '.join(endings)} files, and it is not said which count",
            "Leave those of one format in the folder",
        )
    if found:
        return found[0]
    if Path(source).exists() and is_archive(source):
        raise is_packed(source)
    if Path(source).exists():
        raise DataError(
            f"data '{source}' is not a folder, nor a {shard_endings()} file",
            "Give the folder that holds the images",
        )
    if (address := other_address(source)) is not None:
        raise address
    raise DataError(
        f"data '{source}' does not exist", "Give the path of a folder of images, or 'digits'"
    )


def _has_class_folders(source: str) -> bool:
    """Tell whether a folder's classes are folders, even if archives lie beside them.

    They were often unpacked from these, as ImageNet's.
    """
    folder = ImageFolder()
    return folder.recognizes(source) and folder.has_classes(source)


def shard_format(name: str) -> ShardFormat | None:
    """Return the format of a file that holds many images, by its name; None of any other file."""
    found = (format_ for format_ in SHARDS if format_.pattern.fullmatch(name))
    return next(found, None)


def shard_endings() -> str:
    """Name the endings of such files, as an error does: ``.parquet, .tar or .tfrecord``."""
    *others, last = (format_.ending for format_ in SHARDS)
    return f"{', '.join(others)} or {last}"


def write_labels() -> str:
    """Say how each format tells the class of an image, as an error does where none is told."""
    *others, last = (f"{format_.labels} of a {format_.ending} file" for format_ in SHARDS)
    return (
        "Put the images of each class into a folder named after it, write the name of each image, "
        f"a comma and its class into labels.csv, or write the class into "
        f"{', '.join(others)} or {last}"
    )


def shards_of(folder: str) -> list[Path]:
    """List the files in a folder that hold many images, but for archives of its class folders."""
    if _has_class_folders(folder):
        return []
    return sorted(path for format_ in SHARDS for path in format_.files(Path(folder)))
