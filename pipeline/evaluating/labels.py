"""This module finds the images to evaluate on, and the right output for each of them."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.imagenet import BACKGROUND
from mobilenet_cli.data.open_dataset import held_out
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import (
    DataError,
    ModelError,
    OptionError,
)


def evaluation_set(artifact: Artifact, data: str | None) -> Dataset:
    """Return the images on which to evaluate: never those that the model was trained on."""
    source = data or artifact.facts.data
    if source is None:
        raise OptionError(
            f"{artifact.path} does not say on which images to evaluate it",
            "Pass --data with a folder of images in class folders, or 'digits'",
        )
    return held_out(source, artifact.facts.data).labelled()


def targets_of(dataset: Dataset, classes: Sequence[str], model: Path) -> list[int]:
    """Return the output index of each sample's class.

    Raises:
        DataError: as ``label_indices``.
        ModelError: as ``label_indices``.
    """
    index = label_indices(dataset, classes, model)
    return [index[str(sample.label)] for sample in dataset.samples]


def label_indices(dataset: Dataset, classes: Sequence[str], model: Path) -> dict[str, int]:
    """Return the output index of each label that occurs; the set may have a subset of the classes.

    Where no label is a class of the model but all are numbers, they are indices of its classes.

    Raises:
        DataError: a sample has no label, or one that is no class of the model.
        ModelError: the model does not name its classes.
    """
    if not classes:
        raise ModelError(
            f"{model} does not name its classes, so labels cannot be compared",
            "Evaluate a model made by this tool",
        )
    labels = dict.fromkeys(sample.label for sample in dataset.samples)
    if None in labels:
        raise DataError(
            f"the images of {dataset.name} have no labels",
            "Put the images of each class into a folder named after it",
        )
    known = [label for label in labels if label is not None]
    index = {identifier: position for position, identifier in enumerate(classes)}
    if not index.keys() & labels.keys():
        index = _by_number(classes)
    if unknown := [label for label in known if label not in index]:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        raise DataError(
            f"{len(unknown)} of the {len(known)} classes of {dataset.name} are no classes of "
            f"{model}, such as '{unknown[0]}'",
            f"Name the folders like the model's classes: '{near[0] if near else classes[0]}'",
        )
    return {label: index[label] for label in known}


def _by_number(classes: Sequence[str]) -> dict[str, int]:
    """Return targets for labels that count the classes from 0, without a background class."""
    first = class_offset(classes)
    return {str(position - first): position for position in range(first, len(classes))}


def class_offset(classes: Sequence[str]) -> int:
    """Return how many outputs come before the first class that images have."""
    return int(list(classes[:1]) == [BACKGROUND])
