"""A file that knows where it came from, and the one way in which files are written."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import ModelError, StorageError

METADATA_KEY = "mobilenet_cli"


class Facts(BaseModel):
    """What travels inside a model file, so that the file alone is enough to use it.

    Attributes:
        stage: which stage made the file.
        parent: SHA-256 of the file it was made from; None at the start of a chain.
        config: the stage's settings.
        versions: of the libraries that took part.
        model: the network, where it is one of ours.
        input: how an image becomes the input.
        classes: identifier of each output.
        names: what people call each class, where the identifiers are codes such as synsets.
        data: the data set the weights were trained on, as ``open_dataset`` takes it; None if
            unknown.
        grids: that the weights were trained on (``train --qat``), of each tensor that becomes
            codes, in the order of computation; empty otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1
    stage: str
    parent: str | None = None
    config: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    model: ModelSpec | None = None
    input: InputSpec
    classes: tuple[str, ...]
    names: tuple[str, ...] = ()
    data: str | None = None
    grids: tuple[Grid, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A model file with its facts, and what its stage measured when it made it.

    The facts are stored twice: inside the file, and beside it in ``<file>.json`` together with
    the file's hash and the stage's record.
    """

    path: Path
    sha256: str
    facts: Facts
    record: dict[str, JsonValue] = field(default_factory=dict)

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the artifact."""
        return sidecar_path(self.path)


def sidecar_path(path: Path) -> Path:
    """``fp32.onnx`` has its sidecar in ``fp32.onnx.json``."""
    return path.with_name(path.name + ".json")


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions of ours and the named distributions; absent ones are left out."""
    found = {}
    for name in ("mobilenet-cli", *distributions):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
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


def save_artifact(
    path: Path, content: bytes, facts: Facts, record: BaseModel | None = None
) -> Artifact:
    """Write a model file whose facts are already embedded in ``content``, and its sidecar.

    The model comes last: where it is new everything is there, and a kill between the two leaves
    the old model, which its sidecar no longer describes, so the stage runs again.
    """
    artifact = Artifact(
        path,
        hashlib.sha256(content).hexdigest(),
        facts,
        record.model_dump(mode="json") if record else {},
    )
    document = {
        "sha256": artifact.sha256,
        "facts": facts.model_dump(mode="json"),
        "record": artifact.record,
    }
    write_atomically(artifact.sidecar, (json.dumps(document, indent=2) + "\n").encode())
    write_atomically(path, content)
    return artifact


def load_artifact(path: Path, input_spec: InputSpec | None = None) -> Artifact:
    """Read the facts inside a model file, and its record from the sidecar if it is this file's.

    Args:
        path: an ONNX or safetensors file.
        input_spec: the preprocessing of a model that was not made by this pipeline.

    Raises:
        ModelError: no such file, not a model, or a foreign model without ``input_spec``.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist", "Check the path, or run the stage that makes it")
    metadata = _checkpoint_metadata(path) if path.suffix == ".safetensors" else _onnx_metadata(path)
    sha256 = sha256_file(path)
    if METADATA_KEY not in metadata:
        if input_spec is not None:
            return Artifact(path, sha256, Facts(stage="foreign", input=input_spec, classes=()))
        raise ModelError(
            f"{path} does not say how its input is prepared, so it was not made by this tool",
            "Take it into a run first with 'mobilenet-cli import'",
        )
    try:
        facts = Facts.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        raise ModelError(
            f"the facts inside {path} cannot be read ({error.error_count()} errors)",
            "Make the file again with this version",
        ) from error
    return Artifact(path, sha256, facts, _sidecar_record(path, sha256))


def _sidecar_record(path: Path, sha256: str) -> dict[str, JsonValue]:
    """The record in the sidecar, empty unless the sidecar describes exactly this file."""
    try:
        document: dict[str, Any] = json.loads(sidecar_path(path).read_bytes())
        return dict(document["record"]) if document["sha256"] == sha256 else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def is_current(path: Path, stage: str, parent: str | None, config: dict[str, Any]) -> bool:
    """Was the file at ``path`` made by this stage from this parent with this configuration?

    False as well when file and sidecar disagree, which is what a kill between the two leaves.
    """
    try:
        document = json.loads(sidecar_path(path).read_bytes())
        facts = document["facts"]
        made = (facts["stage"], facts["parent"], facts["config"])
        same = made == (stage, parent, json.loads(json.dumps(config)))
        return bool(same and document["sha256"] == sha256_file(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _checkpoint_metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable safetensors file ({error})",
            "Make it again with train or import",
        ) from error


def _onnx_metadata(path: Path) -> dict[str, str]:
    from mobilenet_cli.pipeline.onnx_file import load_onnx

    return {entry.key: entry.value for entry in load_onnx(path).metadata_props}


def refuse_overwrite(path: Path, inputs: Sequence[Path]) -> None:
    """Raise StorageError when writing to ``path`` would destroy something we did not make.

    A file with a sidecar of ours may be made again; an input may never be written over.
    """
    if any(path.resolve() == source.resolve() for source in inputs):
        raise StorageError(f"{path} is the input of this stage", "Choose another --out")
    if path.exists() and not sidecar_path(path).exists():
        raise StorageError(
            f"{path} exists and was not made by this tool",
            "Choose another --out, or move the file away",
        )
