"""Variables of TensorFlow 1 programs are read from checkpoints and frozen graphs; none is run.

A checkpoint ``model.ckpt`` is ``model.ckpt.index`` with one or more ``model.ckpt.data-*``. A frozen
graph is a GraphDef whose variables became constants; it is parsed, never executed.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.errors import ModelError

GRAPH_HEAD = b"\n"  # the key of a GraphDef's first field, `node`
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
# What tf.contrib.slim calls a layer's variables. Optimizers and moving averages append a name of
# their own (`weights/RMSProp`), so they are left out: transformers' converter does the same.
VARIABLES = frozenset(
    {
        "weights",
        "depthwise_weights",
        "pointwise_weights",
        "biases",
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
    }
)


def checkpoint_index(path: Path) -> Path | None:
    """Return the index of the checkpoint that a path means, or None if it means none.

    Args:
        path: of one of its files, or what TensorFlow calls it, which is no file: ``model.ckpt``.
    """
    index = Path(f"{PART.sub('', str(path))}.index")
    return index if index.is_file() else None


def read_checkpoint(index: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Return the variables of a checkpoint by name.

    Raises:
        ModelError: TensorFlow is not installed.
        Exception: whatever TensorFlow says about a damaged file.
    """
    reader = _tensorflow(index).train.load_checkpoint(str(index.with_suffix("")))
    for name in sorted(reader.get_variable_to_shape_map()):
        if _is_variable(name):
            yield name, reader.get_tensor(name)


def read_graph(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Return the variables of a frozen graph by name.

    Raises:
        ModelError: TensorFlow is not installed.
        Exception: whatever TensorFlow says about a damaged file.
    """
    tensorflow = _tensorflow(path)
    graph = tensorflow.compat.v1.GraphDef()
    graph.ParseFromString(path.read_bytes())
    for node in graph.node:
        if node.op == "Const" and _is_variable(node.name):
            yield node.name, np.asarray(tensorflow.make_ndarray(node.attr["value"].tensor))


def _is_variable(name: str) -> bool:
    return name.rpartition("/")[2] in VARIABLES


def _tensorflow(path: Path) -> Any:
    # It greets on standard error otherwise, whatever its log level.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow
    except ImportError as error:
        raise ModelError(
            f"{path} is a TensorFlow file, and tensorflow is not installed",
            'Install it with: pip install "mobilenet-cli[tensorflow]"',
        ) from error
    return tensorflow
