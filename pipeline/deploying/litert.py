"""An integer model becomes a LiteRT file with the same codes, scales and biases.

LiteRT stores activations as int8, so codes and zero points of uint8 grids are 128 lower; weights
are stored with zero point 0. Both stand for the same real values, and nothing is calibrated again.
Two parts differ in form:

- The last layer's logits are real numbers in the ONNX file. Integer kernels of LiteRT must give
  codes, of which 256 would decide between probable classes by chance. So that layer reads the same
  codes as int16, and gives int16 codes on a grid that no sum of its weights can leave.
- Pixels become codes of the first grid by the 1x1 convolution in integers of ``pixels.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mobilenet_cli.calibration.graph.parse import attributes_of, shapes_of
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.deploying.litert_file import LiteRtWriter, Tensor
from mobilenet_cli.pipeline.deploying.pixels import PIXELS, pixel_codes
from mobilenet_cli.pipeline.deploying.probabilities import PROBABILITIES
from mobilenet_cli.pipeline.errors import ModelError

SAME, VALID = 0, 1  # paddings
NONE, RELU, RELU6 = 0, 1, 3  # activations
INT16_MAX = 32767
PASSED = {"Reshape", "Flatten", "Transpose", "Identity", "Squeeze"}  # of maps of one pixel


@dataclass(frozen=True)
class _Parameter:
    """This is a constant in codes, with zero point 0.

    Attributes:
        codes: int8 weights [out, ...] or int32 biases [out].
        scales: one for each output channel.
    """

    codes: NDArray[Any]
    scales: NDArray[np.float32]


@dataclass(frozen=True)
class _Result:
    """This is what becomes of a node's real values.

    Attributes:
        codes: the name of their codes; empty of logits, which get none.
        grid: of the codes.
        activation: what is applied before.
    """

    codes: str
    grid: Grid | None
    activation: int


def write_litert(model: onnx.ModelProto, spec: InputSpec, **told: str) -> tuple[bytes, int]:
    """Write an integer classifier as a LiteRT file.

    Its input is ``pixels``, uint8 RGB [N, R, R, 3]; its output ``probabilities``, float32
    [N, classes].

    Args:
        model: as ``quantize`` makes it, with float input and logits.
        spec: how its images are normalized.
        told: texts for the metadata.

    Returns:
        The file, and how many layers with weights it has, all of them in integers.

    Raises:
        ModelError: it has an operator that is not written here, or is not integer.
    """
    return _Converter(model, spec).convert(told)


def run_litert(content: bytes, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Run a LiteRT file on pixels [1, R, R, 3], and return probabilities [images, classes]."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content, num_threads=1).get_signature_runner()
    return np.concatenate([runner(**{PIXELS: pixels})[PROBABILITIES] for pixels in images])


class _Converter:
    """This walks through the nodes of a model in order."""

    def __init__(self, model: onnx.ModelProto, spec: InputSpec) -> None:
        self.graph, self.spec = model.graph, spec
        self.shapes = shapes_of(model)
        self.arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.writer = LiteRtWriter()
        self.codes: dict[str, Tensor] = {}  # by the name of the codes, or of their real values
        self.parameters: dict[str, _Parameter] = {}
        self.layers = 0
        self.logits: Tensor | None = None
        self.methods: dict[str, Callable[[onnx.NodeProto], None]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "Conv": self._conv,
            "Gemm": self._gemm,
            "Add": self._add,
            "AveragePool": self._mean,
            "GlobalAveragePool": self._mean,
            "Pad": self._pad_channels,
            "Relu": lambda _: None,  # a part of the node before it
            "Clip": lambda _: None,
        } | dict.fromkeys(PASSED, self._pass)

    def convert(self, told: dict[str, str]) -> tuple[bytes, int]:
        side = self.spec.resolution
        image = self.writer.tensor(PIXELS, "uint8", [1, side, side, 3], [1.0])
        self._write_pixels(image)
        for node in self.graph.node:
            if node.op_type not in self.methods:
                raise self._error(f"the operator {node.op_type}")
            self.methods[node.op_type](node)
        if self.logits is None:
            raise self._error("no matrix product that makes its logits")
        shape = [1, self.logits.shape[-1]]
        writer = self.writer
        rows = writer.operator(
            "RESHAPE",
            [self.logits, writer.constant("rows", np.array([-1, shape[1]], np.int32))],
            writer.tensor("logit_codes", "int16", shape, self.logits.scales),
            *("ReshapeOptions",),
            newShape=[-1, shape[1]],
        )
        real = writer.operator("DEQUANTIZE", [rows], writer.tensor("logits", "float32", shape))
        made = writer.tensor(PROBABILITIES, "float32", shape)
        writer.operator("SOFTMAX", [real], made, "SoftmaxOptions", beta=1.0)
        return writer.file({PIXELS: image}, {PROBABILITIES: made}, **told), self.layers

    def _error(self, what: str) -> ModelError:
        return ModelError(
            f"the model has {what}, which is not written for LiteRT", "Leave --target litert out"
        )

    # -- codes ------------------------------------------------------------------------------------

    def _grid(self, node: onnx.NodeProto) -> Grid:
        scale, zero = (self.arrays[name] for name in node.input[1:3])
        return Grid(float(scale), int(zero), "uint8" if zero.dtype == np.uint8 else "int8")

    def _coded(self, name: str, shape: list[int], grid: Grid) -> Tensor:
        """Add a tensor of activations, whose codes LiteRT wants as int8."""
        lower = 128 if grid.code_type == "uint8" else 0
        made = self.writer.tensor(name, "int8", shape, [grid.scale], grid.zero_point - lower)
        self.codes[name] = made
        return made

    def _write_pixels(self, image: Tensor) -> None:
        """Make codes of the model's first grid of pixels."""
        (first,) = self.readers[self.graph.input[0].name]
        grid = self._grid(first) if first.op_type == "QuantizeLinear" else None
        made = pixel_codes(self.spec, grid) if grid and self.spec.channels != "gray" else None
        if grid is None or made is None or grid.code_type != "uint8":
            raise self._error("a first layer or a normalization")
        order = [2, 1, 0] if self.spec.channels == "BGR" else [0, 1, 2]
        weight = np.zeros((3, 1, 1, 3), np.int8)
        weight[range(3), 0, 0, order] = made.weights
        signed = self.writer.tensor("pixels_signed", "int8", image.shape, [1.0], -128)
        self.writer.operator("QUANTIZE", [image], signed, "QuantizeOptions")
        codes = self._coded(first.output[0], list(image.shape), grid)
        scales = np.array(made.scales, np.float32)
        bias = np.array(made.biases, np.int32)
        self._write_conv("pixels", signed, codes, _Parameter(weight, scales), bias)

    def _quantize(self, node: onnx.NodeProto) -> None:
        """Codes of a node's real values are made by the node; those of codes are made here."""
        name = node.output[0]
        source = self.codes.get(node.input[0])
        if name in self.codes or source is None:
            return
        grid = self._grid(node)
        if source.scales == (grid.scale,) and source.zero == grid.zero_point - 128:
            self.codes[name] = source
            return
        made = self._coded(name, list(source.shape), grid)
        self.writer.operator("QUANTIZE", [source], made, "QuantizeOptions")

    def _dequantize(self, node: onnx.NodeProto) -> None:
        codes, output = node.input[0], node.output[0]
        if codes in self.codes:
            self.codes[output] = self.codes[codes]
        elif codes in self.arrays:
            value, scales, zero = (self.arrays[name] for name in node.input)
            whole = value.astype(np.int64) - zero.reshape([-1] + [1] * (value.ndim - 1))
            self.parameters[output] = _Parameter(whole.astype(value.dtype), scales.reshape(-1))
        else:
            raise self._error(f"the tensor {codes}")

    def _result(self, name: str) -> _Result:
        """Follow real values to their codes."""
        activation = NONE
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
            activation = RELU
            if readers[0].op_type == "Clip":
                low, high = (float(self.arrays[bound]) for bound in readers[0].input[1:3])
                if (low, high) != (0.0, 6.0):
                    raise self._error(f"a Clip to {low:g}..{high:g}")
                activation = RELU6
            name = readers[0].output[0]
            readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            return _Result(readers[0].output[0], self._grid(readers[0]), activation)
        if name == self.graph.output[0].name and not activation:
            return _Result("", None, activation)
        raise self._error(f"the tensor {name} in float")

    def _read(self, name: str) -> Tensor:
        if name not in self.codes:
            raise self._error(f"the tensor {name} in float")
        return self.codes[name]

    # -- operators --------------------------------------------------------------------------------

    def _pad_channels(self, node: onnx.NodeProto) -> None:
        """Channels of zeros, which ONNX Runtime likes, are left out again."""
        pads = self.arrays[node.input[1]].reshape(2, -1)
        if pads[:, [0, 2, 3]].any():
            raise self._error("a Pad")
        self.codes[node.output[0]] = self._read(node.input[0])

    def _conv(self, node: onnx.NodeProto) -> None:
        self.layers += 1
        source, weight = self._read(node.input[0]), self.parameters[node.input[1]]
        attributes = attributes_of(node)
        groups, strides = attributes.get("group", 1), attributes.get("strides", [1, 1])
        out, inside, rows, columns = weight.codes.shape
        depthwise = groups == out == source.shape[-1] and inside == 1
        if (not depthwise and groups != 1) or set(attributes.get("dilations", [1])) != {1}:
            raise self._error("a convolution in groups or with holes")
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        codes = weight.codes.transpose(order)
        if not depthwise:
            codes = codes[..., : source.shape[-1]]
        result = self._result(node.output[0])
        if result.grid is None:
            raise self._error("a convolution that makes its logits")
        shape = self.shapes[node.output[0]]
        output = self._coded(result.codes, [1, *shape[2:], shape[1]], result.grid)
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        padding = VALID
        if (top, left, bottom, right) != (0, 0, 0, 0):
            sides = zip(source.shape[1:3], output.shape[1:3], strides, (rows, columns), strict=True)
            wanted = [max(0, (o - 1) * s + k - i) for i, o, s, k in sides]
            same = [(total // 2, total - total // 2) for total in wanted]
            if same == [(top, bottom), (left, right)]:
                padding = SAME
            else:
                source = self._padded(source, output, (top, left, bottom, right))
        parameter = _Parameter(codes, weight.scales)
        bias = self.parameters[node.input[2]].codes
        self._write_conv(
            node.output[0], source, output, parameter, bias, depthwise,
            padding=padding, strideH=strides[0], strideW=strides[1],
            fusedActivationFunction=result.activation,
        )  # fmt: skip

    def _padded(self, source: Tensor, output: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
        """Pad with the code of 0."""
        top, left, bottom, right = pads
        widths = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        name = f"padded_{output.index}"
        _, rows, columns, channels = source.shape
        shape = [1, rows + top + bottom, columns + left + right, channels]
        made = self.writer.tensor(name, "int8", shape, source.scales, source.zero)
        by = self.writer.constant(f"{name}_by", widths)
        return self.writer.operator("PAD", [source, by], made, "PadOptions")

    def _write_conv(
        self,
        name: str,
        source: Tensor,
        output: Tensor,
        weight: _Parameter,
        bias: NDArray[Any],
        depthwise: bool = False,
        **options: int,
    ) -> None:
        """Write a convolution, whose weights are [out, rows, columns, in] or [1, ..., out]."""
        writer = self.writer
        scales = [float(scale) for scale in weight.scales]
        biases = [float(np.float32(source.scales[0]) * scale) for scale in weight.scales]
        inputs = [
            source,
            writer.constant(f"{name}_weight", weight.codes, scales, 3 if depthwise else 0),
            writer.constant(f"{name}_bias", bias, biases),
        ]
        values = {"padding": VALID, "strideH": 1, "strideW": 1} | options
        if depthwise:
            values["depthMultiplier"] = 1
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        written = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        writer.operator(kind, inputs, output, written, **values)

    def _gemm(self, node: onnx.NodeProto) -> None:
        """Write the last layer, from the same codes as int16 to int16."""
        self.layers += 1
        source, weight = self._read(node.input[0]), self.parameters[node.input[1]]
        bias = self.parameters[node.input[2]]
        if self._result(node.output[0]).codes:
            raise self._error("a matrix product that does not make its logits")
        scale, zero = source.scales[0], source.zero
        wide = self.writer.tensor("features", "int16", source.shape, source.scales)
        self.writer.operator("QUANTIZE", [source], wide, "QuantizeOptions")
        ends = np.array([-128 - zero, 127 - zero])
        products = weight.codes.astype(np.int64)[..., None] * ends
        sums = [part.sum(1) + bias.codes for part in (products.min(-1), products.max(-1))]
        most = (np.abs(sums).max(0) * weight.scales.astype(np.float64)).max() * scale
        shape = [1, 1, 1, len(weight.codes)]
        self.logits = self.writer.tensor("logits_map", "int16", shape, [float(most / INT16_MAX)])
        parameter = _Parameter(weight.codes[:, None, None, :], weight.scales)
        self._write_conv("logits", wide, self.logits, parameter, bias.codes.astype(np.int64))

    def _mean(self, node: onnx.NodeProto) -> None:
        source, attributes = self._read(node.input[0]), attributes_of(node)
        kernel = attributes.get("kernel_shape", list(source.shape[1:3]))
        if list(kernel) != list(source.shape[1:3]) or any(attributes.get("pads", [0])):
            raise self._error("a pool of parts of a map")
        result = self._result(node.output[0])
        if result.grid is None:
            raise self._error("a pool that makes its logits")
        output = self._coded(result.codes, [1, 1, 1, source.shape[-1]], result.grid)
        axes = self.writer.constant(f"{node.output[0]}_axes", np.array([1, 2], np.int32))
        self.writer.operator("MEAN", [source, axes], output, "ReducerOptions", keepDims=True)

    def _add(self, node: onnx.NodeProto) -> None:
        result = self._result(node.output[0])
        if result.grid is None:
            raise self._error("a sum that makes its logits")
        sources = [self._read(name) for name in node.input]
        output = self._coded(result.codes, list(sources[0].shape), result.grid)
        activation = result.activation
        self.writer.operator(
            "ADD", sources, output, "AddOptions", fusedActivationFunction=activation
        )

    def _pass(self, node: onnx.NodeProto) -> None:
        source = self._read(node.input[0])
        if source.shape[1:3] != (1, 1):
            raise self._error(f"a {node.op_type} of a map")
        self.codes[node.output[0]] = source
