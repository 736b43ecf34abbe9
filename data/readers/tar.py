"""The members of a tar file are found in order, and beyond damage: what is lost is said.

Formats: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; long names and sparse
files as in the GNU tar manual, "Basic Tar Format". Contents are not read, only headers, whose size
is limited: a header that claims gigabytes takes no memory.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mobilenet_cli.pipeline.errors import DataError

BLOCK = tarfile.BLOCKSIZE
END_MARK = bytes(BLOCK)
MAGIC, MAGIC_AT = b"ustar", 257
PIECE = 1 << 20  # bytes that are searched at a time
LONGEST_HEADER = 1 << 20  # bytes of a long name or of a pax header
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL = b"L", b"K", b"x", b"g"
ABOUT_THE_NEXT = (LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL)
SPARSE = b"S"
REGULAR = (b"0", b"\0", b"7")
WITHOUT_CONTENT = tuple(b"%d" % kind for kind in range(1, 7))  # links, devices, folders, pipes
MORE_MAP_AT, MORE_MAP_BLOCK_AT = 482, 504  # in an old GNU sparse header, and in what follows it
UNPACK = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"(\xb5/\xfd": "unzstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A member is a file within a tar file.

    Attributes:
        name: its path; bytes that are not UTF-8 are surrogates (PEP 383).
        offset: where its content begins, in bytes.
        size: the length of its content in bytes.
    """

    name: str
    offset: int
    size: int


def members(path: Path, file: BinaryIO) -> Iterator[Member | DataError]:
    """Yield the regular files of an open tar file, and an error in place of what is lost."""
    yield from _Walk(path, file).members()


class _Walk:
    """A walk goes from header to header."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.end = file.seek(0, os.SEEK_END)
        self.last = "its beginning"
        self.long: dict[str, str] = {}  # what a preceding header says of the next member

    def members(self) -> Iterator[Member | DataError]:
        position = 0
        while True:
            block = self._bytes(position, BLOCK)
            if not block:
                yield self._lost(f"ends after {self.last} without an end mark; it may be cut off")
                return
            if block == END_MARK:
                there = self._next_header(position + BLOCK)
                if there is None:
                    return
                yield self._lost(f"has an end mark after {self.last}, and goes on after it")
                position = there
                continue
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                size = self._size(info)
            except (tarfile.HeaderError, ValueError):
                there = self._next_header(position + 1)
                if there is None:
                    yield self._unreadable(block)
                    return
                yield self._lost(f"has a damaged header after {self.last}, whose file is lost")
                self.long = {}
                position = there
                continue
            content = position + BLOCK
            if info.type == SPARSE:
                content = self._after_sparse_map(block, content)
            if content + size > self.end:
                yield self._lost(f"is cut off within {self.long.get('path', info.name)}")
                return
            position = content + -(-size // BLOCK) * BLOCK
            if info.type in ABOUT_THE_NEXT:
                if size > LONGEST_HEADER:
                    yield self._lost(f"has a header of {size:,} bytes after {self.last}")
                else:
                    self._note(info.type, content, size)
                continue
            name, sparse = self.long.get("path", info.name), any("sparse" in k for k in self.long)
            self.long, self.last = {}, name
            if info.type == SPARSE or (sparse and info.type in REGULAR):
                yield self._lost(f"keeps {name} as a sparse file, which is not read")
            elif info.type in REGULAR:
                yield Member(name, content, size)

    def _note(self, kind: bytes, content: int, size: int) -> None:
        """Remember what a header says of the next member."""
        if kind == LONG_NAME:
            self.long["path"] = _text(self._bytes(content, size).split(b"\0")[0])
        elif kind == PAX:
            self.long |= _pax_records(self._bytes(content, size))

    def _size(self, info: tarfile.TarInfo) -> int:
        """Return the length of a member's content.

        Raises:
            ValueError: no length is possible.
        """
        if info.type in WITHOUT_CONTENT:
            return 0
        text = "" if info.type in (PAX, PAX_GLOBAL) else self.long.get("size", "")
        size = info.size
        if text:
            if not (text.isascii() and text.isdecimal() and len(text) < 20):
                raise ValueError(text)
            size = int(text)
        if size < 0:
            raise ValueError(size)
        return size

    def _after_sparse_map(self, block: bytes, position: int) -> int:
        more = block[MORE_MAP_AT]
        while more and position < self.end:
            more = self._bytes(position + MORE_MAP_BLOCK_AT, 1) != b"\0"
            position += BLOCK
        return position

    def _next_header(self, position: int) -> int | None:
        """Find the next header with a right checksum, wherever it begins; holes are skipped."""
        while position < self.end:
            try:
                position = max(position, os.lseek(self.file.fileno(), position, os.SEEK_DATA))
            except OSError:
                return None  # only a hole is left
            piece = self._bytes(position, PIECE + BLOCK)
            at = piece.find(MAGIC, MAGIC_AT)
            while at >= 0:
                block = piece[at - MAGIC_AT : at - MAGIC_AT + BLOCK]
                try:
                    tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                    return position + at - MAGIC_AT
                except tarfile.HeaderError:
                    at = piece.find(MAGIC, at + 1)
            position += PIECE
        return None

    def _bytes(self, position: int, size: int) -> bytes:
        return os.pread(self.file.fileno(), size, position)

    def _unreadable(self, block: bytes) -> DataError:
        for magic, program in UNPACK.items():
            if block.startswith(magic):
                return DataError(
                    f"{self.path} is compressed, so images cannot be read singly",
                    f"Unpack it with '{program} < {self.path} > unpacked.tar'",
                )
        what = "is no tar file" if self.last == "its beginning" else "is damaged"
        return self._lost(f"{what}: nothing after {self.last} can be read")

    def _lost(self, what: str) -> DataError:
        return DataError(f"{self.path} {what}", "Download it again, or pack it again")


def _pax_records(content: bytes) -> dict[str, str]:
    """Return the records of a header, ``length key=value`` and a line end, on a file's place."""
    found: dict[str, str] = {}
    while content:
        digits, _, _ = content[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[len(digits) + 1 : length]
        key, equals, value = record.rstrip(b"\n").partition(b"=")
        if not equals:
            break
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            found[_text(key)] = _text(value)
        content = content[length:]
    return found


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
