"""A graph that computes in float16, bfloat16 or float64 becomes one of float32.

Its weights keep their values, of float64 the nearest ones; what is computed from them is as exact
as float32 is. ``same_answers`` measures how far that moves the answers.
"""

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import numpy_helper

WIDTHS = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
TYPES = ("to", "dtype", "output_dtype")  # attributes that name the type of what a node makes


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which tensors, values and casts of other widths are of float32."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _widen(made)
    return made


def _widen(message: Message) -> None:
    """Widen what is in a message, as a graph has branches in its nodes, and a model functions."""
    if isinstance(message, onnx.TensorProto):
        if message.data_type in WIDTHS:
            with np.errstate(over="ignore"):  # the largest float64, where nothing is to be larger
                values = numpy_helper.to_array(message).astype(np.float32)
            message.CopyFrom(numpy_helper.from_array(values, message.name))
        return
    if isinstance(message, onnx.TypeProto.Tensor) and message.elem_type in WIDTHS:
        message.elem_type = onnx.TensorProto.FLOAT
    if isinstance(message, onnx.AttributeProto) and message.name in TYPES and message.i in WIDTHS:
        message.i = onnx.TensorProto.FLOAT
    for field, value in message.ListFields():
        if field.message_type:
            for inside in value if field.is_repeated else [value]:
                _widen(inside)
