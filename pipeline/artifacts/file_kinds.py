"""What a file is that cannot be used as a model, told by its content, and where it belongs."""

import difflib
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY
from mobilenet_cli.pipeline.errors import ModelError

Role = Literal["weights", "images", "other"]
HEAD_BYTES = 4096
IMPORT = "Take it into a run first with 'mobilenet-cli import {path}'"
PREDICT = "Classify it with 'mobilenet-cli predict {path}'"
DATA = "Pass it as --data, where a command takes images"
NO_MODEL = "Name an .onnx or .safetensors file"


@dataclass(frozen=True)
class FileKind:
    """A kind of file that people point at.

    Attributes:
        name: the kind, as the end of a sentence that begins with the file's name.
        fix: what to do with such a file; ``{path}`` stands for it.
        role: whether it holds weights, images, or neither.
    """

    name: str
    fix: str
    role: Role = "other"


TENSORFLOW_LITE = FileKind(
    "a TensorFlow Lite model",
    "Convert it with 'python -m tf2onnx.convert --tflite {path} --output model.onnx' and import it",
    "weights",
)
HDF5 = FileKind("an HDF5 file of Keras", IMPORT, "weights")
TORCH = FileKind("a file of torch", IMPORT, "weights")
SAFETENSORS = FileKind("a safetensors file", IMPORT, "weights")
CHECKPOINT = FileKind(
    "a checkpoint", "Export it first with 'mobilenet-cli export --checkpoint {path}'", "weights"
)
FROZEN_GRAPH = FileKind("a frozen graph of TensorFlow", IMPORT, "weights")
IMAGE = FileKind("an image", PREDICT, "images")
SHARD = FileKind("a tar archive", DATA + "; if weights are in it, unpack and import them", "images")
TEXT_ONNX = FileKind(
    "an ONNX model written as text",
    "Convert it with onnx.save(onnx.load('{path}'), 'model.onnx')",
    "weights",
)
TEXT_GRAPH = FileKind(
    "a protocol buffer written as text",
    "Import the checkpoint or the binary frozen graph that belongs to it",
    "weights",
)
# The first bytes of files, and from which position on.
HEADS: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (4, b"TFL3", TENSORFLOW_LITE),
    (8, b'{"', SAFETENSORS),
    *((0, b"\x80" + bytes([version]), TORCH) for version in range(2, 6)),
    (257, b"ustar", SHARD),
    (0, b"PAR1", FileKind("a parquet file", DATA, "images")),
    (0, b"\xff\xd8\xff", IMAGE),
    (0, b"\x89PNG", IMAGE),
    (0, b"GIF8", IMAGE),
    (8, b"WEBP", IMAGE),
    (0, b"II*\0", IMAGE),
    (0, b"MM\0*", IMAGE),
    (4, b"ftypheic", IMAGE),
    (4, b"ftypavif", IMAGE),
    (0, b"\x1f\x8b", FileKind("compressed by gzip", "Unpack it with gunzip")),
    (0, b"\x93NUMPY", FileKind("a NumPy array", NO_MODEL)),
    (0, b"%PDF", FileKind("a PDF document", NO_MODEL)),
    (
        0,
        b"version https://git-lfs",
        FileKind("a pointer of Git LFS, not the file itself", "Fetch it with 'git lfs pull'"),
    ),
)


def kind_of(path: Path) -> FileKind | None:
    """Tell what a file is by its content; None for an ONNX file, and for what is not known.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ModelError(
            f"{path} is not readable ({error.strerror})", "Check the path and its permissions"
        ) from error
    if not head:
        return FileKind("empty", "Make it again, or download it again")
    for position, magic, kind in HEADS:
        if head.startswith(magic, position):
            ours = kind is SAFETENSORS and f'"{METADATA_KEY}":'.encode() in head
            return CHECKPOINT if ours else kind
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    return _text_kind(path, head)


def _zip_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return FileKind("a zip archive that is cut off or damaged", "Download it again")
    if any(name.endswith("data.pkl") for name in names):
        return TORCH
    if "model.weights.h5" in names:
        return FileKind(
            "a .keras archive",
            "Unpack it with unzip, and import its model.weights.h5",
            "weights",
        )
    return FileKind("a zip archive", "Unpack it, and name a file that was in it")


def _text_kind(path: Path, head: bytes) -> FileKind | None:
    try:
        text = head.decode(errors="strict" if len(head) < HEAD_BYTES else "ignore").lstrip()
    except UnicodeDecodeError:
        text = ""
    if not text or re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return FROZEN_GRAPH if head.startswith(b"\n") and path.suffix == ".pb" else None
    if text.startswith(("{", "[")):
        model = path.with_suffix("")
        if path.suffix == ".json" and model.is_file():
            return FileKind(f"what is known about {model}, as JSON", f"Name {model} itself")
        return FileKind("a JSON document", NO_MODEL)
    if text[:15].lower().startswith(("<!doctype html", "<html")):
        return FileKind("a web page", "Download the file again, by the address of its raw content")
    if re.match(r"(\s*#.*\n)*\s*\w+\s*[:{<]", text):
        return TEXT_ONNX if "ir_version" in text or "opset_import" in text else TEXT_GRAPH
    return FileKind("a text file", NO_MODEL)


def not_a_model(path: Path, reason: str, fix: str, tried: Collection[FileKind] = ()) -> ModelError:
    """Return the error for a file that cannot be read as a model.

    Args:
        path: the file.
        reason: what is wrong, where its content does not tell what it is.
        fix: what to do then.
        tried: the kinds that it could not be read as; a damaged file of them gets ``reason``.

    Raises:
        ModelError: it cannot be read at all.
    """
    kind = kind_of(path)
    if kind is None or kind in tried:
        return ModelError(reason, fix)
    return ModelError(f"{path} is {kind.name}", kind.fix.format(path=path))


def no_such_file(path: Path, fix: str) -> ModelError:
    """Return the error for a path that is no file; it names files that may be meant.

    Args:
        path: the path, of a folder or of nothing.
        fix: what to do where no file is near.
    """
    if (address := re.fullmatch(r"(\w{2,}):/+(.+)", str(path))) is not None:
        return ModelError(
            f"{address[1]}://{address[2]} is an address, and models are read from files",
            "Download it, and give the path of the file",
        )
    if path.is_dir():
        models = sorted(f for ending in ("onnx", "safetensors") for f in path.glob(f"*.{ending}"))
        cure = f"Name a model file in it, such as {models[-1]}" if models else NO_MODEL
        if (path / "config.json").is_file() or list(path.glob("*.index")):
            cure = IMPORT.format(path=path)
        return ModelError(f"{path} is a folder, not a model file", cure)
    if path.exists():
        return ModelError(f"{path} is no file but a pipe or a device", "Give a model file")
    folder = path.parent if path.parent.is_dir() else None
    names = [file.name for file in folder.iterdir() if file.is_file()] if folder else []
    near = difflib.get_close_matches(path.name, names, n=1)
    cure = f"Perhaps {path.with_name(near[0])} is meant" if near else fix
    return ModelError(f"{path} does not exist", cure)
