"""Charts show runs side by side and over time."""

from collections.abc import Callable, Sequence

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.charts.chart import (
    Chart,
    Json,
    axes,
    class_axis,
    error_bars,
    hollow,
    log_axis,
    plain,
    series,
    short,
)
from mobilenet_cli.reports.compare import difference_cell, when
from mobilenet_cli.reports.records.accuracy import Interval, Metric
from mobilenet_cli.reports.records.run import ComparedPair, ComparedRun, ReportRow


def difference_chart(pairs: Sequence[ComparedPair]) -> Chart | None:
    """Draw paired differences of accuracy with their intervals, one series a run."""
    found = [(pair, pair.difference) for pair in pairs if pair.difference is not None]
    if not found:
        return None
    measure = found[0][0].measure
    data: list[Json] = []
    for index, run in enumerate(dict.fromkeys(pair.other for pair, _ in found)):
        own = [(plain(pair.stage), value) for pair, value in found if pair.other == run]
        stages, values = zip(*own, strict=True)
        made = series(
            *(index, short(run), [value.value for value in values], stages, "markers"),
            error_x=error_bars(values),
            marker={"size": 11},
            hovertemplate="%{y}: %{x:+.2f} points",
        )
        data.append(made)
    return Chart(
        "differences",
        f"{capital(measure)} against {found[0][0].base}",
        f"Paired differences of {measure} with 95 % intervals, against {found[0][0].base}; where "
        "the interval holds 0 the two may be equally good.",
        data,
        axes(f"{measure}, points", "", hovermode="closest"),
        ("run", "artifact", "points"),
        [[pair.other, pair.stage, str(difference_cell(d))] for pair, d in found],
    )


def capital(measure: str) -> str:
    """Begin a title with a capital letter."""
    return measure[0].upper() + measure[1:]


def accuracy_charts(runs: Sequence[ComparedRun]) -> list[Chart | None]:
    """Draw top-1 of classifiers and AP50 of detectors against latency."""
    return [
        against_latency("accuracy", "top-1", runs, lambda row: row.top1),
        against_latency("precision", "AP50", runs, lambda row: row.ap50),
    ]


def against_latency(
    name: str,
    measure: str,
    runs: Sequence[ComparedRun],
    of: Callable[[ReportRow], Interval | Metric | None],
) -> Chart | None:
    """Draw one measure of accuracy against latency: a colour and symbol for each run."""
    data: list[Json] = []
    lines = []
    for index, run in enumerate(runs):
        rows = [(r.file, r.p50_ms, v.value) for r in run.rows if (v := of(r)) and r.p50_ms]
        if not rows:
            continue
        files, times, values = zip(*rows, strict=True)
        made = series(
            *(index, short(run.run), times, values, "markers"),
            text=[plain(f"{file}, {run.machine}") for file in files],
            marker=hollow(index, max(8, 20 - 4 * index)),  # where points coincide, one in the other
            hovertemplate="%{text}<br>%{x:.2f} ms<br>" + measure + " %{y:.2f} %",
        )
        data.append(made)
        lines += [[run.run, file, f"{ms:.2f}", f"{value:.2f}"] for file, ms, value in rows]
    if not data:
        return None
    machines = {run.machine for run in runs if run.machine}
    apart = " Their latencies are of different machines." if len(machines) > 1 else ""
    return Chart(
        name,
        f"{capital(measure)} against latency",
        f"{capital(measure)} against median latency of the artifacts of "
        f"{counted(len(data), 'run')}.{apart}",
        data,
        axes("", f"{measure}, %", hovermode="closest")
        | {"xaxis": log_axis("median latency, ms", [ms for d in data for ms in d["x"]])},
        ("run", "artifact", "p50 ms", f"{measure} %"),
        lines,
    )


def history_charts(runs: Sequence[ComparedRun]) -> list[Chart | None]:
    """Draw accuracy and latency of each kind of artifact, run after run."""
    return [
        over_time(
            "top1", "Top-1 by run", "%", runs, lambda row: row.top1.value if row.top1 else None
        ),
        over_time(
            "ap50", "AP50 by run", "%", runs, lambda row: row.ap50.value if row.ap50 else None
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
        positions, named, values = zip(*points, strict=True)
        made = series(
            *(index, plain(file), positions, values, "lines+markers"),
            text=[plain(run.run) for run in named],
            marker={"size": 9},
            hovertemplate=f"%{{text}}: %{{y:.2f}} {unit}",
        )
        data.append(made)
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
