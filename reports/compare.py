"""Runs stand side by side in tables, and latencies are compared where they may be."""

import itertools
from collections.abc import Sequence

from mobilenet_cli.reports.latency_tables import threads_on
from mobilenet_cli.reports.markdown import interval_cell, times_cell
from mobilenet_cli.reports.records.accuracy import Interval
from mobilenet_cli.reports.records.latency import BenchRecord, BenchResult, MachineRecord
from mobilenet_cli.reports.records.run import (
    ComparedPair,
    ComparedRun,
    ComparisonRecord,
    HistoryRecord,
    ReportRow,
)
from mobilenet_cli.reports.tables import NOTHING, Cell, Grid, Section, label, number

HARDWARE = ("cpu", "architecture", "instruction_sets", "cpus", "usable_cpus", "cpu_quota", "gpus")


def compare_latency(
    base: BenchRecord | None, other: BenchRecord | None, base_sha256: str, other_sha256: str
) -> tuple[Interval | None, str]:
    """Say how many times faster one artifact is than another, or why that cannot be said.

    Returns:
        The ratio or None, and the setting in which it was measured or the reason.

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
        f"{second.provider}, {threads_on(second.threads, ())}, batch {second.batch}, "
        "not timed in turns",
    )


def different_hardware(base: MachineRecord, other: MachineRecord) -> str:
    """Say what tells two machines apart; empty if nothing does."""
    for name in HARDWARE:
        first, second = getattr(base, name), getattr(other, name)
        if first != second:
            return f"{name.replace('_', ' ')}: {shown(first)} and {shown(second)}"
    return ""


def shown(value: object) -> str:
    """Write a field of a machine in a sentence."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def same_setting(
    base: BenchRecord, other: BenchRecord, base_sha256: str, other_sha256: str
) -> tuple[BenchResult, BenchResult] | None:
    """Return the first row of one file for which the other has a row in the same setting."""

    def plain(record: BenchRecord, sha256: str) -> list[BenchResult]:
        wanted = (sha256, "", "forward")
        return [r for r in record.results if (r.sha256, r.variant, r.direction) == wanted]

    def setting(result: BenchResult) -> tuple[str, int, int]:
        return result.provider, result.threads, result.batch

    pairs = itertools.product(plain(base, base_sha256), plain(other, other_sha256))
    return next((pair for pair in pairs if setting(pair[0]) == setting(pair[1])), None)


def comparison_tables(record: ComparisonRecord) -> list[Section]:
    """Lay out the runs, then each artifact of the first run against the others'."""
    notes = told(record.runs)
    return [
        Section("Runs", runs_grid(record.runs), notes),
        Section(
            f"Against {record.runs[0].run}", pairs_grid(record.pairs), pair_notes(record.pairs)
        ),
    ]


def history_tables(record: HistoryRecord) -> list[Section]:
    """Lay out every run's artifacts, oldest run first."""
    notes = [*told(record.runs), *broken(record.runs)]
    return [Section("", runs_grid(record.runs), notes)]


def pairs_grid(pairs: Sequence[ComparedPair]) -> Grid:
    """Lay out the artifacts of the first run against those of the others."""
    measures = {pair.measure for pair in pairs if pair.difference}
    points = "AP50 points" if measures == {"AP50"} else "top-1 points"
    titles = "run", "artifact", points, "speed-up", "images", "McNemar p"
    return Grid(
        titles,
        [
            [
                label(pair.other),
                label(pair.stage),
                difference_cell(pair.difference),
                times_cell(pair.speedup),
                number(pair.images),
                number(pair.accuracy.p_value if pair.accuracy else None, ".3g"),
            ]
            for pair in pairs
        ],
    )


def difference_cell(difference: Interval | None) -> Cell:
    """Make a cell of a difference in points: ``-0.31 (-0.90 to +0.29)``."""
    return interval_cell(difference, "+.2f", "+.2f")


def pair_notes(pairs: Sequence[ComparedPair]) -> list[str]:
    """Say once for all artifacts of a run how they were compared, or why they cannot be."""
    found: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        for note in filter(None, (pair.accuracy_note, pair.latency_note)):
            found.setdefault((pair.other, note), []).append(pair.stage)
    return [f"{other} ({', '.join(stages)}): {note}" for (other, note), stages in found.items()]


def incomparable(pairs: Sequence[ComparedPair]) -> list[str]:
    """Say once for all artifacts of a run what cannot be compared, and why."""
    left = [
        pair.model_copy(
            update={
                "accuracy_note": "" if pair.difference else pair.accuracy_note,
                "latency_note": "" if pair.speedup else pair.latency_note,
            }
        )
        for pair in pairs
    ]
    return pair_notes(left)


def broken(runs: Sequence[ComparedRun]) -> list[str]:
    """Name the runs that cannot be read, and say why."""
    return [f"{run.run}: {run.broken}" for run in runs if run.broken]


def settings_of(run: ComparedRun, row: ReportRow) -> dict[str, Cell]:
    """Return what may tell runs apart beside their figures, by the title of its column."""
    return {
        "width": number(run.width, "g"),
        "resolution": number(run.resolution),
        "epochs": number(run.epochs, "g"),
        "trained on": label(run.data),
        "evaluated on": label(row.data),
        "threads": number(row.threads),
        "machine": label(run.machine),
    }


def runs_grid(runs: Sequence[ComparedRun]) -> Grid:
    """Lay out the artifacts of every run, with those settings that are not the same in all."""
    lines = [(run, row) for run in runs for row in run.rows]
    telling = [name for name, values in values_by_setting(runs).items() if len(values) > 1]
    detectors = any(row.ap50 for _, row in lines)
    classifiers = not detectors or any(row.top1 for _, row in lines)
    titles = (
        "run",
        "artifact",
        "size MiB",
        *(["top-1 %"] if classifiers else []),
        *(["AP50 %"] if detectors else []),
        "p50 ms",
        "speed-up",
        *telling,
        "newest file, UTC",
    )
    return Grid(
        titles,
        [
            [
                label(run.run),
                label(row.file),
                number(row.size_mb, ".2f"),
                *([interval_cell(row.top1)] if classifiers else []),
                *([interval_cell(row.ap50)] if detectors else []),
                number(row.p50_ms, ".2f"),
                times_cell(row.speedup),
                *(settings_of(run, row)[name] for name in telling),
                label(when(run)),
            ]
            for run, row in lines
        ],
    )


def values_by_setting(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Return every setting's different values, those that are known."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for row in run.rows:
            for name, cell in settings_of(run, row).items():
                found.setdefault(name, {}).update({} if cell.text == NOTHING else {cell.text: None})
    return {name: list(values) for name, values in found.items()}


def common(runs: Sequence[ComparedRun]) -> list[str]:
    """Say in one sentence which settings are the same in all runs."""
    found = values_by_setting(runs).items()
    known = [f"{name} {values[0]}" for name, values in found if len(values) == 1]
    return [f"The same in all: {', '.join(known)}"] if known else []


def told(runs: Sequence[ComparedRun]) -> list[str]:
    """Say what the runs differ in, and what they have in common."""
    return [*([differences(runs)] if len(runs) > 1 else []), *common(runs)]


def differences(runs: Sequence[ComparedRun]) -> str:
    """Say in one sentence in which settings the runs differ."""
    telling = {name: values for name, values in values_by_setting(runs).items() if len(values) > 1}
    parts = [f"{name} ({several(values)})" for name, values in telling.items()]
    return f"They differ in {', '.join(parts)}" if parts else "Their known settings are the same"


def several(values: Sequence[str]) -> str:
    """List values in a sentence; of many, the first four and how many more there are."""
    more = [f"and {len(values) - 4} more"] if len(values) > 4 else []
    return ", ".join([*values[:4], *more])


def when(run: ComparedRun) -> str:
    """Write date and time to the minute, as people read it."""
    return run.made[:16].replace("T", " ") if run.made else NOTHING
