"""Evaluations leave accuracy records and single predictions in a run's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from mobilenet_cli.pipeline.artifacts.files import locked, write_atomically
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.errors import (
    StorageError,
)
from mobilenet_cli.reports.records.accuracy import EvaluationRecord, PredictionsRecord
from mobilenet_cli.reports.records.detection import DetectionRecord

T = TypeVar("T", bound=EvaluationRecord | PredictionsRecord | DetectionRecord)


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


class RecordFile(Generic[T]):
    """A record file is a JSON list with one record for each model, data set and provider.

    Args:
        path: the file, which need not exist.
        kind: the type of its records.
        indent: spaces to indent the JSON by; None writes it on one line.
    """

    def __init__(self, path: Path, kind: type[T], indent: int | None = None) -> None:
        self.path = path
        self.kind = kind
        self.indent = indent
        # What T is, mypy knows; what ``kind`` is, only the running program.
        self._records: TypeAdapter[list[T]] = TypeAdapter(list[kind])  # type: ignore[valid-type]

    def read(self) -> list[T]:
        """Return the records; none if there is no such file.

        Raises:
            StorageError: the file is something else.
        """
        try:
            return self._records.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{self.path} is not a list of {self.kind.__name__}s",
                "Move the file away and evaluate again",
            ) from error

    def merge(self, *records: T) -> None:
        """Add records; each replaces an earlier one of the same model, data and provider.

        Nothing is lost where several processes do this at the same time.

        Raises:
            StorageError: the file is something else, or cannot be written.
        """
        with locked(self.path):
            merged = {
                (Path(record.model).name, record.data, record.provider): record
                for record in (*self.read(), *records)
            }
            content = self._records.dump_json(list(merged.values()), indent=self.indent)
            write_atomically(self.path, content + b"\n")


def evaluations_of(run: Run) -> RecordFile[EvaluationRecord]:
    """Return the file with the accuracies of a run's models."""
    return RecordFile(run.evaluation, EvaluationRecord, indent=2)


def detections_of(run: Run) -> RecordFile[DetectionRecord]:
    """Return the file with the average precisions of a run's detectors."""
    return RecordFile(run.detection, DetectionRecord, indent=2)


def predictions_in(run: Run) -> RecordFile[PredictionsRecord]:
    """Return the file with what a run's models say about each image."""
    return RecordFile(run.predictions, PredictionsRecord)
