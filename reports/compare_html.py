"""Runs side by side, and over time, as HTML pages: pure functions from records to text."""

from collections.abc import Sequence

from mobilenet_cli.reports.charts.comparison_charts import (
    accuracy_chart,
    difference_chart,
    history_charts,
)
from mobilenet_cli.reports.compare import difference_text, when
from mobilenet_cli.reports.html import Cell, document, milliseconds
from mobilenet_cli.reports.markdown import metric_text, times_text
from mobilenet_cli.reports.records.run import (
    ComparedPair,
    ComparedRun,
    ComparisonRecord,
    HistoryRecord,
    ReportRow,
)

COLUMNS = (
    "run",
    "artifact",
    "size, MiB",
    "top-1, %",
    "data",
    "p50, ms",
    "threads",
    "speed-up",
    "machine",
    "made, UTC",
)
PAIR_COLUMNS = ("run", "artifact", "images", "top-1, points", "McNemar p", "faster", "remark")
NOTHING = Cell("–", None)


def comparison_html(record: ComparisonRecord) -> str:
    """The page of ``report --compare``."""
    first, *others = record.runs
    names = ", ".join(run.run for run in others)
    charts = [
        chart
        for chart in (difference_chart(record.pairs), accuracy_chart(record.runs))
        if chart is not None
    ]
    return document(
        "compare.html.j2",
        f"{first.run} and {names}",
        "Runs side by side",
        comparison_headline(record),
        charts,
        warnings=[*broken(record.runs), *incomparable(record.pairs)],
        base=first.run,
        pair_columns=PAIR_COLUMNS,
        pairs=[pair_row(pair) for pair in record.pairs],
        columns=COLUMNS,
        rows=run_rows(record.runs),
    )


def history_html(record: HistoryRecord) -> str:
    """The page of ``report --history``."""
    charts = [chart for chart in history_charts(record.runs) if chart is not None]
    return document(
        "compare.html.j2",
        "History of runs",
        "History",
        f"{len(record.runs)} runs, the last of {when(record.runs[-1])}",
        charts,
        warnings=broken(record.runs),
        pairs=(),
        columns=COLUMNS,
        rows=run_rows(record.runs),
    )


def comparison_headline(record: ComparisonRecord) -> str:
    """What the last artifact that both runs have says, in a sentence."""
    first, *others = (run.run for run in record.runs)
    if not record.pairs:
        return f"{first} and {', '.join(others)} have no artifact of one kind"
    pair = record.pairs[-1]
    said = []
    if pair.accuracy is not None:
        said.append(f"{difference_text(pair.accuracy.difference)} points of top-1")
    if pair.speedup is not None:
        said.append(f"{times_text(pair.speedup)} as fast")
    if len(others) > 1 or not said:
        return f"{', '.join(others)} against {first}"
    return f"{pair.stage} of {pair.other} against {pair.base}: {' and '.join(said)}"


def incomparable(pairs: Sequence[ComparedPair]) -> list[str]:
    """What cannot be compared, and why: once for all artifacts of a run."""
    found: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        for note, value in (
            (pair.accuracy_note, pair.accuracy),
            (pair.latency_note, pair.speedup),
        ):
            if value is None and note:
                found.setdefault((pair.other, note), []).append(pair.stage)
    return [f"{other} ({', '.join(stages)}): {note}" for (other, note), stages in found.items()]


def broken(runs: Sequence[ComparedRun]) -> list[str]:
    """Runs that cannot be read, and why."""
    return [f"{run.run}: {run.broken}" for run in runs if run.broken]


def pair_row(pair: ComparedPair) -> list[Cell]:
    """One artifact of the first run against another run's."""
    found, speedup = pair.accuracy, pair.speedup
    return [
        Cell(pair.other, pair.other),
        Cell(pair.stage, pair.stage),
        Cell(str(found.images), found.images) if found else NOTHING,
        Cell(difference_text(found.difference), found.difference.value) if found else NOTHING,
        Cell(f"{found.p_value:.3g}", found.p_value) if found else NOTHING,
        Cell(times_text(speedup), speedup.value) if speedup else NOTHING,
        Cell(remark := "; ".join(filter(None, (pair.accuracy_note, pair.latency_note))), remark),
    ]


def run_rows(runs: Sequence[ComparedRun]) -> list[list[Cell]]:
    """Every artifact of every run."""
    return [[Cell(run.run, run.run), *compared_cells(run, row)] for run in runs for row in run.rows]


def compared_cells(run: ComparedRun, row: ReportRow) -> list[Cell]:
    """One artifact, without its run's name."""
    return [
        Cell(row.file, row.file),
        Cell(f"{row.size_mb:.2f}", row.size_mb),
        Cell(metric_text(row.top1), row.top1.value if row.top1 else None),
        Cell(row.data or "–", row.data),
        milliseconds(row.p50_ms),
        Cell("–" if row.threads is None else str(row.threads), row.threads),
        Cell(times_text(row.speedup), row.speedup.value if row.speedup else None),
        Cell(run.machine or "–", run.machine),
        Cell(when(run), run.made),
    ]
