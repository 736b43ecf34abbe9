"""Tar files hold images as WebDataset has them: ``key.jpg`` beside ``key.cls``.

The archives are indexed once; an image is then read by its offset, so that threads share nothing.
"""

import re
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.readers.files import is_image
from mobilenet_cli.data.readers.folder import class_of_name
from mobilenet_cli.data.readers.shards import has_split_names, numbered, read_shards, shard_files
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.errors import DataError

NAME = re.compile(r".*\.tar")
LABEL_BYTES = 1000  # of a .cls member; more is no class


def recognizes(root: Path) -> bool:
    """Tell whether this is a tar file or a folder of them."""
    return bool(shard_files(root, NAME))


def has_splits(root: Path) -> bool:
    """Tell whether there are files named train and val or test."""
    return has_split_names(root, NAME)


def webdataset(root: Path, split: Split, seed: int) -> Dataset:
    """Read images as samples; the label is the .cls member's text, or the synset in the name.

    Raises:
        DataError: there are no images.
    """
    samples, lost = read_shards(root, NAME, split, seed, _samples)
    return numbered(f"{root} ({split})", samples, (), lost)


def _samples(path: Path) -> Iterator[Sample | DataError]:
    """Yield the images of one archive; of one that is cut off, those before the cut."""
    end = 0
    images: list[tuple[str, tarfile.TarInfo]] = []
    labels: dict[str, str] = {}
    try:
        end = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                folder, _, file = member.name.rpartition("/")
                key, _, extension = file.partition(".")
                if is_image(file):
                    images.append((f"{folder}/{key}", member))
                elif extension == "cls" and member.size < LABEL_BYTES:
                    content = archive.extractfile(member)
                    assert content is not None  # it is a regular file
                    labels[f"{folder}/{key}"] = content.read().decode("utf-8", "replace").strip()
    except (tarfile.TarError, OSError, EOFError) as error:
        after = f" after {images[-1][1].name}" if images else ""
        yield DataError(
            f"{path} cannot be read as a tar file{after} ({error})", "Download it again"
        )
    for key, member in images:
        if member.offset_data + member.size > end:
            continue  # cut off, which has been said
        read = partial(_read, path, member.name, member.offset_data, member.size)
        label = labels.get(key) or class_of_name(key.rpartition("/")[2])
        yield Sample(f"{path.name}/{member.name}", label, read)


def _read(path: Path, name: str, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror})", "Check the file and its permissions"
        ) from error
    if len(content) != size:
        raise DataError(f"{path} ends within {name}", "Download it again")
    return content
