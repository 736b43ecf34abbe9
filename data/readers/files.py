"""This module tells image files from others, and reads files, or parts of them."""

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from mobilenet_cli.pipeline.errors import DataError

SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
# Pictures of kinds that are not read.
OTHER_SUFFIXES = frozenset(
    {
        *(".arw", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".ico", ".j2k", ".jp2", ".jxl"),
        *(".nef", ".orf", ".pcx", ".psd", ".raf", ".rw2", ".svg", ".tga", ".xcf"),
    }
)
# What is unpacked first; a tar file that is not compressed is read as it is.
ARCHIVE = re.compile(r"\.(zip|rar|7z|tgz|tbz2?|txz|tar\.\w+|gz|bz2|xz|zst)$", re.IGNORECASE)
MAX_BYTES = 280_000_000  # of an encoded image: MAX_PIXELS of three bytes fit


def is_image(name: str) -> bool:
    """Tell whether a file's name ends like an image's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - a million names: strings


def is_other_picture(name: str) -> bool:
    """Tell whether a file's name ends like that of a picture that is not read."""
    return os.path.splitext(name)[1].lower() in OTHER_SUFFIXES  # noqa: PTH122 - as above


def is_archive(name: str) -> bool:
    """Tell whether a file's name ends like that of an archive whose images cannot be read."""
    return ARCHIVE.search(name) is not None


def is_packed(path: str) -> DataError:
    """Return the error for an archive that was given where images are read."""
    return DataError(
        f"{path} is packed, so images cannot be read singly",
        "Unpack it, and give the folder that holds the images",
    )


def refuse_same(paths: Iterable[Path]) -> None:
    """Refuse two names of one file or folder, whose images would count twice.

    Raises:
        DataError: two are the same, by a link or because one is named again.
    """
    seen: dict[tuple[int, int], Path] = {}
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue  # reading it says so
        place = (found.st_dev, found.st_ino)
        if place in seen:
            raise same_place(seen[place], path)
        seen[place] = path


def same_place(first: Path, second: Path) -> DataError:
    """Return the error for two names of one file or folder."""
    if first == second:
        return DataError(f"{first} is named twice, so its images would count twice", "Name it once")
    return DataError(
        f"{first} and {second} are the same, so their images would count twice",
        "Leave one of them out, or remove the link",
    )


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file to read; a pipe, which might never end, is none.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # the latter of a name with a NUL
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path} is no file but a pipe, a folder or a device", "Give a file")
    return os.fdopen(descriptor, "rb", buffering=0)


@contextlib.contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """Yield a path for libraries that take no other bytes than UTF-8: this one, or one to it."""
    if os.fsencode(path) == str(path).encode(errors="replace"):
        yield path
    else:
        with path.open("rb") as file:
            yield Path(f"/proc/self/fd/{file.fileno()}")


def read_file(path: str | Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        DataError: it cannot be read, or is larger than any image.
    """
    return read_part(path, str(path), 0, None)


def read_part(path: str | Path, name: str, offset: int, size: int | None) -> bytes:
    """Return an encoded image that is a file, or a part of one.

    Args:
        path: the file.
        name: what to call the image in an error.
        offset: where it begins, in bytes.
        size: its length in bytes; None takes all to the end.

    Raises:
        DataError: it cannot be read, is larger than any image, or the file ends within it.
    """
    with open_file(path) as file:
        try:
            wanted = os.fstat(file.fileno()).st_size - offset if size is None else size
            if wanted > MAX_BYTES:
                raise DataError(
                    f"{name} has {wanted:,} bytes, more than an image of {MAX_BYTES:,}",
                    "Scale the image down or remove it",
                )
            content = os.pread(file.fileno(), wanted, offset)
        except OSError as error:
            raise _unreadable(path, error) from error
    if len(content) < wanted:
        raise DataError(f"{path} ends within {name}", "Download it again")
    return content


def _unreadable(path: str | Path, error: OSError | ValueError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} does not exist", "Check the path")
    why = error.strerror if isinstance(error, OSError) else error
    return DataError(f"{path} cannot be read ({why})", "Check the file and its permissions")
