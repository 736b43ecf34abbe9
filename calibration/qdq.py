"""Write the integer network as ONNX with QuantizeLinear and DequantizeLinear around each step.

Every tensor on a grid appears once as codes. Activations that the grid's own bounds enforce are
dropped, so that nothing stands between a convolution and its QuantizeLinear: runtimes recognise
exactly that pattern as an integer convolution.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.network import Network, Step

BIAS_MAX = 2**31 - 1


@dataclass(frozen=True)
class QuantizedLinear:
    """Integer parameters of a linear step.

    Attributes:
        weight: int8 codes, shaped as ``Linear.weight``.
        scale: float32 [out], of the weights.
        bias: int32 [out], on the grid ``input scale * weight scale``.
        bias_scale: float32 [out].
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_scale: NDArray[np.float32]


class _Writer:
    """Collects nodes and initializers of the graph being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def grid(self, tensor: str, grid: Grid) -> list[str]:
        return [
            self.constant(f"{tensor}_scale", np.float32(grid.scale)),
            self.constant(f"{tensor}_zero_point", grid.dtype.type(grid.zero_point)),
        ]

    def quantize(self, tensor: str, source: str, grid: Grid) -> None:
        """Codes of ``source`` as ``<tensor>_codes`` and their real values as ``<tensor>_real``."""
        parameters = self.grid(tensor, grid)
        codes = f"{tensor}_codes"
        self.nodes.append(
            helper.make_node("QuantizeLinear", [source, *parameters], [codes], f"{tensor}_quantize")
        )
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [codes, *parameters], [f"{tensor}_real"], f"{tensor}_dequantize"
            )
        )

    def dequantize_parameter(
        self,
        name: str,
        codes: NDArray[np.generic],
        scale: NDArray[np.float32],
        zero_point: NDArray[np.generic],
    ) -> str:
        inputs = [
            self.constant(f"{name}_codes", codes),
            self.constant(f"{name}_scale", scale),
            self.constant(f"{name}_zero_point", zero_point),
        ]
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [name], f"{name}_dequantize", axis=0)
        )
        return name


def write_qdq(
    network: Network,
    grids: dict[str, Grid],
    linears: dict[str, QuantizedLinear],
    unsigned_weights: bool = False,
) -> onnx.ModelProto:
    """The quantized model, with the float model's input and output.

    Args:
        network: the float model.
        grids: of every tensor that is represented by codes.
        linears: integer parameters by output tensor.
        unsigned_weights: store weight codes as uint8 with zero point 128.
    """
    writer = _Writer()
    if network.input in grids:
        writer.quantize(network.input, network.input, grids[network.input])
    for step in network.steps:
        made = f"{step.output}_float" if step.output in grids else step.output
        node = onnx.NodeProto()
        node.CopyFrom(step.node)
        node.input[:] = [f"{name}_real" if name in grids else name for name in node.input]
        node.output[:] = [made]
        if step.kind == "linear":
            _write_parameters(writer, node, step, linears[step.output], unsigned_weights)
        else:
            for name in step.node.input:
                if name in network.constants:
                    writer.constant(name, network.constants[name])
        writer.nodes.append(node)
        if step.output in grids:
            writer.quantize(step.output, made, grids[step.output])
    graph = helper.make_graph(
        writer.nodes,
        network.model.graph.name,
        [value for value in network.model.graph.input if value.name == network.input],
        list(network.model.graph.output),
        list(writer.constants.values()),
    )
    model = helper.make_model(
        graph, opset_imports=network.model.opset_import, producer_name="mobilenet-cli"
    )
    model.ir_version = network.model.ir_version
    return model


def _write_parameters(
    writer: _Writer,
    node: onnx.NodeProto,
    step: Step,
    linear: QuantizedLinear,
    unsigned_weights: bool,
) -> None:
    zeros = np.zeros(len(linear.scale), dtype=np.int8)
    codes: NDArray[np.generic] = linear.weight
    zero_point: NDArray[np.generic] = zeros
    if unsigned_weights:
        codes = (linear.weight.astype(np.int16) + 128).astype(np.uint8)
        zero_point = np.full(len(zeros), 128, dtype=np.uint8)
    weight = writer.dequantize_parameter(f"{step.output}_weight", codes, linear.scale, zero_point)
    bias = writer.dequantize_parameter(
        f"{step.output}_bias", linear.bias, linear.bias_scale, zeros.astype(np.int32)
    )
    node.input[:] = [node.input[0], weight, bias]
    if node.op_type == "Gemm":  # weights are stored as [out, in]
        kept = [a for a in node.attribute if a.name != "transB"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("transB", 1)])


def simulated_step(
    network: Network, step: Step, grids: dict[str, Grid], linear: QuantizedLinear | None
) -> bytes:
    """A model of one step from codes to codes, computed in float between them.

    Its inputs and output have the tensors' own names. Tensors without a grid stay float.
    """
    from mobilenet_cli.calibration.network import submodel

    writer = _Writer()
    node = onnx.NodeProto()
    node.CopyFrom(step.node)
    constants: dict[str, NDArray[np.generic]] = {}
    inputs = {}
    for name in dict.fromkeys(step.inputs):
        inputs[name] = TensorProto.FLOAT
        if name in grids:
            grid = grids[name]
            unsigned = grid.code_type == "uint8"
            inputs[name] = TensorProto.UINT8 if unsigned else TensorProto.INT8
            writer.nodes.append(
                helper.make_node(
                    "DequantizeLinear", [name, *writer.grid(name, grid)], [f"{name}_real"]
                )
            )
    node.input[:] = [f"{name}_real" if name in grids else name for name in node.input]
    if linear is not None:
        shape = (-1, *(1,) * (linear.weight.ndim - 1))
        real = linear.weight.astype(np.float32) * linear.scale.reshape(shape)
        constants["weight"] = real
        constants["bias"] = linear.bias.astype(np.float64).astype(np.float32) * linear.bias_scale
        node.input[:] = [node.input[0], "weight", "bias"]
        if node.op_type == "Gemm":
            kept = [a for a in node.attribute if a.name != "transB"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("transB", 1)])
    made = step.output
    if step.output in grids:
        made = f"{step.output}_float"
        quantize = helper.make_node(
            "QuantizeLinear", [made, *writer.grid(step.output, grids[step.output])], [step.output]
        )
    node.output[:] = [made]
    writer.nodes.append(node)
    if step.output in grids:
        writer.nodes.append(quantize)
    constants |= {n: numpy_helper.to_array(t) for n, t in writer.constants.items()}
    return submodel(network, writer.nodes, constants, inputs, [step.output])
