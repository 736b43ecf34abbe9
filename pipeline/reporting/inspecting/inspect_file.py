"""This module shows what a model file says about itself, and what it holds; nothing is run."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.readers.files import utf8_path
from mobilenet_cli.models import find_architecture
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.file_kinds import (
    FROZEN_GRAPH,
    HDF5,
    SAFETENSORS,
    TENSORFLOW_LITE,
    TORCH,
    kind_of,
)
from mobilenet_cli.pipeline.artifacts.onnx_graph import dims_of, graph_multiply_adds, multiply_adds
from mobilenet_cli.pipeline.artifacts.sidecar import read_sidecar
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.reporting.inspecting.foreign_weights import inspect_weights
from mobilenet_cli.pipeline.reporting.inspecting.layer_sizes import layer_sizes, stored_bytes
from mobilenet_cli.pipeline.reporting.inspecting.training_state import inspect_state
from mobilenet_cli.reports.records.inspection import InspectRecord

if TYPE_CHECKING:
    import onnx

FOREIGN = (HDF5, TORCH, SAFETENSORS, FROZEN_GRAPH, TENSORFLOW_LITE)
# Inputs of a node that training adjusts: weights and biases, or scales and shifts.
TRAINED_INPUTS = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (1,), "BatchNormalization": (1, 2)}


def inspect_file(path: Path) -> InspectRecord:
    """Read any ONNX file, a checkpoint, the state of a training, or weights of other programs.

    Raises:
        ModelError: no such file, or none of these.
    """
    kind = kind_of(path) if path.is_file() else None
    if kind is TORCH and path.suffix == ".pt":
        with contextlib.suppress(ModelError):
            return inspect_state(path)
    if kind in FOREIGN:
        return inspect_weights(path, kind)
    if path.suffix == ".pt":
        return inspect_state(path)
    artifact = load_artifact(path, InputSpec())  # the default is for foreign files, and not shown
    if artifact.is_checkpoint:
        return _inspect_checkpoint(artifact)
    return _inspect_onnx(artifact)


def _inspect_checkpoint(artifact: Artifact) -> InspectRecord:
    from safetensors import safe_open

    with utf8_path(artifact.path) as path, safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        types, counts, sizes = Counter[str](), {}, {}
        for name, part in slices.items():
            counts[name] = prod(part.get_shape())
            types[part.get_dtype()] += counts[name]
            sizes[name] = counts[name] * _bits(part.get_dtype()) // 8
    spec = artifact.facts.model
    architecture = find_architecture(spec.architecture, artifact.path) if spec else None
    layers = layer_sizes(spec, artifact.facts.input.resolution, counts, sizes)
    return _record(
        artifact,
        format="safetensors",
        parameters=architecture.parameters(spec) if spec and architecture else sum(types.values()),
        multiply_adds=multiply_adds(artifact),
        weight_types=dict(types),
        layers=layers,
        stored_bytes=stored_bytes(layers, artifact.path.stat().st_size),
    )


def _bits(dtype: str) -> int:
    """Return the bits of a value of a safetensors type: F32, BF16, F8_E4M3; BOOL has 8."""
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 8


def _inspect_onnx(artifact: Artifact) -> InspectRecord:
    import onnx

    from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx

    model = load_onnx(artifact.path, branches=True)
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(
            f"the shapes in {artifact.path} contradict each other ({' '.join(str(error).split())})",
            "Export the model again",
        ) from error
    foreign = artifact.facts.stage == "foreign"
    types = Counter[str]()
    for tensor in graph.initializer:
        types[_type_name(tensor.data_type)] += prod(tensor.dims)
    return _record(
        artifact,
        format="ONNX",
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None),
        inputs=tuple(_describe(value) for value in graph.input),
        outputs=tuple(_describe(value) for value in graph.output),
        parameters=sum(prod(t.dims) for t in _trained(graph)),
        multiply_adds=graph_multiply_adds(graph),
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        taken_by=f"mobilenet-cli import {artifact.path} --normalization ..." if foreign else "",
        weight_types=dict(types),
    )


def _record(artifact: Artifact, **found: object) -> InspectRecord:
    foreign = artifact.facts.stage == "foreign"
    return InspectRecord.model_validate(
        {
            "model": str(artifact.path),
            "sha256": artifact.sha256,
            "size_mb": artifact.path.stat().st_size / 2**20,
            "facts": None if foreign else artifact.facts.model_dump(mode="json"),
            "provenance": tuple(_provenance(artifact)),
            **found,
        }
    )


def _provenance(artifact: Artifact) -> Iterator[str]:
    """Name the ancestors whose sidecars lie beside the file, up to the first that does not."""
    known = {}
    for path in artifact.path.parent.glob("*.json"):
        if sidecar := read_sidecar(path.with_suffix("")):
            known[sidecar.sha256] = (path.stem, sidecar.facts)
    parent = artifact.facts.parent
    while parent is not None and parent in known:
        name, facts = known.pop(parent)
        yield f"{name} (by {facts.stage}, {parent[:12]})"
        parent = facts.parent
    if parent is not None:
        yield f"{parent[:12]}, which is not in this folder"


def _describe(value: "onnx.ValueInfoProto") -> str:
    shape = " x ".join(map(str, dims_of(value)))
    return f"{value.name}: {shape} {_type_name(value.type.tensor_type.elem_type)}"


def _type_name(elem_type: int) -> str:
    import onnx

    name: str = onnx.TensorProto.DataType.Name(elem_type)
    return name.lower()


def _trained(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    """Return the weight tensors, also those behind a DequantizeLinear; each once."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    behind = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    for node in graph.node:
        for position in TRAINED_INPUTS.get(node.op_type, ()):
            if position < len(node.input):
                name = node.input[position]
                tensor = tensors.pop(behind.get(name, name), None)
                if tensor is not None:
                    yield tensor
