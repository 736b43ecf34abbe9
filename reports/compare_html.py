"""Runs side by side, and over time, become HTML pages: pure functions from records to text."""

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.charts.comparison_charts import (
    accuracy_charts,
    difference_chart,
    history_charts,
)
from mobilenet_cli.reports.compare import broken, incomparable, pairs_grid, runs_grid, told, when
from mobilenet_cli.reports.html import document
from mobilenet_cli.reports.records.run import ComparisonRecord, HistoryRecord
from mobilenet_cli.reports.summary import points, speed


def comparison_html(record: ComparisonRecord) -> str:
    """Write the page of ``report --compare``."""
    first, *others = record.runs
    names = ", ".join(run.run for run in others)
    charts = [difference_chart(record.pairs), *accuracy_charts(record.runs)]
    return document(
        "compare.html.j2",
        f"{first.run} and {names}",
        "Runs side by side",
        comparison_headline(record),
        [chart for chart in charts if chart is not None],
        lede=told(record.runs),
        warnings=[*broken(record.runs), *incomparable(record.pairs)],
        base=first.run,
        pairs=pairs_grid(record.pairs),
        runs=runs_grid(record.runs),
    )


def history_html(record: HistoryRecord) -> str:
    """Write the page of ``report --history``."""
    return document(
        "compare.html.j2",
        "History of runs",
        "History",
        f"{counted(len(record.runs), 'run')}, the last of {when(record.runs[-1])}",
        [chart for chart in history_charts(record.runs) if chart is not None],
        lede=told(record.runs),
        warnings=broken(record.runs),
        pairs=None,
        runs=runs_grid(record.runs),
    )


def comparison_headline(record: ComparisonRecord) -> str:
    """Say in a sentence how the last artifact that both runs have compares."""
    first, *others = (run.run for run in record.runs)
    if not record.pairs:
        return f"{first} and {', '.join(others)} have no artifact of one kind"
    pair = record.pairs[-1]
    said = []
    if pair.difference is not None:
        said.append(points(pair.difference, pair.measure))
    if pair.speedup is not None:
        sure, text = speed(pair.speedup, pair.base)
        said.append(f"it is {text}" if sure else text)
    if len(others) > 1 or not said:
        return f"{', '.join(others)} against {first}"
    return f"{pair.stage} of {pair.other} against {pair.base}: {'; '.join(said)}"
