"""Write the integer network as ONNX with QuantizeLinear and DequantizeLinear around each step.

Every tensor on a grid appears once as codes. Activations that the grid's own bounds enforce are
dropped, so that nothing stands between a convolution and its QuantizeLinear: runtimes recognise
exactly that pattern as an integer convolution.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mobilenet_cli.calibration.graph.parse import GraphStep, Network
from mobilenet_cli.calibration.grid import Grid

BIAS_MAX = 2**31 - 1


@dataclass(frozen=True)
class QuantizedLinear:
    """These are the integer parameters of a linear step.

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


class Writer:
    """A writer collects nodes and initializers of the graph being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        """Add an initializer; returns its name."""
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, which names the node too; returns that name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def grid(self, tensor: str, grid: Grid) -> list[str]:
        """Add a tensor's scale and zero point; returns their names."""
        return [
            self.constant(f"{tensor}_scale", np.float32(grid.scale)),
            self.constant(f"{tensor}_zero_point", grid.dtype.type(grid.zero_point)),
        ]

    def quantize(self, tensor: str, source: str, grid: Grid, real: str) -> None:
        """Add the codes of ``source`` as ``<tensor>_codes``, and their real values as ``real``."""
        parameters = self.grid(tensor, grid)
        codes = f"{tensor}_codes"
        self.nodes.append(
            helper.make_node("QuantizeLinear", [source, *parameters], [codes], f"{tensor}_quantize")
        )
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [codes, *parameters], [real], f"{tensor}_dequantize"
            )
        )

    def dequantize_parameter(
        self,
        name: str,
        codes: NDArray[np.generic],
        scale: NDArray[np.float32],
        zero_point: NDArray[np.generic],
    ) -> str:
        """Add a DequantizeLinear of constant codes [out, ...]; returns its output's name."""
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
) -> onnx.ModelProto:
    """Return the quantized model, with the float model's input and output.

    Args:
        network: the float model.
        grids: of every tensor that is represented by codes.
        linears: integer parameters by output tensor.
    """
    writer = Writer()
    if network.input in grids:
        writer.quantize(network.input, network.input, grids[network.input], f"{network.input}_real")
    for step in network.steps:
        made = _written(step, grids)
        _write_step(writer, network, step, grids, linears.get(step.output), made)
        for name, source in zip(step.outputs, made, strict=True):
            if name in grids:
                real = name if name in network.outputs else f"{name}_real"
                writer.quantize(name, source, grids[name], real)
    return _as_model(network, writer)


def _written(step: GraphStep, grids: dict[str, Grid]) -> list[str]:
    """Name what the step's node makes: behind it, its codes have the names of its tensors."""
    return [f"{name}_float" if name in grids else name for name in step.outputs]


def _as_model(network: Network, writer: Writer) -> onnx.ModelProto:
    """Make a model of what was written, with the float model's input and output."""
    graph = helper.make_graph(
        writer.nodes,
        network.model.graph.name,
        [value for value in network.model.graph.input if value.name == network.input],
        list(network.model.graph.output),
        list(writer.constants.values()),
    )
    return _model(network, graph)


def _model(network: Network, graph: onnx.GraphProto) -> onnx.ModelProto:
    model: onnx.ModelProto = helper.make_model(
        graph,
        opset_imports=list(network.model.opset_import),
        producer_name="mobilenet-cli",
    )
    model.ir_version = network.model.ir_version
    return model


def _write_step(
    writer: Writer,
    network: Network,
    step: GraphStep,
    grids: dict[str, Grid],
    linear: QuantizedLinear | None,
    made: list[str],
) -> None:
    """Write the step's node, which reads real values of codes and makes ``made``."""
    node = onnx.NodeProto()
    node.CopyFrom(step.node)
    node.input[:] = [f"{name}_real" if name in grids else name for name in node.input]
    if step.apart:
        _keep_apart(writer, step, node, grids)
    # What an activation behind it makes is the step's output, in place of the node's own.
    named = dict(zip((node.output[0], *step.further), made, strict=True))
    node.output[:] = [named.get(name, name) for name in node.output]
    if linear is None:
        for name in step.node.input:
            if name in network.constants:
                writer.constant(name, network.constants[name])
    else:
        weight, bias = _write_parameters(writer, step, linear)
        node.input[:] = [node.input[0], weight, bias]
        if node.op_type == "Gemm":  # weights are kept as [out, in]
            kept = [a for a in node.attribute if a.name != "transB"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("transB", 1)])
    writer.nodes.append(node)  # after what makes its weights: ONNX wants nodes in order
    if not enforces_activation(grids.get(step.output), step):
        node.output[0] = f"{made[0]}_linear"
        operator, limits = "Relu", []
        if step.output not in grids and np.isfinite(step.high):
            operator = "Clip"
            limits = [
                writer.constant(f"{step.output}_low", np.float32(step.low)),
                writer.constant(f"{step.output}_high", np.float32(step.high)),
            ]
        writer.nodes.append(helper.make_node(operator, [node.output[0], *limits], made))


def _keep_apart(
    writer: Writer, step: GraphStep, node: onnx.NodeProto, grids: dict[str, Grid]
) -> None:
    """Put a Clip, which changes nothing, between codes and the node.

    Runtimes replace a node between DequantizeLinear and QuantizeLinear by an integer kernel, and
    this one's is known to compute something else.
    """
    for index, name in enumerate(step.node.input):
        if name not in grids:
            continue
        limits = [
            writer.constant(f"{step.output}_in{index}_{end}", np.float32(value))
            for end, value in (("low", grids[name].low), ("high", grids[name].high))
        ]
        clipped = f"{step.output}_in{index}"
        writer.nodes.append(helper.make_node("Clip", [node.input[index], *limits], [clipped]))
        node.input[index] = clipped


def _write_parameters(writer: Writer, step: GraphStep, linear: QuantizedLinear) -> tuple[str, str]:
    """Add the dequantized weight and bias of a step, and return their names."""
    zero_point = np.zeros(len(linear.scale), dtype=np.int8)
    weight = writer.dequantize_parameter(
        f"{step.output}_weight", linear.weight, linear.scale, zero_point
    )
    zeros = np.zeros(len(linear.scale), dtype=np.int32)
    bias = writer.dequantize_parameter(f"{step.output}_bias", linear.bias, linear.bias_scale, zeros)
    return weight, bias


def enforces_activation(grid: Grid | None, step: GraphStep) -> bool:
    """Tell whether the ends of the output's grid do what the step's activation does."""
    low, high = (grid.low, grid.high) if grid else (-np.inf, np.inf)
    return step.low <= low and high <= step.high * (1 + 1e-6)


def step_model(
    network: Network,
    step: GraphStep,
    grids: dict[str, Grid],
    linear: QuantizedLinear | None,
    types: dict[str, np.dtype[Any]],
) -> bytes:
    """Write one step as a model, from codes to codes, with its tensors under their own names.

    Whether it is computed in integers or simulated in float is the session's choice. Tensors
    without a grid are what they were on either side: float, or conditions.

    Args:
        network: what the step is part of.
        step: the step.
        grids: of all tensors that become codes.
        linear: its integer parameters, if it has weights.
        types: of what it reads.
    """
    writer = Writer()
    inputs = {n: helper.np_dtype_to_tensor_dtype(types[n]) for n in dict.fromkeys(step.inputs)}
    for name in inputs:
        if name in grids:
            parameters = writer.grid(name, grids[name])
            writer.nodes.append(
                helper.make_node("DequantizeLinear", [name, *parameters], [f"{name}_real"])
            )
    made = _written(step, grids)
    _write_step(writer, network, step, grids, linear, made)
    for name, source in zip(step.outputs, made, strict=True):
        if name in grids:
            parameters = writer.grid(name, grids[name])
            writer.nodes.append(helper.make_node("QuantizeLinear", [source, *parameters], [name]))
    graph = helper.make_graph(
        writer.nodes,
        "step",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in step.outputs],
        list(writer.constants.values()),
    )
    serialized: bytes = _model(network, graph).SerializeToString(deterministic=True)
    return serialized
