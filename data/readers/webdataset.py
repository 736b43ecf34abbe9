"""Tar files hold images as WebDataset has them: ``key.jpg`` beside ``key.cls``.

The archives are indexed once; an image is then read by its offset, so that threads share nothing.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers.files import is_image
from mobilenet_cli.data.readers.folder import class_of_name
from mobilenet_cli.data.readers.shards import ShardFormat
from mobilenet_cli.pipeline.errors import DataError

LABEL_BYTES = 1000  # of a .cls member; more is no class


def _read_tars(files: Sequence[Path]) -> Iterator[Sample | DataError]:
    """Find the images of tar files; a label is the text of .cls, or the synset in the name."""
    for path in files:
        yield from _samples(path)


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


WEBDATASET = ShardFormat(re.compile(r".*\.tar"), _read_tars)
