"""A training's log has a line for each epoch, and the curves as a picture."""

import io
import json
from pathlib import Path

from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.reports.records.training import EpochRecord


def write_log(out: Path, history: list[EpochRecord]) -> None:
    """Write ``train.jsonl`` beside the checkpoint ``out``: one JSON document for each epoch."""
    lines = "".join(json.dumps(epoch.model_dump(mode="json")) + "\n" for epoch in history)
    write_atomically(out.with_name("train.jsonl"), lines.encode())


def write_curves(out: Path, history: list[EpochRecord]) -> None:
    """Draw loss and accuracy by epoch as ``curves.png`` beside the checkpoint ``out``."""
    from matplotlib.figure import Figure

    epochs = [epoch.epoch for epoch in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [e.loss for e in history], marker=".", label="training, augmented")
    loss.plot(epochs, [e.validation_loss for e in history], marker=".", label="held out")
    detects = history[-1].detects
    of = "boxes and classes" if detects else "cross-entropy"
    loss.set(title="Loss", xlabel="epoch", ylabel=of, ylim=(0, None))
    if not detects:
        shares = [e.train_top1 for e in history]
        accuracy.plot(epochs, shares, marker=".", label="training, augmented")
    accuracy.plot(epochs, [e.top1 for e in history], marker=".", label="held out")
    title = "Average precision (AP50)" if detects else "Top-1 accuracy"
    accuracy.set(title=title, xlabel="epoch", ylabel="%", ylim=(None, 100.5))
    for axes in (loss, accuracy):
        axes.legend()
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    write_atomically(out.with_name("curves.png"), picture.getvalue())
