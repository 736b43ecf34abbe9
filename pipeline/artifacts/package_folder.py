"""A folder with a manifest is a package, which stands where a model file may stand."""

from pathlib import Path

MANIFEST, PROBE, LABELS = "manifest.json", "probe.bin", "labels.txt"


def is_package(path: Path) -> bool:
    """Tell whether a path is the folder of a package, which may be damaged.

    Other programs call their files manifest.json, too, but have none of ours beside it.
    """
    return (path / MANIFEST).is_file() and any((path / own).is_file() for own in (PROBE, LABELS))
