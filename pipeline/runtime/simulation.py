"""A quantized model is simulated in float, with sums that are exact.

As its definition says, codes become real numbers, which are multiplied and added in float32. That
rounds each sum, so one code in 100,000 becomes its neighbour, and where a residual stream passes
these on, half of all codes do: such a simulation cannot tell whether a kernel is right. Here codes
only lose their zero points. These are integers, which float32 multiplies and adds without any
rounding below 2**24, and each sum is scaled once, as ONNX Runtime's kernels do it (MLAS's
``MlasRequantizeOutput``, ``MlasQLinearAdd``). So a kernel that does not saturate makes the same
codes.

Additions are those of fused multiply-adds. Other kernels may round a pair of codes at a tie
otherwise, unless grids leave no such pair (``calibration.part_ties``). What is not understood here
stays as it is defined.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mobilenet_cli.pipeline.artifacts.onnx_graph import all_nodes

SHAPE_FROM = 15  # the opset from which Shape takes a part of a shape
STANDARD = ("", "ai.onnx")  # domains; Microsoft's operators may have codes that these have not
SUFFIX = "__exact"
KERNEL_TYPES = ({np.dtype(np.uint8)}, {np.dtype(np.int8)})  # of additions that have a kernel
SAME = 1e-5  # apart from which, relatively, scales are the same


@dataclass(frozen=True)
class _Codes:
    """These are codes that a DequantizeLinear makes real.

    Attributes:
        name: the tensor of codes.
        scale: float32, of the whole tensor or of each channel.
        zero_point: likewise, of the codes' type.
        axis: the channels' axis.
    """

    name: str
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int

    @property
    def of_tensor(self) -> bool:
        """Tell whether all codes share one scale."""
        return self.scale.size == self.zero_point.size == 1


def simulation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float model that makes of each sum of codes what integers make of it.

    Args:
        model: a model with QuantizeLinear and DequantizeLinear around its steps.
    """
    rewriter = _Rewriter(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        rewrite = _REWRITES.get(node.op_type) if node.domain in STANDARD else None
        exact = rewrite(rewriter, node) if rewrite else None
        nodes += [node] if exact is None else exact
    simulated = onnx.ModelProto()
    simulated.CopyFrom(model)
    del simulated.graph.node[:]
    simulated.graph.node.extend(rewriter.scaled_before(node) for node in nodes)
    simulated.graph.initializer.extend(rewriter.added.values())
    return simulated


class _Rewriter:
    """A rewriter knows the model, and collects what is added to it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset = next((o.version for o in model.opset_import if o.domain in STANDARD), 0)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in all_nodes(graph):
            for name in node.input:
                self.readers[name].append(node)
        self.suffix = SUFFIX  # of the names of what is added
        names = {*self.constants, *self.makers, *self.readers}
        while any(name.endswith(self.suffix) for name in names):
            self.suffix += "_"
        self.added: dict[str, onnx.TensorProto] = {}
        self.zero_points: dict[str, str] = {}  # of QuantizeLinear whose input is scaled before it

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a constant's value; None if it is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def constant(self, name: str, value: Any) -> str:
        """Add a constant; returns its name."""
        added = self.name(name)
        self.added[added] = numpy_helper.from_array(np.asarray(value), added)
        return added

    def name(self, what: str) -> str:
        """Return a name that the model does not have."""
        return what + self.suffix

    def codes(self, real: str) -> _Codes | None:
        """Return the codes that a tensor's values are made of; None if it is not made of codes."""
        node = self.makers.get(real)
        if node is None or node.op_type != "DequantizeLinear" or node.domain not in STANDARD:
            return None
        scale, zero_point = (self.array(name) for name in (*node.input[1:], "", "")[:2])
        if scale is None or zero_point is None or scale.dtype != np.float32 or scale.ndim > 1:
            return None
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        return _Codes(node.input[0], scale, zero_point, axis)

    def reader(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the QuantizeLinear that alone reads what a node makes; None if there is none."""
        name = node.output[0]
        readers = self.readers[name]
        if name in self.outputs or [r.op_type for r in readers] != ["QuantizeLinear"]:
            return None
        scale = self.array(readers[0].input[1])
        whole = len(readers[0].input) == 3 and scale is not None and scale.size == 1
        return readers[0] if whole else None

    def step(self, reader: onnx.NodeProto) -> np.float32:
        """Return the scale of what a QuantizeLinear makes."""
        return np.float32(numpy_helper.to_array(self.constants[reader.input[1]]).reshape(()))

    def quantizes_scaled(self, reader: onnx.NodeProto, zero_point: str) -> None:
        """Let a QuantizeLinear only round, and add this zero point."""
        self.zero_points[reader.output[0]] = zero_point

    def scaled_before(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return a node, or in its place a QuantizeLinear that only rounds."""
        if node.op_type != "QuantizeLinear" or node.output[0] not in self.zero_points:
            return node
        rounding = onnx.NodeProto()
        rounding.CopyFrom(node)
        rounding.input[:] = [node.input[0], self.one, self.zero_points[node.output[0]]]
        return rounding

    @property
    def one(self) -> str:
        """Return the name of the scale that changes nothing."""
        return self.constant("one", np.float32(1))

    def integers(
        self, codes: _Codes, name: str, less: NDArray[Any] | None = None
    ) -> onnx.NodeProto:
        """Make a node whose output, of this name, has codes as float32, less their zero point."""
        zero_point = codes.zero_point if less is None else less
        inputs = [codes.name, self.one, self.constant(f"{name}_zero_point", zero_point.reshape(()))]
        return helper.make_node("DequantizeLinear", inputs, [self.name(name)])


def _linear(rewriter: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Add the products of a convolution or matrix product as integers, and then scale them."""
    read, weight = (rewriter.codes(name) for name in node.input[:2])
    bias = rewriter.codes(node.input[2]) if len(node.input) > 2 else None
    if read is None or weight is None or not read.of_tensor or (len(node.input) > 2) != bool(bias):
        return None
    stored, added = rewriter.array(weight.name), rewriter.array(bias.name) if bias else None
    if stored is None or (bias and added is None) or _is_weighted(node):
        return None
    name, axis = node.output[0], _channel_axis(node)
    if not weight.of_tensor and weight.axis != axis:
        return None
    along = [1] * stored.ndim
    along[axis] = -1
    values = stored.astype(np.float32) - weight.zero_point.astype(np.float32).reshape(along)
    factor = read.scale.reshape(()) * weight.scale
    if bias and not np.allclose(bias.scale, factor, rtol=SAME, atol=0):
        return None  # its codes cannot be added to the sums, though some kernels do that
    reader = rewriter.reader(node)
    if reader is not None:
        factor = factor / rewriter.step(reader)
        rewriter.quantizes_scaled(reader, reader.input[2])
    shape = (1, -1, *(1,) * (stored.ndim - 2))
    integers = rewriter.integers(read, f"{name}_read")
    total = onnx.NodeProto()
    total.CopyFrom(node)
    total.input[:2] = [integers.output[0], rewriter.constant(f"{name}_weight", values)]
    if added is not None:
        total.input[2] = rewriter.constant(f"{name}_bias", added.astype(np.float32))
    total.output[0] = rewriter.name(f"{name}_sum")
    factors = rewriter.constant(f"{name}_factor", factor.reshape(shape))
    return [integers, total, helper.make_node("Mul", [total.output[0], factors], [name])]


def _is_weighted(node: onnx.NodeProto) -> bool:
    return any(a.name in ("alpha", "beta") and a.f != 1 for a in node.attribute)


def _channel_axis(node: onnx.NodeProto) -> int:
    """Return the axis of the weight along which the outputs' channels lie."""
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or turned else 1


def _sum(rewriter: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Add two tensors of codes as MLAS does: ``a r_a + (b r_b + fixed)``, fixed for all codes.

    Its products are not rounded before they are added (FMA). Doubles hold them exactly.
    """
    first, second = (rewriter.codes(name) for name in node.input)
    reader = rewriter.reader(node)
    if first is None or second is None or reader is None:
        return None
    zero_point = rewriter.array(reader.input[2])
    if zero_point is None or not (first.of_tensor and second.of_tensor):
        return None
    types = {codes.dtype for codes in (first.zero_point, second.zero_point, zero_point)}
    if types not in KERNEL_TYPES:
        return None
    name, step, both = node.output[0], rewriter.step(reader), (first, second)
    ratios = [codes.scale.reshape(()) / step for codes in both]
    zeros = [codes.zero_point.astype(np.float32).reshape(()) for codes in both]
    shift = np.float32(np.float64(ratios[0]) * zeros[0] + np.float64(ratios[1] * zeros[1]))
    fixed = np.float64(zero_point.astype(np.float32) - shift)
    nothing = np.zeros_like(zero_point)
    rewriter.quantizes_scaled(reader, rewriter.constant(f"{name}_nothing", nothing))
    made: list[onnx.NodeProto] = []

    def add(operator: str, inputs: list[str], what: str, **attributes: Any) -> str:
        output = rewriter.name(f"{name}_{what}")
        made.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def product(place: int) -> str:
        made.append(rewriter.integers(both[place], f"{name}_{place}", nothing))
        double = add("Cast", [made[-1].output[0]], f"{place}_double", to=onnx.TensorProto.DOUBLE)
        ratio = rewriter.constant(f"{name}_{place}_ratio", np.float64(ratios[place]))
        return add("Mul", [double, ratio], f"{place}_scaled")

    constant = rewriter.constant(f"{name}_fixed", fixed)
    inner = add("Add", [product(1), constant], "inner")
    rounded = add("Cast", [inner], "rounded", to=onnx.TensorProto.FLOAT)
    again = add("Cast", [rounded], "again", to=onnx.TensorProto.DOUBLE)
    whole = add("Add", [again, product(0)], "whole")
    made.append(helper.make_node("Cast", [whole], [name], to=onnx.TensorProto.FLOAT))
    return made


def _average(rewriter: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Add the codes of each channel of a map, and scale the sum by the step and their number."""
    read, reader = rewriter.codes(node.input[0]), rewriter.reader(node)
    if read is None or reader is None or not read.of_tensor or rewriter.opset < SHAPE_FROM:
        return None
    name = node.output[0]
    rewriter.quantizes_scaled(reader, reader.input[2])
    integers = rewriter.integers(read, f"{name}_read")

    def made(operator: str, inputs: list[str], what: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [rewriter.name(f"{name}_{what}")], **attributes)

    # Sums run over all axes behind the channels', of which a map may have one, two or three.
    whole_shape = made("Shape", [integers.output[0]], "whole_shape")
    rank = made("Size", [whole_shape.output[0]], "rank")
    first, by = (rewriter.constant(f"{name}_{what}", n) for what, n in (("first", 2), ("by", 1)))
    axes = made("Range", [first, rank.output[0], by], "axes")
    total = made("ReduceSum", [integers.output[0], axes.output[0]], "sum", keepdims=1)
    shape = made("Shape", [integers.output[0]], "shape", start=2)
    size = made("ReduceProd", [shape.output[0]], "size", keepdims=0)
    count = made("Cast", [size.output[0]], "count", to=onnx.TensorProto.FLOAT)
    step = rewriter.constant(f"{name}_step", rewriter.step(reader))
    whole = made("Mul", [step, count.output[0]], "whole")
    scale = rewriter.constant(f"{name}_scale", read.scale.reshape(()))
    factor = made("Div", [scale, whole.output[0]], "factor")
    scaled = helper.make_node("Mul", [total.output[0], factor.output[0]], [name])
    axis_nodes = [whole_shape, rank, axes]
    return [integers, *axis_nodes, total, shape, size, count, whole, factor, scaled]


_REWRITES: dict[str, Callable[[_Rewriter, onnx.NodeProto], list[onnx.NodeProto] | None]] = {
    "Conv": _linear,
    "Gemm": _linear,
    "Add": _sum,
    "GlobalAveragePool": _average,
}
