"""ONNX files are read and written whole, and never reach outside their folder."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.file_kinds import not_a_model
from mobilenet_cli.pipeline.errors import ModelError


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read a model with its external data, if any.

    Raises:
        ModelError: not an ONNX file, or external data that is missing or outside its folder.
    """
    try:
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
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            target = (folder / entry.value).resolve()
            if not target.is_relative_to(folder):
                raise ModelError(
                    f"{path} keeps weights outside its folder, in {entry.value}",
                    "Put the weights beside the model, or export it as a single file",
                )
            if not target.is_file():
                raise ModelError(
                    f"{path} keeps weights in {entry.value}, which is missing",
                    "Copy that file beside the model, or export it as a single file",
                )
    try:
        onnx.load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"the external data of {path} cannot be read ({error})",
            "Export the model as a single file",
        ) from error
    return model


def with_facts(model: onnx.ModelProto, facts: Facts) -> bytes:
    """Serialize a copy of the model that carries the facts in its ``metadata_props``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = {p.key: p.value for p in copy.metadata_props}
    onnx.helper.set_model_props(copy, kept | {METADATA_KEY: facts.model_dump_json()})
    serialized: bytes = copy.SerializeToString(deterministic=True)
    return serialized
