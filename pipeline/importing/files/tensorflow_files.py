"""Variables of TensorFlow 1 programs are read from checkpoints and frozen graphs; none is run.

A checkpoint ``model.ckpt`` is ``model.ckpt.index`` with one or more ``model.ckpt.data-*``. A frozen
graph is a GraphDef whose variables became constants; it is parsed, never executed.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifacts.onnx_checks import MAX_NODES
from mobilenet_cli.pipeline.errors import ModelError, need

GRAPH_HEAD = b"\n"  # the key of a GraphDef's first field, `node`
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
PRODUCTS = frozenset({"Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMul", "BatchMatMulV2"})
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


@dataclass(frozen=True)
class Variable:
    """A variable is known by name and shape before it is read.

    Attributes:
        name: as in the program.
        shape: as the file says; a damaged one may say anything.
        read: reads the values.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


def checkpoint_index(path: Path) -> Path | None:
    """Return the index of the checkpoint that a path means, or None if it means none.

    Args:
        path: of one of its files, or what TensorFlow calls it, which is no file: ``model.ckpt``.
    """
    index = Path(f"{PART.sub('', str(path))}.index")
    return index if index.is_file() else None


def read_checkpoint(index: Path) -> Iterator[Variable]:
    """Yield the variables of a checkpoint by name.

    Raises:
        ModelError: TensorFlow is not installed.
        Exception: whatever TensorFlow says about a damaged file.
    """
    reader = _tensorflow(index).train.load_checkpoint(str(index.with_suffix("")))
    for name, shape in sorted(reader.get_variable_to_shape_map().items()):
        if _is_variable(name):
            yield Variable(name, tuple(shape), partial(reader.get_tensor, name))


def read_graph(path: Path) -> Iterator[Variable]:
    """Yield the variables of a frozen graph by name.

    Raises:
        ModelError: TensorFlow is not installed, or the graph is far larger than a classifier.
        Exception: whatever TensorFlow says about a damaged file.
    """
    tensorflow = _tensorflow(path)
    for node in _nodes(path):
        if node.op == "Const" and _is_variable(node.name):
            tensor = node.attr["value"].tensor
            shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
            yield Variable(node.name, shape, partial(tensorflow.make_ndarray, tensor))


def last_weights(path: Path) -> dict[str, str]:
    """Find the layers of a frozen graph whose products its outputs are made of.

    Returns:
        For each output, which is a node that no other reads, the name of the weights of the last
        convolution or matrix product before it; none for what depends on no such product.

    Raises:
        ModelError: TensorFlow is not installed, or the graph is far larger than a classifier.
        Exception: whatever TensorFlow says about a damaged file.
    """
    nodes = {node.name: node for node in _nodes(path)}
    sources = {name: [_source(read) for read in node.input] for name, node in nodes.items()}
    read = {name for names in sources.values() for name in names}
    found = {}
    for output in nodes.keys() - read:
        seen, queue = {output}, deque([output])
        while queue:
            name = queue.popleft()
            if name not in nodes:
                continue
            if nodes[name].op in PRODUCTS:
                found[output] = _constant(nodes, sources, name)
                break
            new = [source for source in dict.fromkeys(sources[name]) if source not in seen]
            queue.extend(new)
            seen.update(new)
    return found


def _nodes(path: Path) -> Sequence[Any]:
    """Return the nodes of a frozen graph.

    Raises:
        ModelError: TensorFlow is not installed, or the graph is far larger than a classifier.
        Exception: whatever TensorFlow says about a damaged file.
    """
    graph = _tensorflow(path).compat.v1.GraphDef()
    graph.ParseFromString(path.read_bytes())
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"{path} has more than {MAX_NODES} nodes", "Freeze an image classifier")
    return list(graph.node)


def _source(name: str) -> str:
    """Return the node behind an input such as ``^node`` or ``node:1``."""
    return name.removeprefix("^").partition(":")[0]


def _constant(nodes: Mapping[str, Any], sources: Mapping[str, list[str]], product: str) -> str:
    """Return the constant that a product reads as its weights, through nodes such as Identity."""
    name, seen = sources[product][1], {product}
    while name in nodes and nodes[name].op != "Const" and sources[name] and name not in seen:
        seen.add(name)  # a damaged graph may go in circles
        name = sources[name][0]
    return name


def _is_variable(name: str) -> bool:
    return name.rpartition("/")[2] in VARIABLES


def _tensorflow(path: Path) -> Any:
    # It greets on standard error otherwise, whatever its log level.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    need("tensorflow", f"{path} is a file of TensorFlow", ModelError)
    import tensorflow

    return tensorflow
