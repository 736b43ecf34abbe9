"""An ONNX classifier that another program exported is copied, with our facts inside."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnx.version_converter

from mobilenet_cli.data.preprocess import NORMALIZATIONS, InputSpec
from mobilenet_cli.pipeline.artifacts.facts import Facts, versions
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.importing.import_weights import Imported, listed_classes
from mobilenet_cli.reports.records.conversion import ImportRecord

OLDEST_OPSET, NEWER_OPSET = 13, 18
SIDE = 224  # where the model takes any size


@dataclass(frozen=True)
class OnnxImportConfig:
    """These are the settings of the import of an ONNX file.

    Attributes:
        normalization: a key of ``NORMALIZATIONS``; the file cannot tell.
        resolution: side of the input in pixels; None takes the file's, or 224 if it takes any.
        classes: a text file with one class identifier a line; None takes ImageNet's.
    """

    normalization: str | None = None
    resolution: int | None = None
    classes: Path | None = None


def read_onnx(path: Path, config: OnnxImportConfig) -> Imported:
    """Read an ONNX classifier, and add the facts of how it is used.

    Raises:
        ModelError: it is no classifier of images [batch, 3, side, side].
        OptionError: an option is needed, or contradicts the file.
    """
    model = _modern(path, load_onnx(path))
    side = _side(path, model, config.resolution)
    if config.normalization not in NORMALIZATIONS:
        raise OptionError(
            f"{path} does not say how its pixels are normalized",
            "Pass --normalization inception (to -1..1, as TensorFlow programs do) or "
            "--normalization imagenet (mean and deviation, as torch programs do)",
        )
    outputs = _outputs(path, model)
    classes, names = listed_classes(path, outputs, config.classes)
    sha256 = sha256_file(path)
    facts = Facts(
        stage="import",
        parent=sha256,
        config=asdict(config) | {"source": path.name, "classes": None},
        versions=versions("onnx"),
        input=InputSpec.cropped(side, normalization=config.normalization),
        classes=classes,
        names=names,
    )
    record = ImportRecord(
        source=str(path),
        source_sha256=sha256,
        revision=None,
        layout="ONNX",
        parameters=_parameters(model),
        outputs=outputs,
        notes=(f"images are resized to {facts.input.resize} and cut to {side}, bilinear",),
    )
    return Imported(with_facts(model, facts), facts, record)


def needs_folding(content: bytes) -> bool:
    """Tell whether a model has BatchNormalizations."""
    graph = onnx.load_from_string(content).graph
    return any(node.op_type == "BatchNormalization" for node in graph.node)


def _modern(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the model to an operator set that has weights quantized by channel."""
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= OLDEST_OPSET:
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, NEWER_OPSET)
    except Exception as error:  # the converter raises whatever its C++ does
        raise ModelError(
            f"{path} has operator set {opset}, and cannot be converted to {NEWER_OPSET} "
            f"({' '.join(str(error).split())[:150]})",
            f"Export it with operator set {OLDEST_OPSET} or newer",
        ) from error
    return converted


def _parameters(model: onnx.ModelProto) -> int:
    """Count what training changes: all floating-point values but the statistics of BatchNorms."""
    statistics = {
        name
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:]
    }
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in statistics
    )


def _side(path: Path, model: onnx.ModelProto, wanted: int | None) -> int:
    """Return the side of the square input in pixels."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inputs]  # 0: any
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (0, 3):
        raise ModelError(
            f"{path} takes inputs of shapes {shapes}, not one of [batch, 3, side, side]",
            "Export the classifier with its channels first, and with one input",
        )
    _, _, height, width = shapes[0]
    if height != width or (wanted and height and wanted != height):
        raise OptionError(
            f"{path} takes images of {height} x {width} pixels",
            "Leave --resolution out, or export the model for square images of that side",
        )
    return wanted or height or SIDE


def _outputs(path: Path, model: onnx.ModelProto) -> int:
    """Return the number of classes.

    Raises:
        ModelError: the output is not [batch, classes].
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.output]
    if len(shapes) != 1 or len(shapes[0]) != 2 or not shapes[0][1]:
        raise ModelError(
            f"{path} has outputs of shapes {shapes}, not one of [batch, classes]",
            "Export the classifier with its logits as the one output, of a known size",
        )
    return int(shapes[0][1])
