"""A LiteRT file is a FlatBuffer; here its tensors and operators are collected and written.

The schema is the one of the ``ai-edge-litert`` wheel (TensorFlow Lite's ``schema.fbs``, version 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 16  # bytes, as the schema demands of buffers
IDENTIFIER = b"TFL3"
SCHEMA = 3
SIGNATURE = "serving_default"
TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int16": 7, "int8": 9}
# By name: the code, and the version from which the operator has the types used here.
OPERATORS = {
    "ADD": (0, 2),
    "CONV_2D": (3, 5),
    "DEPTHWISE_CONV_2D": (4, 3),
    "DEQUANTIZE": (6, 3),
    "RESHAPE": (22, 1),
    "SOFTMAX": (25, 1),
    "PAD": (34, 2),
    "MEAN": (40, 2),
    "QUANTIZE": (114, 2),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor is described by its place in the file.

    Attributes:
        index: of the tensor.
        shape: 1 in front stands for any number of images.
        scales: of its codes, one or one for each channel; empty of real values.
        zero: the code of 0.
    """

    index: int
    shape: tuple[int, ...]
    scales: tuple[float, ...] = ()
    zero: int = 0


class LiteRtWriter:
    """A writer collects what becomes a file."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.buffers: list[Any] = [schema.BufferT()]  # the first one is that of all without data
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[str] = []

    def tensor(
        self,
        name: str,
        type_: str,
        shape: Sequence[int],
        scales: Sequence[float] = (),
        zero: int = 0,
    ) -> Tensor:
        """Add a tensor that an operator makes, or that is an input.

        Args:
            name: of the tensor.
            type_: NumPy's name of its type.
            shape: with 1 in front for any number of images.
            scales: of its codes.
            zero: the code of 0.
        """
        return self._add(name, type_, shape, [-1, *shape[1:]], 0, scales, zero, 0)

    def constant(
        self, name: str, value: NDArray[Any], scales: Sequence[float] = (), channel: int = 0
    ) -> Tensor:
        """Add a tensor of constants, whose zero point is 0."""
        buffer = self._buffer(value)
        return self._add(name, value.dtype.name, value.shape, None, buffer, scales, 0, channel)

    def _buffer(self, value: NDArray[Any]) -> int:
        self.buffers.append(_aligned(self.schema, np.ascontiguousarray(value).tobytes()))
        return len(self.buffers) - 1

    def _add(
        self,
        name: str,
        type_: str,
        shape: Sequence[int],
        signature: Sequence[int] | None,
        buffer: int,
        scales: Sequence[float],
        zero: int,
        channel: int,
    ) -> Tensor:
        made = self.schema.TensorT()
        made.name, made.type, made.buffer = name, TYPES[type_], buffer
        made.shape, made.shapeSignature = list(shape), signature and list(signature)
        if scales:
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = [float(scale) for scale in scales]
            made.quantization.zeroPoint = [zero] * len(scales)
            made.quantization.quantizedDimension = channel
        self.tensors.append(made)
        return Tensor(len(self.tensors) - 1, tuple(shape), tuple(scales), zero)

    def operator(
        self, name: str, inputs: Sequence[Tensor], output: Tensor, options: str = "", **values: Any
    ) -> Tensor:
        """Add an operator with its options, such as ``Conv2DOptions``; returns its output."""
        if name not in self.codes:
            self.codes.append(name)
        made = self.schema.OperatorT()
        made.opcodeIndex = self.codes.index(name)
        made.inputs = [tensor.index for tensor in inputs]
        made.outputs = [output.index]
        if options:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.schema, f"{options}T")()
            for key, value in values.items():
                setattr(made.builtinOptions, key, value)
        self.operators.append(made)
        return output

    def file(
        self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], **told: str
    ) -> bytes:
        """Return the file.

        Args:
            inputs: by the names of the signature.
            outputs: likewise.
            told: texts to put into the metadata.
        """
        import flatbuffers

        schema = self.schema
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, "main"
        graph.inputs = [tensor.index for tensor in inputs.values()]
        graph.outputs = [tensor.index for tensor in outputs.values()]
        signature = schema.SignatureDefT()
        signature.signatureKey = SIGNATURE
        signature.inputs, signature.outputs = map(self._named, (inputs, outputs))
        model = schema.ModelT()
        model.version, model.description = SCHEMA, "mobilenet-cli"
        model.subgraphs, model.signatureDefs, model.metadata = [graph], [signature], []
        for name, text in told.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, self._buffer(np.frombuffer(text.encode(), np.uint8))
            model.metadata.append(entry)
        model.buffers, model.operatorCodes = self.buffers, []
        for name in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.version = OPERATORS[name]
            code.deprecatedBuiltinCode = code.builtinCode  # all are below 127
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _named(self, tensors: Mapping[str, Tensor]) -> list[Any]:
        made = []
        for name, tensor in tensors.items():
            entry = self.schema.TensorMapT()
            entry.name, entry.tensorIndex = name, tensor.index
            made.append(entry)
        return made


def _aligned(schema: Any, content: bytes) -> Any:
    """Return a buffer that is written at a multiple of ``ALIGNMENT``, which BufferT is not."""

    class Aligned(schema.BufferT):  # type: ignore[misc]  # it has no types
        def Pack(self, builder: Any) -> Any:  # noqa: N802  # the generated code's name
            builder.StartVector(1, len(content), ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return Aligned()
