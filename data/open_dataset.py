"""A data set is opened by what the user wrote: a built-in name or a path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.readers import parquet, tfrecord, webdataset
from mobilenet_cli.data.readers.digits import digits
from mobilenet_cli.data.readers.files import read_file
from mobilenet_cli.data.readers.folder import has_splits, image_folder
from mobilenet_cli.data.readers.remote import is_address, local_copy
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.errors import DataError


@dataclass(frozen=True)
class Format:
    """A format is one way in which images are kept on disk.

    Attributes:
        recognizes: is what lies at a path in this format?
        has_splits: does it say itself what is held out from training?
        read: opens a split; the seed matters where the format has no splits of its own.
    """

    recognizes: Callable[[Path], bool]
    has_splits: Callable[[Path], bool]
    read: Callable[[Path, Split, int], Dataset]


# Data sets that need no path, by name.
DATASETS: dict[str, Callable[[Split, int], Dataset]] = {"digits": digits}
# In the order in which they are tried.
FORMATS: dict[str, Format] = {
    "parquet": Format(parquet.recognizes, parquet.has_splits, parquet.parquet),
    "WebDataset": Format(webdataset.recognizes, webdataset.has_splits, webdataset.webdataset),
    "TFRecord": Format(tfrecord.recognizes, tfrecord.has_splits, tfrecord.tfrecord),
    "image folder": Format(Path.is_dir, has_splits, image_folder),
}


def open_dataset(source: str, split: Split, seed: int = 0) -> Dataset:
    """Find the samples of a data set; images are read later, one at a time.

    Args:
        source: a name in ``DATASETS``, or the path of something in one of ``FORMATS``, or the
            address of its files as ``local_copy`` takes it.
        split: ``train``, ``val`` (held out), or ``all``.
        seed: of the division into train and val, where the data set has none of its own.

    Raises:
        DataError: there is no such data set, it has no images or not this split, or its classes
            are contradictory.
    """
    if source in DATASETS:
        return DATASETS[source](split, seed)
    path = _path(source)
    dataset = _format(path).read(path, split, seed)
    return replace(dataset, name=f"{source} ({split})") if is_address(source) else dataset


def held_out(source: str, trained_on: str | None) -> Dataset:
    """Return the images of ``source`` that a model was not trained on.

    That is its val part where the set has one of its own or was the training data, as held out
    by ``open_dataset`` with seed 0; and otherwise all of it.

    Args:
        source: as ``open_dataset`` takes it.
        trained_on: the model's training data, likewise.

    Raises:
        DataError: as ``open_dataset``.
    """
    return _part(source, trained_on, "val")


def not_held_out(source: str, trained_on: str | None) -> Dataset:
    """Return the images of ``source`` that are not kept for evaluation: what ``held_out`` leaves.

    That is its train part, or all of a set that has no parts and was not the training data.
    Arguments and errors are those of ``held_out``.
    """
    return _part(source, trained_on, "train")


def _part(source: str, trained_on: str | None, split: Split) -> Dataset:
    if source in DATASETS or _format(_path(source)).has_splits(_path(source)):
        return open_dataset(source, split)
    same = trained_on is not None and Path(source).resolve() == Path(trained_on).resolve()
    return open_dataset(source, split if same else "all")


def _path(source: str) -> Path:
    return local_copy(source) if is_address(source) else Path(source)


def _format(path: Path) -> Format:
    if not path.exists():
        raise DataError(
            f"data '{path}' does not exist",
            f"Give the path of a folder of images, or one of: {', '.join(DATASETS)}",
        )
    for kind in FORMATS.values():
        if kind.recognizes(path):
            return kind
    raise DataError(
        f"data '{path}' is not a folder, nor a .parquet, .tar or .tfrecord file",
        "Give the folder that holds the images",
    )


def open_images(sources: Sequence[str]) -> list[Sample]:
    """Open single image files, and all the images of folders.

    Raises:
        DataError: a path does not exist, or a folder has no images.
    """
    samples: list[Sample] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = open_dataset(source, "all").samples
            samples += (Sample(f"{source}/{s.key}", s.label, s.read) for s in found)
        else:
            samples.append(Sample(source, None, partial(read_file, path)))
    return samples
