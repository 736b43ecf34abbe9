"""A model that takes pixels takes images of any size: resized and cut in the graph.

ONNX's Resize with ``antialias`` (operator set 18) follows Pillow's resampling, rows and columns in
turn with bytes between. Of images more than twice as tall as wide, Pillow 13 resamples columns
first, which rounds a fifth of noise to the next level. The size of the frame is computed in
float64, as ``preprocess.frame`` does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mobilenet_cli.calibration.graph.write_qdq import Writer
from mobilenet_cli.data.preprocess import InputSpec, slim_fraction
from mobilenet_cli.pipeline.deploying.pixels import PIXELS
from mobilenet_cli.pipeline.exporting.nms import SIZES

IMAGE = "image"
FILTERS: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5, "exclude_outside": 1},
}
SLIM_FILTER = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
MIN_OPSET = 18


def take_image(model: onnx.ModelProto, spec: InputSpec) -> onnx.ModelProto:
    """Return the model with the input ``image``, uint8 RGB [rows, columns, 3] of any size.

    Args:
        model: as ``take_pixels`` makes it.
        spec: how an image is resized and cut.
    """
    taken, writer = onnx.ModelProto(), Writer()
    taken.CopyFrom(model)
    if spec.convention == "tf-slim":
        _write_slim_square(writer, spec)
    else:
        _write_frame(writer, spec)
        _write_resize(writer, IMAGE, "frame", "image_resized", FILTERS[spec.interpolation])
        _write_crop(writer, spec)
    constants = [tensor for tensor in taken.graph.initializer if tensor.name != SIZES]
    if len(constants) < len(taken.graph.initializer):
        _write_sizes(writer)
    del taken.graph.initializer[:]
    taken.graph.initializer.extend(constants)
    put_in_front(taken.graph, writer, IMAGE, ("rows", "columns", 3))
    return taken


def put_in_front(
    graph: onnx.GraphProto, writer: Writer, name: str, shape: tuple[str | int, ...]
) -> None:
    """Put what was written in front of a graph, which makes its former input of a new uint8 one."""
    nodes = [*writer.nodes, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.constants.values())
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))


def _write_sizes(writer: Writer) -> None:
    """Write ``sizes`` [1, 2], the width and height in whose pixels a detector's boxes are."""
    order = writer.constant("sizes_order", np.array([[1, 0]]))
    writer.node("Shape", [IMAGE], "sizes_shape")
    writer.node("Gather", ["sizes_shape", order], "sizes_whole")
    writer.node("Cast", ["sizes_whole"], SIZES, to=TensorProto.FLOAT)


def _write_resize(
    writer: Writer, image: str, frame: str, output: str, how: Mapping[str, Any]
) -> None:
    """Write the resize of an image [rows, columns, 3] to a ``frame``, as a batch of one."""
    first = writer.constant("image_first", np.array([0]))
    writer.node("Unsqueeze", [image, first], "image_batch")
    ends = [writer.constant(f"image_{n}", np.array([n])) for n in (1, 3)]
    writer.node("Concat", [ends[0], frame, ends[1]], "frame_shape", axis=0)
    writer.node("Resize", ["image_batch", "", "", "frame_shape"], output, **how)


def _write_crop(writer: Writer, spec: InputSpec) -> None:
    """Write what cuts the square out of the resized image."""
    side = np.array([spec.resolution, spec.resolution])
    writer.node("Sub", ["frame", writer.constant("crop_size", side)], "crop_spare")
    if spec.convention == "torchvision":
        half = writer.constant("crop_half", np.float64(0.5))
        writer.node("Cast", ["crop_spare"], "crop_real", to=TensorProto.DOUBLE)
        writer.node("Mul", ["crop_real", half], "crop_middle")
        writer.node("Round", ["crop_middle"], "crop_whole")  # halves to even, as Python's
        writer.node("Cast", ["crop_whole"], "crop_start", to=TensorProto.INT64)
    else:
        half = writer.constant("crop_half", np.array([2]))
        writer.node("Div", ["crop_spare", half], "crop_start")
    writer.node("Add", ["crop_start", "crop_size"], "crop_end")
    axes = writer.constant("crop_axes", np.array([1, 2]))
    writer.node("Slice", ["image_resized", "crop_start", "crop_end", axes], PIXELS)


def _write_slim_square(writer: Writer, spec: InputSpec) -> None:
    """Write TF-slim's cut and squash, as ``preprocess`` does it, rounded to bytes."""
    writer.node("Shape", [IMAGE], "image_shape", start=0, end=2)
    writer.node("Cast", ["image_shape"], "image_size", to=TensorProto.DOUBLE)
    kept = writer.constant("crop_kept", np.float64(slim_fraction(spec)))
    writer.node("Mul", ["image_size", kept], "crop_inside")
    writer.node("Sub", ["image_size", "crop_inside"], "crop_outside")
    half = writer.constant("crop_half", np.float64(0.5))
    writer.node("Mul", ["crop_outside", half], "crop_margin")
    writer.node("Cast", ["crop_margin"], "crop_start", to=TensorProto.INT64)
    writer.node("Sub", ["image_shape", "crop_start"], "crop_end")
    axes = writer.constant("crop_axes", np.array([0, 1]))
    writer.node("Slice", [IMAGE, "crop_start", "crop_end", axes], "image_cut")
    writer.node("Cast", ["image_cut"], "image_real", to=TensorProto.FLOAT)
    writer.constant("frame", np.array([spec.resolution, spec.resolution]))
    _write_resize(writer, "image_real", "frame", "image_resized", SLIM_FILTER)
    writer.node("Round", ["image_resized"], "image_rounded")
    writer.node("Cast", ["image_rounded"], PIXELS, to=TensorProto.UINT8)


def _write_frame(writer: Writer, spec: InputSpec) -> None:
    """Write what makes ``frame``: the rows and columns that the image is resized to."""
    if spec.convention == "stretch":
        writer.constant("frame", np.array([spec.resolution, spec.resolution]))
        return
    resize = writer.constant("image_short", np.float64(spec.resize))
    writer.node("Shape", [IMAGE], "image_shape", start=0, end=2)
    writer.node("Cast", ["image_shape"], "image_size", to=TensorProto.DOUBLE)
    writer.node("ReduceMin", ["image_size"], "image_side", keepdims=0)
    if spec.convention == "keras":
        writer.node("Div", [resize, "image_side"], "image_scale")
        writer.node("Mul", ["image_size", "image_scale"], "image_scaled")
        writer.node("Round", ["image_scaled"], "image_rounded")
    else:
        writer.node("Mul", ["image_size", resize], "image_times")
        writer.node("Div", ["image_times", "image_side"], "image_scaled")
        writer.node("Floor", ["image_scaled"], "image_rounded")
    writer.node("Max", ["image_rounded", resize], "image_frame")
    writer.node("Cast", ["image_frame"], "frame", to=TensorProto.INT64)
