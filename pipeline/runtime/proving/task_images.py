"""The images of a set are found for what a model is for: with classes, or with boxes."""

from mobilenet_cli.data.boxes.box_dataset import as_dataset
from mobilenet_cli.data.boxes.open_boxes import (
    has_boxes,
    held_out_boxes,
    not_held_out_boxes,
    open_boxes,
)
from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.open_dataset import held_out, not_held_out, open_dataset
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.artifacts.facts import Facts


def task_images(facts: Facts, source: str, part: Split) -> Dataset:
    """Return the images of a part of a set.

    Args:
        facts: of the model; a detector also takes sets with boxes.
        source: as ``open_dataset`` or ``open_boxes`` takes it.
        part: ``val`` for what the model was not trained on, ``train`` for what that leaves, or
            ``all``.

    Raises:
        DataError: the set cannot be opened.
    """
    if facts.task == "detection" and has_boxes(source):
        if part == "all":
            return as_dataset(open_boxes(source, "all"))
        found = held_out_boxes if part == "val" else not_held_out_boxes
        return as_dataset(found(source, facts.data))
    if part == "all":
        return open_dataset(source, "all")
    return (held_out if part == "val" else not_held_out)(source, facts.data)
