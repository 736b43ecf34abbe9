"""A model that takes decoded images takes JPEG files: decoded in the graph.

ONNX Runtime has no operator for it, so ``DecodeImage`` of onnxruntime-extensions before 0.14 does
it, which is OpenCV's decoder: upright, in the order BGR, and an error for what is no image. Of a
file that is cut off it gives what is there, so the file's ends are looked at first. Since 0.14 the
operator writes three bytes a pixel for gray images, too, and has room for one.
"""

from contextlib import suppress
from importlib.metadata import version

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mobilenet_cli.calibration.graph.write_qdq import Writer
from mobilenet_cli.data.decode import decode
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.deploying.image import IMAGE, put_in_front
from mobilenet_cli.pipeline.errors import DataError, OptionError, counted, need
from mobilenet_cli.pipeline.runtime.proving.probe_images import spread_samples
from mobilenet_cli.pipeline.runtime.session import EXTENSIONS

JPEG = "jpeg"
TOO_NEW = (0, 14)  # of onnxruntime-extensions
# ITU-T T.81, table B.1: SOI with the beginning of the next marker, and EOI.
BEGIN, END = b"\xff\xd8\xff", b"\xff\xd9"
REFUSED = "the bytes are not those of a whole JPEG file"  # a node's name is in its error


def take_jpeg(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the input ``jpeg``, uint8 [bytes] of a JPEG file.

    Args:
        model: as ``take_image`` makes it.
    """
    taken, writer = onnx.ModelProto(), Writer()
    taken.CopyFrom(model)
    _write_refusal(writer)
    writer.node("DecodeImage", ["jpeg_whole"], "jpeg_bgr", domain=EXTENSIONS)
    order = writer.constant("jpeg_order", np.array([2, 1, 0]))
    writer.node("Gather", ["jpeg_bgr", order], IMAGE, axis=2)
    put_in_front(taken.graph, writer, JPEG, ("bytes",))
    taken.opset_import.append(helper.make_opsetid(EXTENSIONS, 1))
    return taken


def _write_refusal(writer: Writer) -> None:
    """Write ``jpeg_whole``: the file, unless its ends are not those of one."""
    zeros = writer.constant("jpeg_zeros", np.zeros(max(len(BEGIN), len(END)), np.uint8))
    ends = writer.constant("jpeg_ends", np.frombuffer(BEGIN + END, np.uint8))
    zero, one = (writer.constant(f"jpeg_{n}", np.array([n])) for n in (0, 1))
    head_end = writer.constant("jpeg_head_end", np.array([len(BEGIN)]))
    tail_start = writer.constant("jpeg_tail_start", np.array([-len(END)]))
    last = writer.constant("jpeg_last", np.array([np.iinfo(np.int64).max]))
    # A file of fewer bytes than both ends is padded, so that its ends can be cut.
    writer.node("Concat", [JPEG, zeros], "jpeg_behind", axis=0)
    writer.node("Concat", [zeros, JPEG], "jpeg_before", axis=0)
    writer.node("Slice", ["jpeg_behind", zero, head_end], "jpeg_head")
    writer.node("Slice", ["jpeg_before", tail_start, last], "jpeg_tail")
    writer.node("Concat", ["jpeg_head", "jpeg_tail"], "jpeg_found", axis=0)
    writer.node("Equal", ["jpeg_found", ends], "jpeg_equal")
    writer.node("Cast", ["jpeg_equal"], "jpeg_equal_whole", to=TensorProto.INT64)
    writer.node("ReduceMin", ["jpeg_equal_whole", zero], "jpeg_right", keepdims=1)
    writer.node("Sub", [one, "jpeg_right"], "jpeg_wrong")
    # There is no second value to gather, so ONNX Runtime stops here at what is wrong.
    writer.nodes.append(helper.make_node("Gather", [zero, "jpeg_wrong"], ["jpeg_start"], REFUSED))
    writer.node("Slice", [JPEG, "jpeg_start", last], "jpeg_whole")


def jpeg_files(
    facts: Facts, source: str, count: int
) -> tuple[tuple[bytes, NDArray[np.uint8]], ...]:
    """Return those of ``count`` images of a data set that are whole JPEG files, and their pixels.

    Raises:
        DataError: the data set cannot be read.
        OptionError: there is none, or the package that decodes them is missing or too new.
    """
    need("onnxruntime_extensions", "--jpeg needs the package onnxruntime-extensions")
    found = version("onnxruntime-extensions")
    if tuple(map(int, found.split(".")[:2])) >= TOO_NEW:
        raise OptionError(
            f"onnxruntime-extensions {found} writes gray images beyond its memory",
            "Install another with: pip install 'onnxruntime-extensions<0.14'",
        )
    files = []
    for sample in spread_samples(facts, source, count):
        with suppress(DataError):
            encoded = sample.read()
            if encoded.startswith(BEGIN) and encoded.endswith(END):
                files.append((encoded, np.asarray(decode(encoded, sample.key))))
    if not files:
        raise OptionError(
            f"none of {counted(count, 'image')} of {source} is a whole JPEG file",
            "Pass --data with some, or leave --jpeg out",
        )
    return tuple(files)
