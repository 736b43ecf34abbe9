"""Runs side by side as Markdown, and when two latencies may be compared: pure functions."""

from collections.abc import Sequence

from mobilenet_cli.reports.markdown import metric_text, times_text
from mobilenet_cli.reports.records.accuracy import Interval
from mobilenet_cli.reports.records.latency import BenchRecord, BenchResult, MachineRecord
from mobilenet_cli.reports.records.run import (
    ComparedPair,
    ComparedRun,
    ComparisonRecord,
    HistoryRecord,
)
from mobilenet_cli.reports.summary import result_index
from mobilenet_cli.reports.tables import table

HARDWARE = ("cpu", "architecture", "instruction_sets", "cpus", "usable_cpus", "cpu_quota", "gpus")


def compare_latency(
    base: BenchRecord | None, other: BenchRecord | None, base_sha256: str, other_sha256: str
) -> tuple[Interval | None, str]:
    """How many times faster one artifact is than another, or why that cannot be said.

    The two were not timed in turns, so the interval takes the worst of both medians' intervals.
    """
    if base is None or other is None:
        return None, "not benchmarked in both runs"
    differing = different_hardware(base.machine, other.machine)
    if differing:
        return None, f"measured on different machines ({differing})"
    pair = same_setting(base, other, base_sha256, other_sha256)
    if pair is None:
        return None, "not benchmarked with the same provider, threads and batch"
    first, second = pair
    return (
        Interval(
            value=first.p50_ms / second.p50_ms,
            low=first.low_ms / second.high_ms,
            high=first.high_ms / second.low_ms,
        ),
        f"{second.provider}, {second.threads} threads, batch {second.batch}, not interleaved",
    )


def different_hardware(base: MachineRecord, other: MachineRecord) -> str:
    """What tells two machines apart; empty if nothing does."""
    for name in HARDWARE:
        first, second = getattr(base, name), getattr(other, name)
        if first != second:
            return f"{name.replace('_', ' ')}: {shown(first)} and {shown(second)}"
    return ""


def shown(value: object) -> str:
    """A field of a machine in a sentence."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def same_setting(
    base: BenchRecord, other: BenchRecord, base_sha256: str, other_sha256: str
) -> tuple[BenchResult, BenchResult] | None:
    """The first row of one file for which the other file has a row in the same setting."""

    def setting(result: BenchResult) -> tuple[str, int, int]:
        return result.provider, result.threads, result.batch

    plain = [
        r
        for r in base.results
        if (r.sha256, r.variant, r.direction) == (base_sha256, "", "forward")
    ]
    if result_index(other, other_sha256) is None:
        return None
    for first in plain:
        for second in other.results:
            named = (second.sha256, second.variant, second.direction)
            if named == (other_sha256, "", "forward") and setting(first) == setting(second):
                return first, second
    return None


def comparison_markdown(record: ComparisonRecord) -> str:
    """The runs' tables, then each artifact of the first run against the others'."""
    return "\n".join(
        [
            "## Runs\n",
            runs_markdown(record.runs),
            f"## Against {record.runs[0].run}\n",
            table(
                "run | artifact | images | top-1, points | McNemar p | faster | remark",
                [pair_cells(pair) for pair in record.pairs],
            ),
        ]
    )


def pair_cells(pair: ComparedPair) -> list[str]:
    """One artifact of two runs; what cannot be compared is said in the remark."""
    accuracy = pair.accuracy
    return [
        pair.other,
        pair.stage,
        str(accuracy.images) if accuracy else "–",
        difference_text(accuracy.difference) if accuracy else "–",
        f"{accuracy.p_value:.3g}" if accuracy else "–",
        times_text(pair.speedup),
        "; ".join(note for note in (pair.accuracy_note, pair.latency_note) if note),
    ]


def difference_text(difference: Interval) -> str:
    """``-0.31 (-0.90 to +0.29)``."""
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.2f}"
    return f"{difference.value:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"


def history_markdown(record: HistoryRecord) -> str:
    """Every run's artifacts, oldest run first."""
    return runs_markdown(record.runs)


def runs_markdown(runs: Sequence[ComparedRun]) -> str:
    """One line an artifact of every run."""
    header = (
        "run | made | artifact | size MiB | data | top-1 % | p50 ms | threads | speed-up | machine"
    )
    rows = []
    for run in runs:
        start = [run.run, run.made or "–"]
        if run.broken:
            rows.append([*start, run.broken, *["–"] * 7])
        rows += [
            [
                *start,
                row.file,
                f"{row.size_mb:.2f}",
                row.data or "–",
                metric_text(row.top1),
                "–" if row.p50_ms is None else f"{row.p50_ms:.2f}",
                "–" if row.threads is None else str(row.threads),
                times_text(row.speedup),
                run.machine or "–",
            ]
            for row in run.rows
        ]
    return table(header, rows)


def when(run: ComparedRun) -> str:
    """Date and time to the minute, as people read it."""
    return run.made[:16].replace("T", " ") if run.made else "–"
