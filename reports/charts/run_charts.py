"""The page draws Plotly figures, which are plain data, each with its numbers as a table.

Every series differs in colour (Okabe and Ito's, safe for the colour-blind) and in its symbol or
dash as well, so that none is told by colour alone.
"""

from collections.abc import Sequence

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.charts.chart import (
    COLORS,
    Chart,
    Json,
    axes,
    class_axis,
    error_bars,
    hollow,
    log_axis,
    plain,
    series,
)
from mobilenet_cli.reports.charts.quantization_charts import sqnr_chart, weights_chart
from mobilenet_cli.reports.charts.training_charts import training_charts
from mobilenet_cli.reports.latency_tables import row_name
from mobilenet_cli.reports.records.latency import BenchResult
from mobilenet_cli.reports.records.run import ReportRecord, RunRecord
from mobilenet_cli.reports.summary import class_count, file_name

POINT_SIZES = (26, 20, 15, 10)  # pixels; where points coincide, each is inside the one before
OPERATORS = 6  # that have a colour of their own


def charts(report: ReportRecord) -> list[Chart]:
    """Return all the charts for which the run has numbers."""
    run = report.run
    made = [
        accuracy_chart(report),
        precision_chart(run),
        latency_chart(run),
        throughput_chart(run),
        operators_chart(run),
        *training_charts(run.training, class_count(run.artifacts[-1])),
        sqnr_chart(run),
        weights_chart(run),
        confusion_chart(run),
    ]
    return [chart for chart in made if chart is not None]


def accuracy_chart(report: ReportRecord) -> Chart | None:
    """Draw top-1 against latency, one open symbol an artifact, so that none hides another."""
    measured = [(row, row.top1 or row.ap50, row.p50_ms) for row in report.rows]
    rows = [(row, of, ms) for row, of, ms in measured if of is not None and ms]
    name, detects = "top-1", bool(rows) and rows[0][0].ap50 is not None
    if detects:
        name = "AP50"
    if not rows:
        return None
    data = []
    for index, (row, top1, ms) in enumerate(rows):
        made = series(
            *(index, plain(row.file), [ms], [top1.value], "markers"),
            marker=hollow(index, POINT_SIZES[min(index, len(POINT_SIZES) - 1)]),
            error_y=error_bars([top1]),
            hovertemplate=f"{plain(row.file)}<br>%{{x:.2f}} ms<br>{name} %{{y:.2f}} %<br>"
            f"{row.size_mb:.2f} MiB<extra></extra>",
        )
        data.append(made)
    fastest = min(rows, key=lambda found: found[2])[0].file
    return Chart(
        "accuracy",
        "Accuracy against latency",
        f"{name if detects else 'Top-1 accuracy'} with 95 % intervals against median latency of "
        f"{len(rows)} artifacts. "
        f"The fastest is {fastest}.",
        data,
        axes("", f"{name}, %", hovermode="closest")
        | {"xaxis": log_axis("median latency, ms", [ms for _, _, ms in rows])},
        ("artifact", "p50 ms", f"{name} %", "MiB"),
        [[r.file, f"{ms:.2f}", f"{top1.value:.2f}", f"{r.size_mb:.2f}"] for r, top1, ms in rows],
    )


def precision_chart(run: RunRecord) -> Chart | None:
    """Draw precision against recall at an overlap of 0.5, a line for each class of each model."""
    lines = [
        (f"{file_name(record.model)}, {row.name}", row)
        for record in run.detections
        for row in record.classes
        if row.ap50 is not None
    ]
    if not lines:
        return None
    data = []
    for index, (name, row) in enumerate(lines):
        recalls = [place / (len(row.precision) - 1) for place in range(len(row.precision))]
        data.append(series(index, plain(name), recalls, row.precision, "lines"))
    worst = min(lines, key=lambda line: line[1].ap50 or 0.0)
    return Chart(
        "precision",
        "Precision and recall",
        f"Precision against recall at an overlap of 0.5, {len(lines)} lines. The lowest AP50 has "
        f"{worst[0]}.",
        data,
        axes("recall", "precision", hovermode="closest"),
        ("model, class", "objects", "AP50 %", "AP %"),
        [[n, str(r.objects), f"{r.ap50:.2f}", f"{r.ap or 0:.2f}"] for n, r in lines],
    )


def latency_chart(run: RunRecord) -> Chart | None:
    """Draw how many runs took at most so long, one line an artifact in its first setting."""
    results = first_settings(run)
    results = [result for result in results if result.percentiles_ms]
    if not results:
        return None
    data = []
    for index, result in enumerate(results):
        name = plain(row_name(result)).replace(" (", "<br>(")  # a phone is narrow
        made = series(
            *(index, name, result.percentiles_ms, list(range(101)), "lines"),
            line={"shape": "hv"},
            hovertemplate="%{y} % within %{x:.2f} ms",
        )
        data.append(made)
    rows = [
        [
            f"{row_name(r)}, {counted(r.threads, 'thread')}, batch {r.batch}",
            *(f"{r.percentiles_ms[q]:.2f}" for q in (0, 10, 50, 90, 99, 100)),
        ]
        for r in results
    ]
    return Chart(
        "latency",
        "Distribution of latency",
        "Share of runs that took at most so many milliseconds. "
        + "; ".join(f"{row_name(r)}: median {r.p50_ms:.2f} ms" for r in results)
        + ".",
        data,
        axes("", "share of runs, %")
        | {"xaxis": log_axis("latency, ms", [ms for r in results for ms in r.percentiles_ms])},
        ("row", "min", "10 %", "50 %", "90 %", "99 %", "max"),
        rows,
    )


def first_settings(run: RunRecord) -> list[BenchResult]:
    """Return the row that was measured first of every artifact, variant and direction."""
    found: dict[tuple[str, str, str], BenchResult] = {}
    for result in run.bench.results if run.bench else ():
        found.setdefault((result.model, result.variant, result.direction), result)
    return list(found.values())


def throughput_chart(run: RunRecord) -> Chart | None:
    """Draw images a second against the batch, one line an artifact and thread count."""
    lines: dict[tuple[str, int], list[BenchResult]] = {}
    for result in run.bench.results if run.bench else ():
        if result.direction == "forward" and not result.variant:
            lines.setdefault((file_name(result.model), result.threads), []).append(result)
    lines = {key: results for key, results in lines.items() if len(results) > 1}
    if not lines:
        return None
    data, rows = [], []
    for index, ((name, threads), results) in enumerate(lines.items()):
        label = f"{name}, {counted(threads, 'thread')}"
        batches, rates = zip(*((r.batch, r.images_per_second) for r in results), strict=True)
        made = series(
            *(index, plain(label), batches, rates, "lines+markers"),
            marker={"size": 9},
            hovertemplate="batch %{x}: %{y:.0f} images/s",
        )
        data.append(made)
        rows += [[label, str(r.batch), f"{r.images_per_second:.0f}"] for r in results]
    layout = axes("images a run", "images/s")
    measured = sorted({result.batch for results in lines.values() for result in results})
    layout["xaxis"] |= {"type": "log", "tickvals": measured}
    layout["yaxis"]["rangemode"] = "tozero"
    return Chart(
        "throughput",
        "Throughput against batch",
        f"Images a second against the batch size for {len(lines)} artifacts and thread counts.",
        data,
        layout,
        ("artifact", "batch", "images/s"),
        rows,
    )


def operators_chart(run: RunRecord) -> Chart | None:
    """Draw milliseconds by operator type, one bar an artifact."""
    results = [result for result in first_settings(run) if result.operator_ms]
    if not results:
        return None
    totals: dict[str, float] = {}
    for result in results:
        for name, ms in result.operator_ms.items():
            totals[name] = totals.get(name, 0.0) + ms
    names = sorted(totals, key=lambda name: -totals[name])[:OPERATORS]
    others = [
        sum(ms for name, ms in result.operator_ms.items() if name not in names)
        for result in results
    ]
    shares = [(name, [r.operator_ms.get(name, 0.0) for r in results]) for name in names]
    shares += [("others", others)] if any(others) else []
    labels = [plain(row_name(result)) for result in results]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(name),
            "y": labels,
            "x": times,
            "marker": {
                "color": COLORS[index % len(COLORS)],
                "pattern": {"shape": ("", "/", "x", "-", "|", "+", ".")[index % 7], "size": 6},
            },
            "hovertemplate": "%{y}: %{x:.3f} ms",
        }
        for index, (name, times) in enumerate(shares)
    ]
    rows = [
        [row_name(result), name, f"{ms:.3f}"]
        for result in results
        for name, ms in result.operator_ms.items()
    ]
    layout = axes("ms", "") | {
        "barmode": "stack",
        "legend": {"traceorder": "normal"},
        "yaxis": {"automargin": True, "autorange": "reversed"},
    }
    slowest = ", ".join(
        f"{row_name(r)}: mostly {max(r.operator_ms, key=r.operator_ms.__getitem__)}"
        for r in results
    )
    return Chart(
        "operators",
        "Time by operator",
        f"Milliseconds spent in each operator type. {slowest}.",
        data,
        layout,
        ("artifact", "operator", "ms"),
        rows,
    )


def confusion_chart(run: RunRecord) -> Chart | None:
    """Draw what the images of each class were taken for, or of the classes most often wrong."""
    found = run.confusion
    if found is None:
        return None
    lines = list(zip(found.classes, found.images, found.counts, strict=True))
    rights = [
        (right_of(name, found.taken_for, counts) / images, name, images, counts)
        for name, images, counts in lines
        if images
    ]
    worst = min(rights, key=lambda line: line[0], default=None)
    summary = "There is no image of these classes."
    if worst is not None:
        _, name, images, counts = worst
        right = right_of(name, found.taken_for, counts)
        summary = (
            f"Of the worst class, {name}, {right} of {counted(images, 'image')} "
            f"{'was' if right == 1 else 'were'} recognized."
        )
    return Chart(
        "confusion",
        f"Confusion of classes by {found.model}",
        f"{summary} Right answers are on the diagonal.",
        [
            {
                "type": "heatmap",
                "z": [list(row) for row in found.counts],
                "customdata": [
                    [f"{plain(name)} taken for {plain(other)}" for other in found.taken_for]
                    for name in found.classes
                ],
                "text": [[str(n) if n else "" for n in row] for row in found.counts],
                "texttemplate": "%{text}",
                "colorscale": [[0, "rgba(0, 114, 178, 0)"], [1, "rgba(0, 114, 178, 0.6)"]],
                "showscale": False,
                "hovertemplate": "%{customdata}: %{z}<extra></extra>",
            }
        ],
        {
            "xaxis": {
                **class_axis(found.taken_for),
                "title": {"text": "predicted class"},
                "showgrid": False,
                "zeroline": False,
            },
            "yaxis": {
                **class_axis(found.classes),
                "showgrid": False,
                "zeroline": False,
                "title": {"text": "true class"},
                "autorange": "reversed",
                "scaleanchor": "x",
                "constrain": "domain",
            },
            "shapes": diagonal(len(found.classes)) if found.classes == found.taken_for else [],
        },
        ("class", "images", "taken for"),
        [[name, str(n), taken_text(found.taken_for, counts)] for name, n, counts in lines],
    )


def diagonal(classes: int) -> list[Json]:
    """Frame the right answers of a square matrix."""
    line = {"color": COLORS[1], "width": 1}
    return [
        {
            "type": "rect",
            "x0": i - 0.5,
            "x1": i + 0.5,
            "y0": i - 0.5,
            "y1": i + 0.5,
            "line": line,
        }
        for i in range(classes)
    ]


def right_of(name: str, taken_for: Sequence[str], counts: Sequence[int]) -> int:
    """Count the images of a class that were given its own name."""
    return sum(n for other, n in zip(taken_for, counts, strict=True) if other == name)


def taken_text(taken_for: Sequence[str], counts: Sequence[int]) -> str:
    """Write predictions and how often: ``9: 3, 4: 1``."""
    pairs = sorted(zip(taken_for, counts, strict=True), key=lambda pair: -pair[1])
    return ", ".join(f"{name}: {count}" for name, count in pairs if count)
