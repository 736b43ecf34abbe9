"""Weights of other programs are read far enough to say what they are and which command takes them.

Layout of TensorFlow Lite files: tensorflow/lite/schema/schema.fbs; of FlatBuffers in general:
flatbuffers.dev, "FlatBuffer Internals".
"""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mobilenet_cli.models import find_architecture
from mobilenet_cli.pipeline.artifacts.file_kinds import TENSORFLOW_LITE, FileKind
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.errors import MobilenetError, ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import read_weights
from mobilenet_cli.pipeline.importing.import_weights import ImportConfig, read_source
from mobilenet_cli.reports.records.inspection import InspectRecord

# By the numbers of TensorType.
LITE_TYPES = (
    *("float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64"),
    *("int8", "float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16"),
    *("int4", "bfloat16"),
)


def inspect_weights(path: Path, kind: FileKind) -> InspectRecord:
    """Read a file of another program.

    Args:
        path: the file.
        kind: what its content shows that it is.

    Raises:
        ModelError: it is damaged, or a package that reads it is missing.
    """
    if kind is TENSORFLOW_LITE:
        return _lite(path)
    count = sum(tensor.size for tensor in read_weights(path).tensors.values())
    known: dict[str, object] = {"taken_by": f"mobilenet-cli import {path}", "parameters": count}
    try:
        imported = read_source(str(path), ImportConfig())
    except MobilenetError as error:  # what keeps 'import' from taking the file is shown
        option = error.fix.startswith("Pass --")
        known["taken_by"] = f"{known['taken_by']}, but: {error}" if option else f"none: {error}"
    else:
        spec, side = imported.facts.model, imported.facts.input.resolution
        assert spec is not None  # what is imported from weights is a network of ours
        known |= {
            "parameters": imported.record.parameters,
            "multiply_adds": find_architecture(spec.architecture).multiply_adds(spec, side),
            "facts": {
                "stage": f"another program ({imported.record.layout})",
                **imported.facts.model_dump(mode="json", include={"model", "input"}),
            },
        }
    form = kind.name.removeprefix("a ").removeprefix("an ")
    return _record(path, format=form, weight_types={"float": count}, **known)


def _record(path: Path, **found: object) -> InspectRecord:
    return InspectRecord.model_validate(
        {
            "model": str(path),
            "sha256": sha256_file(path),
            "size_mb": path.stat().st_size / 2**20,
            **found,
        }
    )


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer is a position from which its fields are found.

    Attributes:
        data: the whole file.
        at: where the table starts, in bytes.
    """

    data: bytes
    at: int

    def number(self, form: str, at: int) -> int:
        """Read one number in ``struct``'s form."""
        return int(struct.unpack_from(f"<{form}", self.data, at)[0])

    def field(self, index: int) -> int | None:
        """Return where a field is; None where it is left out."""
        offsets = self.at - self.number("i", self.at)
        place = 4 + 2 * index
        offset = self.number("H", offsets + place) if place < self.number("H", offsets) else 0
        return self.at + offset if offset else None

    def vector(self, index: int) -> tuple[int, int]:
        """Return where the elements of a field start, and how many there are."""
        at = self.field(index)
        if at is None:
            return 0, 0
        start = at + self.number("I", at)
        return start + 4, self.number("I", start)

    def tables(self, index: int) -> "Iterator[_Table]":
        """Return the tables in a field."""
        start, count = self.vector(index)
        for at in range(start, start + 4 * count, 4):
            yield _Table(self.data, at + self.number("I", at))

    def integers(self, index: int) -> list[int]:
        """Return the 32-bit numbers in a field."""
        start, count = self.vector(index)
        return list(struct.unpack_from(f"<{count}i", self.data, start))

    def text(self, index: int) -> str:
        """Return the text in a field."""
        start, count = self.vector(index)
        return self.data[start : start + count].decode()


def _lite(path: Path) -> InspectRecord:
    """Read the main graph of a TensorFlow Lite model."""
    try:
        data = path.read_bytes()
        model = _Table(data, struct.unpack_from("<I", data)[0])
        graph = next(model.tables(2))
        held = [buffer.vector(0)[1] for buffer in model.tables(4)]
        tensors = list(graph.tables(0))
        types = Counter[str]()
        for tensor in tensors:
            if held[_scalar(tensor, 2, "I")]:
                types[_lite_type(tensor)] += prod(tensor.integers(0))
        inputs, outputs = (
            tuple(_described(tensors[index]) for index in graph.integers(field)) for field in (1, 2)
        )
    except (struct.error, IndexError, StopIteration, UnicodeDecodeError, OSError) as error:
        raise ModelError(
            f"{path} is a TensorFlow Lite model that is cut off or damaged", "Download it again"
        ) from error
    return _record(
        path,
        format="TensorFlow Lite model",
        inputs=inputs,
        outputs=outputs,
        parameters=sum(types.values()),
        weight_types=dict(types),
        taken_by=(f"none: {TENSORFLOW_LITE.fix.format(path=path)}"),
    )


def _scalar(table: _Table, index: int, form: str) -> int:
    at = table.field(index)
    return 0 if at is None else table.number(form, at)


def _lite_type(tensor: _Table) -> str:
    return LITE_TYPES[_scalar(tensor, 1, "b")]


def _described(tensor: _Table) -> str:
    shape = " x ".join(map(str, tensor.integers(0)))
    return f"{tensor.text(3)}: {shape} {_lite_type(tensor)}"
