"""Write the integer network so that nothing between its two ends changes its layout.

ONNX Runtime's integer kernels want channels last; images and classifiers are written channels
first. Its optimizer puts a Transpose where the two meet: behind the first QuantizeLinear, where it
belongs, and behind the last map. There it is not needed: a map of one pixel has the same bytes in
both layouts. A Transpose in the file, in front of the Reshape that drops the two axes, meets the
optimizer's own, and both vanish. Every code and every logit stays as it was.
"""

import onnx
from onnx import helper

from mobilenet_cli.calibration.graph.parse import GraphStep, Network, attributes_of, shapes_of

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def turn_single_pixels(model: onnx.ModelProto, network: Network) -> None:
    """Turn coded maps of one pixel in front of what makes rows of them."""
    shapes = shapes_of(network.model)
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


def _makes_rows(step: GraphStep, network: Network) -> bool:
    """Tell whether the step makes [N, C] of [N, C, 1, 1], and as well of [N, 1, 1, C]."""
    attributes = attributes_of(step.node)
    if step.node.op_type == "Flatten":
        return bool(attributes.get("axis", 1) == 1)
    if step.node.op_type != "Reshape" or step.node.input[1] not in network.constants:
        return False
    target = network.constants[step.node.input[1]].tolist()
    return len(target) == 2 and target[1] != 0  # 0 copies an axis, which may have moved
