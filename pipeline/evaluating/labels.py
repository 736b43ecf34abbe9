"""This module finds the images to evaluate on, and the right output for each of them."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilenet_cli.data.class_files import read_rows
from mobilenet_cli.data.dataset import Dataset, class_name
from mobilenet_cli.data.imagenet import BACKGROUND
from mobilenet_cli.data.open_dataset import held_out, write_labels
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.errors import DataError, ModelError, OptionError, counted


def evaluation_set(artifact: Artifact, data: str | None) -> Dataset:
    """Return the images on which to evaluate: never those that the model was trained on."""
    source = data or artifact.facts.data
    if source is None:
        raise OptionError(
            f"{artifact.path} does not say on which images to evaluate it",
            "Pass --data with a folder of images in class folders, or 'digits'",
        )
    return held_out(source, artifact.facts.data).labelled()


def targets_of(dataset: Dataset, artifact: Artifact) -> list[int]:
    """Return the output index of each sample's class.

    Raises:
        DataError: as ``label_indices``.
        ModelError: as ``label_indices``.
    """
    index = label_indices(dataset, artifact)
    return [index[str(sample.label)] for sample in dataset.samples]


def label_indices(dataset: Dataset, artifact: Artifact) -> dict[str, int]:
    """Return the output index of each label that occurs; the set may have a subset of the classes.

    Where no label is a class of the model, numbers are indices of its classes, and others the names
    of its classes, where these tell them apart.

    Raises:
        DataError: a sample has no label, or one that is no class of the model; or the labels are
            numbers that count the classes of another set.
        ModelError: the model does not name its classes.
    """
    model, classes, names = artifact.path, artifact.facts.classes, artifact.facts.names
    if not classes:
        raise ModelError(
            f"{model} does not name its classes, so labels cannot be compared",
            "Evaluate a model made by this tool",
        )
    labels = dict.fromkeys(sample.label for sample in dataset.samples)
    if None in labels:
        raise DataError(f"the images of {dataset.name} have no labels", write_labels())
    known = [label for label in labels if label is not None]
    index = {identifier: position for position, identifier in enumerate(classes)}
    if not index.keys() & labels.keys():
        index = _by_number(known, classes)
        _check_numbers(list(index.values()), dataset, classes, model)
        index = index or _by_name(names)
    if unknown := [label for label in known if label not in index]:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        like = near[0] if near else classes[class_offset(classes)]
        meant = dict(zip(names, classes, strict=False)).get(unknown[0], like)
        raise DataError(
            f"{len(unknown)} of the {counted(len(known), 'class', 'classes')} of {dataset.name} "
            f"{'is no class' if len(unknown) == 1 else 'are no classes'} of {model}, such as "
            f"'{unknown[0]}'",
            f"Name the folders like the model's classes, such as '{meant}', or pass --map FILE "
            f"with lines such as '{unknown[0]},{meant}'",
        )
    return {label: index[label] for label in known}


def _by_number(labels: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Return targets for labels that count the classes from 0, without a background class.

    Numbers may be filled up with zeros, as ``0012``.
    """
    first = class_offset(classes)
    targets = {str(position - first): position for position in range(first, len(classes))}
    plain = {label: label.lstrip("0") or "0" for label in labels if label.isdecimal()}
    return {label: targets[number] for label, number in plain.items() if number in targets}


def _by_name(names: Sequence[str]) -> dict[str, int]:
    """Return targets for the names that only one class has."""
    often = Counter(names)
    return {name: place for place, name in enumerate(names) if often[name] == 1}


def _check_numbers(
    targets: Sequence[int], dataset: Dataset, classes: Sequence[str], model: Path
) -> None:
    """Refuse numbers that count the classes of another set.

    Of a part of the model's own set some number is in the upper half of its classes; ten digits
    are not, for a model of a thousand classes.

    Raises:
        DataError: they are all in the lower half.
    """
    first = class_offset(classes)
    if targets and 2 * (max(targets) - first + 1) <= len(classes) - first:
        highest, named = max(targets) - first, classes[first]
        raise DataError(
            f"the classes of {dataset.name} are numbers up to {highest}, which do not count the "
            f"{len(classes) - first} classes of {model}",
            f"Evaluate it on images of its own classes, or pass --map FILE with lines such as "
            f"'{highest},{named}'",
        )


def relabelled(dataset: Dataset, file: Path | None, facts: Facts) -> Dataset:
    """Return the set with its classes called as a file says.

    Args:
        dataset: the images.
        file: lines of a class of the set, a comma, and a class of the model by identifier or name,
            or as ``read_rows`` takes them; classes without a line keep their names. None changes
            nothing.
        facts: those of the model.

    Raises:
        DataError: the file cannot be read.
        OptionError: a line is something else, or two contradict.
    """
    if file is None:
        return dataset
    identifiers = dict(zip(facts.names, facts.classes, strict=False))
    identifiers |= {identifier: identifier for identifier in facts.classes}
    given: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in enumerate(read_rows(file), 1):
        named = [class_name(part.strip()) for part in row]
        if len(row) == 2 and named[1] in identifiers:
            first = lines.setdefault(named[0], number)
            if given.setdefault(named[0], identifiers[named[1]]) != identifiers[named[1]]:
                raise OptionError(
                    f"lines {first} and {number} of {file} give '{named[0]}' two classes",
                    "Leave one of them",
                )
        elif row:
            example = facts.classes[-1] if facts.classes else "class"
            raise OptionError(
                f"line {number} of {file}, '{','.join(row)}', does not end in a class of the model",
                f"Write a class of the images, a comma and one of the model's, as in "
                f"'{row[0]},{example}'",
            )
    samples = [
        replace(s, label=given.get(s.label, s.label) if s.label else None) for s in dataset.samples
    ]
    return replace(dataset, samples=samples, name=f"{dataset.name} by {file.name}")


def class_offset(classes: Sequence[str]) -> int:
    """Return how many outputs come before the first class that images have."""
    return int(list(classes[:1]) == [BACKGROUND])
