"""Write the integer network so that nothing between its two ends changes its layout.

ONNX Runtime's integer kernels want channels last; images and classifiers are written channels
first. Its optimizer puts a Transpose where the two meet: behind the first QuantizeLinear, and
behind the last map. Neither is needed, and every code and every logit stays as it was:

*At the entry* the image is turned before it is quantized. The optimizer would move a Transpose
through QuantizeLinear again, so a Flatten stands between them, and a Reshape restores the axes;
both only rename memory.

*A map of one pixel* has the same bytes in both layouts: a Transpose in the file, in front of the
Reshape that drops the two axes, meets the optimizer's own, and both vanish.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from mobilenet_cli.calibration.network import Network, Step, attributes_of
from mobilenet_cli.calibration.shape_for_kernels import PADDED

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def turn_input(model: onnx.ModelProto) -> None:
    """Turn images before they are quantized, where a graph begins with that."""
    graph = model.graph
    first = next((node for node in graph.node if node.op_type == "QuantizeLinear"), None)
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    given = graph.input[0].name
    if first is None or first.input[0] not in (given, given + PADDED) or len(shape) != 4:
        return
    image, codes = first.input[0], first.output[0]
    _, _, rows, columns = shape
    if not (rows and columns):  # a free size
        return
    axes = numpy_helper.from_array(np.array([0, rows, columns, -1]), f"{codes}_shape")
    graph.initializer.append(axes)
    first.input[0], first.output[0] = f"{image}_flat", f"{codes}_flat"
    nodes = list(graph.node)
    at = nodes.index(first)
    nodes[at:at] = [
        helper.make_node("Transpose", [image], [f"{image}_last"], f"{image}_last", perm=TO_LAST),
        helper.make_node("Flatten", [f"{image}_last"], [f"{image}_flat"], f"{image}_flat"),
    ]
    nodes[at + 3 : at + 3] = [
        helper.make_node("Reshape", [f"{codes}_flat", axes.name], [f"{codes}_last"]),
        helper.make_node("Transpose", [f"{codes}_last"], [codes], codes, perm=TO_FIRST),
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def turn_single_pixels(model: onnx.ModelProto, network: Network) -> None:
    """Turn coded maps of one pixel in front of what makes rows of them."""
    inferred = shape_inference.infer_shapes(network.model).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    for step in network.steps:
        source = step.inputs[0] if step.inputs else ""
        if shapes.get(source, [])[2:] != [1, 1] or not _makes_rows(step, network):
            continue
        for index, node in enumerate(model.graph.node):
            if node.op_type == step.node.op_type and node.input[0] in (
                f"{source}_codes",
                f"{source}_real",
            ):
                turned = f"{node.input[0]}_last"
                turn = helper.make_node(
                    "Transpose", [node.input[0]], [turned], turned, perm=TO_LAST
                )
                node.input[0] = turned
                model.graph.node.insert(index, turn)
                break


def _makes_rows(step: Step, network: Network) -> bool:
    """Does the step make [N, C] of [N, C, 1, 1], and as well of [N, 1, 1, C]?"""
    attributes = attributes_of(step.node)
    if step.node.op_type == "Flatten":
        return bool(attributes.get("axis", 1) == 1)
    if step.node.op_type != "Reshape" or step.node.input[1] not in network.constants:
        return False
    target = network.constants[step.node.input[1]].tolist()
    return len(target) == 2 and target[1] != 0  # 0 copies an axis, which may have moved
