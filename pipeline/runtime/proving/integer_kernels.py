"""The integer kernels that ONNX Runtime uses here are found out by trying them."""

import platform
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.pipeline.runtime.machine import instruction_sets
from mobilenet_cli.pipeline.runtime.session import open_session

TAPS = 64


@cache
def pairs_saturate() -> bool:
    """Tell whether the kernels add two products in 16 bits here.

    Full activations times full weights: ``64 * 255 * 127`` if sums are exact. CPU flags would not
    tell what the runtime makes of them.
    """
    weights = numpy_helper.from_array(np.full((TAPS, TAPS), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["codes", "weights"], ["sums"])],
        "probe",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, [1, TAPS])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [1, TAPS])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    codes = np.full((1, TAPS), 255, np.uint8)
    sums = open_session(model.SerializeToString()).run(None, {"codes": codes})[0]
    return bool((sums != TAPS * 255 * 127).any())


def detect_target() -> str:
    """Return the key of ``TARGETS`` that fits this machine."""
    if platform.machine() in ("arm64", "aarch64"):
        return "arm64"
    if pairs_saturate():
        return "avx2"
    return "amx" if "AMX-INT8" in instruction_sets() else "vnni"
