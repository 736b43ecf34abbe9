"""Weights in several files, such as ``model-00001-of-00002.safetensors``, are read all or not."""

import re
from pathlib import Path

from mobilenet_cli.pipeline.errors import ModelError, counted

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)?")


def all_shards(path: Path) -> list[Path]:
    """Return the files that belong to one of them, or the file alone where it is whole by itself.

    They count from 0, as TensorFlow does, where one has that number, and else from 1.

    Raises:
        ModelError: one of them is missing.
    """
    found = SHARD.fullmatch(path.name)
    if found is None:
        return [path]
    name, _, count, end = found.groups(default="")
    # A pipe of that name might never end.
    beside = {file.name for file in path.parent.iterdir() if file.is_file()}
    from_zero = not end or f"{name}-00000-of-{count}{end}" in beside
    numbers = range(int(count)) if from_zero else range(1, int(count) + 1)
    names = [f"{name}-{number:05}-of-{count}{end}" for number in numbers]
    missing = [wanted for wanted in names if wanted not in beside]
    if missing or path.name not in names:
        more = f" and {counted(len(missing) - 1, 'other file')}" if len(missing) > 1 else ""
        raise ModelError(
            f"{path.parent} lacks {(missing or names)[0]}{more}, of the {count.lstrip('0') or '0'} "
            "files in which the weights lie",
            "Copy or download all of them into that folder",
        )
    return [path.with_name(wanted) for wanted in names]


def check_checkpoint(index: Path) -> None:
    """Refuse a TensorFlow checkpoint whose data are not all there.

    Args:
        index: its ``model.ckpt.index``.

    Raises:
        ModelError: a file of its data is missing.
    """
    data = sorted(index.parent.glob(f"{index.stem}.data-*-of-*"))
    if not data:
        raise ModelError(
            f"{index.parent} lacks {index.stem}.data-00000-of-00001, where the weights of "
            f"{index.name} lie",
            "Copy or download all files of the checkpoint into that folder",
        )
    all_shards(data[0])
