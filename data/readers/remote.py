"""Shards at an address are fetched once into a cache, and then are files like any other.

``https://host/train-{000..127}.tar`` names 128 files, ``{train,val}`` two. They are kept in
``$MOBILENET_CLI_CACHE``, or ``mobilenet-cli`` in the user's cache folder: an epoch's order visits
all shards, so what is not kept would be fetched in every epoch.
"""

import difflib
import fcntl
import hashlib
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from mobilenet_cli.pipeline.errors import DataError

ADDRESS = re.compile(r"https?://", re.IGNORECASE)
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
MAX_ADDRESSES = 100_000
ATTEMPTS = 4
AT_ONCE = 4  # downloads
TIMEOUT = 60  # seconds without an answer
LONGEST_WAIT = 60  # seconds, however long the server asks to wait
PIECE = 1 << 20  # bytes
SCHEMES = ("https", "http")
Tick = Callable[[int, int, str], None]  # files that are there, of how many, and a note


def is_address(source: str) -> bool:
    """Tell whether this is the address of files rather than a path."""
    return bool(ADDRESS.match(source))


def other_address(source: str) -> DataError | None:
    """Return the error for the address of a protocol that is not spoken here; None of a path."""
    address = re.fullmatch(r"(\w{2,}):/+(.+)", source)
    if address is None:
        return None
    scheme, rest = address.groups()
    near = difflib.get_close_matches(scheme, SCHEMES, n=1)
    fix = f"Perhaps {near[0]}://{rest} is meant" if near else "Download it, or name it by https://"
    if scheme == "file":
        fix = f"Name the path alone, /{rest}"
    return DataError(f"data '{scheme}://{rest}' is no address that can be fetched", fix)


def local_copy(source: str, tick: Tick = lambda *_: None) -> Path:
    """Fetch what is missing of an address's files, and return the folder that holds them.

    Several processes may ask at once: one fetches, the others wait.

    Args:
        source: an address, with braces for several.
        tick: told, by several threads, of every piece that comes: how many files are there, of
            how many, and what has been fetched.

    Raises:
        DataError: a file cannot be fetched, or the cache cannot be written.
    """
    addresses = list(expand(source))
    folder = cache_folder() / hashlib.sha256(source.encode()).hexdigest()[:16]
    names = file_names(addresses)
    fetched = dict.fromkeys(addresses, 0)  # bytes; each thread counts its own file's
    there: set[str] = set()

    def fetch(address: str) -> None:
        def count(piece: int) -> None:
            fetched[address] += piece
            tick(len(there), len(addresses), f"{sum(fetched.values()) / 1e6:,.0f} MB")

        target = folder / names[address]
        if not target.exists():
            _fetch(address, target, count)
        there.add(address)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock, ThreadPoolExecutor(AT_ONCE) as pool:
            fcntl.flock(lock, fcntl.LOCK_EX)
            list(pool.map(fetch, addresses))
    except OSError as error:
        raise DataError(
            f"{folder} cannot hold the files of {source} ({error.strerror})",
            "Set MOBILENET_CLI_CACHE to a folder with enough space",
        ) from error
    return folder


def is_local_copy(folder: Path) -> bool:
    """Tell whether ``local_copy`` has made a folder, which holds what was named and no more."""
    return folder.parent == cache_folder()


def fetch_file(address: str) -> Path:
    """Fetch one file into the cache, for the caller to delete when it has been read.

    Raises:
        DataError: it cannot be fetched, or the cache cannot be written.
    """
    folder = cache_folder() / "reading" / hashlib.sha256(address.encode()).hexdigest()[:16]
    target = folder / file_names([address])[address]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _fetch(address, target, lambda _: None)
    except OSError as error:
        raise DataError(
            f"{folder} cannot hold {address} ({error.strerror})",
            "Set MOBILENET_CLI_CACHE to a folder with enough space",
        ) from error
    return target


def expand(source: str) -> Iterator[str]:
    """Return all addresses of ``a-{00..12}.tar`` and ``{train,val}.tar``, as in a shell.

    Raises:
        DataError: braces hold neither a range nor a list.
    """
    pieces = BRACES.split(source)  # text and braces in turn
    choices = [_choices(text, source) if i % 2 else [text] for i, text in enumerate(pieces)]
    if math.prod(map(len, choices)) > MAX_ADDRESSES:
        raise DataError(
            f"{source} stands for more than {MAX_ADDRESSES} addresses", "Name fewer shards"
        )
    return ("".join(parts) for parts in itertools.product(*choices))


def _choices(text: str, source: str) -> list[str]:
    span = RANGE.fullmatch(text)
    if span and max(map(len, span.groups())) < 10:
        first, last = int(span[1]), min(int(span[2]), int(span[1]) + MAX_ADDRESSES)
        return [f"{number:0{len(span[1])}}" for number in range(first, last + 1)]
    if "," in text:
        return text.split(",")
    raise DataError(
        f"{{{text}}} in {source} is neither a range nor a list",
        "Write {000..127} or {train,val}",
    )


def cache_folder() -> Path:
    """Return where fetched files are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MOBILENET_CLI_CACHE") or Path(cache) / "mobilenet-cli")


def file_names(addresses: Sequence[str]) -> dict[str, str]:
    """Name the file of each address so that no two share one.

    Where last parts are the same, as in ``{train,validation}/0000.parquet``, the parts before them
    belong to the name, so that it still says which split a file is.
    """
    parts = {
        a: [p for p in unquote(urlsplit(a).path).split("/") if p] or ["file"] for a in addresses
    }
    names = {address: found[-1] for address, found in parts.items()}
    if len(set(names.values())) < len(names):
        names = {address: "-".join(found) for address, found in parts.items()}
    if len(set(names.values())) < len(names):  # they differ in their hosts or queries
        digest = {a: hashlib.sha256(a.encode()).hexdigest()[:8] for a in addresses}
        names = {address: f"{digest[address]}-{name}" for address, name in names.items()}
    return names


def _fetch(address: str, target: Path, count: Callable[[int], None]) -> None:
    """Fetch a file whole or not at all, going on where an earlier attempt stopped."""
    part = target.with_name(f".{target.name}.part")
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            if _fetch_rest(address, part, count):
                part.replace(target)
                part.with_suffix(".version").unlink(missing_ok=True)
                return
            reason = f"it ended after {part.stat().st_size:,} bytes"
        except HTTPError as error:
            reason = " ".join(f"{error.code} {error.reason}".split())
            if error.code == HTTPStatus.TOO_MANY_REQUESTS:
                time.sleep(min(float(_number(error.headers.get("Retry-After"), 1)), LONGEST_WAIT))
            elif error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # it is another file by now
            elif error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                break
        except (ConnectionError, TimeoutError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        except OSError as error:  # URLError of a name that is not found; or the disk, by its errno
            if error.errno is not None:
                raise
            reason = str(error)
    raise DataError(
        f"{address} cannot be fetched ({reason})",
        "Check the address and the network; what has come is kept, and the next attempt goes on",
    )


def _fetch_rest(address: str, part: Path, count: Callable[[int], None]) -> bool:
    """Append what is missing of a file, counting bytes, and tell whether it is complete.

    The server is asked for the rest only of the version that was begun (If-Range, RFC 9110,
    section 13.1.5), and sends everything where it has another by now.
    """
    version = part.with_suffix(".version")
    have = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": version.read_text()} if have else {}
    request = Request(address, headers=headers)  # noqa: S310 - is_address allows only http(s)
    with urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310 - only http(s)
        if response.headers.get_content_type() == "text/html":
            raise HTTPException("it is a page of HTML, not a file of images")
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        begins = response.headers.get("Content-Range", "").partition("-")[0].split()
        if resumed and begins[-1:] != [str(have)]:
            part.unlink(missing_ok=True)
            raise HTTPException("the server sent another range than was asked for")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if tag:
            version.write_text(tag)
        length = response.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
            while piece := response.read(PIECE):
                file.write(piece)
                count(len(piece))
            size = file.tell()
    if length is None:
        return bool(response.chunked)  # else nothing says whether this is the end
    return size == _number(length, -1) + (have if resumed else 0)


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() else otherwise
