"""Runs side by side, and over time, as HTML pages: pure functions from records to text."""

from collections.abc import Callable, Sequence

from mobilenet_cli.reports.charts import (
    Chart,
    Json,
    axes,
    class_axis,
    log_axis,
    plain,
    short,
    style,
)
from mobilenet_cli.reports.compare import difference_text
from mobilenet_cli.reports.html import Cell, document, milliseconds
from mobilenet_cli.reports.markdown import metric_text, times_text
from mobilenet_cli.reports.records import (
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
    return [[Cell(run.run, run.run), *row_cells(run, row)] for run in runs for row in run.rows]


def row_cells(run: ComparedRun, row: ReportRow) -> list[Cell]:
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


def when(run: ComparedRun) -> str:
    """Date and time to the minute, as people read it."""
    return run.made[:16].replace("T", " ") if run.made else "–"


def difference_chart(pairs: Sequence[ComparedPair]) -> Chart | None:
    """Paired differences of top-1 with their intervals, one series a run."""
    found = [(pair, pair.accuracy) for pair in pairs if pair.accuracy is not None]
    if not found:
        return None
    data: list[Json] = []
    for index, run in enumerate(dict.fromkeys(pair.other for pair, _ in found)):
        color, symbol, _ = style(index)
        own = [(pair, accuracy) for pair, accuracy in found if pair.other == run]
        values = [accuracy.difference for _, accuracy in own]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": short(run),
                "x": [value.value for value in values],
                "y": [plain(pair.stage) for pair, _ in own],
                "error_x": {
                    "symmetric": False,
                    "array": [(v.value if v.high is None else v.high) - v.value for v in values],
                    "arrayminus": [v.value - (v.value if v.low is None else v.low) for v in values],
                },
                "marker": {"color": color, "symbol": symbol, "size": 11},
                "hovertemplate": "%{y}: %{x:+.2f} points",
            }
        )
    return Chart(
        "differences",
        f"Top-1 against {found[0][0].base}",
        f"Paired differences of top-1 with 95 % intervals, against {found[0][0].base}; where the "
        "interval holds 0 the two may be equally good.",
        data,
        axes("top-1, points", "", hovermode="closest"),
        ("run", "artifact", "points"),
        [[pair.other, pair.stage, difference_text(a.difference)] for pair, a in found],
    )


def accuracy_chart(runs: Sequence[ComparedRun]) -> Chart | None:
    """Top-1 against latency: a colour and symbol for each run."""
    data: list[Json] = []
    lines = []
    for index, run in enumerate(runs):
        rows = [(r.file, r.p50_ms, r.top1.value) for r in run.rows if r.top1 and r.p50_ms]
        if not rows:
            continue
        color, symbol, _ = style(index)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": short(run.run),
                "x": [ms for _, ms, _ in rows],
                "y": [top1 for _, _, top1 in rows],
                "text": [plain(f"{file}, {run.machine}") for file, _, _ in rows],
                "marker": {"color": color, "symbol": symbol, "size": 12},
                "hovertemplate": "%{text}<br>%{x:.2f} ms<br>top-1 %{y:.2f} %",
            }
        )
        lines += [[run.run, file, f"{ms:.2f}", f"{top1:.2f}"] for file, ms, top1 in rows]
    if not data:
        return None
    machines = {run.machine for run in runs if run.machine}
    apart = " Their latencies are of different machines." if len(machines) > 1 else ""
    return Chart(
        "accuracy",
        "Accuracy against latency",
        f"Top-1 accuracy against median latency of the artifacts of {len(data)} runs.{apart}",
        data,
        axes("", "top-1, %", hovermode="closest")
        | {"xaxis": log_axis("median latency, ms", [ms for d in data for ms in d["x"]])},
        ("run", "artifact", "p50 ms", "top-1 %"),
        lines,
    )


def history_charts(runs: Sequence[ComparedRun]) -> list[Chart | None]:
    """Accuracy and latency of each kind of artifact, run after run."""
    return [
        over_time(
            "top1", "Top-1 by run", "%", runs, lambda row: row.top1.value if row.top1 else None
        ),
        over_time("p50", "Median latency by run", "ms", runs, lambda row: row.p50_ms),
    ]


def over_time(
    name: str,
    title: str,
    unit: str,
    runs: Sequence[ComparedRun],
    value_of: Callable[[ReportRow], float | None],
) -> Chart | None:
    """One value of each kind of artifact, run after run, one line a kind."""
    files = dict.fromkeys(row.file for run in runs for row in run.rows)
    data: list[Json] = []
    lines = []
    for index, file in enumerate(files):
        points = [
            (position, run, value)
            for position, run in enumerate(runs)
            for row in run.rows
            if row.file == file and (value := value_of(row)) is not None
        ]
        if not points:
            continue
        color, symbol, dash = style(index)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(file),
                "x": [position for position, _, _ in points],
                "y": [value for _, _, value in points],
                "text": [plain(run.run) for _, run, _ in points],
                "line": {"color": color, "dash": dash},
                "marker": {"symbol": symbol, "size": 9},
                "hovertemplate": f"%{{text}}: %{{y:.2f}} {unit}",
            }
        )
        lines += [[run.run, when(run), file, f"{value:.2f}"] for _, run, value in points]
    if not data:
        return None
    return Chart(
        name,
        title,
        f"{title}: {len(runs)} runs, oldest first.",
        data,
        axes("", unit)
        | {
            "xaxis": class_axis([run.run for run in runs])
            | {"title": {"text": "run, oldest first"}}
        },
        ("run", "made", "artifact", unit),
        lines,
    )
