"""The JSON file beside each model file: its hash, its facts and the record of its stage."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.errors import StorageError


def sidecar_path(path: Path) -> Path:
    """``fp32.onnx`` has its sidecar in ``fp32.onnx.json``."""
    return path.with_name(path.name + ".json")


def sidecar_record(path: Path, sha256: str) -> dict[str, JsonValue]:
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
