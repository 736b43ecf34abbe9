"""A run becomes one HTML page that opens offline: a pure function from records to text."""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mobilenet_cli.reports.charts.chart import Chart
from mobilenet_cli.reports.charts.run_charts import charts
from mobilenet_cli.reports.markdown import artifact_grid, pairs, settings
from mobilenet_cli.reports.records.run import ArtifactRecord, ReportRecord, RunRecord
from mobilenet_cli.reports.reproduce import commands

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Node:
    """A node is one file in the graph of provenance.

    Attributes:
        artifact: the file.
        settings: the settings of its stage, in words.
        versions: the versions of the libraries that took part.
        children: the files made from it.
    """

    artifact: ArtifactRecord
    settings: str
    versions: str
    children: tuple["Node", ...]


def report_html(report: ReportRecord, pictures: Mapping[str, str], no_pictures: str = "") -> str:
    """Write the page of a run.

    Args:
        report: what to show.
        pictures: the pictures' ``data:`` addresses by name of an evaluation image.
        no_pictures: why there are none, as a sentence without a full stop.
    """
    run = report.run
    return document(
        "page.html.j2",
        f"{run.run}: report",
        f"Run {run.run}",
        report.headline,
        charts(report),
        run=run,
        facts=report.facts,
        grid=artifact_grid(report.rows),
        notes=settings(report.rows),
        next_step=next_step(report),
        roots=provenance(run.artifacts),
        pictures=pictures,
        no_pictures=no_pictures,
        machine=machine_lines(run),
        commands=commands(run),
    )


def document(
    name: str, title: str, kicker: str, headline: str, drawn: Sequence[Chart], **content: object
) -> str:
    """Write a page that has everything it needs in it.

    Args:
        name: the template's file name.
        title: the title of the window.
        kicker: what the page is about, above the headline.
        headline: its one sentence.
        drawn: the charts.
        content: what else the template shows, by name.
    """
    return template(name).render(
        title=title,
        kicker=kicker,
        headline=headline,
        charts=drawn,
        figures={chart.name: {"data": chart.data, "layout": chart.layout} for chart in drawn},
        plotly=plotly_source() if drawn else "",
        **content,
    )


def next_step(report: ReportRecord) -> str:
    """Return the command that somebody who has read the report may want to run next."""
    if report.run.missing:
        return report.run.missing[0].command
    return f"mobilenet-cli predict --run {report.run.run} photo.jpg"


def provenance(artifacts: Sequence[ArtifactRecord]) -> tuple[Node, ...]:
    """Arrange the files of a run as trees: each below the one it was made from."""
    known = {artifact.sha256 for artifact in artifacts}

    def below(parent: str) -> tuple[Node, ...]:
        return tuple(node(a) for a in artifacts if a.parent == parent and a.sha256 != parent)

    def node(artifact: ArtifactRecord) -> Node:
        return Node(
            artifact, pairs(artifact.config), pairs(artifact.versions), below(artifact.sha256)
        )

    return tuple(node(a) for a in artifacts if a.parent not in known)


def machine_lines(run: RunRecord) -> list[tuple[str, str]]:
    """Say where the latencies were measured, as names and values."""
    if run.bench is None:
        return []
    here = run.bench.machine
    quota = f", {here.cpu_quota:g} granted" if here.cpu_quota else ""
    return [
        ("processor", f"{here.cpu}, {here.architecture}"),
        ("CPUs", f"{here.cpus}, {here.usable_cpus} usable{quota}"),
        ("instruction sets", ", ".join(here.instruction_sets)),
        ("memory", f"{here.memory_mb / 1024:.1f} GiB"),
        ("GPUs", "; ".join(here.gpus) or "none"),
        ("system", f"{here.os}, Python {here.python}"),
        ("versions", pairs(here.versions)),
        ("input images", run.bench.input),
    ]


@functools.cache
def plotly_source() -> str:
    """Return Plotly's JavaScript, as its Python package brings it."""
    package = importlib.util.find_spec("plotly")  # importing it would take a second
    assert package is not None  # a dependency
    assert package.origin is not None  # of every package that is no namespace
    return (Path(package.origin).parent / "package_data" / "plotly.min.js").read_text("utf-8")


@functools.cache
def template(name: str) -> jinja2.Template:
    """Return a template of this folder; everything put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
