"""Evaluations leave accuracy records and single predictions in a run's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.errors import (
    StorageError,
)
from mobilenet_cli.reports.records.accuracy import EvaluationRecord, PredictionsRecord

PREDICTIONS = TypeAdapter(list[PredictionsRecord])
RECORDS = TypeAdapter(list[EvaluationRecord])


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


def load_predictions(path: Path) -> list[PredictionsRecord]:
    """Return the records of a file that ``merge_predictions`` wrote; none if there is no such file.

    Raises:
        StorageError: the file is something else.
    """
    try:
        return PREDICTIONS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} is not a list of prediction records", "Move the file away and evaluate again"
        ) from error


def merge_predictions(path: Path, record: PredictionsRecord) -> None:
    """Add a record to a file; it replaces an earlier one of the same model, data and provider."""

    def key(record: PredictionsRecord) -> tuple[str, str, str]:
        return Path(record.model).name, record.data, record.provider

    merged = {key(record): record for record in (*load_predictions(path), record)}
    write_atomically(path, PREDICTIONS.dump_json(list(merged.values())) + b"\n")


def load_records(path: Path) -> list[EvaluationRecord]:
    """Return the records of a file that ``merge_records`` wrote; none if there is no such file.

    Raises:
        StorageError: the file is something else.
    """
    try:
        return RECORDS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} is not a list of evaluation records", "Move the file away"
        ) from error


def merge_records(path: Path, records: Sequence[EvaluationRecord]) -> None:
    """Add records to a file; each replaces an earlier one of the same model, data and provider."""

    def key(record: EvaluationRecord) -> tuple[str, str, str]:
        return Path(record.model).name, record.data, record.provider

    merged = {key(record): record for record in (*load_records(path), *records)}
    write_atomically(path, RECORDS.dump_json(list(merged.values()), indent=2) + b"\n")
