"""Collect what a run folder holds, and write it as a report in every format."""

from collections.abc import Sequence
from pathlib import Path

from mobilenet_cli.data.readers.files import read_text
from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.reporting.collect import collect, newest
from mobilenet_cli.pipeline.reporting.gallery import pictures
from mobilenet_cli.reports.embed import BENCH_SECTIONS, MARK, SECTIONS, embed
from mobilenet_cli.reports.html import report_html
from mobilenet_cli.reports.markdown import report_markdown
from mobilenet_cli.reports.model_card import model_card
from mobilenet_cli.reports.records.accuracy import AnswersRecord
from mobilenet_cli.reports.records.run import ReportRecord, RunRecord
from mobilenet_cli.reports.summary import summarize


def report(run: Run) -> tuple[ReportRecord, dict[str, Path]]:
    """Write the report of a run into its folder; return it and the paths by format.

    Raises:
        ModelError: there is no such run, or it has no model.
        StorageError: the folder cannot be written to.
    """
    run_record, answers = collect(run)
    record = summarize(run_record)
    texts = {
        "markdown": ("report.md", report_markdown(record)),
        "json": ("report.json", record.model_dump_json(indent=2) + "\n"),
        "model_card": ("model_card.md", model_card(record)),
        "html": ("report.html", report_html(record, *gallery_pictures(run_record, answers))),
    }
    for file, text in texts.values():
        write_atomically(run.folder / file, text.encode())
    return record, {form: run.folder / file for form, (file, _) in texts.items()}


def embed_into(path: Path, record: ReportRecord) -> None:
    """Bring the tables of a report in a Markdown file up to date.

    Raises:
        DataError: the file cannot be read.
        StorageError: it cannot be written.
        OptionError: it does not say where, or asks for what the run does not have.
    """
    text = read_text(path)
    names = ", ".join((*SECTIONS, *BENCH_SECTIONS))
    if not MARK.search(text):
        raise OptionError(
            f"{path} does not say where a table belongs",
            "Put '<!-- report: NAME -->' and '<!-- /report -->' on lines of their own; "
            f"NAME is one of {names}",
        )
    try:
        text = embed(text, record)
    except KeyError as error:
        raise OptionError(
            f"{path} asks for {error.args[0]}, which run {record.run.run} does not have",
            f"Use one of {names}, and bench the run for the last three",
        ) from error
    write_atomically(path, text.encode())


def gallery_pictures(
    run: RunRecord, answers: Sequence[AnswersRecord]
) -> tuple[dict[str, str], str]:
    """Return pictures of the images that the report shows by name; or none, and why."""
    keys = [case.key for case in (*run.disagreements, *run.mistakes)]
    keys += [case.key for case in (*run.differing_boxes, *run.mistaken_boxes)]
    last = run.artifacts[-1]
    record = next((r for a in reversed(run.artifacts) if (r := newest(answers, a.sha256))), None)
    if record is None or not keys:
        return {}, ""
    try:
        return pictures(record, last.data, keys), ""
    except DataError as error:
        return {}, error.what
