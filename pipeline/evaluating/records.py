"""Evaluations leave accuracy records and single predictions in a run's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from mobilenet_cli.pipeline.artifacts.files import locked, write_atomically
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.errors import StorageError
from mobilenet_cli.reports.records.accuracy import EvaluationRecord, PredictionsRecord
from mobilenet_cli.reports.records.detection import BoxesRecord, DetectionRecord

Key = tuple[str, str, str]
Kept = EvaluationRecord | PredictionsRecord | DetectionRecord | BoxesRecord
T = TypeVar("T", bound=Kept)


def key_of(record: Kept) -> Key:
    """Return what a run has one record of: the model's file name, the data and the provider."""
    return Path(record.model).name, record.data, record.provider


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
        self._change(lambda merged: merged.update({key_of(r): r for r in records}))

    def remove(self, record: EvaluationRecord) -> None:
        """Remove what there is of a record's model, data and provider.

        Raises:
            StorageError: as ``merge``.
        """
        if self.path.exists():
            self._change(lambda merged: merged.pop(key_of(record), None))

    def _change(self, change: Callable[[dict[Key, T]], object]) -> None:
        with locked(self.path):
            merged = {key_of(record): record for record in self.read()}
            change(merged)
            content = self._records.dump_json(list(merged.values()), indent=self.indent)
            write_atomically(self.path, content + b"\n")


def evaluations_of(run: Run) -> RecordFile[EvaluationRecord]:
    """Return the file with the accuracies of a run's models."""
    return RecordFile(run.evaluation, EvaluationRecord, indent=2)


def detections_of(run: Run) -> RecordFile[DetectionRecord]:
    """Return the file with the average precisions of a run's detectors."""
    return RecordFile(run.detection, DetectionRecord, indent=2)


def boxes_in(run: Run) -> RecordFile[BoxesRecord]:
    """Return the file with what a run's detectors found in each image."""
    return RecordFile(run.boxes, BoxesRecord)


def predictions_in(run: Run) -> RecordFile[PredictionsRecord]:
    """Return the file with what a run's models say about each image."""
    return RecordFile(run.predictions, PredictionsRecord)
