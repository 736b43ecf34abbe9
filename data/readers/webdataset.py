"""Tar files hold images as WebDataset has them, ``key.jpg`` beside ``key.cls``, or class folders.

Members that follow each other and share a key are one sample; a key is a path up to the first dot
of its last part, and hidden files belong to none (webdataset/tariterators.py). Archives are indexed
once; an image is then read by its offset, so that threads share nothing.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.imagenet import validation_synset
from mobilenet_cli.data.readers.files import SUFFIXES, is_image, open_file, read_part
from mobilenet_cli.data.readers.folder import class_identifier, class_of_name
from mobilenet_cli.data.readers.shards import ShardFormat
from mobilenet_cli.data.readers.tar import Member, members
from mobilenet_cli.data.split import SPLIT_NAMES
from mobilenet_cli.pipeline.errors import DataError, counted

KEY = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)")
DESCRIPTION = re.compile(r"__[^/]*__($|/)")  # of the archive, not of a sample
LABEL_BYTES = 1000  # of a .cls member; more is no class
PREFERRED = ("jpg", "jpeg", "png", "webp")  # of several images of one sample


@dataclass
class Group:
    """A group is what an archive has of one sample.

    Attributes:
        path: the archive.
        archive: what the archive is called.
        key: the path that its members share.
        parts: the members by their extension in lower case, such as ``jpg`` or ``seg.png``.
        label: the text of its .cls, if it has one.
        damaged: whether something is lost after its members, which has been said.
    """

    path: Path
    archive: str
    key: str
    parts: dict[str, Member] = field(default_factory=dict)
    label: str | None = None
    damaged: bool = False

    @property
    def images(self) -> list[Member]:
        """The images of the sample: those of a plain extension where there are such, in order."""
        found = [(end, member) for end, member in self.parts.items() if is_image(f"x.{end}")]
        plain = {end: member for end, member in found if "." not in end}
        first = [plain[end] for end in PREFERRED if end in plain]
        return first[:1] or list(plain.values()) or [member for _, member in found]


def _read_tars(files: Mapping[Path, str]) -> Iterator[Sample | DataError]:
    """Find the images of tar files.

    A label is the text of the .cls member, or the synset in a name, or the file's folder where the
    archives have nothing but images, in several folders.
    """
    groups: list[Group] = []
    for path, name in files.items():
        for found in _groups(path, name):
            if isinstance(found, DataError):
                yield found
            else:
                groups.append(found)
    if any(group.label is not None for group in groups):
        yield from _labelled(groups)
    else:
        yield from _in_folders(groups)


def _images(path: Path, name: str) -> Iterator[Sample | DataError]:
    """Find the images of one tar file, whatever lies beside them; no name is remembered."""
    for found in _groups(path, name):
        if isinstance(found, DataError):
            yield found
        else:
            for image in found.images:
                read = partial(read_part, path, image.name, image.offset, image.size)
                yield Sample(f"{name}/{image.name}", None, read)


def _groups(path: Path, archive: str) -> Iterator[Group | DataError]:
    """Yield the samples of one archive, as webdataset's ``group_by_keys`` divides its members."""
    try:
        with open_file(path) as file:
            yield from _divided(path, archive, file)
    except DataError as error:
        yield error


def _divided(path: Path, archive: str, file: BinaryIO) -> Iterator[Group | DataError]:
    current: Group | None = None
    archives = 0
    for member in members(path, file):
        if isinstance(member, DataError):
            yield member
            if current is not None:
                current.damaged = True
            continue
        named = KEY.fullmatch(member.name)
        if named is None or DESCRIPTION.match(member.name):
            continue
        key, extension = named[1], named[2].lower()
        archives += extension == "tar"
        # An extension again is a sample again; the library stops there.
        if current is None or current.key != key or extension in current.parts:
            if current is not None:
                yield current
            current = Group(path, archive, key)
        current.parts[extension] = member
        if extension == "cls" and member.size < LABEL_BYTES:
            content = os.pread(file.fileno(), member.size, member.offset)
            current.label = content.decode("utf-8-sig", "surrogateescape").strip() or None
    if current is not None:
        yield current
    if archives:
        yield DataError(
            f"{path} holds {counted(archives, 'tar file')}",
            "Unpack it, and give the folder that holds them",
        )


def _labelled(groups: Iterable[Group]) -> Iterator[Sample | DataError]:
    """Yield one image of each sample that has labels."""
    named = _Names()
    for group in groups:
        images = group.images
        if len(images) == 1:
            (image,) = images
            yield named.sample(group, image, group.label or _synset(image.name))
        elif group.label is not None and not group.damaged:
            what = f"several images ({', '.join(i.name for i in images)})" if images else "no image"
            yield DataError(
                f"sample {group.key} of {group.path} has {what}, beside {', '.join(group.parts)}",
                f"Name its image {group.key}.jpg; known are {', '.join(sorted(SUFFIXES))}",
            )


def _in_folders(groups: Sequence[Group]) -> Iterator[Sample | DataError]:
    """Yield all images; their folders are their classes where nothing else lies beside them."""
    images = [(group, image) for group in groups for image in group.images]
    folders = [_folders(image.name) for _, image in images]
    common = _common(min(folders), max(folders)) if folders else 0
    tops = Counter(parts[common] if len(parts) > common else None for parts in folders)
    bare = all(len(g.parts) == len(g.images) for g in groups if g.images)  # a README is alone
    by_folder = bare and len(tops) > 1 and None not in tops
    if by_folder and {str(top).lower() for top in tops} <= set(SPLIT_NAMES):
        raise DataError(
            f"{groups[0].path} holds the folders {', '.join(sorted(map(str, tops)))}, which are "
            "parts of a data set and no classes",
            "Unpack it, and give the folder that holds them",
        )
    named = _Names()
    for (group, image), parts in zip(images, folders, strict=True):
        folder = class_identifier(parts[common]) if by_folder else None
        yield named.sample(group, image, _synset(image.name) or folder)


def _common(first: Sequence[str], last: Sequence[str]) -> int:
    """Count the folders with which both begin, and so all that are sorted between them."""
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(last)))


def _folders(name: str) -> list[str]:
    return [part for part in name.split("/")[:-1] if part not in ("", ".")]


def _synset(name: str) -> str | None:
    """Return the synset of an image's name, or of the innermost folder that is named after one."""
    *folders, file = name.split("/")
    found = (class_of_name(part) for part in (file, *reversed(folders)))
    return validation_synset(file) or next(filter(None, found), None)


class _Names:
    """Names tell samples of one archive apart, also where an archive repeats one."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def sample(self, group: Group, image: Member, label: str | None) -> Sample:
        name = f"{group.archive}/{image.name}"
        self.seen[name] += 1
        read = partial(read_part, group.path, image.name, image.offset, image.size)
        again = f"#{self.seen[name]}" if self.seen[name] > 1 else ""
        return Sample(name + again, label, read)


WEBDATASET = ShardFormat(
    ".tar",
    "a .cls file behind each image",
    _read_tars,
    _images,
)
