"""A data set is named samples of encoded images, which are read one at a time."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mobilenet_cli.pipeline.errors import DataError

WORD = re.compile(r"[^\W\d_]{3,}([ _-][^\W\d_]+)*")  # letters A and a may be classes, and codes


def printable(name: str) -> str:
    r"""Return a name with ``\xfc`` in place of a byte that is not UTF-8, as records hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def class_name(name: str) -> str:
    """Return the identifier of a class: ``printable``, and spelled as most systems spell it.

    macOS writes an accented letter in a name as two characters, and others as one: NFD and NFC of
    https://unicode.org/reports/tr15. A copied folder would else be another class. So would be what
    has a space behind it.
    """
    return unicodedata.normalize("NFC", printable(name)).strip()


def refuse_capitals(name: str, classes: Iterable[str]) -> None:
    """Refuse classes of a set that are one word, with and without capital letters.

    Raises:
        DataError: there are two such.
    """
    words = sorted(filter(WORD.fullmatch, classes), key=lambda word: (word.lower(), word))
    for one, other in pairwise(words):
        if one.lower() == other.lower() and one != other:
            raise DataError(
                f"{printable(name)} has the classes {one} and {other}, which differ in capital "
                "letters alone",
                "Write both alike, or give each a name of its own",
            )


def as_path(name: str) -> str:
    """Return the path that ``printable`` has made a name of, unless there is one of that name."""
    if "\\x" not in name or os.path.lexists(name):
        return name
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name)


@dataclass(frozen=True, slots=True)
class Block:
    """Samples share a block if reading one of them reads all.

    Attributes:
        bytes: memory that reading it takes.
    """

    bytes: int


@dataclass(frozen=True, slots=True)  # ImageNet has over a million
class Sample:
    """A sample is one image, not yet read.

    Attributes:
        key: what to call it in messages and records: a path, or a name within a container.
        label: the class identifier (a folder's name, a synset), None where it is unknown.
        read: returns the encoded bytes; raises DataError.
        block: what else is read with it; None where each image is read by itself.
    """

    key: str
    label: str | None
    read: Callable[[], bytes]
    block: Block | None = None

    def __post_init__(self) -> None:
        for name, spelled in (("key", printable), ("label", class_name)):
            value = getattr(self, name)
            if value is not None and (not value.isascii() or value != value.strip()):
                object.__setattr__(self, name, spelled(value))


@dataclass(frozen=True)
class Dataset:
    """A data set has samples in a fixed order.

    Attributes:
        name: where they come from, as the user wrote it, with the split.
        samples: the images, in a reproducible order.
        classes: identifiers in label order; a model trained on this set has these outputs.
        lost: what damaged files no longer give, and samples without a label, a sentence each.

    Raises:
        DataError: two classes are the same word, with and without capital letters.
    """

    name: str
    samples: Sequence[Sample]
    classes: tuple[str, ...]
    lost: tuple[DataError, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))
        object.__setattr__(self, "classes", tuple(map(class_name, self.classes)))
        refuse_capitals(self.name, self.classes)

    def labelled(self) -> "Dataset":
        """Return the set without the images that have no label where others have one.

        They are counted as lost. A set without any labels stays as it is.
        """
        missing = sum(sample.label is None for sample in self.samples)
        if missing in (0, len(self.samples)):
            return self
        kept = [sample for sample in self.samples if sample.label is not None]
        lost = tuple(
            DataError(f"{sample.key} has no label", "Label it, or leave it out")
            for sample in self.samples
            if sample.label is None
        )
        return replace(self, samples=kept, lost=(*self.lost, *lost))

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 of names and labels: tells two sets apart without reading the images."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(f"{sample.key}\0{sample.label}\n".encode())
        return digest.hexdigest()
