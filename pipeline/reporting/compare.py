"""Runs are compared with each other, side by side and over time."""

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.artifacts.runs import NO_RUN_YET, Run
from mobilenet_cli.pipeline.errors import MobilenetError, ModelError, OptionError
from mobilenet_cli.pipeline.reporting.collect import collect, newest
from mobilenet_cli.pipeline.reporting.report_warnings import command
from mobilenet_cli.reports.accuracy_statistics import compare_paired, compare_precision
from mobilenet_cli.reports.compare import compare_latency, comparison_tables, history_tables
from mobilenet_cli.reports.compare_html import comparison_html, history_html
from mobilenet_cli.reports.records.accuracy import AnswersRecord, PairedRecord, PredictionsRecord
from mobilenet_cli.reports.records.detection import DetectionRecord, PairedPrecision
from mobilenet_cli.reports.records.run import (
    BOXES,
    ComparedPair,
    ComparedRun,
    ComparisonRecord,
    HistoryRecord,
    RunRecord,
)
from mobilenet_cli.reports.records.training import TrainRecord
from mobilenet_cli.reports.summary import summarize
from mobilenet_cli.reports.tables import sections_markdown

Read = tuple[RunRecord, Sequence[AnswersRecord]]
A = TypeVar("A", PredictionsRecord, DetectionRecord)
P = TypeVar("P", PairedRecord, PairedPrecision)


def compare_runs(runs: Sequence[Run]) -> ComparisonRecord:
    """Compare the first run with each of the others, artifact by artifact.

    Raises:
        OptionError: fewer than two runs.
        ModelError: a run does not exist or has no model.
    """
    if len({run.folder.resolve() for run in runs}) < 2:
        raise OptionError(
            "there is nothing to compare", "Name two runs or more, as in: report --compare A B"
        )
    read = [collect(run, layers=False) for run in runs]
    pairs = [pair for other in read[1:] for pair in compare_two(read[0], other)]
    return ComparisonRecord(
        runs=tuple(compared_run(run, record) for run, (record, _) in zip(runs, read, strict=True)),
        pairs=tuple(pairs),
    )


def write(record: ComparisonRecord | HistoryRecord, folder: Path) -> dict[str, Path]:
    """Write what ``compare_runs`` or ``history`` found in every format; return the paths.

    Raises:
        StorageError: the folder cannot be written to.
    """
    if isinstance(record, ComparisonRecord):
        name, html, tables = "comparison", comparison_html(record), comparison_tables(record)
    else:
        name, html, tables = "history", history_html(record), history_tables(record)
    texts = {
        "markdown": (".md", sections_markdown(tables) + "\n"),
        "json": (".json", record.model_dump_json(indent=2) + "\n"),
        "html": (".html", html),
    }
    paths = {form: folder / f"{name}{suffix}" for form, (suffix, _) in texts.items()}
    for form, (_, text) in texts.items():
        write_atomically(paths[form], text.encode())
    return paths


def compare_two(base: Read, other: Read) -> list[ComparedPair]:
    """Compare the artifacts that both runs have; checkpoints are one kind, trained or imported."""
    first, second = ({kind_of(a.stage): a for a in run.artifacts} for run, _ in (base, other))
    pairs = []
    for kind in (kind for kind in first if kind in second):
        hashes = first[kind].sha256, second[kind].sha256
        detects = first[kind].output == second[kind].output == BOXES
        accuracy, precision = None, None
        if detects:
            precision, accuracy_note = compare_answers(
                *(base, other, kind), resampled_of, compare_precision, "AP50 of resampled images"
            )
        else:
            accuracy, accuracy_note = compare_answers(
                *(base, other, kind), predictions_of, compare_paired, "predictions"
            )
        speedup, latency_note = compare_latency(base[0].bench, other[0].bench, *hashes)
        pairs.append(
            ComparedPair(
                stage=kind,
                base=base[0].run,
                other=other[0].run,
                accuracy=accuracy,
                accuracy_note=accuracy_note,
                precision=precision,
                speedup=speedup,
                latency_note=latency_note,
            )
        )
    return pairs


def kind_of(stage: str) -> str:
    """Return what an artifact is compared as: trained and imported checkpoints are one kind."""
    return "checkpoint" if stage in ("train", "import") else stage


def compare_answers(
    base: Read,
    other: Read,
    kind: str,
    find: Callable[[Read, str], A | None],
    compare: Callable[[A, A], P | None],
    what: str,
) -> tuple[P | None, str]:
    """Compare one kind of artifact on the same images, or say why that cannot be done.

    Args:
        base: the one run.
        other: the other run.
        kind: of the artifact, as ``kind_of`` has it.
        find: returns what a run knows of the file with a hash.
        compare: compares that of both; None where the images are not the same.
        what: what is missing where ``find`` returns None.
    """
    found = []
    for read in (base, other):
        run = read[0]
        artifact = next(a for a in run.artifacts if kind_of(a.stage) == kind)
        record = find(read, artifact.sha256)
        if record is None:
            return None, (
                f"{run.run}/{artifact.file} has no {what}: run "
                f"'{command('evaluate', run.run, artifact.data)}'"
            )
        found.append(record)
    pair = compare(found[0], found[1])
    if pair is None:
        return None, f"evaluated on different images: {found[0].data} and {found[1].data}"
    return pair, ""


def predictions_of(read: Read, sha256: str) -> PredictionsRecord | None:
    """Return the newest predictions of a file."""
    return newest([r for r in read[1] if isinstance(r, PredictionsRecord)], sha256)


def resampled_of(read: Read, sha256: str) -> DetectionRecord | None:
    """Return the newest average precision of a file, if that of resampled images is known."""
    record = newest(read[0].detections, sha256)
    return record if record is not None and record.ap50_resampled else None


def history(folder: Path) -> HistoryRecord:
    """List every run of a folder, oldest first; one that cannot be read stands with the reason.

    Raises:
        ModelError: there is no run.
    """
    runs = [Run(path) for path in sorted(folder.glob("*")) if Run(path).artifacts()]
    if not runs:
        raise ModelError(f"there is no run in {folder}", NO_RUN_YET)
    listed = []
    for run in runs:
        try:
            listed.append(compared_run(run, collect(run, layers=False)[0]))
        except MobilenetError as error:
            listed.append(ComparedRun(run=run.name, made=made_at(run), broken=error.what))
    return HistoryRecord(runs=tuple(sorted(listed, key=lambda run: (run.made or "", run.run))))


def compared_run(run: Run, record: RunRecord) -> ComparedRun:
    """Return a run as one entry of a list."""
    report, first = summarize(record), record.artifacts[0]
    trained = first.measured(TrainRecord)
    return ComparedRun(
        run=record.run,
        made=made_at(run),
        machine=record.bench.machine.cpu if record.bench else None,
        width=first.model.width if first.model else None,
        resolution=first.input.resolution if first.input else None,
        epochs=trained.epochs if trained else None,
        data=first.data,
        headline=report.headline,
        rows=report.rows,
    )


def made_at(run: Run) -> str:
    """Return when the newest model of a run was written."""
    newest_time = max(path.stat().st_mtime for path in run.artifacts())
    at = datetime.datetime.fromtimestamp(newest_time, datetime.UTC)
    return at.isoformat(timespec="seconds")
