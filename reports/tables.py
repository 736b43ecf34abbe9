"""Tables are data first, and then Markdown, a terminal's columns or a page's HTML."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """A cell says what is shown, and what to sort by.

    Attributes:
        text: what is shown.
        sort: the number or text to sort by; None where nothing is known.
        detail: what stands behind the text in brackets, such as an interval.
    """

    text: str
    sort: float | str | None = None
    detail: str = ""

    def __str__(self) -> str:
        """Return the whole cell on one line."""
        return f"{self.text} ({self.detail})" if self.detail else self.text


def label(value: str | None) -> Cell:
    """Make a cell of a name, a dash where there is none."""
    return Cell(value or NOTHING, value)


def number(value: float | None, form: str = "", detail: str = "") -> Cell:
    """Make a cell of a number in a format such as ``.2f``, a dash where there is none."""
    return Cell(NOTHING) if value is None else Cell(f"{value:{form}}", value, detail)


@dataclass(frozen=True)
class Grid:
    """A grid is a table whose columns stand in the order of their importance.

    Attributes:
        titles: the columns' titles.
        rows: the lines, each with a cell a column.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def only(self, columns: Sequence[int]) -> "Grid":
        """Return the grid with these columns alone."""
        rows = [[row[column] for column in columns] for row in self.rows]
        return Grid([self.titles[column] for column in columns], rows)

    def filled(self) -> "Grid":
        """Return the grid without the columns in which nothing is known."""
        known = [any(row[c].text != NOTHING for row in self.rows) for c in range(len(self.titles))]
        return self.only([column for column, some in enumerate(known) if some or not column])


@dataclass(frozen=True)
class Section:
    """A section is a table with sentences on it.

    Attributes:
        title: the heading; empty for none.
        grid: the table.
        notes: what its columns refer to, a sentence each.
    """

    title: str
    grid: Grid
    notes: Sequence[str] = ()


def sections_markdown(sections: Sequence[Section]) -> str:
    """Write sections as Markdown."""
    parts = []
    for section in sections:
        parts += [f"## {escape(section.title)}\n"] if section.title else []
        parts += [grid_markdown(section.grid)]
        parts += ["".join(f"- {escape(note)}\n" for note in section.notes)] * bool(section.notes)
    return "\n".join(parts)


def sections_text(sections: Sequence[Section], width: int) -> str:
    """Write sections for a terminal of ``width`` columns."""
    parts = []
    for section in sections:
        parts += [f"{section.title}\n"] if section.title else []
        parts += [grid_text(section.grid, width)]
        parts += ["".join(f"{note}\n" for note in section.notes)] * bool(section.notes)
    return "\n".join(parts)


def grid_markdown(grid: Grid) -> str:
    """Write a grid as a Markdown table."""
    return table(" | ".join(grid.titles), [[str(cell) for cell in row] for row in grid.rows])


def grid_text(grid: Grid, width: int) -> str:
    """Write a grid for a terminal of ``width`` columns; the last columns go if it is too narrow.

    A table that is too wide with two columns alone breaks its longest cells over several lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    kept = len(grid.titles)
    while kept > 2 and _width(grid, kept) > width:
        kept -= 1
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in grid.titles[:kept]:
        drawn.add_column(title, no_wrap=_width(grid, kept) <= width, overflow="fold")
    for row in grid.rows:
        drawn.add_row(*(str(cell) for cell in row[:kept]))
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, emoji=False, highlight=False)
    console.print(drawn)
    dropped = grid.titles[kept:]
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    if dropped:
        console.file = file = io.StringIO()
        console.print(f"no room for {', '.join(dropped)}: a wider terminal or --markdown shows all")
        lines += file.getvalue().splitlines()
    return "\n".join(lines) + "\n"


def _width(grid: Grid, columns: int) -> int:
    from rich.cells import cell_len

    lines = [grid.titles[:columns], *([str(cell) for cell in row[:columns]] for row in grid.rows)]
    between = 3  # columns of the terminal from one cell to the next
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    return sum(widths) + between * (columns - 1)


def table(header: str, rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; ``header`` is its first line without the outer bars.

    The cells are escaped.
    """
    titles = [title.strip() for title in header.split("|")]
    lines = [titles, ["---"] * len(titles), *([escape(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def escape(text: str) -> str:
    """Write text as Markdown shows it: no HTML, no end of a cell, no formatting, one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*[]|":
        text = text.replace(mark, f"\\{mark}")
    return text


def code(text: str) -> str:
    """Write text that stands between backticks: a backtick would end it."""
    return " ".join(text.split()).replace("`", "'")
