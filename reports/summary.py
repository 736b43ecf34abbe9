"""What a run amounts to: one row an artifact, and one sentence. Pure functions of records."""

from collections.abc import Sequence

from mobilenet_cli.reports.records.accuracy import EvaluationRecord, Interval
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.run import ArtifactRecord, ReportRecord, ReportRow, RunRecord


def summarize(run: RunRecord) -> ReportRecord:
    """The run with its table and its headline."""
    rows = tuple(report_row(run, artifact) for artifact in run.artifacts)
    return ReportRecord(headline=headline(run, rows), rows=rows, run=run)


def report_row(run: RunRecord, artifact: ArtifactRecord) -> ReportRow:
    """Everything that was measured on one artifact, in the first setting it was measured in."""
    row = ReportRow(file=artifact.file, stage=artifact.stage, size_mb=artifact.size_mb)
    update: dict[str, object] = {}
    if evaluation := evaluation_of(run, artifact):
        update |= {
            "data": evaluation.data,
            "images": evaluation.images,
            "top1": evaluation.top1,
            "top5": evaluation.top5,
        }
    if run.bench is not None and (index := result_index(run.bench, artifact.sha256)) is not None:
        result = run.bench.results[index]
        over = result.reference
        speedup = speed_over(run.bench, index, over)
        update |= {
            "provider": result.provider,
            "threads": result.threads,
            "cpus": result.cpus,
            "batch": result.batch,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "speedup": speedup,
            "speedup_over": file_name(run.bench.results[over].model) if speedup else None,
            "result": index,
        }
    return row.model_copy(update=update)


def evaluation_of(run: RunRecord, artifact: ArtifactRecord) -> EvaluationRecord | None:
    """The newest evaluation of exactly this file."""
    found = [record for record in run.evaluations if record.sha256 == artifact.sha256]
    return found[-1] if found else None


def result_index(bench: BenchRecord, sha256: str) -> int | None:
    """The first plain forward row of a file in the latency record."""
    for index, result in enumerate(bench.results):
        if (result.sha256, result.variant, result.direction) == (sha256, "", "forward"):
            return index
    return None


def speed_over(bench: BenchRecord, index: int, reference: int) -> Interval | None:
    """How many times faster one row is than another; ``Ratio`` holds the inverse."""
    if index == reference:
        return Interval(value=1.0)
    for ratio in bench.ratios:
        if (ratio.row, ratio.reference) == (index, reference):
            return Interval(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)
    return None


def file_name(path: str) -> str:
    """Last part of a path of this or another system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def headline(run: RunRecord, rows: Sequence[ReportRow]) -> str:
    """Speed, size and accuracy of the int8 model against the float one, as far as measured."""
    stages = {row.stage: row for row in rows}
    int8, base = stages.get("quantize"), stages.get("simplify") or stages.get("export")
    if int8 is None or base is None:
        names = ", ".join(row.file for row in rows) or "no model"
        return f"Run {run.run} has {names}; int8 cannot be compared with fp32 yet."
    parts = [part for part in (_speed(int8, base), _size(int8, base)) if part]
    pair = next((p for p in run.paired if (p.base, p.other) == (base.file, int8.file)), None)
    parts.append(points(pair.difference) if pair else _accuracy(int8, base))
    return f"int8 {', '.join(parts[:-1])}{' and ' if parts[:-1] else ''}{parts[-1]}."


def _speed(int8: ReportRow, base: ReportRow) -> str:
    if int8.speedup is None or int8.speedup_over != base.file:
        return ""
    times = int8.speedup.value
    return f"is {times:.2f}× faster than fp32" if times >= 1 else f"is {1 / times:.2f}× slower"


def _size(int8: ReportRow, base: ReportRow) -> str:
    return f"{base.size_mb / int8.size_mb:.1f}× smaller" if int8.size_mb else ""


def _accuracy(int8: ReportRow, base: ReportRow) -> str:
    if int8.top1 is None or base.top1 is None:
        return "has not been compared in accuracy"
    if (int8.data, int8.images) != (base.data, base.images):
        return "was evaluated on other images than fp32"
    return points(Interval(value=int8.top1.value - base.top1.value))


def points(difference: Interval) -> str:
    """``loses 0.2 points of top-1 (95 %: -0.9 to +0.5)``."""
    text = "has the same top-1 as fp32"
    if abs(difference.value) >= 0.005:
        verb = "gains" if difference.value > 0 else "loses"
        text = f"{verb} {abs(difference.value):.2f} points of top-1"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} (95 %: {difference.low:+.2f} to {difference.high:+.2f})"
