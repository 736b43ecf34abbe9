"""Files are written and hashed in one way: whole or not at all."""

import contextlib
import fcntl
import glob
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mobilenet_cli.pipeline.errors import MobilenetError, ModelError, StorageError

if TYPE_CHECKING:
    from pydantic import BaseModel

PACKAGE_MANIFEST, PACKAGE_PROBE, PACKAGE_LABELS = "manifest.json", "probe.bin", "labels.txt"


def is_checkpoint(path: Path) -> bool:
    """Tell by its name whether a model file is a checkpoint of torch's; all others are ONNX."""
    return path.suffix == ".safetensors"


def is_package(path: Path) -> bool:
    """Tell whether a path is the folder of a package, which may stand where a model file may.

    It may be damaged. Other programs call their files manifest.json, too, but have none of ours
    beside it.
    """
    own = (PACKAGE_PROBE, PACKAGE_LABELS)
    return (path / PACKAGE_MANIFEST).is_file() and any((path / file).is_file() for file in own)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def foreign(path: Path, kind: str, fix: str = "Download or export it again") -> Iterator[None]:
    """Turn whatever libraries raise on a file that somebody else made into one sentence.

    Libraries that parse files share no base class of their errors, and on damaged files Python's
    own come through as well, so every exception is taken here, but for ours.

    Args:
        path: the file.
        kind: what it should have been, such as "an ONNX model".
        fix: what the user can do.

    Raises:
        ModelError: names the file and what was said about it.
    """
    try:
        yield
    except MobilenetError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path} cannot be read as {kind} ({reason})", fix) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: readers see the old content or the new, never a part.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to.
    """
    with writing_atomically(path) as file:
        file.write(content)


def write_record(path: Path, record: "BaseModel", indent: int = 2) -> None:
    """Write a record as JSON, whole or not at all.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to.
    """
    write_atomically(path, (record.model_dump_json(indent=indent) + "\n").encode())


@contextlib.contextmanager
def writing_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file that becomes ``path`` at the end, unless an exception comes before.

    A device or a pipe, such as ``/dev/null`` or ``/dev/stdout``, is written to, and not replaced.

    Raises:
        StorageError: the disk is full, the folder cannot be written to, or ``path`` is one.
    """
    if path.is_dir():
        raise StorageError(f"{path} is a folder", "Name a file in it")
    temporary: Path | None = None
    try:
        if _is_device(path):
            with path.open("wb") as device:
                yield device
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        file, temporary = _open_temporary(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except (FileExistsError, NotADirectoryError) as error:
        there = next(folder for folder in path.parents if os.path.lexists(folder))
        raise StorageError(
            f"cannot write {path}, since {there} is no folder",
            "Choose another place; what was there is unchanged",
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror or error})",
            "Free some space or choose a folder you may write to; what was there is unchanged",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _is_device(path: Path) -> bool:
    """Tell whether a path is no ordinary file, or leads to whatever a descriptor has open."""
    system = path.absolute().parts[1:2] in (("dev",), ("proc",))
    return path.exists() and (system or not path.is_file())


def _open_temporary(path: Path) -> tuple[BinaryIO, Path]:
    """Create a temporary file beside ``path`` that no other process has or takes for abandoned.

    Its name is random, since process numbers repeat in containers that share a folder. A lock says
    that its writer lives; whoever comes between creation and lock may have removed the file.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks removes nothing either
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return file, temporary
        file.close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process changes ``path`` under this lock, and then hold it.

    The lock is on a hidden file beside ``path``, since ``path`` itself is replaced; that file stays
    for the next process. On a file system without locks there is none, as without this function.

    Raises:
        StorageError: the folder cannot be written to.
    """
    write_lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = write_lock.open("ab")
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror or error})", "Choose a folder you may write to"
        ) from error
    with file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone_in(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder, made where it is missing, for work that two processes must not do in it.

    On a file system without locks nobody is kept out.

    Args:
        folder: the folder.
        work: what another process does there then, for the error.

    Raises:
        StorageError: another process does this work there now, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder} ({error.strerror or error})",
            "Choose a folder you may write to",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"another process {work} in {folder}",
                "Wait until it has ended, stop it, or choose another --run",
            ) from error
        except OSError:  # there are no locks
            pass
        yield
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Find out before hours of work that their result cannot be written, and leave nothing.

    Raises:
        StorageError: as ``write_atomically`` would.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    probe = path.with_name(f".{path.name}.{secrets.token_hex(8)}.probe")
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)
    for folder in missing:
        with contextlib.suppress(OSError):  # somebody else uses it meanwhile
            folder.rmdir()


def _remove_abandoned(path: Path) -> None:
    """Delete temporary files whose writers died: the kernel has released their locks."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:  # it is gone, or locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink(missing_ok=True)
