"""Another Markdown file, such as a README, may hold tables of a report that are always current.

The file says where, with a pair of comments; what is between them is replaced::

    <!-- report: artifacts -->
    <!-- /report -->
"""

import re
from collections.abc import Callable

from mobilenet_cli.reports.latency_tables import classic_grid, latency_grid
from mobilenet_cli.reports.markdown import provenance_markdown, rows_markdown
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.run import ReportRecord
from mobilenet_cli.reports.tables import escape, grid_markdown

MARK = re.compile(r"(<!-- report: ([a-z-]+) -->\n).*?(<!-- /report -->)", re.DOTALL)


def machine_markdown(bench: BenchRecord) -> str:
    """Describe the machine in one sentence."""
    here = bench.machine
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    return escape(f"{here.cpu}, {here.usable_cpus} CPUs, {here.os}; {versions}.") + "\n"


SECTIONS: dict[str, Callable[[ReportRecord], str]] = {
    "headline": lambda report: escape(report.headline) + "\n",
    "artifacts": lambda report: rows_markdown(report.rows),
    "provenance": lambda report: provenance_markdown(report.run.artifacts),
}
BENCH_SECTIONS: dict[str, Callable[[BenchRecord], str]] = {
    "classic": lambda bench: grid_markdown(classic_grid(bench)),
    "latency": lambda bench: grid_markdown(latency_grid(bench)),
    "machine": machine_markdown,
}


def embed(text: str, report: ReportRecord) -> str:
    """Return the text with the sections that it asks for.

    Raises:
        KeyError: no section has a name that is asked for, or the run lacks what it shows.
    """

    def section(match: re.Match[str]) -> str:
        name = match[2]
        if name in BENCH_SECTIONS and report.run.bench is not None:
            return match[1] + BENCH_SECTIONS[name](report.run.bench) + match[3]
        return match[1] + SECTIONS[name](report) + match[3]

    return MARK.sub(section, text)
