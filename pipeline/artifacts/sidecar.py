"""A sidecar is the JSON file beside a model file: its hash, its facts, its stage's record."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from mobilenet_cli.data.readers.files import read_bytes
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.files import sha256_file, write_atomically
from mobilenet_cli.pipeline.errors import MobilenetError, StorageError
from mobilenet_cli.reports.records.base import printable_values


@dataclass(frozen=True)
class Sidecar:
    """A sidecar says of which file it is, and repeats what that file's stage knew.

    Attributes:
        sha256: hexadecimal SHA-256 of the model file that it describes.
        facts: the facts that are inside that file as well.
        record: what the stage measured, as JSON; empty where it measures nothing.
    """

    sha256: str
    facts: Facts
    record: dict[str, JsonValue]


def sidecar_path(path: Path) -> Path:
    """Return where a model file's sidecar is: ``fp32.onnx.json`` beside ``fp32.onnx``."""
    return path.with_name(path.name + ".json")


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of the model file ``path``.

    Raises:
        StorageError: it cannot be written.
    """
    document = {
        "sha256": sidecar.sha256,
        "facts": sidecar.facts.model_dump(mode="json"),
        "record": sidecar.record,
    }
    write_atomically(sidecar_path(path), (json.dumps(document, indent=2) + "\n").encode())


def read_sidecar(path: Path) -> Sidecar | None:
    """Read the sidecar of the model file ``path``; None where there is none that can be read.

    The sidecar may describe an earlier file of that name, which a kill between the two writes
    leaves behind: compare its ``sha256``.
    """
    try:
        document = json.loads(read_bytes(sidecar_path(path)))
        facts = Facts.model_validate(document["facts"])
        return Sidecar(str(document["sha256"]), facts, dict(document["record"]))
    except (ValueError, KeyError, TypeError, RecursionError, MobilenetError):
        return None


def is_current(path: Path, stage: str, parent: str | None, config: Mapping[str, Any]) -> bool:
    """Tell whether this stage made the file at ``path`` from this parent with these settings.

    It did not where file and sidecar disagree, which is what a kill between the two leaves.
    """
    sidecar = read_sidecar(path)
    if sidecar is None or not path.is_file():
        return False
    made = (sidecar.facts.stage, sidecar.facts.parent, sidecar.facts.config)
    same = made == (stage, parent, json.loads(json.dumps(printable_values(dict(config)))))
    return same and sidecar.sha256 == sha256_file(path)


def refuse_overwrite(path: Path, inputs: Sequence[Path]) -> None:
    """Refuse to write to ``path`` where that would destroy something that we did not make.

    A file with a sidecar of ours may be made again; an input may never be written over.

    Raises:
        StorageError: it is a folder, or writing would destroy an input, a file without a sidecar,
            or somebody's file with a sidecar's name.
    """
    if path.is_dir():
        raise StorageError(f"{path} is a folder", "Give --out the name of a file in it")
    if any(path.resolve() == source.resolve() for source in inputs):
        raise StorageError(f"{path} is the input of this stage", "Choose another --out")
    if path.exists() and not sidecar_path(path).exists():
        raise StorageError(
            f"{path} exists and was not made by this tool",
            "Choose another --out, or move the file away",
        )
    beside = sidecar_path(path)
    if not path.exists() and beside.exists() and read_sidecar(path) is None:
        raise StorageError(
            f"{beside}, where the facts of {path.name} belong, was not made by this tool",
            "Choose another --out, or move the file away",
        )
