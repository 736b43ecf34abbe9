"""A model answers with probabilities, and with the most probable classes where that is asked."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from mobilenet_cli.calibration.graph.write_qdq import Writer
from mobilenet_cli.pipeline.artifacts.onnx_graph import OutputKind

PROBABILITIES, TOP_CLASSES, TOP_PROBABILITIES = "probabilities", "top_classes", "top_probabilities"


def give_probabilities(
    model: onnx.ModelProto, kind: OutputKind, classes: int, top: int | None
) -> onnx.ModelProto:
    """Return the model with the output ``probabilities``, float32 [N, classes].

    Args:
        model: a classifier with one output.
        kind: what that output is.
        classes: how many there are.
        top: how many of the most probable classes to give in addition, as ``top_classes``, int64
            [N, top], and ``top_probabilities``; None gives none.
    """
    given, writer = onnx.ModelProto(), Writer()
    given.CopyFrom(model)
    graph = given.graph
    batch = model.graph.output[0].type.tensor_type.shape.dim
    rows = (batch[0].dim_value or "batch") if batch else "batch"
    shape = writer.constant("answers_shape", np.array([-1, classes]))
    answers = writer.node("Reshape", [graph.output[0].name, shape], "answers")
    if kind == "logits":
        writer.node("Softmax", [answers], PROBABILITIES, axis=1)
    else:
        writer.node("Identity", [answers], PROBABILITIES)
    outputs = [
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [rows, classes]),
    ]
    if top is not None:
        count = writer.constant("top_count", np.array([top]))
        names = [TOP_PROBABILITIES, TOP_CLASSES]
        node = helper.make_node("TopK", [PROBABILITIES, count], names, TOP_CLASSES, axis=1)
        writer.nodes.append(node)
        for name, type_ in zip(names, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
            outputs.append(helper.make_tensor_value_info(name, type_, [rows, top]))
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.constants.values())
    del graph.output[:], graph.value_info[:]
    graph.output.extend(outputs)
    return given
