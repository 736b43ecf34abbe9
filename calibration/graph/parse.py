"""A float ONNX classifier is parsed into the steps in which it is quantized."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from mobilenet_cli.pipeline.errors import ModelError, counted

Kind = Literal["linear", "pool", "shape", "float"]
POOLS = {"AveragePool", "GlobalAveragePool", "MaxPool"}
# They are steep at 0: of a mean of cubes, whose root a network may take, codes leave too little.
STEEP = {"Pow", "Sqrt", "Log", "Reciprocal"}
SHIFTS = {"Add", "Mul", "Max", "Clip"}  # with a constant
SHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"}
SHAPES |= {"Slice", "Split", "Gather"}  # these select
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Of a grouped convolution, measured in ONNX Runtime 1.32 with one thread: with 24 channels a group
# integers take 0.4 to 0.9 of the time of floats, with 16 or fewer up to three times as long.
LEAST_GROUP = 24
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}


@dataclass(frozen=True)
class GraphStep:
    """A step is one node, or a convolution, matrix product or sum with the activation behind it.

    Attributes:
        kind: ``linear`` has weights and becomes integer; ``pool`` becomes integer; ``shape`` only
            moves or selects codes; ``float`` has no integer form here and stays as it is.
        node: the node itself.
        inputs: activation tensors it reads.
        output: the tensor it makes, behind the activation.
        low: the activation's lower bound, -inf without one.
        high: the activation's upper bound, inf without one.
        further: the other tensors it makes, as Split does.
        apart: it must be computed in float, though runtimes have integer kernels for it.
    """

    kind: Kind
    node: onnx.NodeProto
    inputs: tuple[str, ...]
    output: str
    low: float = -np.inf
    high: float = np.inf
    further: tuple[str, ...] = ()
    apart: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return all tensors that the step makes."""
        return (self.output, *self.further)


@dataclass(frozen=True)
class Linear:
    """These are the parameters of a linear step, in float64.

    Attributes:
        weight: [out, in / groups, kernel rows, kernel columns] or [out, in].
        bias: [out].
        groups: of channels; the outputs of a group see the inputs of that group.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Tell whether every output sees one input channel of its own."""
        return self.groups == len(self.weight) > 1 and self.weight.shape[1] == 1

    @property
    def taps(self) -> NDArray[np.float64]:
        """Return the weights as [out, K]."""
        return self.weight.reshape(len(self.weight), -1)


@dataclass(frozen=True)
class Network:
    """A network is a model taken apart.

    Attributes:
        model: the float model, unchanged.
        steps: in the order of computation.
        linears: parameters of each linear step, by its output.
        constants: all initializers by name.
    """

    model: onnx.ModelProto
    steps: tuple[GraphStep, ...]
    linears: dict[str, Linear]
    constants: dict[str, NDArray[np.generic]]

    @property
    def input(self) -> str:
        """Name of the image tensor."""
        return str(self.model.graph.input[0].name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the logits, or of a detector's boxes and scores."""
        return tuple(value.name for value in self.model.graph.output)

    def consumers(self, tensor: str) -> list[GraphStep]:
        """Return steps that read a tensor."""
        return [step for step in self.steps if tensor in step.inputs]


def parse(model: onnx.ModelProto, keep_float: frozenset[str] = frozenset()) -> Network:
    """Take a model apart.

    Args:
        model: a float model with one input.
        keep_float: outputs of steps that are to stay float.

    Raises:
        ModelError: the model is quantized already, still has BatchNormalization, has a fixed batch
            size, or has no convolution or matrix product that could become integer.
    """
    graph = model.graph
    operators = {node.op_type for node in graph.node}
    if found := sorted(operators & QUANTIZED):
        raise ModelError(
            f"the model is quantized already: it has {', '.join(found)}",
            "Quantize the float model it was made from",
        )
    if "BatchNormalization" in operators:
        raise ModelError(
            "the model still has BatchNormalization",
            "Fold it first with 'mobilenet-cli simplify'",
        )
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    inputs = [i.name for i in graph.input if i.name not in constants]
    if len(inputs) != 1 or not graph.output:
        raise ModelError(
            f"the model has {counted(len(inputs), 'input')} and "
            f"{counted(len(graph.output), 'output')}",
            "Only networks with one input can be quantized",
        )
    batch = next(i for i in graph.input if i.name in inputs).type.tensor_type.shape.dim[:1]
    if batch and batch[0].HasField("dim_value"):
        raise ModelError(
            f"the batch size of the model is fixed at {batch[0].dim_value}",
            "Export it with a free first dimension",
        )
    steps, linears = _steps(model, constants, keep_float)
    if not linears:
        raise ModelError(
            "the model has no convolution or matrix product that could become integer",
            "Check that it is the model you meant; Conv and Gemm with constant weights can",
        )
    return Network(model, steps, linears, constants)


def _steps(
    model: onnx.ModelProto, constants: dict[str, NDArray[np.generic]], keep_float: frozenset[str]
) -> tuple[tuple[GraphStep, ...], dict[str, Linear]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    steps: list[GraphStep] = []
    linears: dict[str, Linear] = {}
    absorbed: set[str] = set()  # outputs of activations that belong to the step before
    for node in model.graph.node:
        if node.output[0] in absorbed:
            continue
        activations = tuple(name for name in node.input if name and name not in constants)
        linear = _linear(node, constants) if len(activations) == 1 else None
        low, high, made = -np.inf, np.inf, [node.output[0]]
        if linear is not None or node.op_type == "Add":
            low, high, made = _with_activation(made[0], readers, outputs, constants)
        kept = made[-1] in keep_float
        if kept:  # so does its activation, as a step of its own
            low, high, made = -np.inf, np.inf, [node.output[0]]
        absorbed |= set(made[1:])
        kind: Kind = "float"
        if linear is not None and not kept:
            kind = "linear"
            linears[made[-1]] = linear
        elif linear is None and len(activations) == 1 and not kept:
            kind = _kind(node, readers, constants)
        further = tuple(name for name in node.output[1:] if name)
        # ONNX Runtime would round constant weights itself, and regard no pairs of them.
        weighted = node.op_type in WEIGHTED and len(activations) == 1
        apart = kind == "float" and (kept or weighted or _is_dilated(node))
        steps.append(GraphStep(kind, node, activations, made[-1], low, high, further, apart))
    return tuple(steps), linears


def _with_activation(
    tensor: str,
    readers: dict[str, list[onnx.NodeProto]],
    outputs: set[str],
    constants: dict[str, NDArray[np.generic]],
) -> tuple[float, float, list[str]]:
    """Follow the nodes behind a tensor that cut off what is below 0 and above a bound.

    Returns:
        The bounds, and the tensors from the given one to the last that these nodes make.
    """
    low, high, seen = -np.inf, np.inf, [tensor]
    found = (low, high, seen)
    while len(following := readers.get(seen[-1], [])) == 1 and seen[-1] not in outputs:
        limits = _limits(following[0], constants)
        if limits is None:
            break
        low, high = max(low, limits[0]), min(high, limits[1])
        seen = [*seen, following[0].output[0]]
        if low == 0.0 < high:
            found = (low, high, seen)
    return found


def _kind(
    node: onnx.NodeProto,
    readers: dict[str, list[onnx.NodeProto]],
    constants: dict[str, NDArray[np.generic]],
) -> Kind:
    """Tell what becomes of a node without weights that reads one tensor."""
    if node.op_type in POOLS and len(node.output) == 1 and not _is_dilated(node):
        return "float" if _read_steeply(node.output[0], readers, constants) else "pool"
    if node.op_type == "Resize":
        attributes = attributes_of(node)
        copies = attributes.get("mode", b"nearest") == b"nearest"
        cuts = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
        return "shape" if copies and not cuts else "float"
    own = node.input[0] not in constants  # else it is the index of a Gather that was computed
    return "shape" if node.op_type in SHAPES and own else "float"


def _is_dilated(node: onnx.NodeProto) -> bool:
    """Tell whether an average is over values apart, of which ONNX Runtime has no integer kernel."""
    apart = attributes_of(node).get("dilations", ()) if node.op_type == "AveragePool" else ()
    return any(step > 1 for step in apart)


def _read_steeply(
    tensor: str,
    readers: dict[str, list[onnx.NodeProto]],
    constants: dict[str, NDArray[np.generic]],
) -> bool:
    """Tell whether a tensor, perhaps with a constant added, is read by what is steep at 0."""
    names, seen = [tensor], {tensor}
    while names:
        name = names.pop()
        for node in readers.get(name, []):
            divisor = node.op_type == "Div" and name in node.input[1:]
            if divisor or node.op_type in STEEP:
                return True
            alone = all(other == name or other in constants for other in node.input if other)
            passed = node.op_type in SHAPES or (node.op_type in SHIFTS and alone)
            names += [made for made in node.output[:1] if passed and made not in seen]
            seen.update(node.output[:1])
    return False


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shapes of a model's tensors by name; 0 stands for a length that is not known."""
    graph = shape_inference.infer_shapes(model).graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output, *graph.input)
    }


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values, by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _linear(node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]) -> Linear | None:
    """Return the parameters of a Conv or Gemm with constant float weights, or None."""
    if node.op_type not in ("Conv", "Gemm") or any(n not in constants for n in node.input[1:] if n):
        return None
    attributes = attributes_of(node)
    weight = constants[node.input[1]].astype(np.float64)
    if node.op_type == "Gemm":
        plain = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0)) == (1.0, 1.0)
        if not plain or attributes.get("transA", 0):
            return None
        weight = weight if attributes.get("transB", 0) else weight.T
    elif weight.ndim != 4:
        return None
    groups = int(attributes.get("group", 1))
    bias = np.zeros(len(weight))
    if len(node.input) > 2 and node.input[2]:
        bias = bias + constants[node.input[2]].astype(np.float64).ravel()
    linear = Linear(weight, bias, groups)
    narrow = groups > 1 and min(weight.shape[1], len(weight) // groups) < LEAST_GROUP
    return None if narrow and not linear.depthwise else linear


def _limits(
    node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]
) -> tuple[float, float] | None:
    """Return the bounds of a Relu, a Clip, or a Max or Min with one number; None for any other."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type == "Clip" and all(n in constants for n in node.input[1:] if n):
        bounds = [float(constants[n]) if n else None for n in node.input[1:3]] + [None, None]
        low, high = bounds[:2]
        return -np.inf if low is None else low, np.inf if high is None else high
    if node.op_type in ("Max", "Min") and len(node.input) == 2:
        numbers = [constants[name] for name in node.input if name in constants]
        if len(numbers) == 1 and numbers[0].size == 1 and numbers[0].ndim <= 2:
            bound = float(numbers[0].item())
            return (bound, np.inf) if node.op_type == "Max" else (-np.inf, bound)
    return None


def separable_chain(network: Network, step: GraphStep) -> list[GraphStep] | None:
    """Find a dense convolution with ReLU, a depthwise one behind it or none, and its reader.

    None where a step begins no such chain.
    """
    if not _is_conv(step) or network.linears[step.output].groups > 1:
        return None
    chain = [step]
    while len(chain) == 1 or network.linears[chain[-1].output].depthwise:
        readers = network.consumers(chain[-1].output)
        ends_in_relu = chain[-1].low == 0.0 and chain[-1].output not in network.outputs
        if len(chain) > 2 or not ends_in_relu or len(readers) != 1 or not _is_conv(readers[0]):
            return None
        chain.append(readers[0])
    return chain if network.linears[chain[-1].output].groups == 1 else None


def pads(step: GraphStep) -> bool:
    """Tell whether a convolution sees zeros around its map."""
    attributes = attributes_of(step.node)
    same = attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return same or any(attributes.get("pads", ()))


def _is_conv(step: GraphStep) -> bool:
    return step.kind == "linear" and step.node.op_type == "Conv"
