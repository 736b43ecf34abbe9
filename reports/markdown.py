"""A run as Markdown, for a pull request or a terminal: pure functions from records to text."""

from collections.abc import Sequence

from pydantic import JsonValue

from mobilenet_cli.reports.latency_tables import classic_markdown, latency_markdown, threads_on
from mobilenet_cli.reports.records.accuracy import Interval, Metric
from mobilenet_cli.reports.records.run import ArtifactRecord, Missing, ReportRecord, ReportRow
from mobilenet_cli.reports.tables import code, escape, table


def report_markdown(report: ReportRecord) -> str:
    """The whole report: headline, warnings, what is missing, tables, provenance."""
    run = report.run
    parts = [f"# Run {escape(run.run)}\n", f"**{escape(report.headline)}**\n"]
    if run.warnings:
        parts += ["## Warnings\n", "".join(f"- {escape(text)}\n" for text in run.warnings)]
    if run.missing:
        parts += ["## Missing\n", missing_markdown(run.missing)]
    parts += ["## Artifacts\n", rows_markdown(report.rows)]
    if run.bench is not None:
        parts += ["## Forward and backward\n", classic_markdown(run.bench)]
        parts += ["## Latency\n", latency_markdown(run.bench)]
    parts += ["## Provenance\n", provenance_markdown(run.artifacts)]
    return "\n".join(parts)


def rows_markdown(rows: Sequence[ReportRow]) -> str:
    """One line an artifact, and below the table what its columns refer to."""
    header = "artifact | size MiB | images | top-1 % | top-5 % | p50 ms | p99 ms | speed-up"
    text = table(header, [row_cells(row) for row in rows])
    notes = sorted({note for row in rows if (note := setting(row))})
    return text + "".join(f"\n{escape(note)}\n" for note in notes)


def row_cells(row: ReportRow) -> list[str]:
    """The row as text, a dash where nothing was measured."""
    return [
        row.file,
        f"{row.size_mb:.2f}",
        "–" if row.images is None else str(row.images),
        metric_text(row.top1),
        metric_text(row.top5),
        "–" if row.p50_ms is None else f"{row.p50_ms:.2f}",
        "–" if row.p99_ms is None else f"{row.p99_ms:.2f}",
        times_text(row.speedup),
    ]


def setting(row: ReportRow) -> str:
    """What the accuracy and the latency of a row were measured with."""
    parts = []
    if row.data is not None:
        parts.append(f"Accuracy on {row.data}, 95 % Wilson intervals.")
    if row.threads is not None:
        over = f" Speed-up over {row.speedup_over}." if row.speedup_over else ""
        parts.append(f"Latency of batch {row.batch} on {threads_on(row.threads, row.cpus)}.{over}")
    return " ".join(parts)


def metric_text(metric: Metric | None) -> str:
    """``98.33 (97.1 to 99.1)``."""
    if metric is None:
        return "–"
    return f"{metric.value:.2f} ({metric.low:.1f} to {metric.high:.1f})"


def times_text(interval: Interval | None) -> str:
    """``1.62× (1.58 to 1.66)``."""
    if interval is None:
        return "–"
    value = times(interval.value)
    if interval.low is None or interval.high is None:
        return f"{value}×"
    return f"{value}× ({times(interval.low)} to {times(interval.high)})"


def times(value: float) -> str:
    """Two decimals, or two digits where that would show nothing."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def missing_markdown(missing: Sequence[Missing]) -> str:
    """One line a part that is not there, with the command that makes it."""
    return "".join(
        f"- {escape(part.file)} {escape(part.why)}: run `{code(part.command)}`\n"
        for part in missing
    )


def provenance_markdown(artifacts: Sequence[ArtifactRecord]) -> str:
    """Which file came from which, by which stage and settings."""
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
    """The parent's file name, or the start of its hash where it is not in the run."""
    if artifact.parent is None:
        return artifact.data or "–"
    return files.get(artifact.parent, artifact.parent[:12])


def pairs(values: dict[str, JsonValue] | dict[str, str]) -> str:
    """``epochs 10, seed 0``; what is not set is left out."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
