"""These records say what a file holds, and what is wrong with an installation."""

from typing import Literal

from pydantic import AliasChoices, ConfigDict, Field, JsonValue

from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.latency import MachineRecord


class Finding(Record):
    """A finding is one thing that ``doctor`` looked at.

    Attributes:
        subject: what was looked at.
        status: ``ok``; ``note`` limits speed or choice; ``problem`` keeps a command from working.
        what: the finding, a sentence without a full stop.
        fix: the command or action that mends it; empty where nothing needs to be done.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    subject: str
    status: Literal["ok", "note", "problem"]
    what: str
    fix: str = Field(
        default="", validation_alias=AliasChoices("fix", "mend"), serialization_alias="mend"
    )


class DoctorRecord(Record):
    """A doctor's record is what ``doctor`` found, and the machine it found it on."""

    machine: MachineRecord
    findings: tuple[Finding, ...]


class LayerSize(Record):
    """A layer's size is what a file of training holds of it, in bytes.

    Attributes:
        name: of the module, such as ``layers.3``.
        parameters: that training adjusts.
        multiply_adds: for one image; None where the layer or the image's size is not known.
        weights: of the network, statistics of BatchNorm included; ``average`` their moving
            average; ``optimizer`` what the optimizer remembers of each.
    """

    name: str
    parameters: int
    multiply_adds: int | None
    weights: int
    average: int = 0
    optimizer: int = 0


class InspectRecord(Record):
    """An inspection is what one model file says and holds.

    Attributes:
        model: path; ``sha256`` its hash, ``size_mb`` its size in MiB.
        format: ``ONNX``, ``safetensors``, ``training state``, or what another program calls it.
        opset: of the default ONNX domain; None for a checkpoint, as are inputs and outputs.
        inputs: shape of each input, such as ``input: N x 3 x 224 x 224 float32``.
        outputs: likewise.
        parameters: stored numbers that training would have adjusted.
        multiply_adds: of convolutions and matrix products for one image.
        operators: nodes by type in the graph as written; empty for a checkpoint.
        weight_types: number of stored values by type.
        facts: what the file says about itself; None for a foreign file.
        provenance: the files it was made from, newest first, as far as they lie beside it.
        layers: of a checkpoint or training state, in the order of the network.
        stored_bytes: of weights, average, optimizer and everything else, which add up to the file;
            empty for ONNX.
        taken_by: the command that takes a foreign file, or why none does; empty for ours.
    """

    model: str
    sha256: str
    size_mb: float
    format: str
    opset: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    parameters: int
    multiply_adds: int | None = None
    operators: dict[str, int] = Field(default={})
    weight_types: dict[str, int]
    facts: dict[str, JsonValue] | None = None
    provenance: tuple[str, ...] = ()
    layers: tuple[LayerSize, ...] = ()
    stored_bytes: dict[str, int] = Field(default={})
    taken_by: str = ""
