"""A folder with a manifest is a package, which stands where a model file may stand."""

from pathlib import Path

MANIFEST = "manifest.json"


def is_package(path: Path) -> bool:
    """Tell whether a path is the folder of a package."""
    return (path / MANIFEST).is_file()
