"""An artifact is a model file that knows where it came from; it is written and read here."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic

from pydantic import BaseModel, ValidationError
from typing_extensions import TypeVar

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.readers.files import utf8_path
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts, versions
from mobilenet_cli.pipeline.artifacts.file_kinds import (
    CHECKPOINT,
    SAFETENSORS,
    no_such_file,
    not_a_model,
)
from mobilenet_cli.pipeline.artifacts.files import is_checkpoint, sha256_file, write_atomically
from mobilenet_cli.pipeline.artifacts.sidecar import (
    Sidecar,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from mobilenet_cli.pipeline.errors import MobilenetError, ModelError, StorageError

MAX_TENSORS = 20_000  # of a checkpoint; networks here have some hundred
# What a stage measured. A function that takes any artifact asks for ``Artifact`` alone.
R = TypeVar("R", covariant=True, default=object)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Artifact(Generic[R]):
    """An artifact is a model file with its facts, and with the record of the stage that made it.

    The facts are stored twice: inside the file, and beside it in ``<file>.json`` together with
    the file's hash and the stage's record.

    Attributes:
        path: the ONNX or safetensors file.
        sha256: hexadecimal SHA-256 of its content.
        facts: what the file says about itself.
        record: what its stage measured; None where the file was loaded without its record.
    """

    path: Path
    sha256: str
    facts: Facts
    record: R

    @property
    def is_checkpoint(self) -> bool:
        """Tell whether torch runs the file; all others are ONNX."""
        return is_checkpoint(self.path)

    def as_document(self: "Artifact[BaseModel]") -> dict[str, Any]:
        """Return the record as JSON, with the file's name."""
        return {"model": str(self.path), **self.record.model_dump(mode="json")}

    def derived(self, stage: str, config: Any, *libraries: str) -> Facts:
        """Return the facts of a file that a stage makes of this one.

        Args:
            stage: the stage's name.
            config: its settings, a dataclass.
            libraries: the distributions that take part.
        """
        return self.facts.model_copy(
            update={
                "stage": stage,
                "parent": self.sha256,
                "config": json.loads(json.dumps(asdict(config))),  # lists in place of tuples
                "versions": versions(*libraries),
            }
        )


def save_artifact(path: Path, content: bytes, facts: Facts, record: M) -> Artifact[M]:
    """Write a model file whose facts are already embedded in ``content``, and its sidecar.

    The model comes last: where it is new everything is there, and a kill between the two leaves
    the old model, which its sidecar no longer describes, so the stage runs again. Where the model
    cannot be written, both files are as they were.

    Raises:
        StorageError: one of the two cannot be written.
    """
    artifact = Artifact(path, hashlib.sha256(content).hexdigest(), facts, record)
    beside = sidecar_path(path)
    earlier = beside.read_bytes() if beside.is_file() else None
    write_sidecar(path, Sidecar(artifact.sha256, facts, record.model_dump(mode="json")))
    try:
        write_atomically(path, content)
    except BaseException:
        with contextlib.suppress(OSError, StorageError):  # what is told is the first error
            if earlier is None:
                beside.unlink()
            else:
                write_atomically(beside, earlier)
        raise
    return artifact


def load_artifact(path: Path, input_spec: InputSpec | None = None) -> Artifact[None]:
    """Read the facts inside a model file.

    Args:
        path: an ONNX or safetensors file.
        input_spec: the preprocessing of a model that was not made by this pipeline.

    Raises:
        ModelError: no such file, not a model, or a foreign model without ``input_spec``.
    """
    if not path.is_file():
        raise no_such_file(path, "Check the path, or run the stage that makes it")
    metadata = _checkpoint_metadata(path) if is_checkpoint(path) else _onnx_metadata(path)
    sha256 = sha256_file(path)
    if METADATA_KEY not in metadata:
        if input_spec is not None:
            facts = Facts(stage="foreign", input=input_spec, classes=())
            return Artifact(path, sha256, facts, None)
        raise ModelError(
            f"{path} does not say how its input is prepared, so it was not made by this tool",
            "Take it into a run first with 'mobilenet-cli import'",
        )
    try:
        facts = Facts.model_validate_json(metadata[METADATA_KEY])
    except (ValidationError, MobilenetError) as error:
        reason = (
            error.what if isinstance(error, MobilenetError) else f"{error.error_count()} errors"
        )
        raise ModelError(
            f"the facts inside {path} cannot be read ({reason})",
            "Make the file again with this version",
        ) from error
    return Artifact(path, sha256, facts, None)


def load_with_record(path: Path, kind: type[M]) -> Artifact[M]:
    """Read a model file together with the record of its stage.

    Args:
        path: an ONNX or safetensors file.
        kind: the type of the record that its stage leaves.

    Raises:
        ModelError: the file cannot be read, or its sidecar is missing, is of another file, or
            holds another kind of record.
    """
    artifact = load_artifact(path)
    if (record := record_beside(artifact, kind)) is not None:
        return Artifact(path, artifact.sha256, artifact.facts, record)
    raise ModelError(
        f"{path} has no record of what its stage measured beside it",
        f"Make it again with 'mobilenet-cli {artifact.facts.stage}'",
    )


def record_beside(artifact: Artifact, kind: type[M]) -> M | None:
    """Return the record of the stage that made a file; None where the sidecar has none of it."""
    sidecar = read_sidecar(artifact.path)
    if sidecar is None or sidecar.sha256 != artifact.sha256:
        return None
    try:
        return kind.model_validate(sidecar.record)
    except ValidationError:
        return None


def _checkpoint_metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with utf8_path(path) as name, safe_open(name, framework="numpy") as file:
            if len(file.keys()) > MAX_TENSORS:
                raise ModelError(f"{path} has {len(file.keys())} tensors", "Check what it is")
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise not_a_model(
            path,
            f"{path} is not a readable safetensors file ({error})",
            "Make it again with train or import",
            (CHECKPOINT, SAFETENSORS),
        ) from error


def _onnx_metadata(path: Path) -> dict[str, str]:
    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    return {entry.key: entry.value for entry in load_onnx(path, branches=True).metadata_props}
