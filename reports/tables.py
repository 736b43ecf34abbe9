"""Markdown that shows text as it is."""

from collections.abc import Sequence


def table(header: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; ``header`` is its first line without the outer bars, cells are escaped."""
    titles = [title.strip() for title in header.split("|")]
    lines = [titles, ["---"] * len(titles), *([escape(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def escape(text: str) -> str:
    """Text as Markdown shows it: no HTML, no end of a table's cell, no formatting, one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*[]|":
        text = text.replace(mark, f"\\{mark}")
    return text


def code(text: str) -> str:
    """Text between backticks: a backtick would end it."""
    return " ".join(text.split()).replace("`", "'")
