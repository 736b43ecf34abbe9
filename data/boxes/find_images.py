"""Labels name images as the machine did on which they were made: with its folders and letters."""

import os
from pathlib import Path

from mobilenet_cli.data.dataset import class_name
from mobilenet_cli.data.readers.files import is_image


class ImageFinder:
    """A finder knows the images of folders by their names, in whatever way these are written."""

    def __init__(self) -> None:
        self._spelled: dict[Path, dict[str, str | None]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """Return the image in a folder that a name means; None if there is none or more than one.

        That is the file of this path below the folder. Where there is none, the file may be spelled
        with capital letters or accents written otherwise, the name may lack its ending, and it may
        begin with folders that are not there.
        """
        exact = folder / name
        if exact.is_file():
            return exact
        place = exact.parent if exact.parent.is_dir() else folder
        if place not in self._spelled:
            self._spelled[place] = _spellings(place)
        found = self._spelled[place].get(_spelling(exact.name))
        return None if found is None else place / found


def _spelling(name: str) -> str:
    return class_name(name).casefold()


def _spellings(folder: Path) -> dict[str, str | None]:
    """Return the images of a folder by their names with and without ending; None of several."""
    found: dict[str, str | None] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():  # noqa: PTH208 - a million names: strings
        if is_image(name):
            for key in {_spelling(name), _spelling(name.rpartition(".")[0])}:
                found[key] = None if key in found else name
    return found
