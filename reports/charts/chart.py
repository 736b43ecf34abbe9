"""A chart of the page is plain data; all of them share axes and styles."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilenet_cli.reports.records.accuracy import Interval, Metric

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


def series(
    index: int, name: str, x: Sequence[object], y: Sequence[object], mode: str, **more: Any
) -> Json:
    """Make a series of points or of a line, in the colour and form of its number.

    Args:
        index: its number.
        name: what the legend calls it, as ``plain`` writes it.
        x: where its points are.
        y: where its points are.
        mode: Plotly's name of what is drawn: ``markers``, ``lines`` or ``lines+markers``.
        more: what else Plotly is told; of ``line`` and ``marker``, what is not as usual.
    """
    color, symbol, dash = style(index)
    made: Json = {"type": "scatter", "mode": mode, "name": name, "x": x, "y": y, **more}
    if "lines" in mode:
        made["line"] = {"color": color, "dash": dash, **more.get("line", {})}
    if "markers" in mode:
        made["marker"] = {"color": color, "symbol": symbol, **more.get("marker", {})}
    return made


def hollow(index: int, size: float) -> Json:
    """Return the marker of a series whose points may coincide with those of others."""
    return {"symbol": f"{style(index)[1]}-open", "size": size, "line": {"width": 2.5}}


def error_bars(values: Sequence[Interval | Metric]) -> Json:
    """Return the bars of 95 % intervals; none where an interval is not known."""
    return {
        "symmetric": False,
        "thickness": 1,
        "array": [0.0 if v.high is None else v.high - v.value for v in values],
        "arrayminus": [0.0 if v.low is None else v.value - v.low for v in values],
    }


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
