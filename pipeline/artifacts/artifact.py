"""A file that knows where it came from, and the one way in which files are written."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, JsonValue, ValidationError

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.files import sha256_file, write_atomically
from mobilenet_cli.pipeline.artifacts.sidecar import sidecar_path, sidecar_record
from mobilenet_cli.pipeline.errors import ModelError


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
    return Artifact(path, sha256, facts, sidecar_record(path, sha256))


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
    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    return {entry.key: entry.value for entry in load_onnx(path).metadata_props}
