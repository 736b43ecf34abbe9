"""Requests and answers of the Open Inference Protocol, version 2, with its binary extension.

These are the REST pages of "Predict Protocol - Version 2" (KServe) and of Triton's extensions
``binary_tensor_data`` and ``classification``. A body is JSON, or JSON and the raw bytes of tensors
after each other, with the length of the JSON in the header ``Inference-Header-Content-Length``.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.deploying.serving.served import Image, Tensor
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.runtime.predictor import largest

JSON_LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data", "classification")
LONGEST_ID = 256
NUMPY = {"FP32": "<f4", "INT64": "<i8"}
FIX = "See the Open Inference Protocol, version 2"


def wrong(what: str, fix: str = FIX) -> DataError:
    """Return the error of a request that cannot be understood."""
    return DataError(what, fix)


@dataclass(frozen=True)
class Wanted:
    """This is an output that a client has asked for.

    Attributes:
        tensor: which.
        binary: as raw bytes behind the JSON.
        top: how many classes to name, as ``probability:index:label``; 0 gives the tensor itself.
    """

    tensor: Tensor
    binary: bool
    top: int


@dataclass(frozen=True)
class Inference:
    """A request has been read.

    Attributes:
        id: what the client calls it; empty for nothing.
        pixels: uint8 [N, R, R, 3].
        outputs: what it wants.
    """

    id: str
    pixels: Image
    outputs: tuple[Wanted, ...]


def read_inference(
    body: bytes,
    json_length: str | None,
    pixels: Tensor,
    outputs: Sequence[Tensor],
    classes: int,
    most: int,
) -> Inference:
    """Read a request.

    Args:
        body: of the request.
        json_length: the header ``JSON_LENGTH``, if it was sent.
        pixels: the model's input.
        outputs: the model's outputs.
        classes: how many the model knows.
        most: images of a request.

    Raises:
        DataError: says what is wrong with it.
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    document = _object(_json(body[:length]), "the request")
    identifier = document.get("id", "")
    if not isinstance(identifier, str) or len(identifier) > LONGEST_ID:
        raise wrong(f"the request's id is not a string of at most {LONGEST_ID} characters")
    given = _list(document.get("inputs"), "inputs")
    names = [entry.get("name") for entry in given]
    if names != [pixels.name]:
        raise wrong(
            f"the inputs of the request are {_shown(names)}",
            f"This model has one input, '{pixels.name}'",
        )
    image = _read_pixels(given[0], body[length:], pixels, most)
    return Inference(identifier, image, _read_outputs(document, outputs, classes))


def _length(text: str, size: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= size):
        raise wrong(
            f"the header {JSON_LENGTH} is {_shown(text)}, which is no length within the body of "
            f"{size} bytes"
        )
    return int(text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise wrong(f"the request is not JSON ({reason[:100]})") from error


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(f"{name} is not a JSON object")
    return value


def _list(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise wrong(f"'{name}' is not a list")
    return [_object(entry, f"an entry of '{name}'") for entry in value]


def _read_pixels(given: dict[str, Any], raw: bytes, pixels: Tensor, most: int) -> Image:
    if given.get("datatype") != pixels.datatype:
        raise wrong(
            f"the datatype of '{pixels.name}' is {_shown(given.get('datatype'))}",
            f"Send {pixels.datatype}: RGB values from 0 to 255",
        )
    shape, rest = given.get("shape"), list(pixels.shape[1:])
    if (
        not isinstance(shape, list)
        or not all(type(size) is int for size in shape)
        or shape[1:] != rest
        or not 1 <= shape[0] <= most
    ):
        raise wrong(
            f"the shape of '{pixels.name}' is {_shown(shape)}",
            f"Send {[1, *rest]}, or up to {most} images at a time",
        )
    binary = _object(given.get("parameters", {}), "'parameters'").get("binary_data_size")
    if binary is None:
        if raw:
            raise wrong(f"{len(raw)} bytes follow the JSON, which mentions no binary data")
        return _numbers(given.get("data"), shape, pixels.name)
    size = int(np.prod(shape))
    if type(binary) is not int or binary != size or len(raw) != size:
        raise wrong(
            f"'{pixels.name}' has {len(raw)} bytes of binary data and a 'binary_data_size' of "
            f"{_shown(binary)}, and its shape needs {size}"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _numbers(data: Any, shape: list[int], name: str) -> Image:
    """Read values that stand in the JSON, nested or flat."""
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError):
        values = np.asarray(None)
    if values.dtype.kind not in "iu" or values.size != np.prod(shape):
        raise wrong(f"'data' of '{name}' is not {np.prod(shape)} integers")
    if values.shape not in ((values.size,), tuple(shape)):
        raise wrong(f"'data' of '{name}' is nested otherwise than its shape {shape}")
    if values.min() < 0 or values.max() > 255:
        raise wrong(f"'data' of '{name}' has values outside 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def _read_outputs(
    document: dict[str, Any], outputs: Sequence[Tensor], classes: int
) -> tuple[Wanted, ...]:
    all_binary = _object(document.get("parameters", {}), "'parameters'").get("binary_data_output")
    known = {tensor.name: tensor for tensor in outputs}
    if not document.get("outputs"):
        return tuple(Wanted(tensor, all_binary is True, 0) for tensor in outputs)
    wanted: list[Wanted] = []
    for entry in _list(document["outputs"], "outputs"):
        name = entry.get("name")
        if not isinstance(name, str) or name not in known:
            raise wrong(f"the model has no output {_shown(name)}", f"Ask for {', '.join(known)}")
        if any(known[name] is other.tensor for other in wanted):  # each would be answered in full
            raise wrong(f"the output '{name}' is asked for twice", "Ask for it once")
        parameters = _object(entry.get("parameters", {}), "'parameters'")
        top = parameters.get("classification", 0)
        if type(top) is not int or top < 0:
            raise wrong(f"'classification' is {_shown(top)}, which is no number of classes")
        if top and known[name].shape[1:] != (classes,):
            raise wrong(
                f"'{name}' has no value for each class", "Ask for it without classification"
            )
        binary = parameters.get("binary_data", all_binary) is True
        wanted.append(Wanted(known[name], binary, top))
    return tuple(wanted)


def write_inference(
    model: Mapping[str, str],
    asked: Inference,
    values: Mapping[str, NDArray[Any]],
    labels: Sequence[str],
) -> tuple[bytes, int | None]:
    """Write the answer to a request.

    Args:
        model: its name and version, as fields of the answer.
        asked: the request.
        values: the model's outputs [N, ...] by name.
        labels: the names of the classes.

    Returns:
        The body, and the length of its JSON where bytes of tensors follow.
    """
    described, raw = [], b""
    for wanted in asked.outputs:
        made, datatype = values[wanted.tensor.name], wanted.tensor.datatype
        if wanted.top:
            made, datatype = _named(made, wanted.top, labels), "BYTES"
        shape = list(made.shape)
        entry: dict[str, Any] = {"name": wanted.tensor.name, "datatype": datatype, "shape": shape}
        if wanted.binary:
            content = _bytes(made) if wanted.top else made.astype(NUMPY[datatype]).tobytes()
            raw += content
            entry["parameters"] = {"binary_data_size": len(content)}
        else:
            entry["data"] = made.reshape(-1).tolist()
        described.append(entry)
    document = {**model, "outputs": described} | ({"id": asked.id} if asked.id else {})
    text = json.dumps(document).encode()
    return text + raw, len(text) if raw else None


def _named(values: NDArray[Any], top: int, labels: Sequence[str]) -> NDArray[Any]:
    """Name the classes of the largest values [N, classes] as ``value:index:label``."""
    rows = [[f"{row[i]:f}:{i}:{labels[i]}" for i in largest(row, top)] for row in values]
    return np.array(rows, object)


def _bytes(texts: NDArray[Any]) -> bytes:
    """Return strings as the binary extension has them: each after its length."""
    encoded = [str(text).encode() for text in texts.reshape(-1)]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
