"""Files about classes are text with a class on each line, or what other programs write.

These are JSON, YAML, and tables with commas, semicolons or tabs.
"""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilenet_cli.data.readers.files import MAX_TEXT, read_text
from mobilenet_cli.pipeline.errors import DataError, need

# Where a document keeps its classes: Hugging Face's config.json, YOLO's data.yaml, and others.
KEYS = ("id2label", "names", "classes", "class_names", "labels")
NUMBER = re.compile(r"\d{1,7}")
SYNSET_AND_NAME = re.compile(r"(n\d{8})\s+(\S.*)")  # as in ImageNet's synset_words.txt
ONE_A_LINE = "Write one class a line, in the order of the outputs"
CORRECT = "Correct it, or write text with a line for each class"
Classes = tuple[tuple[str, ...], tuple[str, ...]]


def read_classes(path: Path) -> Classes:
    """Return identifiers of a model's outputs in their order, and their names or nothing.

    Args:
        path: text with one a line, a JSON or YAML list of them, one that is numbered as
            ``{"0": "cat"}``, ``{"0": ["n02121808", "cat"]}`` or ``{"cat": 0}``, or a table with a
            column of such numbers.

    Raises:
        DataError: it cannot be read, or it is not said which output is which class.
    """
    text = read_text(path, MAX_TEXT).rstrip()
    if (document := _document(path, text)) is not None:
        return _listed(path, document)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _listed(path, _numbered_rows(path, [row for row in _rows(path, text) if row]))
    lines = [line.strip() for line in text.splitlines()]
    both = [SYNSET_AND_NAME.fullmatch(line) for line in lines]
    if lines and all(both):
        return tuple(m[1] for m in both if m), tuple(m[2] for m in both if m)
    return tuple(lines), ()


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a table; of JSON or YAML, each key with its value.

    Raises:
        DataError: it cannot be read.
    """
    text = read_text(path, MAX_TEXT)
    document = _document(path, text)
    if isinstance(document, dict):
        return [[str(key), str(value)] for key, value in document.items()]
    return _rows(path, text)


def _document(path: Path, text: str) -> Any:
    """Return what a text of JSON or YAML says; None of any other."""
    ending = path.suffix.lower()
    if ending in (".yaml", ".yml"):
        return yaml_document(path, text)
    if ending == ".txt" or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_understood(path, error) from error


def yaml_document(path: Path, text: str) -> Any:
    """Return what a text of YAML says: lists, dictionaries and texts.

    Raises:
        DataError: PyYAML is not installed, or it cannot be understood.
    """
    need("yaml", f"{path} is read by PyYAML", DataError)
    import yaml

    class Loader(yaml.BaseLoader):  # type: ignore[misc]  # PyYAML has no types
        """Text as it stands: a class called no or 010 is neither false nor 8."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few lines of them stand for billions
                raise yaml.YAMLError("it repeats a part of itself by an alias")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 - the loader that makes nothing but texts
    except (yaml.YAMLError, RecursionError) as error:
        raise _not_understood(path, error) from error


def _not_understood(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return DataError(f"{path} cannot be understood ({reason})", CORRECT)


def _rows(path: Path, text: str) -> list[list[str]]:
    """Split lines at tabs or semicolons where that makes two of each, and else at commas.

    Empty lines are empty rows, so that rows have the numbers of their lines.
    """
    lines = text.splitlines()
    try:
        for mark in ("\t", ";", ","):
            rows = list(csv.reader(lines, delimiter=mark, skipinitialspace=True))
            if all(len(row) in (0, 2) for row in rows):
                break
        return rows
    except csv.Error as error:
        raise _not_understood(path, error) from error


def _numbered_rows(path: Path, rows: list[list[str]]) -> Any:
    """Return the classes of a table: its one column, or those beside a column of numbers."""
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    heading = rows and not any(map(NUMBER.fullmatch, rows[0]))
    for number, label in ((0, 1), (1, 0)):
        found = rows[1:] if heading else rows
        if all(len(row) == 2 and NUMBER.fullmatch(row[number]) for row in found):
            return [{row[number]: row[label]} for row in found]
    raise DataError(
        f"{path} has several columns, and it is not said which output is which class", ONE_A_LINE
    )


def _listed(path: Path, document: Any) -> Classes:
    """Return the classes of a document."""
    if isinstance(document, dict):
        document = next((document[key] for key in KEYS if key in document), document)
    pairs = [pair for one in _dicts(document) for pair in one.items()]
    if pairs:
        if not all(NUMBER.fullmatch(str(key)) for key, _ in pairs):  # Keras' class_indices
            pairs = [(value, key) for key, value in pairs]
        document = _in_order(path, pairs)
    entries = document if isinstance(document, list) else [document]
    both = [e for e in entries if isinstance(e, list) and len(e) == 2 and all(map(_is_text, e))]
    if entries and len(both) == len(entries):
        return tuple(str(a) for a, _ in both), tuple(str(b) for _, b in both)
    if wrong := [entry for entry in entries if not _is_text(entry)]:
        raise DataError(
            f"{path} has {json.dumps(wrong[0], default=str)[:60]} where a class is expected",
            ONE_A_LINE,
        )
    return tuple(map(str, entries)), ()


def _dicts(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, dict):
        return [document]
    every = isinstance(document, list) and all(isinstance(one, dict) for one in document)
    return document if every else []


def _in_order(path: Path, pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Return what stands beside the numbers 0, 1, 2, ..."""
    numbered = {int(str(key)): value for key, value in pairs if NUMBER.fullmatch(str(key))}
    if sorted(numbered) != list(range(len(pairs))):
        raise DataError(
            f"{path} does not number its classes from 0 to {len(pairs) - 1}, each once", ONE_A_LINE
        )
    return [numbered[number] for number in range(len(pairs))]


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
