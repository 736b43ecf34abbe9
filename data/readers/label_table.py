"""A table beside images tells the class of each: ``labels.csv``, ``train.csv``, ``metadata.jsonl``.

So Kaggle, Hugging Face, Roboflow and many programs write labels. One column names images, by path,
by name or without the ending; another has the classes, or each class has a column of zeros and
ones. What a table does not say beyond doubt is not guessed.
"""

import contextlib
import csv
import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from mobilenet_cli.data.dataset import class_name
from mobilenet_cli.data.imagenet import VALIDATION_IMAGE
from mobilenet_cli.data.readers.class_columns import (
    FLAGGED,
    FLAGS,
    INDEX,
    LABELS,
    NOT_FLAGGED,
    NUMBER,
    PARTS,
    is_named_class,
    is_named_no_class,
    plain,
    refuse_no_classes,
)
from mobilenet_cli.data.readers.files import is_image, read_text
from mobilenet_cli.data.readers.shards import HELD_OUT_WORDS, SHORT, WORD, classes_of
from mobilenet_cli.data.readers.walk import images_below
from mobilenet_cli.data.split import SPLIT_NAMES, Split
from mobilenet_cli.pipeline.errors import DataError, counted, examples

ENDINGS = (".csv", ".tsv", ".jsonl", ".txt")
MAX_BYTES = 1 << 28
# Kaggle's examples of answers, and answers of models.
NO_LABELS = re.compile("submission|predict|(?<![a-z])preds?(?![a-z])", re.IGNORECASE)
LOGS = frozenset({"epoch", "epochs", "iter", "iteration", "iterations", "step", "steps"})
# What cells are that are no classes: dates, addresses, hashes, licences, sizes.
NO_CLASS = re.compile(
    r"\d{4}[-/:.]\d\d?[-/:.]\d\d?([T ].*)?|\d\d?[-/.]\d\d?[-/.](\d\d){1,2}([T ].*)?|"
    r"(https?|ftp|gs|s3)://\S+|[0-9a-f]{32,128}|cc[- ]?(by|0|zero)\b.*|public domain|"
    r"\d+ ?[x\u00d7] ?\d+|\d+(\.\d+)? ?([kmg]i?b|bytes)",
    re.IGNORECASE,
)
# Folders that are called like parts of a set, or like images, are no classes.
SAYS_NOTHING = re.compile(
    rf"(?<![a-z])({'|'.join(SPLIT_NAMES)}|data|images?|imgs?|input|jpe?g|part|png)(?![a-z])",
    re.IGNORECASE,
)
FIRST = 10  # lines that tell a table from a text
LOOK = 1000  # rows by which columns are told apart
# What pandas makes of a whole number where others of its column are missing.
WHOLE = re.compile(r"(\d+)\.0+")
MISSING = ("", "nan", "NaN", "<NA>", "#N/A")


class ContradictionError(DataError):
    """The classes of a table are not those of the folders."""


@dataclass(frozen=True)
class Listed:
    """These are the labels of images below a folder, as tables have them.

    Attributes:
        labels: the class of each image, by its path within the folder; None where it has none.
        parts: the part of the set that an image belongs to, where that is said.
        classes: in the order of a model's outputs.
        lost: images that are named and not there, and tables that cannot be read.
    """

    labels: Mapping[str, str | None]
    parts: Mapping[str, str]
    classes: tuple[str, ...]
    lost: tuple[DataError, ...]

    @property
    def has_splits(self) -> bool:
        """Tell whether there are images to train on and others that are held out."""
        return "train" in self.parts.values() and bool(self._held_out)

    @property
    def _held_out(self) -> tuple[str, ...]:
        present = set(self.parts.values())
        return next((words for words in HELD_OUT_WORDS if present & set(words)), ())

    def of(self, split: Split) -> list[str]:
        """Return the images of a split, if there are such."""
        wanted = {"train": ("train",), "val": self._held_out}.get(split, ("train", *self._held_out))
        if not self.has_splits:
            return list(self.labels)
        return [name for name in self.labels if self.parts.get(name) in wanted]


@dataclass
class Table:
    """A table is rows of cells of which it is known what they mean.

    Attributes:
        path: its file.
        columns: names of the columns that hold classes; none where the first row has no names.
        found: class and part of each image, by its path.
        missing: images that are named and not there.
    """

    path: Path
    columns: tuple[str, ...]
    found: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


class Images:
    """The images below a folder are found by what a table calls them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._called = defaultdict[str, list[str]](list)
        for name in self.names:
            file = _spelling(name.rpartition("/")[2])
            for key in {file, file.rpartition(".")[0]}:
                self._called[key].append(name)

    def find(self, cell: str, part: str | None) -> str | None:
        """Return the image of a name, if it is only one; else that in the folder of a part.

        The name may be a path on another machine, of which only the end is right here.
        """
        path = _spelling(cell.replace("\\", "/")).removeprefix("./")
        found = self._called.get(path.rpartition("/")[2], [])
        while len(found) > 1 and "/" in path:
            if fits := [name for name in found if _is_end_of(path, _spelling(name))]:
                found = fits
                break
            path = path.partition("/")[2]
        if len(found) > 1:  # in letters of the same case, or not in folders
            end = cell.replace("\\", "/").rpartition("/")[2]
            found = [n for n in found if _is_end_of(end, n)] or found
            found = [n for n in found if _spelling(n) == path] or found
        if len(found) > 1 and part is not None:
            found = [name for name in found if _part_of(name.rpartition("/")[0]) == part]
        return found[0] if len(found) == 1 else None


def _is_end_of(path: str, name: str) -> bool:
    """Tell whether a path, with its ending or without, is the last part of an image's name."""
    return f"/{name}".endswith(f"/{path}") or f"/{name}".rpartition(".")[0].endswith(f"/{path}")


def listed(folder: Path) -> Listed | None:
    """Read the tables in a folder; None where there are none, or its folders are the classes.

    Raises:
        ContradictionError: there are both, and they say different things.
    """
    found = _read(folder, _tables(folder))
    if isinstance(found, ContradictionError):
        raise found
    return None if isinstance(found, DataError) else found


def why_not(folder: Path) -> DataError | None:
    """Return what is not clear in a table that names images of a folder."""
    found = _read(folder, _tables(folder))
    return found if isinstance(found, DataError) else None


Seen = tuple[Path, int, int, int]


def _tables(folder: Path) -> tuple[Seen, ...]:
    """List files that may be tables, with what tells them from others; those to train on first."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a million names: strings
    except OSError:
        return ()
    found: list[Seen] = []
    for name in names:
        if name.lower().endswith(ENDINGS) and name[0] != "." and not NO_LABELS.search(name):
            with contextlib.suppress(OSError):
                known = (folder / name).stat()
                if stat.S_ISREG(known.st_mode) and 0 < known.st_size <= MAX_BYTES:
                    seen = known.st_size, known.st_mtime_ns, known.st_ino
                    found.append((folder / name, *seen))
    return tuple(sorted(found, key=lambda t: (_part_of(t[0].stem) != "train", t[0].name)))


# A command asks several times: is this a set, has it splits, what is in each?
@lru_cache(maxsize=8)
def _read(folder: Path, tables: tuple[Seen, ...]) -> Listed | DataError | None:
    here: Images | None = None
    read: list[Table] = []
    damaged: list[DataError] = []
    problem: DataError | None = None
    for path, *_ in tables:
        try:
            if not (rows := _rows(path)):
                continue
        except DataError as error:
            damaged.append(error)
            continue
        try:
            here = here or Images(images_below(folder, []))
            table = _understood(path, rows, here)
        except DataError as error:  # a list of test images may have no column of classes
            problem = problem or error
            continue
        if table is not None and (not read or _alike(read[0].columns, table.columns)):
            read.append(table)
    if not read:
        return problem or next(iter(damaged), None)
    try:
        return _joined(folder, read, damaged, here.names if here else [])
    except DataError as error:
        return error


def _alike(some: Sequence[str], others: Sequence[str]) -> bool:
    """Tell whether columns hold the same classes; a list of test images may have none of these."""
    return set(some) == set(others) or all(plain(name) in LABELS for name in (*some, *others))


def _rows(path: Path) -> list[list[str]]:
    """Split a file into cells; nothing where it is no table of two columns or more.

    Raises:
        DataError: it is called a table, and cannot be read as one.
    """
    ending = path.suffix.lower()
    try:
        text = read_text(path)
        if ending == ".jsonl":
            return _json_rows(text)
        lines = [line for line in text.splitlines() if line.strip()]
        if ending == ".txt" and not _cells(path, lines[:FIRST]):
            return []  # notes, or a long log
        return _cells(path, lines)
    except (csv.Error, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a table ({error})", "Write it again") from error
    except DataError:
        if ending == ".txt":
            return []  # notes beside the images, in any language
        raise


def _cells(path: Path, lines: list[str]) -> list[list[str]]:
    """Split lines at the mark that makes as many cells of each; nothing where none makes several.

    Raises:
        DataError: a mark makes several of the first line, and others of another.
    """
    tables = (list(csv.reader(lines, delimiter=m, skipinitialspace=True)) for m in "\t;,")
    several = [rows for rows in tables if rows and len(rows[0]) > 1]
    for rows in several:
        if len({len(row) for row in rows}) == 1:
            return [[cell.strip() for cell in row] for row in rows]
    if path.suffix.lower() != ".txt":
        _refuse_uneven(path, several)
    words = [line.split() for line in lines]
    return words if {len(row) for row in words} == {2} else []


def _refuse_uneven(path: Path, tables: Sequence[list[list[str]]]) -> None:
    for rows in tables:
        line = next(n for n, row in enumerate(rows, 1) if len(row) != len(rows[0]))
        raise DataError(
            f"{path} has {counted(len(rows[0]), 'column')}, but line {line} has "
            f"{len(rows[line - 1])}",
            "Write names with a comma in quotation marks, and as many cells in each line",
        )


def _json_rows(text: str) -> list[list[str]]:
    documents = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(document, dict) for document in documents):
        return []
    columns = list(dict.fromkeys(chain.from_iterable(documents)))
    cells = ([document.get(column) for column in columns] for document in documents)
    rows = [[_json_cell(cell) for cell in row] for row in cells]
    return [columns, *rows] if len(columns) > 1 else []


def _json_cell(value: object) -> str:
    """Return what stands in a cell of a table; of a list of one thing, that."""
    if isinstance(value, list) and len(value) == 1:
        return _json_cell(value[0])
    return "" if value is None else str(value).strip()


def _understood(path: Path, rows: list[list[str]], images: Images) -> Table | None:
    """Find out what the columns of a table mean; None where it does not name images.

    Raises:
        DataError: it is not said which column holds the class, or none does, or an image has two.
    """
    part = _part_of(path.stem) or _part_of(path.parent.name, whole=True)
    column = _image_column(rows, images, part)
    if column is None or LOGS & set(map(plain, rows[0])):
        return None
    first = rows[0][column]
    named = images.find(first, part) is None and not is_image(first)
    heading, body = (rows[0], rows[1:]) if named else ([], rows)
    where = _part_of_row(heading, body)
    beside = [c for c in range(len(rows[0])) if c != column and not _is_aside(c, heading, body)]
    others = [c for c in beside if not _is_no_class(c, heading, body)]
    if not beside:
        return None
    if len(others) < len(beside) and _is_number_alone(others, heading, body):
        raise DataError(
            f"{path} names images, but none of its columns seems to hold their classes"
            f"{examples([heading[c] for c in beside]) if heading else ''}",
            "Call the one that does label, or write labels.csv",
        )
    label, columns = _labeller(path, heading, body, others)
    table = Table(path, columns)
    for row in body:
        own = where(row) if where is not None else part
        name = images.find(row[column], own)
        if name is None:
            table.missing.append(row[column])
            continue
        value = label(row), own or _part_of_place(name)
        if (first_value := table.found.setdefault(name, value)) != value:
            what, which = ("classes", 0) if first_value[0] != value[0] else ("parts of the set", 1)
            raise DataError(
                f"{path} gives {row[column]} two {what}, {first_value[which]} and {value[which]}",
                "Leave one line for each image",
            )
    # Classes with a picture of each are no images to learn from; few may be held out.
    few = part not in (None, "train")
    return table if few or _repeats(table.found.values()) else None


def _is_aside(column: int, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether a column counts lines, or names masks or the parts of a set."""
    name = plain(heading[column]) if heading else None
    return name in {*PARTS, *FLAGS, *INDEX} or all(is_image(row[column]) for row in rows)


def _is_no_class(column: int, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether a column is about something else than the class, by its name or its cells."""
    if heading and (is_named_class(heading[column]) or is_named_no_class(heading[column])):
        return is_named_no_class(heading[column])
    cells = {row[column] for row in rows} - {""}
    return bool(cells) and all(map(NO_CLASS.fullmatch, cells))


def _is_number_alone(
    columns: Sequence[int], heading: Sequence[str], rows: Sequence[Sequence[str]]
) -> bool:
    """Tell whether no column is left, or one of numbers that is not called like a class."""
    if len(columns) != 1:
        return not columns
    called = bool(heading) and plain(heading[columns[0]]) in LABELS
    return not called and all(NUMBER.fullmatch(row[columns[0]]) for row in rows)


def _repeats(values: Iterable[tuple[str | None, str | None]]) -> bool:
    """Tell whether images share labels; where nearly each has its own, these are captions."""
    labels = [label for label, _ in values]
    return 2 * len(set(labels)) <= len(labels)


def _image_column(rows: list[list[str]], images: Images, part: str | None) -> int | None:
    """Return the column that names images; None where less than half of it does."""
    some = rows[1 :: max(1, len(rows) // LOOK)] or rows
    best: tuple[int, int, int, bool, int] | None = None
    for column, name in enumerate(rows[0]):
        cells = [row[column] for row in some]
        hits = sum(images.find(cell, part) is not None for cell in cells)
        if hits:
            is_index = plain(name) in INDEX
            found = (hits, sum(map(is_image, cells)), len(set(cells)), not is_index, -column)
            best = max(best or found, found)
    if best is None:
        return None
    # Of a part of the images that was downloaded, many lines name what is not there.
    return -best[-1] if 2 * best[0] >= len(some) or best[1] == len(some) else None


def _part_of_row(
    heading: Sequence[str], rows: Sequence[Sequence[str]]
) -> Callable[[Sequence[str]], str | None] | None:
    """Return what tells of which part of the set a row is, if a column says that."""
    for column, name in enumerate(heading):
        cells = {row[column].lower() for row in rows}
        if plain(name) in PARTS and cells <= {*SPLIT_NAMES}:
            return lambda row: _short(row[column])
        if (named := FLAGS.get(plain(name))) and cells <= {*FLAGGED, *NOT_FLAGGED}:
            return lambda row: named[row[column].lower() not in FLAGGED]
    return None


def _labeller(
    path: Path, heading: Sequence[str], rows: list[list[str]], others: list[int]
) -> tuple[Callable[[Sequence[str]], str | None], tuple[str, ...]]:
    """Return what tells the class of a row, and the names of the columns by which it does.

    Raises:
        DataError: it is not clear which column that is, or images have several classes.
    """
    if (
        len(others) > 1
        and heading
        and all(row[c] in ("0", "1", "0.0", "1.0") for row in rows for c in others)
    ):
        return _one_of(path, heading, rows, others)
    column = others[0] if len(others) == 1 else _label_column(path, heading, rows, others)
    values = {row[column] for row in rows}
    refuse_no_classes(str(path), values.difference(MISSING))
    return lambda row: _class_in(row[column]), (heading[column],) if heading else ()


def _class_in(cell: str) -> str | None:
    """Return the class that a cell names, if it does."""
    whole = WHOLE.fullmatch(cell)
    return whole[1] if whole else None if cell in MISSING else cell


def _one_of(
    path: Path, heading: Sequence[str], rows: list[list[str]], others: list[int]
) -> tuple[Callable[[Sequence[str]], str | None], tuple[str, ...]]:
    """Return what tells the class of a row that has a 1 in its column, and zeros in all others.

    Raises:
        DataError: a row has not one 1.
    """
    for row in rows:
        ones = [heading[c] for c in others if row[c][0] == "1"]
        if len(ones) != 1:
            what = f"several classes, {' and '.join(ones[:2])}" if ones else "no class"
            raise DataError(
                f"{path} gives {row[0]} {what}, and a classifier gives one for each image",
                "Leave out such lines, or add a column for what is of no class",
            )
    names = tuple(heading[c] for c in others)
    return lambda row: next(heading[c] for c in others if row[c][0] == "1"), names


def _label_column(
    path: Path, heading: Sequence[str], rows: Sequence[Sequence[str]], others: list[int]
) -> int:
    """Return the column of classes: the one that is called so, or the only one of words.

    Raises:
        DataError: there is none, or several say different things.
    """
    words = [c for c in others if not all(NUMBER.fullmatch(row[c]) for row in rows)]
    called = [c for c in others if heading and plain(heading[c]) in LABELS]
    if not heading and len(words) == 1:
        return words[0]
    # A number and a name of each class say the same.
    pairs = {tuple(row[c] for c in called) for row in rows}
    if called and all(len({pair[i] for pair in pairs}) == len(pairs) for i in range(len(called))):
        return next((c for c in called if c in words), called[0])
    which = [heading[c] for c in called or others] if heading else []
    raise DataError(
        f"{path} has several columns, and it is not said which is the class of an image"
        f"{examples(which) if which else ''}",
        "Leave two, of which the first names the image and the second its class, or call one label",
    )


def _joined(
    folder: Path, tables: Sequence[Table], damaged: Sequence[DataError], images: Sequence[str]
) -> Listed | None:
    """Put the tables of a set together; None where the folders of the images are the classes.

    Raises:
        DataError: two tables give an image other classes.
    """
    labels: dict[str, str | None] = {}
    parts: dict[str, str] = {}
    for table in tables:
        for name, (label, part) in table.found.items():
            if labels.setdefault(name, label) != label:
                raise DataError(
                    f"{tables[0].path} and {table.path} give {name} two classes, {labels[name]} "
                    f"and {label}",
                    "Leave the one that is right",
                )
            if part is not None and parts.setdefault(name, part) != part:
                raise DataError(
                    f"{name} is in {parts[name]} and in {part} of {folder}",
                    "Leave it in one of them",
                )
    known = {class_name(label) for label in labels.values() if label is not None}
    if not known or _folders_win(folder, tables[0], labels, images):
        return None
    if any(VALIDATION_IMAGE.fullmatch(PurePosixPath(name).name) for name in islice(labels, 100)):
        return None  # whose classes are known by their names
    columns = tables[0].columns
    one_hot = tuple(c for c in columns if class_name(c) in known)
    classes = one_hot if len(columns) > 1 else classes_of(known)
    names = sorted(labels)
    return Listed(
        {name: labels[name] for name in names},
        parts,
        classes,
        (*damaged, *_lost(folder, tables)),
    )


def _folders_win(
    folder: Path, table: Table, labels: Mapping[str, str | None], images: Sequence[str]
) -> bool:
    """Tell whether folders are the classes, and a table adds nothing or is about something else.

    Args:
        folder: that holds the table.
        table: that names its columns.
        labels: of the images that are named in tables.
        images: all that lie in the folder.

    Raises:
        ContradictionError: there are such folders, and the table has labels across them.
    """
    by_folder = defaultdict[str, set[str | None]](set)
    for name, label in labels.items():
        by_folder[_class_folder(name)].add(label)
    loose = by_folder.pop("", None)
    others = [name for name in images if _class_folder(name) not in {"", *by_folder}]
    if not by_folder:  # a list of held-out images leaves the classes to those to train on
        inside = (name for name in others if name.split("/")[0].lower() in SPLIT_NAMES)
        return len(set(map(_class_folder, inside))) > 1
    if len(by_folder) + bool(others) < 2:
        return False
    if all(len(found) == 1 for found in by_folder.values()):
        return loose is None
    called = (*table.columns, *re.findall("label", table.path.stem.lower()))
    says_so = any(plain(name) in LABELS for name in called) or _part_of(table.path.stem)
    if len(by_folder) < 2:  # beside it are masks, or other classes
        return not says_so and 2 * len(labels) < len(images)
    if says_so:
        raise ContradictionError(
            f"{table.path} gives images in one folder of {folder} different classes, and it is not "
            "said whether the table or the folders count",
            "Remove the table, or put all its images into one folder called images",
        )
    return True  # the column is about something else


def _class_folder(name: str) -> str:
    """Return the folder of an image that may be its class; nothing where none is."""
    places = name.split("/")[:-1]
    inner = places[1:] if places and places[0].lower() in SPLIT_NAMES else places
    return inner[0] if inner and not SAYS_NOTHING.search(inner[0]) else ""


def _lost(folder: Path, tables: Sequence[Table]) -> tuple[DataError, ...]:
    """Return an error for the lines of each table that name no image."""
    return tuple(
        DataError(
            f"{table.path} names images that are not in {folder}, "
            f"{len(table.missing):,} of them{examples(table.missing)}",
            "Add what is missing, or remove these lines",
        )
        for table in tables
        if table.missing
    )


def _spelling(name: str) -> str:
    return class_name(name).casefold()


def _short(word: str) -> str:
    return SHORT.get(word.lower(), word.lower())


def _part_of_place(name: str) -> str | None:
    """Return the part of a set after which a folder of an image is called, and after no class."""
    folders = name.split("/")[:-1]
    plain = (f for f in folders if not re.sub(r"[\W_\d]|set", "", SAYS_NOTHING.sub("", f.lower())))
    return next(filter(None, map(_part_of, plain)), None)


def _part_of(name: str, whole: bool = False) -> str | None:
    """Return the part of a set that a name is about: ``train_images``, ``trainLabels``.

    Args:
        name: of a file or a folder.
        whole: a name that has other words is about none.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    found = WORD.fullmatch(words) if whole else WORD.search(words)
    return _short(found[1]) if found else None
