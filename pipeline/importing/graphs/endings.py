"""Whether a classifier ends in probabilities or in logits is to be seen at its last node.

The nodes behind the last layers with weights are a small function of their own. What it makes of
any values, also of very large ones, tells more than the names of its nodes: there are many ways to
write a sigmoid, and to join the answers of several.
"""

from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mobilenet_cli.pipeline.artifacts.onnx_graph import output_kind
from mobilenet_cli.pipeline.importing.graphs.foreign_graph import LOGITS_ALONE, described, refused
from mobilenet_cli.pipeline.importing.graphs.graph_passes import (
    add_constant,
    array_of,
    infer_shapes,
)
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.pipeline.runtime.tensor_values import EXACT

# ``shares`` sum to 1; ``chances`` are probabilities, each by itself; ``logarithms`` are those of
# chances; ``bounded`` is anything else that lies in -1..1.
Ending = Literal["logits", "shares", "chances", "logarithms", "bounded"]
PROBABILITIES = {"Softmax", "Sigmoid", "HardSigmoid"}
# Behind these are logits again: a logarithm of probabilities is one, up to a number for all.
LINEAR = {"Conv", "Gemm", "MatMul", "Log", "LogSoftmax"}
LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "DequantizeLinear"}
SUM_TOLERANCE = 1e-3  # of probabilities
NEAR = 0.05  # so near to 0 and to 1 come all chances at once, where all values are large
SIZES = (10.0, 1e4)  # of the values; of the first, formulas of exponentials stay finite
ROWS = 8  # of values of each size
MOST = 1 << 24  # values that are made for a tensor


def drop_percent(graph: ir.Model) -> float:
    """Let an output that is probabilities times a number, such as 100, be the probabilities.

    Returns:
        The number, 1 where there is none.
    """
    infer_shapes(graph)
    (output,) = graph.graph.outputs
    node = output.producer()
    if node is None or node.op_type not in ("Mul", "Div"):
        return 1.0
    arrays = [array_of(value) for value in node.inputs]
    for source, array in zip(node.inputs, reversed(arrays), strict=True):
        if source is None or array is None or array.size != 1 or array.item() <= 0:
            continue
        if node.op_type == "Div" and source is not node.inputs[0]:
            continue
        ending = ir.to_proto(graph)
        ending.graph.output[0].name = source.name
        named = output_kind(ending.graph) != "logits"
        if not named and kind_of_ending(ending) not in ("shares", "chances"):
            continue
        name, output.name = output.name, f"{output.name}/times"
        source.name, source.type = name, output.type
        graph.graph.outputs[0] = source
        RemoveUnusedNodesPass()(graph)
        factor = float(array.item())
        return factor if node.op_type == "Mul" else 1 / factor
    return 1.0


def end_in_probabilities(graph: ir.Model, answers: NDArray[np.float32]) -> None:
    """Let an output that is probabilities say so at its last node, as a Softmax or a HardSigmoid.

    Args:
        graph: its last layers are as in the result.
        answers: of the graph, [images, classes] or with dimensions of one besides.
    """
    infer_shapes(graph)
    model = ir.to_proto(graph)
    if output_kind(model.graph) != "logits":
        return
    if are_shares(answers):
        _end_in_softmax(graph)
    elif kind_of_ending(model) == "chances":
        _end_in_hard_sigmoid(graph)


def _end_in_softmax(graph: ir.Model) -> None:
    """Let probabilities p, such as the mean of several Softmax, be ``Softmax(log p)``: the same.

    Later stages see at the last node what an output is.
    """
    (old,) = graph.graph.outputs
    name, old.name = old.name, f"{old.name}/shares"
    floor = add_constant(graph, graph.graph[-1], np.array(np.finfo(np.float32).tiny))
    above = ir.node("Max", [old, floor])
    log = ir.node("Log", [above.outputs[0]])
    softmax = ir.node("Softmax", [log.outputs[0]], {"axis": 1})
    above.outputs[0].name, log.outputs[0].name = f"{name}/above", f"{name}/log"
    softmax.outputs[0].name, softmax.outputs[0].dtype = name, ir.DataType.FLOAT
    graph.graph.extend([above, log, softmax])
    graph.graph.outputs[0] = softmax.outputs[0]


def _end_in_hard_sigmoid(graph: ir.Model) -> None:
    """Let probabilities p, each by itself, be ``max(0, min(1, p))``: the same."""
    (old,) = graph.graph.outputs
    name, old.name = old.name, f"{old.name}/chances"
    made = ir.node("HardSigmoid", [old], {"alpha": 1.0, "beta": 0.0})
    made.outputs[0].name, made.outputs[0].dtype = name, ir.DataType.FLOAT
    graph.graph.append(made)
    graph.graph.outputs[0] = made.outputs[0]


def refuse_ending(path: Path, model: onnx.ModelProto) -> None:
    """Refuse an output that is neither logits nor probabilities.

    Raises:
        ModelError: there are only probabilities between the last layers and the output, which is
            none itself; it is logarithms of such that do not sum to 1; or it cannot leave -1..1.
    """
    if output_kind(model.graph) != "logits":
        return
    output = f"its output '{model.graph.output[0].name}'"
    if (maker := _probabilities_behind(model.graph)) is not None:
        raise refused(
            path,
            f"{output} is made of the probabilities of {described(maker)}, and is neither logits "
            "nor probabilities",
            fix=LOGITS_ALONE,
        )
    kind = kind_of_ending(model)
    if kind == "logarithms":
        raise refused(
            path,
            f"{output} is the logarithms of probabilities that do not sum to 1, as of a Sigmoid",
            fix="Export it with its logits, or with these probabilities, as its only output",
        )
    if kind == "bounded":
        raise refused(
            path,
            f"{output} cannot leave -1..1, like a Tanh or an embedding of length 1, and is neither "
            "logits nor probabilities",
            fix=LOGITS_ALONE,
        )


def _probabilities_behind(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """Find what makes the probabilities that an output is made of alone, if it is."""
    makers = {name: node for node in graph.node for name in node.output}
    queue, seen, found = [graph.output[0].name], set[str](), None
    while queue:
        name = queue.pop()
        node = makers.get(name)
        if node is None and name == graph.input[0].name:
            return None
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in LINEAR:
            return None
        above = makers.get(node.input[0]) if node.op_type == "Div" else None
        formula = above is not None and above.op_type == "Exp"  # of a softmax
        if node.op_type in PROBABILITIES or formula:
            found = found or node
        else:
            queue.extend(node.input)
    return found


def kind_of_ending(model: onnx.ModelProto) -> Ending:
    """Tell what is behind a classifier's last layers by what it makes of values of any size.

    Args:
        model: with the shapes of its tensors; where one is not known, its ending counts as logits.
    """
    made = _answers_to_any_values(model)
    if made is None:
        return "logits"
    if are_shares(made):
        return "shares"
    if _are_chances(made):
        return "chances"
    if np.abs(made).max() <= 1 + SUM_TOLERANCE:
        return "bounded"
    with np.errstate(over="ignore"):
        grown = np.exp(made)
    return "logarithms" if _are_chances(grown) and not are_shares(grown) else "logits"


def are_shares(answers: NDArray[np.float32]) -> bool:
    """Tell whether a network answers with probabilities that sum to 1."""
    shares = answers.reshape(len(answers), -1)
    sums = shares.sum(1, dtype=np.float64)
    return bool(shares.min() >= 0 and np.abs(sums - 1).max() < SUM_TOLERANCE)


def _are_chances(rows: NDArray[np.float32]) -> bool:
    """Tell whether rows lie in 0..1, and come near to both ends in all classes at once.

    What is made of shares does not: where all classes are as probable, they are far from 1.
    """
    inside = rows.min() >= 0 and rows.max() <= 1 + SUM_TOLERANCE
    return bool(inside and (rows.max(1) < NEAR).any() and (rows.min(1) > 1 - NEAR).any())


def _answers_to_any_values(model: onnx.ModelProto) -> NDArray[np.float32] | None:
    """Run what is behind the last layers on seeded values in place of theirs.

    Returns:
        The finite answers, [rows, classes]; None where nothing is behind them, or it cannot be run.
    """
    nodes, sources = _behind_layers(model.graph)
    types = {v.name: v.type.tensor_type for v in (*model.graph.input, *model.graph.value_info)}
    feeds = {}
    for number, name in enumerate(sources):
        made = _values(types[name], number) if name in types else None
        if made is None:
            return None
        feeds[name] = made
    if not nodes or not feeds:
        return None
    read = {name for node in nodes for name in node.input}
    ending = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        graph=onnx.GraphProto(
            name="ending",
            node=nodes,
            input=[v for v in (*model.graph.input, *model.graph.value_info) if v.name in feeds],
            output=[onnx.ValueInfoProto(name=model.graph.output[0].name)],
            initializer=[tensor for tensor in model.graph.initializer if tensor.name in read],
        ),
    )
    try:
        answers = open_session(ending.SerializeToString(), EXACT).run(None, feeds)[0]
        rows = answers.reshape(len(answers), -1)
    except Exception:  # ONNX Runtime's have no base class; the whole model is tried anyway
        return None
    finite = rows[np.isfinite(rows).all(1)]
    return finite if finite.size else None


def _behind_layers(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], list[str]]:
    """Return the nodes behind the last layers with weights, and the tensors these layers make."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    queue, made, sources = [graph.output[0].name], set[str](), list[str]()
    while queue:
        name = queue.pop()
        if not name or name in constants or name in made or name in sources:
            continue
        node = makers.get(name)
        if node is None or node.op_type in LAYERS:
            sources.append(name)
        else:
            made.add(name)
            queue.extend(node.input)
    return [node for node in graph.node if made.intersection(node.output)], sources


def _values(type_: onnx.TypeProto.Tensor, seed: int) -> NDArray[np.float32] | None:
    """Return values of several sizes for a tensor of floats, with any number of rows, or None.

    Of each size, the first row has the largest and the second the smallest everywhere.
    """
    shape = [dim.dim_value for dim in type_.shape.dim]
    wide = prod(shape[1:]) * ROWS * len(SIZES)
    if type_.elem_type != onnx.TensorProto.FLOAT or shape[:1] != [0] or not 0 < wide < MOST:
        return None
    values = np.random.default_rng(seed).uniform(-1, 1, (ROWS, *shape[1:]))
    values[0], values[1] = 1, -1
    return np.concatenate([size * values for size in SIZES]).astype(np.float32)
