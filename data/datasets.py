"""Opening a data set by what the user wrote: a built-in name or a path."""

from collections.abc import Callable
from pathlib import Path

from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.digits import digits
from mobilenet_cli.data.folder import image_folder
from mobilenet_cli.data.split import Split
from mobilenet_cli.pipeline.errors import DataError

# Data sets that need no path, by name.
DATASETS: dict[str, Callable[[Split, int], Dataset]] = {"digits": digits}


def open_dataset(source: str, split: Split, seed: int = 0) -> Dataset:
    """Find the samples of a data set; images are read later, one at a time.

    Args:
        source: a name in ``DATASETS``, or a path.
        split: ``train``, ``val`` (held out), or ``all``.
        seed: of the division into train and val, where the data set has none of its own.

    Raises:
        DataError: there is no such data set, it has no images or not this split, or its classes
            are contradictory.
    """
    if source in DATASETS:
        return DATASETS[source](split, seed)
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"data '{source}' does not exist",
            f"Give the path of a folder of images, or one of: {', '.join(DATASETS)}",
        )
    if not path.is_dir():
        raise DataError(f"data '{source}' is not a folder", "Give the folder that holds the images")
    return image_folder(path, split, seed)
