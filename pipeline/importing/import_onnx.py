"""An ONNX classifier that another program exported is copied, with our facts inside."""

import math
from dataclasses import replace
from pathlib import Path

import onnx

from mobilenet_cli.data.preprocess import NORMALIZATIONS, InputSpec, read_normalization
from mobilenet_cli.pipeline.artifacts.facts import Facts, versions
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.importing.graphs.normalize_graph import Normalized, normalize_graph
from mobilenet_cli.pipeline.importing.import_weights import ImportConfig, Imported, listed_classes
from mobilenet_cli.reports.records.conversion import ImportRecord

BYTES = "0..255"


def read_onnx(path: Path, config: ImportConfig, normalization: str | None) -> Imported:
    """Read an ONNX classifier, and add the facts of how it is used.

    Args:
        path: the file.
        config: the settings; the resolution is the file's unless it is set, or 224 if it takes any.
        normalization: as ``read_normalization`` takes it; the file cannot tell.

    Raises:
        ModelError: it is no classifier of images [batch, 3, side, side].
        OptionError: an option is needed, or contradicts the file.
    """
    normalized = normalize_graph(path, load_onnx(path, branches=True), config.resolution)
    model, side, outputs = normalized.model, normalized.side, normalized.outputs
    found = _normalization(path, normalized, normalization)
    wanted = InputSpec.cropped(side, normalization=found, gray=normalized.channels == 1)
    if wanted.mean == NORMALIZATIONS["imagenet"].mean:  # as torchvision's models have it
        wanted = replace(wanted, convention="torchvision")
    classes, names = listed_classes(path, outputs, config.classes)
    sha256 = sha256_file(path)
    facts = Facts(
        stage="import",
        parent=sha256,
        config={
            "normalization": normalization,
            "resolution": config.resolution,
            "classes": None,
            "source": path.name,
        },
        versions=versions("onnx", "onnx-ir", "onnxscript", "onnxruntime"),
        input=wanted,
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
        notes=(
            f"images are resized to {facts.input.resize} and cut to {side}, bilinear",
            *normalized.notes,
        ),
    )
    return Imported(with_facts(model, facts), facts, record)


def needs_folding(content: bytes) -> bool:
    """Tell whether a model has BatchNormalizations."""
    graph = onnx.load_from_string(content).graph
    return any(node.op_type == "BatchNormalization" for node in graph.node)


def _normalization(path: Path, normalized: Normalized, wanted: str | None) -> str:
    """Return how the pixels are to be normalized, as the user says or the file shows."""
    if normalized.takes_bytes:
        given = wanted or BYTES
        if read_normalization(given, normalized.channels == 1)[0] != NORMALIZATIONS[BYTES]:
            raise OptionError(
                f"{path} takes pixels as bytes 0..255, not as --normalization {given} makes them",
                "Leave --normalization out",
            )
        return given
    if wanted is None:
        raise OptionError(
            f"{path} does not say how its pixels are normalized",
            "Pass --normalization inception (to -1..1, as TensorFlow programs do), "
            "--normalization imagenet (mean and deviation, as torch programs do), 0..1, 0..255, or "
            "mean/std in numbers; 'bgr 0..255' where blue comes first",
        )
    return wanted


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
