"""What the user names to be predicted is cut into parts: one for each shard, or runs of files.

A part is small enough to be done again, and says all that is needed to find its images: the list
of parts is the plan of a job. Names of files are kept as bytes, which a million of take 30 MB.
"""

import codecs
import contextlib
import glob
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mobilenet_cli.data.dataset import Sample, printable
from mobilenet_cli.data.open_dataset import shard_endings, shard_format, shards_of
from mobilenet_cli.data.readers.files import (
    is_archive,
    is_packed,
    open_file,
    read_file,
    refuse_same,
)
from mobilenet_cli.data.readers.folder import nothing_in, pictures_below
from mobilenet_cli.data.readers.remote import expand, is_address, other_address
from mobilenet_cli.data.readers.shards import missing_shards
from mobilenet_cli.pipeline.errors import DataError, OptionError

FILES = 1000  # in a part
BOM = codecs.BOM_UTF8  # which editors on Windows write first
LIST = "@"  # before the name of a file that lists sources
STDIN = "/dev/stdin"
PATTERN = re.compile(r"[*?[]|\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Part:
    """A part is one shard, or a run of files.

    Attributes:
        source: the shard's path or address, or the folder; empty of files that were named singly.
        names: paths of files below the source, with a NUL between; None of a shard.
        problem: why there is nothing to read.
    """

    source: str
    names: bytes | None = None
    problem: DataError | None = None

    @property
    def address(self) -> str | None:
        """Return where a shard must be fetched from, if it must."""
        return self.source if is_address(self.source) else None

    def images(self, shard: Path | None = None) -> Iterator[Sample | DataError]:
        """Find the images in their order, and what is lost.

        Args:
            shard: where a shard lies that was fetched.
        """
        if self.problem is not None:
            yield self.problem
        elif self.names is None:
            path = shard or Path(self.source)
            of_shard = shard_format(path.name)
            assert of_shard is not None  # ``cut`` looked
            try:
                yield from of_shard.images(path, path.name)
            except DataError as error:
                yield error
        else:
            for name in self.names.split(b"\0"):
                key = os.fsdecode(name)
                file = os.path.join(self.source, key)  # noqa: PTH118 - strings, of a million
                yield Sample(key, None, partial(read_file, file))

    def place(self, key: str) -> tuple[str, str]:
        """Return an image's source and its name there, by which the two together are its path."""
        if self.source:
            return printable(self.source), key
        folder, name = os.path.split(key)
        return folder, name

    def whole_name(self, key: str) -> str:
        """Return an image's name with the path or address of what it lies in."""
        folder = self.source if self.names is not None else self.source.rpartition("/")[0]
        return f"{folder}/{key}" if folder else key

    @property
    def identity(self) -> bytes:
        """Return what tells this part from another: its names, or the shard and its size."""
        size = 0
        if self.names is None and self.address is None:
            with contextlib.suppress(OSError):  # what is missing has no size
                size = Path(self.source).stat().st_size
        known = (os.fsencode(self.source), self.names or b"", str(self.problem or size).encode())
        return hashlib.sha256(b"\0\0".join(known)).digest()


def cut(sources: Sequence[str], files: int = FILES) -> Iterator[Part]:
    """Cut sources into parts, lazily.

    Args:
        sources: image files, folders, shards, addresses of shards, patterns with ``{00..12}``,
            ``{a,b}``, ``*``, ``?`` or ``[...]``, and ``@FILE`` with a source on each line, or
            ``@-`` with them on standard input.
        files: the number of files in a part.

    Raises:
        DataError: a list cannot be read, or a pattern matches nothing.
        OptionError: an address is none of a shard.
    """
    singles: list[bytes] = []
    for source in chain.from_iterable(map(_expanded, sources)):
        if isinstance(source, DataError):
            yield Part("", problem=source)
        elif not _is_single(source):
            if singles:  # what comes before stays before
                yield Part("", b"\0".join(singles))
                singles = []
            yield from _parts_of(source, files)
        else:
            singles.append(os.fsencode(source))
            if len(singles) == files:
                yield Part("", b"\0".join(singles))
                singles = []
    if singles:
        yield Part("", b"\0".join(singles))


def refuse_missing(sources: Sequence[str], parts: Iterable[Part]) -> None:
    """Refuse what costs hours to see late: a source that is not there, or that is named twice.

    Single files of a list may be missing: each has a row that says so.

    Raises:
        DataError: a source that was named, or a shard of a list, does not exist, or two folders or
            shards are the same.
    """
    named = [s for s in sources if not (is_address(s) or s.startswith(LIST) or PATTERN.search(s))]
    whole = (part for part in parts if part.names is None and part.address is None)
    shards = [part.source for part in whole if part.problem is None]
    for path in chain(named, shards):
        if not os.path.exists(path):  # noqa: PTH110 - as above
            raise DataError(f"{path} does not exist", "Check the path")
    refuse_same(Path(source) for source in named if os.path.isdir(source))  # noqa: PTH112
    refuse_same(map(Path, shards))


def _expanded(source: str) -> Iterator[str | DataError]:
    """Yield what a list or a pattern stands for, line by line; an error for shards it lacks."""
    if source.startswith(LIST):
        for line in _lines(STDIN if source == f"{LIST}-" else source[1:]):
            yield from [line] if line.startswith(LIST) else _expanded(line)
    elif is_address(source):
        yield from expand(source)
    elif "://" in source and not os.path.exists(source) and (other := other_address(source)):  # noqa: PTH110 - as above
        raise other
    elif not PATTERN.search(source) or os.path.exists(source):  # noqa: PTH110 - as above
        yield source
    else:
        for name in expand(source):
            found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - as the user wrote it
            if not found:
                raise DataError(f"nothing matches {name}", "Check the pattern and the folder")
            yield from found
            yield from missing_shards(map(Path, found), str(Path(name)))


def _lines(path: str) -> Iterator[str]:
    """Yield the sources of a list.

    Raises:
        DataError: it cannot be read, is no text, or names nothing.
    """
    empty = True
    try:
        with io.BufferedReader(open_file(path, piped=True)) as file:
            for number, line in enumerate(file, 1):
                if b"\0" in line:
                    raise DataError(
                        f"the list {path} is no text in UTF-8: line {number} has a zero byte",
                        "Save it as UTF-8, with a path on each line",
                    )
                name = os.fsdecode(line.removeprefix(BOM if number == 1 else b"").rstrip(b"\r\n"))
                if name != name.strip() and not os.path.lexists(name):
                    name = name.strip()
                if name:
                    empty = False
                    yield name
    except OSError as error:
        raise DataError(
            f"the list {path} cannot be read ({error.strerror})", "Check its path"
        ) from error
    if empty:
        raise DataError(f"the list {path} names nothing", "Write a path on each line")


def _is_single(source: str) -> bool:
    """Tell whether this is one file, and no shard; it may be missing, and is tried as an image."""
    name = os.path.basename(source)  # noqa: PTH119 - of a million lines
    if is_address(source) or shard_format(name):
        return False
    if is_archive(name):
        return not os.path.exists(source)  # noqa: PTH110 - as above
    return not os.path.isdir(source)  # noqa: PTH112 - never raises


def _parts_of(source: str, files: int) -> Iterator[Part]:
    """Cut a folder; a shard is one part."""
    if is_address(source):
        if shard_format(unquote(urlsplit(source).path).rpartition("/")[2]) is None:
            raise OptionError(
                f"{source} is not the address of a {shard_endings()} file",
                "Give addresses of such files; single images must lie in a folder",
            )
        yield Part(source)
        return
    if not os.path.isdir(source):  # noqa: PTH112
        packed = shard_format(os.path.basename(source)) is None  # noqa: PTH119
        yield Part(source, problem=is_packed(source) if packed else None)
        return
    shards = shards_of(source)
    yield from (Part(str(shard)) for shard in shards)
    yield from (Part(source, problem=missing) for missing in missing_shards(shards))
    names = map(os.fsencode, pictures_below(Path(source)))
    count = 0
    try:
        while run := list(islice(names, files)):
            yield Part(source, b"\0".join(run))
            count += len(run)
        if not count and not shards:
            raise nothing_in(Path(source), "Give a folder of images or of shards")
    except DataError as error:
        yield Part(source, problem=error)


def fingerprint(parts: Iterable[Part]) -> str:
    """Return SHA-256 of all parts: another list, or another size of a shard, gives another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.identity)
    return digest.hexdigest()
