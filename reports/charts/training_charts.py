"""These charts show a training, epoch by epoch."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.charts.chart import Chart, axes, plain, series
from mobilenet_cli.reports.summary import FEW_CLASSES

CURVES = {  # columns of the training log in words
    "loss": "training",
    "validation_loss": "held out",
    "train_top1": "training, augmented",
    "top1": "held out",
    "top5": "held out, top-5",
}
DETECTOR_CURVES = {"top1": "held out, AP50", "top5": "held out, AP"}  # what a detector logs there


def training_charts(epochs: Sequence[dict[str, JsonValue]], classes: int) -> list[Chart]:
    """Draw the loss and the accuracy by epoch, each where it was logged; top-5 of many classes.

    A detector's accuracy is its average precision.
    """
    detects = any(epoch.get("detects") for epoch in epochs)
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    losses = [name for name in names if "loss" in name]
    accuracies = [name for name in names if "top" in name or "acc" in name]
    if detects:
        accuracies = list(DETECTOR_CURVES)
    elif classes <= FEW_CLASSES:
        accuracies = [name for name in accuracies if "top5" not in name]
    made = (
        curves("loss", "Loss by epoch", "loss", losses, epochs, CURVES),
        curves("learning", "Average precision by epoch", "%", accuracies, epochs, DETECTOR_CURVES)
        if detects
        else curves("learning", "Top-1 accuracy by epoch", "%", accuracies, epochs, CURVES),
    )
    return [chart for chart in made if chart is not None]


def curves(
    name: str,
    title: str,
    unit: str,
    columns: Sequence[str],
    epochs: Sequence[dict[str, JsonValue]],
    words: Mapping[str, str],
) -> Chart | None:
    """Draw some columns of the training log, one line each, called as ``words`` has them."""
    columns = [c for c in columns if any(number(epoch.get(c)) is not None for epoch in epochs)]
    if not columns:
        return None
    numbers = [number(epoch.get("epoch")) for epoch in epochs]
    x = [index + 1 if n is None else n for index, n in enumerate(numbers)]
    titles = [words.get(column, plain(column.replace("_", " "))) for column in columns]
    mode = "lines+markers" if len(epochs) < 30 else "lines"
    data = []
    for index, (column, curve) in enumerate(zip(columns, titles, strict=True)):
        values = [number(epoch.get(column)) for epoch in epochs]
        data.append(series(index, curve, x, values, mode))
    rows = [
        [f"{n:g}", *(cell(epoch.get(c)) for c in columns)]
        for n, epoch in zip(x, epochs, strict=True)
    ]
    reached = [cell(epochs[-1].get(column)) for column in columns]
    last = ", ".join(f"{curve} {value}" for curve, value in zip(titles, reached, strict=True))
    return Chart(
        name,
        title,
        f"{counted(sum(n > 0 for n in x), 'epoch')}; the last: {last}.",
        data,
        axes("epoch", unit)
        | {"xaxis": {"title": {"text": "epoch"}, "tick0": x[0], "dtick": max(1, len(x) // 10)}},
        ("epoch", *titles),
        rows,
    )


def number(value: JsonValue | None) -> float | None:
    """Return a JSON number; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def cell(value: JsonValue | None) -> str:
    """Write a number for a table."""
    found = number(value)
    return "–" if found is None else f"{found:.4g}"
