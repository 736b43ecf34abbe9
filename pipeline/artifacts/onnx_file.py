"""ONNX files are read and written whole, and never reach outside their folder."""

from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.file_kinds import no_such_file, not_a_model
from mobilenet_cli.pipeline.artifacts.files import foreign
from mobilenet_cli.pipeline.artifacts.onnx_checks import checked, tensors_of
from mobilenet_cli.pipeline.errors import CheckError, ModelError

MAX_BYTES = 1 << 30  # of a model with its external data: ten times the largest classifiers in use


def load_onnx(path: Path, branches: bool = False) -> onnx.ModelProto:
    """Read a model with its external data, if any; its functions are expanded.

    Args:
        path: the file.
        branches: it may have If nodes, which ``import`` brings away.

    Raises:
        ModelError: not an ONNX file, external data that is missing or outside its folder, or a
            graph that ``onnx_checks`` refuses.
    """
    with foreign(path, "an ONNX model"):
        model = _parsed(path)
        _read_external(path, model)
        return checked(path, model, branches)


def _parsed(path: Path) -> onnx.ModelProto:
    if not path.is_file():  # what is a pipe would never end
        raise no_such_file(path, "Check the path, or export the model again")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(
                f"{path} has {path.stat().st_size / 2**30:.1f} GiB, which no classifier needs",
                "Check that it is the right file",
            )
        # Without a format, the name's ending would choose one, such as text.
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError) as error:
        raise not_a_model(
            path,
            f"{path} is not a readable ONNX file",
            "Check the path, or export the model again",
        ) from error
    if not model.graph.node:
        raise not_a_model(
            path, f"{path} is not an ONNX model: it has no nodes", "Export the model again"
        )
    return model


def _read_external(path: Path, model: onnx.ModelProto) -> None:
    """Read into a model the tensors that it keeps in other files; no more than they say they have.

    Raises:
        ModelError: the files are missing, too short, too large, or outside the model's folder.
    """
    folder, total = path.parent.resolve(), 0
    for tensor in tensors_of(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        location = where.get("location", "")
        target = (folder / location).resolve()
        if not target.is_relative_to(folder):
            raise ModelError(
                f"{path} keeps weights outside its folder, in {location}",
                "Put the weights beside the model, or export it as a single file",
            )
        if not target.is_file():
            raise ModelError(
                f"{path} keeps weights in {location}, which is missing",
                "Copy that file beside the model, or export it as a single file",
            )
        itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        size = int(where.get("length", prod(tensor.dims) * itemsize))
        offset = int(where.get("offset", 0))
        total += size
        if min(offset, size) < 0 or offset + size > target.stat().st_size or total > MAX_BYTES:
            raise ModelError(
                f"the external data of {path} cannot be read: '{tensor.name}' is said to be bytes "
                f"{offset} to {offset + size} of {location}, which has {target.stat().st_size}",
                "Copy the whole file beside the model, or export it as a single file",
            )
        with target.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(size)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def with_facts(model: onnx.ModelProto, facts: Facts) -> bytes:
    """Serialize a copy of the model that carries the facts in its ``metadata_props``.

    Every ONNX file that a stage writes comes from here, so here each passes onnx's full check.

    Raises:
        CheckError: the model does not pass.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = {p.key: p.value for p in copy.metadata_props}
    onnx.helper.set_model_props(copy, kept | {METADATA_KEY: facts.model_dump_json()})
    if not all(value.type.tensor_type.HasField("shape") for value in copy.graph.output):
        inferred = onnx.shape_inference.infer_shapes(copy).graph.output  # people leave it out
        for value, known in zip(copy.graph.output, inferred, strict=True):
            value.CopyFrom(known)
    serialized: bytes = copy.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(serialized, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckError(
            f"the model that {facts.stage} has made does not pass onnx's check "
            f"({' '.join(str(error).split())[:200]})",
            "Nothing was written; export the model that it was made from again",
        ) from error
    return serialized
