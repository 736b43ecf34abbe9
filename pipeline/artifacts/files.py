"""Files are written and hashed in one way: whole or not at all."""

import contextlib
import hashlib
import os
from pathlib import Path

from mobilenet_cli.pipeline.errors import StorageError


def is_checkpoint(path: Path) -> bool:
    """Tell by its name whether a model file is a checkpoint of torch's; all others are ONNX."""
    return path.suffix == ".safetensors"


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: readers see the old content or the new, never a part.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror or error})",
            "Free some space or choose a folder you may write to; what was there is unchanged",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Find out before hours of work that their result cannot be written.

    Raises:
        StorageError: as ``write_atomically`` would.
    """
    probe = path.with_name(f".{path.name}.probe")
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Delete temporary files of processes that were killed while writing ``path``."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        if not Path(f"/proc/{pid}").exists():
            leftover.unlink(missing_ok=True)
