"""Folders are walked: what systems leave in them is passed over, and no link leads in a circle."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mobilenet_cli.data.readers.files import Places, is_image, is_other_picture
from mobilenet_cli.pipeline.errors import DataError

# What macOS, Windows, Linux and network storage put among people's folders.
LITTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether this is a folder; a link to itself is none, and reading it says so."""
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def folders_in(folder: Path) -> list[str]:
    """List the subfolders of a folder as ``entries_of`` does; none of what cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not _is_hidden(e.name) and _is_folder(e))
    return []


def has_images(folder: Path) -> bool:
    """Tell whether an image lies directly in a folder; none does where it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(is_image(e.name) and not _is_hidden(e.name) for e in entries)
    return False


def entries_of(folder: Path, unread: list[Path] | None = None) -> tuple[list[str], list[str]]:
    """List the subfolders and the images of a folder, sorted; hidden ones and litter are left out.

    Pictures that are not read are added to ``unread``.
    """
    folders, images = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif is_image(entry.name):
                    images.append(entry.name)
                elif unread is not None and is_other_picture(entry.name):
                    unread.append(folder / entry.name)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error
    return sorted(folders), sorted(images)


def images_below(
    folder: Path,
    unread: list[Path],
    above: tuple[Path, ...] = (),
    places: Places | None = None,
) -> Iterator[str]:
    """Yield the images of a folder, then those of its subfolders, by their names within it.

    A link to a folder in which it lies is not followed.

    Args:
        folder: where to look.
        unread: pictures that are not read are added here.
        above: the folders in which it lies.
        places: the folders that were seen; None lets their images count again.

    Raises:
        DataError: a folder cannot be read, or has been seen.
    """
    waiting = [("", folder, above)]  # some trees are deeper than Python recurses
    while waiting:
        prefix, place, above = waiting.pop()
        here = place.resolve()
        if any(path.is_relative_to(here) for path in above):
            continue
        if places is not None:
            places.add(place)
        folders, images = entries_of(place, unread)
        yield from (prefix + image for image in images)
        inside = (*above, here)
        waiting += ((f"{prefix}{name}/", place / name, inside) for name in reversed(folders))
