"""A run becomes Markdown, for a pull request: pure functions from records to text."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.latency_tables import classic_grid, latency_grid, threads_on
from mobilenet_cli.reports.records.accuracy import Interval, Metric
from mobilenet_cli.reports.records.run import ArtifactRecord, Missing, ReportRecord, ReportRow
from mobilenet_cli.reports.summary import times
from mobilenet_cli.reports.tables import (
    Cell,
    Grid,
    code,
    escape,
    grid_markdown,
    label,
    number,
    table,
)


def report_markdown(report: ReportRecord) -> str:
    """Write the whole report: headline, warnings, what is missing, tables, provenance."""
    run = report.run
    parts = [f"# Run {escape(run.run)}\n", f"**{escape(report.headline)}**\n"]
    parts += ["".join(f"- {escape(fact)}\n" for fact in report.facts)] if report.facts else []
    if run.warnings:
        parts += ["## Warnings\n", "".join(f"- {escape(text)}\n" for text in run.warnings)]
    if run.missing:
        parts += ["## Missing\n", missing_markdown(run.missing)]
    parts += ["## Artifacts\n", rows_markdown(report.rows)]
    if run.bench is not None:
        parts += ["## Forward and backward\n", grid_markdown(classic_grid(run.bench))]
        parts += ["## Latency\n", grid_markdown(latency_grid(run.bench))]
    parts += ["## Provenance\n", provenance_markdown(run.artifacts)]
    return "\n".join(parts)


def rows_markdown(rows: Sequence[ReportRow]) -> str:
    """Write one line an artifact, and below the table what its columns refer to."""
    notes = "".join(f"\n{escape(note)}\n" for note in settings(rows))
    return grid_markdown(artifact_grid(rows)) + notes


def artifact_grid(rows: Sequence[ReportRow]) -> Grid:
    """Lay out the artifacts of one run, a dash where nothing was measured."""
    titles = (
        *("artifact", "size MiB", "top-1 %", "AP50 %", "p50 ms", "speed-up", "p99 ms"),
        *("top-5 %", "AP %"),
    )
    return Grid(
        titles,
        [
            [
                label(row.file),
                number(row.size_mb, ".2f"),
                interval_cell(row.top1),
                interval_cell(row.ap50),
                number(row.p50_ms, ".2f"),
                times_cell(row.speedup),
                number(row.p99_ms, ".2f"),
                interval_cell(row.top5),
                interval_cell(row.ap),
            ]
            for row in rows
        ],
    ).filled()


def settings(rows: Sequence[ReportRow]) -> list[str]:
    """Say once what the accuracies and the latencies of the rows were measured with."""
    return list(dict.fromkeys(note for row in rows for note in setting(row)))


def setting(row: ReportRow) -> list[str]:
    """Say what the accuracy and the latency of a row were measured with."""
    notes = []
    if row.ap50 is not None:
        notes.append(
            f"Average precision (COCO) on {counted(row.images or 0, 'image')} of {row.data}, 95 % "
            "intervals by bootstrap over images."
        )
    elif row.data is not None:
        notes.append(
            f"Accuracy on {counted(row.images or 0, 'image')} of {row.data}, 95 % Wilson intervals."
        )
    if row.threads is not None:
        over = f" Speed-up over {row.speedup_over}." if row.speedup_over else ""
        notes.append(f"Latency of batch {row.batch} on {threads_on(row.threads, row.cpus)}.{over}")
    return notes


def interval_cell(interval: Interval | Metric | None, form: str = ".2f", ends: str = ".1f") -> Cell:
    """Make a cell of a percentage, whose interval may be unknown: ``98.33 (97.1 to 99.1)``."""
    if interval is None:
        return number(None)
    low, high = interval.low, interval.high
    bounds = "" if low is None or high is None else f"{low:{ends}} to {high:{ends}}"
    return number(interval.value, form, bounds)


def times_cell(interval: Interval | None) -> Cell:
    """Make a cell of a ratio: ``1.62× (1.58 to 1.66)``."""
    if interval is None:
        return number(None)
    bounds = ""
    if interval.low is not None and interval.high is not None:
        bounds = f"{times(interval.low)} to {times(interval.high)}"
    return Cell(f"{times(interval.value)}×", interval.value, bounds)


def missing_markdown(missing: Sequence[Missing]) -> str:
    """Write one line a part that is not there, with the command that makes it."""
    return "".join(
        f"- {escape(part.file)} {escape(part.why)}: run `{code(part.command)}`\n"
        for part in missing
    )


def provenance_markdown(artifacts: Sequence[ArtifactRecord]) -> str:
    """Write which file came from which, by which stage and settings."""
    files = {artifact.sha256: artifact.file for artifact in artifacts}
    rows = [
        [
            artifact.file,
            artifact.sha256[:12],
            artifact.stage,
            parent_text(artifact, files),
            pairs(artifact.config),
            pairs(artifact.versions),
        ]
        for artifact in artifacts
    ]
    return table("file | sha256 | stage | from | settings | versions", rows)


def parent_text(artifact: ArtifactRecord, files: dict[str, str]) -> str:
    """Return the parent's file name, or the start of its hash where it is not in the run."""
    if artifact.parent is None:
        return artifact.data or "–"
    return files.get(artifact.parent, artifact.parent[:12])


def pairs(values: Mapping[str, JsonValue] | Mapping[str, str]) -> str:
    """Write settings as ``epochs 10, seed 0``; what is not set is left out."""
    shown = ((name.replace("_", " "), plain_value(value)) for name, value in values.items())
    return ", ".join(f"{name} {value}".strip() for name, value in shown if value is not None)


def plain_value(value: JsonValue) -> str | None:
    """Write a setting in words: a recipe by its name, a switch by being there; None to omit it."""
    if value is None or value is False or value == []:
        return None
    if value is True:
        return ""
    if isinstance(value, dict):
        name = value.get("name")
        return str(name) if name else f"of {len(value)} values"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
