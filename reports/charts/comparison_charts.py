"""Charts show runs side by side and over time."""

from collections.abc import Callable, Sequence

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.charts.chart import (
    Chart,
    Json,
    axes,
    class_axis,
    log_axis,
    plain,
    short,
    style,
)
from mobilenet_cli.reports.compare import difference_cell, when
from mobilenet_cli.reports.records.run import (
    ComparedPair,
    ComparedRun,
    ReportRow,
)


def difference_chart(pairs: Sequence[ComparedPair]) -> Chart | None:
    """Draw paired differences of top-1 with their intervals, one series a run."""
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
        [[pair.other, pair.stage, str(difference_cell(a.difference))] for pair, a in found],
    )


def accuracy_chart(runs: Sequence[ComparedRun]) -> Chart | None:
    """Draw top-1 against latency: a colour and symbol for each run."""
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
                "marker": {
                    "color": color,
                    "symbol": f"{symbol}-open",
                    "size": max(8, 20 - 4 * index),  # where points coincide, one in the other
                    "line": {"width": 2},
                },
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
        f"Top-1 accuracy against median latency of the artifacts of "
        f"{counted(len(data), 'run')}.{apart}",
        data,
        axes("", "top-1, %", hovermode="closest")
        | {"xaxis": log_axis("median latency, ms", [ms for d in data for ms in d["x"]])},
        ("run", "artifact", "p50 ms", "top-1 %"),
        lines,
    )


def history_charts(runs: Sequence[ComparedRun]) -> list[Chart | None]:
    """Draw accuracy and latency of each kind of artifact, run after run."""
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
    """Draw one value of each kind of artifact, run after run, one line a kind."""
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
        f"{title}: {counted(len(runs), 'run')}, oldest first.",
        data,
        axes("", unit)
        | {
            "xaxis": class_axis([run.run for run in runs])
            | {"title": {"text": "run, oldest first"}}
        }
        | ({"yaxis": log_axis(unit, [y for d in data for y in d["y"]])} if unit == "ms" else {}),
        ("run", "newest file, UTC", "artifact", unit),
        lines,
    )
