"""A gate for continuous integration tells whether a benchmark is slower than an earlier one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mobilenet_cli.data.readers.files import read_bytes
from mobilenet_cli.pipeline.errors import DataError, OptionError, counted
from mobilenet_cli.reports.latency_tables import row_name
from mobilenet_cli.reports.records.latency import BenchRecord, BenchResult

Key = tuple[str, str, int, int]


@dataclass(frozen=True)
class Slowdown:
    """A slowdown is a row that got slower than allowed.

    Attributes:
        row: what to call it.
        before_ms: median in the baseline; ``now_ms`` in this benchmark.
    """

    row: str
    before_ms: float
    now_ms: float

    def __str__(self) -> str:
        """Write ``folded.onnx, batch 1: 9.2 ms -> 10.1 ms (+9.8 %)``."""
        change = 100 * (self.now_ms / self.before_ms - 1)
        return f"{self.row}: {self.before_ms:.3g} ms -> {self.now_ms:.3g} ms ({change:+.1f} %)"


def load_baseline(path: Path) -> BenchRecord:
    """Read an earlier ``bench.json``.

    Raises:
        OptionError: no such file, or not a record of ``bench``.
    """
    try:
        return BenchRecord.model_validate_json(read_bytes(path))
    except (DataError, ValidationError) as error:
        raise OptionError(
            f"{path} is not a record of an earlier bench",
            "Pass the bench.json of a run, or make one with 'mobilenet-cli bench --out FILE'",
        ) from error


def slowdowns(now: BenchRecord, before: BenchRecord, allowed: float) -> list[Slowdown]:
    """Return the rows of both whose median grew by more than the fraction ``allowed``.

    Raises:
        OptionError: another processor, or no row in common: the comparison would mean nothing.
    """
    if now.machine.cpu != before.machine.cpu:
        raise OptionError(
            f"the baseline was measured on {before.machine.cpu}, not on {now.machine.cpu}",
            "Make a baseline on this machine",
        )
    pairs = list(_pairs(now, before))
    if not pairs:
        raise OptionError(
            "the baseline has no row in common with this benchmark",
            "Use the same files, provider, threads and batch as the baseline",
        )
    return [
        Slowdown(
            f"{row_name(new)}, batch {new.batch}, {counted(new.threads, 'thread')}", old, new.p50_ms
        )
        for new, old in pairs
        if new.p50_ms > old * (1 + allowed)
    ]


def _pairs(now: BenchRecord, before: BenchRecord) -> Iterator[tuple[BenchResult, float]]:
    known = {_key(row): row.p50_ms for row in before.results}
    return ((row, known[_key(row)]) for row in now.results if _key(row) in known)


def _key(row: BenchResult) -> Key:
    return row_name(row), row.provider, row.threads, row.batch
