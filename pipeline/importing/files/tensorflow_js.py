"""Tensors of TensorFlow.js: a JSON document that lists them, and binary shards beside it.

The list is a ``weights_manifest.json``, or the ``weightsManifest`` of a ``model.json``
(tfjs-core/src/io/types.ts, WeightsManifestConfig; io_utils.ts, decodeWeights).
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from mobilenet_cli.pipeline.errors import ModelError

MAX_JSON = 1 << 26  # bytes; that of a large network has some hundred thousand
MANIFEST = "weightsManifest"


class Quantization(BaseModel):
    """A quantized tensor's values are ``scale * code + min``; float16 has neither."""

    dtype: Literal["uint8", "uint16", "float16"]
    scale: float = 1.0
    min: float = 0.0


class Weight(BaseModel):
    """A weight is one tensor of the list."""

    name: str
    shape: tuple[int, ...] = Field(max_length=8)
    dtype: Literal["float32", "int32", "uint8", "bool"]
    quantization: Quantization | None = None

    @property
    def stored(self) -> "np.dtype[Any]":
        """Return the type of the values in the shards."""
        kind = self.quantization.dtype if self.quantization else self.dtype
        return np.dtype("<" + np.dtype(kind).str[1:])

    @property
    def size(self) -> int:
        """Return the number of bytes in the shards."""
        return math.prod(self.shape) * self.stored.itemsize

    def read(self, content: bytes) -> NDArray[np.float32]:
        """Return the values of the bytes."""
        values = np.frombuffer(content, self.stored).reshape(self.shape).astype(np.float32)
        if self.quantization and self.quantization.dtype != "float16":
            values = values * np.float32(self.quantization.scale) + np.float32(
                self.quantization.min
            )
        return values


class Group(BaseModel):
    """A group of weights lies in the shards of ``paths``, one after the other."""

    paths: tuple[str, ...]
    weights: tuple[Weight, ...]


def groups_in(path: Path) -> tuple[Group, ...] | None:
    """Return what a JSON file lists; None if it is no list of TensorFlow.js.

    Raises:
        ModelError: it is one, but with something in it that is not understood.
    """
    if path.stat().st_size > MAX_JSON:
        return None
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    listed = document.get(MANIFEST) if isinstance(document, dict) else document
    if not isinstance(listed, list) or not all(
        isinstance(g, dict) and "paths" in g for g in listed
    ):
        return None
    try:
        return tuple(Group.model_validate(group) for group in listed)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"{path} lists a weight of TensorFlow.js that is not understood "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']})",
            "Convert the model again with tensorflowjs_converter",
        ) from error


def read_group(path: Path, group: Group) -> Iterator[tuple[Weight, bytes]]:
    """Return each weight of a group with its bytes.

    Args:
        path: the JSON file, in whose folder the shards are.
        group: what it lists.

    Raises:
        ModelError: a shard is missing, outside the folder, too short or too long.
    """
    content = b"".join(_shard(path, name) for name in group.paths)
    place = 0
    for weight in group.weights:
        yield weight, content[place : place + weight.size]
        place += weight.size
    if place != len(content):
        raise ModelError(
            f"the shards of {path} have {len(content)} bytes instead of {place}",
            "Download all of its .bin files again",
        )


def _shard(path: Path, name: str) -> bytes:
    folder = path.parent.resolve()
    shard = (folder / name).resolve()
    if not shard.is_relative_to(folder) or not shard.is_file():
        raise ModelError(
            f"{path} keeps weights in {name}, which is not beside it",
            "Put all of its .bin files into the same folder",
        )
    return shard.read_bytes()
