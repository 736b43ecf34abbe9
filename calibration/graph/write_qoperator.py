"""Write the integer network with ONNX Runtime's integer operators instead of QDQ pairs.

QLinearConv is ONNX's; QGemm, QLinearAveragePool and QLinearGlobalAveragePool are contributed
operators of ONNX Runtime (domain com.microsoft, docs/ContribOperators.md). Such a model needs no
optimizer to become integer, but only ONNX Runtime reads it.
"""

import numpy as np
import onnx
from onnx import helper

from mobilenet_cli.calibration.graph.parse import Network, Step
from mobilenet_cli.calibration.graph.write_qdq import (
    QuantizedLinear,
    Writer,
    as_model,
    stored_weights,
)
from mobilenet_cli.calibration.grid import Grid

MICROSOFT = "com.microsoft"


def write_qoperator(
    network: Network,
    grids: dict[str, Grid],
    linears: dict[str, QuantizedLinear],
    unsigned_weights: bool = False,
) -> onnx.ModelProto:
    """The quantized model, with the float model's input and output; arguments as ``write_qdq``."""
    writer = Writer()
    real: set[str] = set()  # tensors whose real values have been written

    def read_real(tensor: str) -> str:
        """Name of a tensor's real values, dequantized once where they are needed."""
        if tensor not in grids:
            return tensor
        name = f"{tensor}_real"
        if name not in real:
            real.add(name)
            parameters = writer.grid(tensor, grids[tensor])
            inputs = [f"{tensor}_codes", *parameters]
            writer.nodes.append(helper.make_node("DequantizeLinear", inputs, [name]))
        return name

    def quantize(tensor: str, source: str) -> None:
        inputs = [source, *writer.grid(tensor, grids[tensor])]
        writer.nodes.append(helper.make_node("QuantizeLinear", inputs, [f"{tensor}_codes"]))

    if network.input in grids:
        quantize(network.input, network.input)
    for step in network.steps:
        if step.kind == "linear" and (step.output in grids or step.node.op_type == "Gemm"):
            _write_linear(writer, step, grids, linears[step.output], unsigned_weights)
        elif step.kind in ("pool", "shape") and step.output in grids:
            _write_passive(writer, network, step, grids)
        else:
            node = onnx.NodeProto()
            node.CopyFrom(step.node)
            node.input[:] = [read_real(n) if n in step.inputs else n for n in node.input]
            for name in node.input:
                if name in network.constants:
                    writer.constant(name, network.constants[name])
            coded = step.output in grids
            node.output[:] = [f"{step.output}_float" if coded else step.output]
            writer.nodes.append(node)
            if coded:
                quantize(step.output, f"{step.output}_float")
    if network.output in grids:
        inputs = [f"{network.output}_codes", *writer.grid(network.output, grids[network.output])]
        writer.nodes.append(helper.make_node("DequantizeLinear", inputs, [network.output]))
    return as_model(network, writer, helper.make_opsetid(MICROSOFT, 1))


def _write_linear(
    writer: Writer,
    step: Step,
    grids: dict[str, Grid],
    linear: QuantizedLinear,
    unsigned_weights: bool,
) -> None:
    codes, zero_point = stored_weights(linear, unsigned_weights)
    gemm = step.node.op_type == "Gemm"
    source = step.inputs[0]
    inputs = [
        f"{source}_codes",
        *writer.grid(source, grids[source]),
        writer.constant(
            f"{step.output}_weight_codes", np.ascontiguousarray(codes.T if gemm else codes)
        ),
        writer.constant(f"{step.output}_weight_scale", linear.scale),
        writer.constant(f"{step.output}_weight_zero_point", zero_point),
    ]
    made = writer.grid(step.output, grids[step.output]) if step.output in grids else []
    bias = writer.constant(f"{step.output}_bias_codes", linear.bias)
    output = f"{step.output}_codes" if made else step.output
    if gemm:  # without an output grid QGemm gives float
        writer.nodes.append(
            helper.make_node("QGemm", [*inputs, bias, *made], [output], domain=MICROSOFT)
        )
        return
    node = helper.make_node("QLinearConv", [*inputs, *made, bias], [output])
    node.attribute.extend(step.node.attribute)
    writer.nodes.append(node)


def _write_passive(writer: Writer, network: Network, step: Step, grids: dict[str, Grid]) -> None:
    source = step.inputs[0]
    if step.node.op_type in ("AveragePool", "GlobalAveragePool"):
        inputs = [f"{source}_codes", *writer.grid(source, grids[source])]
        inputs += writer.grid(step.output, grids[step.output])
        node = helper.make_node(
            f"QLinear{step.node.op_type}", inputs, [f"{step.output}_codes"], domain=MICROSOFT
        )
        node.attribute.extend(step.node.attribute)
    else:
        node = onnx.NodeProto()
        node.CopyFrom(step.node)
        node.input[:] = [f"{n}_codes" if n in step.inputs else n for n in node.input]
        node.output[:] = [f"{step.output}_codes"]
        for name in step.node.input:
            if name in network.constants:
                writer.constant(name, network.constants[name])
    writer.nodes.append(node)
