"""A chart of the page is plain data; all of them share axes and styles."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
Json = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart is one figure with its numbers as a table.

    Attributes:
        name: the identifier on the page.
        title: what the figure shows; ``summary`` says it to those who cannot see it.
        data: Plotly's traces; ``layout`` its axes and so on.
        header: the titles of the table; ``rows`` its lines.
    """

    name: str
    title: str
    summary: str
    data: Sequence[Json]
    layout: Json
    header: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default=())


def style(index: int) -> tuple[str, str, str]:
    """Return colour, symbol and dash of the series with this number.

    Returns:
        Plotly's names of the three.
    """
    return (
        COLORS[index % len(COLORS)],
        SYMBOLS[index % len(SYMBOLS)],
        DASHES[index % len(DASHES)],
    )


def plain(text: str) -> str:
    """Write text as Plotly shows it, which reads some HTML in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(name: str) -> str:
    """Shorten a name so that it leaves room for the chart."""
    return plain(name if len(name) <= 24 else name[:23] + "…")


def axes(x: str, y: str, **more: object) -> Json:
    """Make a layout with titled axes."""
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **more}


def log_axis(title: str, values: Sequence[float]) -> Json:
    """Make a logarithmic axis with plain numbers at 1, 2, 5, 10 and so on."""
    low, high = min(values), max(values)
    ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
    return {
        "title": {"text": title},
        "type": "log",
        "tickvals": [tick for tick in ticks if low / 2 <= tick <= 2 * high],
    }


def class_axis(names: Sequence[str]) -> Json:
    """Label positions with classes, of which two may have one name."""
    shown = [short(name) for name in names]
    return {"tickvals": list(range(len(names))), "ticktext": shown, "automargin": True}
