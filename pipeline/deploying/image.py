"""A model that takes pixels takes images of any size: resized and cut in the graph.

ONNX's Resize with ``antialias`` (operator set 18) follows Pillow's resampling, rows and columns in
turn with bytes between. Of images more than twice as tall as wide, Pillow 13 resamples columns
first, which rounds a fifth of noise to the next level. The size of the frame is computed in
float64, as ``preprocess.frame`` does.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mobilenet_cli.calibration.graph.write_qdq import Writer
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.deploying.pixels import PIXELS
from mobilenet_cli.pipeline.errors import OptionError

IMAGE = "image"
FILTERS: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5, "exclude_outside": 1},
}
MIN_OPSET = 18


def take_image(model: onnx.ModelProto, spec: InputSpec) -> onnx.ModelProto:
    """Return the model with the input ``image``, uint8 RGB [rows, columns, 3] of any size.

    Args:
        model: as ``take_pixels`` makes it.
        spec: how an image is resized and cut.

    Raises:
        OptionError: that is TF-slim's way, which squashes the image.
    """
    if spec.convention == "tf-slim":
        raise OptionError(
            "a model that prepares images as TF-slim does cannot be deployed yet",
            "Import it again as an ONNX file with --normalization inception",
        )
    taken, writer = onnx.ModelProto(), Writer()
    taken.CopyFrom(model)
    side = np.array([spec.resolution, spec.resolution])
    _write_frame(writer, spec)
    first = writer.constant("image_first", np.array([0]))
    writer.node("Unsqueeze", [IMAGE, first], "image_batch")
    ends = [writer.constant(f"image_{n}", np.array([n])) for n in (1, 3)]
    writer.node("Concat", [ends[0], "frame", ends[1]], "frame_shape", axis=0)
    resized = FILTERS[spec.interpolation]
    writer.node("Resize", ["image_batch", "", "", "frame_shape"], "image_resized", **resized)
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
    nodes = [*writer.nodes, *taken.graph.node]
    del taken.graph.node[:], taken.graph.input[:]
    taken.graph.node.extend(nodes)
    taken.graph.initializer.extend(writer.constants.values())
    size = ("rows", "columns", 3)
    taken.graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, size))
    return taken


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
