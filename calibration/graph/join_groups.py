"""Join narrow groups of channels, with weights of zero between them, until integer kernels pay.

ONNX Runtime computes a grouped integer convolution group by group, and with groups of 4, 8 or 16
channels takes up to three times as long as in float. Where groups are joined to 32 channels, the
kernels do two to eight times the work in less time than floats take: 3x3 convolutions of ResNeXt's
sizes take 0.58 to 0.97 of it on VNNI and 0.61 to 0.99 on AMX (one thread, ONNX Runtime 1.32). On
AVX2 kernels they take 1.04 to 1.41 of it, so that narrow groups stay in float there.

It is done before anything is calibrated: rounding may use the new weights, too.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mobilenet_cli.calibration.graph.parse import LEAST_GROUP, attributes_of

MOST_JOINED = 8  # groups that become one; more would be work for nothing


def join_groups(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same float function, with groups joined where they are too narrow."""
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in joined.graph.initializer}
    for node in joined.graph.node:
        groups = int(attributes_of(node).get("group", 1)) if node.op_type == "Conv" else 1
        if groups == 1 or node.input[1] not in weights:
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        count = _joined(weight, groups)
        if count == 1:
            continue
        name = f"{node.output[0]}_joined"
        joined.graph.initializer.append(
            numpy_helper.from_array(_with_zeros(weight, groups, count), name)
        )
        node.input[1] = name
        kept = [attribute for attribute in node.attribute if attribute.name != "group"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("group", groups // count)])
    return joined


def _joined(weight: NDArray[np.generic], groups: int) -> int:
    """Return how many groups become one; 1 for depthwise layers, and where that would not pay."""
    narrow = min(weight.shape[1], len(weight) // groups)
    if weight.ndim != 4 or narrow >= LEAST_GROUP or groups == len(weight):
        return 1
    counts = [n for n in range(2, MOST_JOINED + 1) if groups % n == 0]
    return next((n for n in counts if n * narrow >= LEAST_GROUP), 1)


def _with_zeros(weight: NDArray[np.generic], groups: int, count: int) -> NDArray[np.generic]:
    """Return weights [out, count * in, ...], in which each group has its own inputs' columns."""
    size, width = len(weight) // groups, weight.shape[1]
    wide = np.zeros((len(weight), count * width, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        made = slice(group * size, (group + 1) * size)
        start = group % count * width
        wide[made, start : start + width] = weight[made]
    return wide
