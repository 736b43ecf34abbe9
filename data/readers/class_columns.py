"""Columns of classes are told from others by their names, and classes by what they look like."""

import re
from collections.abc import Set

from mobilenet_cli.pipeline.errors import DataError

# What people call the column of the classes, without spaces and underscores. Where there are only
# two columns, it may have any name.
LABELS = frozenset(
    {
        *("breed", "category", "categoryid", "categoryname", "choice", "class", "classid"),
        *("classlabel", "classname", "diagnosis", "dx", "label", "labelid", "labelname", "labels"),
        *("species", "target"),
    }
)
# Columns that say which images are held out: by the name of the part, or by true and false.
PARTS = frozenset({"dataset", "fold", "part", "partition", "set", "split", "subset"})
FLAGS = {
    **dict.fromkeys(("istrain", "istraining"), ("train", "val")),
    **dict.fromkeys(("isval", "isvalid", "isvalidation"), ("val", "train")),
    "istest": ("test", "train"),
}
FLAGGED, NOT_FLAGGED = ("true", "1", "yes"), ("false", "0", "no")
INDEX = ("", "index", "unnamed:0")  # of the lines, as pandas writes it
# Columns that are about something else than the class.
NO_CLASSES = frozenset(
    {
        *("age", "caption", "date", "description", "h", "height", "md5", "sha256", "size", "text"),
        *("time", "timestamp", "title", "url", "w", "width"),
    }
)
# Words in the names of such columns: file_size, license_id, dateTaken, coco_url.
NO_CLASS_WORDS = frozenset(
    {
        *("author", "bytes", "checksum", "copyright", "crc32", "credit", "date", "datetime"),
        *("filesize", "hash", "height", "latitude", "licence", "license", "link", "longitude"),
        *("md5", "mtime", "owner", "photographer", "resolution", "rights", "sha1", "sha256"),
        *("sha512", "size", "timestamp", "uri", "url", "width"),
    }
)
NUMBER = re.compile(r"[-+]?\d*\.?\d+")
FRACTION = re.compile(r"[-+]?\d*\.\d*[1-9]\d*")
SEVERAL = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)  # what programs write of lists, and of structures
BETWEEN = re.compile(r"\s*[|,;]\s*|\s+")  # between several classes in one cell


def plain(name: str) -> str:
    """Return the name of a column in small letters, without spaces and what stands for them."""
    return re.sub(r"[\s_-]", "", name).lower()


def is_named_class(name: str) -> bool:
    """Tell whether a column is called like a class, by its name or a word of it."""
    return plain(name) in LABELS or bool(_words(name) & LABELS)


def is_named_no_class(name: str) -> bool:
    """Tell whether a column is called like something else than a class: a size, a date, a part."""
    if is_named_class(name):
        return False
    return plain(name) in {*NO_CLASSES, *PARTS, *FLAGS, *INDEX} or bool(
        _words(name) & NO_CLASS_WORDS
    )


def _words(name: str) -> set[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return set(re.split(r"[\s_-]+", apart.lower()))


def refuse_no_classes(source: str, values: Set[str]) -> None:
    """Refuse labels that are measurements, or several classes of an image.

    Args:
        source: what holds them.
        values: all that occur.

    Raises:
        DataError: all are numbers and some fractions, or one is a list, or the names of others.
    """
    fractions = sorted(filter(FRACTION.fullmatch, values))
    if fractions and all(map(NUMBER.fullmatch, values)):
        raise DataError(
            f"{source} gives images numbers such as {fractions[0]}, which are no classes",
            "Write the class of each image",
        )
    for value in sorted(values):
        named = [name for name in BETWEEN.split(value) if name]
        if SEVERAL.fullmatch(value) or (len(named) > 1 and set(named) <= values):
            raise DataError(
                f"{source} gives images several classes in '{value}', and a classifier gives one "
                "for each image",
                "Leave out such lines, or give what they mean a name of its own",
            )
