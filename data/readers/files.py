"""This module tells image files from others, and reads files, or parts of them."""

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

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
MAX_TEXT = 1 << 26  # bytes of names, of settings, or of the labels of one image
PIPED = ("/dev/", "/proc/")  # where a shell shows what it pipes: @/dev/stdin, --map <(command)


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


class Places:
    """Files and folders were seen here, whose images must not count again."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], Path] = {}

    def add(self, path: Path) -> None:
        """Remember a file or folder by what it is, and not by its name.

        Raises:
            DataError: it was seen, under another name by a link, or it is named again.
        """
        try:
            found = path.stat()
        except OSError:
            return  # reading it says so
        place = (found.st_dev, found.st_ino)
        first = self._seen.get(place)
        if first is None:
            self._seen[place] = path
            return
        if first == path:
            what = f"{first} is named twice, so its images would count twice"
            raise DataError(what, "Name it once")
        raise DataError(
            f"{first} and {path} are the same, so their images would count twice",
            "Leave one of them out, or remove the link",
        )


def refuse_same(paths: Iterable[Path]) -> None:
    """Refuse two names of one file or folder.

    Raises:
        DataError: as ``Places.add``.
    """
    places = Places()
    for path in paths:
        places.add(path)


def open_file(path: str | Path, piped: bool = False) -> io.FileIO:
    """Open a regular file to read; a device, or a pipe that nobody writes to, might never end.

    Args:
        path: the file.
        piped: also take a pipe that a shell holds open.

    Raises:
        DataError: it cannot be opened, or is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # the latter of a name with a NUL
        raise _unreadable(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if piped and stat.S_ISFIFO(mode) and os.fspath(path).startswith(PIPED):
        os.set_blocking(descriptor, True)
    elif not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DataError(f"{path} is no file but a pipe, a folder or a device", "Give a file")
    return io.FileIO(descriptor)


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """Return what a file of labels or of settings holds, or what a shell pipes in its place.

    Args:
        path: the file.
        most: bytes that such a file may have.

    Raises:
        DataError: it cannot be read, or is larger.
    """
    with io.BufferedReader(open_file(path, piped=True)) as file:
        try:
            content = file.read(-1 if most is None else most + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
    if most is not None and len(content) > most:
        raise DataError(
            f"{path} has more than {most:,} bytes, as no such file has", "Give another, or split it"
        )
    return content


def read_text(path: str | Path, most: int | None = None) -> str:
    """Return the text of such a file without what editors on Windows add to it.

    Arguments are those of ``read_bytes``.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error})", "Save it as UTF-8") from error


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
