"""Answers become rows of parquet files: one for each image, also where there is only a reason."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.parts import Part
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.files import foreign, writing_atomically
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.runtime.predictor import refuse_not_finite, top_classes
from mobilenet_cli.pipeline.runtime.stream import Outcome

Kind = Literal["classes", "embedding", "logits", "boxes"]
ROW_GROUP = 4096  # rows that are in memory until they are written
ERRORS = b"errors"  # in the metadata of a part: how many of its rows are reasons


@dataclass(frozen=True, slots=True)
class Row:
    """A row is what is kept of one image.

    Attributes:
        values: probabilities of the classes in ``classes``, or features, or logits; float32.
        classes: indices of the most probable classes, or of the classes of boxes, most probable
            first; empty of other kinds.
        boxes: float32 [n, 4], left, top, right, bottom in pixels of the upright image; of a
            detector alone.
    """

    values: NDArray[np.float32]
    classes: tuple[int, ...] = ()
    boxes: NDArray[np.float32] | None = None

    def corners(self) -> list[list[float]]:
        """Return the boxes as numbers."""
        return [] if self.boxes is None else self.boxes.tolist()


def row_of(
    sample: Sample, output: NDArray[np.float32], kind: Kind, top: int, independent: bool
) -> Row:
    """Keep what is asked for of a model's output for one image.

    Raises:
        NotFiniteError: the output is NaN or infinite.
    """
    refuse_not_finite(output, sample.key)
    if kind != "classes":
        return Row(output)
    classes, probabilities = top_classes(output, top, independent)
    return Row(np.array(probabilities, np.float32), tuple(classes))


def schema(kind: Kind, facts: Facts) -> Any:
    """Return the columns of a part, with the names of the classes in the order of the logits."""
    import pyarrow as pa

    text, floats = pa.string(), pa.list_(pa.float32())
    answers = {
        "classes": [("classes", pa.list_(text)), ("probabilities", floats)],
        "embedding": [("embedding", floats)],
        "logits": [("logits", floats)],
        "boxes": [
            ("classes", pa.list_(text)),
            ("probabilities", floats),
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ],
    }
    columns = [("source", text), ("key", text), ("sha256", text), *answers[kind], ("error", text)]
    return pa.schema(columns, {"classes": json.dumps(facts.classes)})


def table_of(part: Part, outcomes: Sequence[Outcome[Row]], kind: Kind, facts: Facts) -> Any:
    """Put outcomes of one part into columns."""
    import pyarrow as pa

    rows = [o.answer if isinstance(o.answer, Row) else None for o in outcomes]
    places = [part.place(o.sample.key) if o.sample else (part.source, None) for o in outcomes]
    columns: dict[str, list[Any]] = {
        "source": [source for source, _ in places],
        "key": [key for _, key in places],
        "sha256": [outcome.sha256 or None for outcome in outcomes],
        "error": [o.answer.what if isinstance(o.answer, DataError) else None for o in outcomes],
    }
    values = [row and row.values for row in rows]
    if kind in ("embedding", "logits"):
        columns[kind] = values
    else:
        columns["probabilities"] = values
        columns["classes"] = [row and [facts.class_of(i)[0] for i in row.classes] for row in rows]
    if kind == "boxes":
        columns[kind] = [row and row.corners() for row in rows]
    return pa.table(columns, schema(kind, facts))


def write_part(path: Path, tables: Iterable[Any], columns: Any) -> None:
    """Write a part, whole or not at all; each table goes to the disk as it comes.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to.
    """
    import pyarrow.parquet as pq

    errors = 0
    with (
        writing_atomically(path) as file,
        pq.ParquetWriter(file, columns, compression="zstd") as writer,
    ):
        for table in tables:
            errors += len(table) - table["error"].null_count
            writer.write_table(table)
        writer.add_key_value_metadata({ERRORS: str(errors)})


def counts_of(path: Path) -> tuple[int, int]:
    """Return how many rows a part has, and how many of them are reasons.

    Raises:
        ModelError: it is not as ``write_part`` has left it.
    """
    import pyarrow.parquet as pq

    with foreign(path, "a part of this job", "Delete it, and start again"):
        metadata = pq.read_metadata(path)
        return metadata.num_rows, int(metadata.metadata[ERRORS])
