"""What a model says about each image is kept for the report: of very many, in a parquet file.

Up to ``FEW`` images it is a record in predictions.json, as it always was. Of more, it streams into
``predictions/`` beside the record, so that memory does not grow; without pyarrow it cannot.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mobilenet_cli.pipeline.artifacts.files import writing_atomically
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.evaluating.records import key_of, predictions_in
from mobilenet_cli.reports.records.accuracy import EvaluationRecord, PredictionsRecord

FEW = 500  # images whose answers are kept in memory
GROUP = 1024  # rows that are written at once
RECORD = b"record"  # in the metadata of a file: the evaluation, as JSON


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer is what a model says about one image.

    Attributes:
        key: the image's name.
        target: index of the right class.
        rank: how many classes come before it, 0 for the first.
        top: indices of the most probable classes, at most ``TOP``.
        probabilities: theirs, 0..1.
    """

    key: str
    target: int
    rank: int
    top: tuple[int, ...]
    probabilities: tuple[float, ...]


def predictions_of(
    record: EvaluationRecord, source: str, answers: Sequence[Answer]
) -> PredictionsRecord:
    """Put the answers into columns."""
    return PredictionsRecord(
        model=record.model,
        sha256=record.sha256,
        data=record.data,
        source=source,
        data_fingerprint=record.data_fingerprint,
        provider=record.provider,
        keys=tuple(a.key for a in answers),
        targets=tuple(a.target for a in answers),
        ranks=tuple(a.rank for a in answers),
        top=tuple(a.top for a in answers),
        probabilities=tuple(tuple(round(p, 4) for p in a.probabilities) for a in answers),
    )


class AnswerKeeper:
    """A keeper takes answers as they come, in memory while they are few.

    Very many go to the file ``spill``, which ``stack`` closes.
    """

    def __init__(self, spill: Path, stack: ExitStack) -> None:
        self.spill, self.stack = spill, stack
        self.answers: list[Answer] = []
        self.writer: Any = None
        self.limit = FEW if find_spec("pyarrow") else None

    def add(self, answer: Answer) -> None:
        """Keep one answer."""
        self.answers.append(answer)
        if self.limit is not None and len(self.answers) > self.limit:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text, number = pa.string(), pa.int32()
        kinds = {"key": text, "target": number, "rank": number}
        kinds |= {"top": pa.list_(number), "probabilities": pa.list_(pa.float32())}
        columns = {name: [getattr(a, name) for a in self.answers] for name in kinds}
        table = pa.table(columns, pa.schema(list(kinds.items())))
        if self.writer is None:
            file = self.stack.enter_context(writing_atomically(self.spill))
            self.writer = self.stack.enter_context(pq.ParquetWriter(file, table.schema))
            self.limit = GROUP
        self.writer.write_table(table)
        self.answers.clear()

    def finish(self, run: Run, record: EvaluationRecord, source: str) -> None:
        """Say what the answers belong to, and replace earlier ones of the same evaluation."""
        path = self.spill.with_name(_name_of(record))
        if self.writer is None:
            predictions_in(run).merge(predictions_of(record, source, self.answers))
            path.unlink(missing_ok=True)
            return
        self._write()
        whole = predictions_of(record, source, ())
        self.writer.add_key_value_metadata({RECORD: whole.model_dump_json()})
        self.stack.close()
        self.spill.replace(path)
        predictions_in(run).remove(record)


def _name_of(record: EvaluationRecord) -> str:
    model, data, provider = key_of(record)
    return f"{model}-{hashlib.sha256(f'{data}{provider}'.encode()).hexdigest()[:8]}.parquet"


@contextmanager
def keeping_answers(run: Run, model: Path) -> Iterator[AnswerKeeper]:
    """Keep the answers of one evaluation; of one that fails, none."""
    with ExitStack() as stack:
        yield AnswerKeeper(run.many_predictions / f".{model.name}.new", stack)


def read_many(path: Path) -> PredictionsRecord:
    """Read the answers of one file.

    Raises:
        ImportError: pyarrow is not installed.
        OSError: it cannot be read.
        ValueError: it holds something else.
        KeyError: it holds something else.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = file.read().to_pydict()
        record = PredictionsRecord.model_validate_json(file.metadata.metadata[RECORD])
    return record.model_copy(
        update={
            "keys": tuple(columns["key"]),
            "targets": tuple(columns["target"]),
            "ranks": tuple(columns["rank"]),
            "top": tuple(map(tuple, columns["top"])),
            "probabilities": tuple(
                tuple(round(p, 4) for p in row) for row in columns["probabilities"]
            ),
        }
    )
