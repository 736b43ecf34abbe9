"""Tensors are read from HDF5, safetensors, torch and TensorFlow files; no code in them runs."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifacts.file_kinds import not_a_model
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.tensorflow_files import (
    GRAPH_HEAD,
    checkpoint_index,
    last_weights,
    read_checkpoint,
    read_graph,
)

Tensors = dict[str, NDArray[np.float32]]
MAX_BYTES = 1 << 28  # of one tensor: 16 times the largest of MobileNet v1; more is a corrupt header
CONFIG_BYTES = 1 << 24


@dataclass(frozen=True)
class WeightFile:
    """A weight file has its tensors as float32, and what lies beside it.

    Attributes:
        path: of the file.
        ordered: the tensors are in the order in which the network was built.
        tensors: by the file's own names.
        config: of ``config.json`` in the same folder, or of a whole Keras model in the file;
            empty if there is none.
        preprocessor: likewise of ``preprocessor_config.json``.
        last: the weights that each output of a frozen graph comes from, by the output.
    """

    path: Path
    ordered: bool
    tensors: Tensors
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path) -> WeightFile:
    """Read a weights file, or the one in a folder as the Hugging Face hub has them.

    Of a TensorFlow checkpoint, any of its files or their common name.

    Raises:
        ModelError: no such file, an unknown format, truncated, or a pickle with code in it.
    """
    if path.is_dir():
        path = _in_folder(path)
    if index := checkpoint_index(path):
        return WeightFile(index, False, _read_tensorflow(index, read_checkpoint))
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error
    folder = path.parent
    config, preprocessor = _json(folder / "config.json"), _json(folder / "preprocessor_config.json")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        tensors, model = _read_h5(path)
        return WeightFile(path, False, tensors, model or config, preprocessor)
    if head[8:9] == b"{":  # eight bytes of length, then the header
        return WeightFile(path, False, _read_safetensors(path), config, preprocessor)
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return WeightFile(path, True, _read_torch(path), config, preprocessor)
    if head.startswith(GRAPH_HEAD):
        tensors = _read_tensorflow(path, read_graph)
        return WeightFile(path, False, tensors, last=last_weights(path))
    raise not_a_model(
        path,
        f"{path} is no HDF5, safetensors, torch or TensorFlow file; it begins with {head!r}",
        "Check that the file is whole; of a TensorFlow checkpoint all of its files are needed",
    )


def _in_folder(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    checkpoints = list(folder.glob("*.index"))
    if len(checkpoints) == 1:
        return checkpoints[0]
    raise ModelError(
        f"{folder} has neither model.safetensors nor pytorch_model.bin, and "
        f"{len(checkpoints) or 'no'} TensorFlow checkpoints",
        "Pass the weights file itself, or a folder downloaded from the Hugging Face hub",
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError("too large")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON ({error})", "Download it again") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path} is not a JSON object", "Download it again")
    return document


def _read_h5(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read datasets by the last two parts of their names: ``conv1/kernel``, as Keras calls them.

    Returns:
        The tensors, and the configuration of a whole model; empty of weights alone.
    """
    try:
        import h5py
    except ImportError as error:
        raise ModelError(
            f"{path} is an HDF5 file, and h5py is not installed",
            'Install it with: pip install "mobilenet-cli[import]"',
        ) from error
    tensors: Tensors = {}

    def visit(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights/"):
            return
        key = "/".join(name.split(":")[0].split("/")[-2:])
        if key.startswith("vars/"):
            raise ModelError(
                f"{path} holds the weights of Keras 3 without the names of their layers",
                "Save the whole model as HDF5, with model.save('model.h5')",
            )
        if key in tensors:
            raise ModelError(f"{path} has two tensors called '{key}'", "Export the weights again")
        _check_bytes(path, name, item.shape or (), item.dtype.itemsize)
        if item.external or item.is_virtual:
            raise ModelError(f"{path} keeps '{name}' in another file", "Export the weights again")
        tensors[key] = np.asarray(item[()], dtype=np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
            config = json.loads(file.attrs.get("model_config", "{}")).get("config", {})
    except ModelError:
        raise
    except Exception as error:  # the HDF5 library reports corruption in many ways
        raise _unreadable(path, "HDF5", error) from error
    return tensors, config if isinstance(config, dict) else {"layers": config}


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import safe_open

    tensors: Tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                if _is_real(tensor.dtype):
                    tensors[name] = tensor.astype(np.float32)
    except Exception as error:  # its errors share no base class, bfloat16 raises TypeError
        raise _unreadable(path, "safetensors", error) from error
    return tensors


def _read_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            f"{path} is a torch file, and torch is not installed",
            'Install it with: pip install "mobilenet-cli[train]"',
        ) from error
    from pickle import UnpicklingError

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors, and its code was not run "
            f"({' '.join(str(error).split())[:200]})",
            "Load it where you trust it and save only its state_dict, as safetensors",
        ) from error
    except Exception as error:  # zip, pickle and storage readers raise whatever they stumble over
        raise _unreadable(path, "torch", error) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise ModelError(
            f"{path} holds a {type(content).__name__}, not tensors by name", "Save the state_dict"
        )
    tensors: Tensors = {}
    for name, value in content.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            _check_bytes(path, str(name), tuple(value.shape), value.element_size())
            try:
                array = value.detach().to(torch.float32).numpy().copy()
            except Exception as error:  # sparse, quantized and meta tensors cannot be converted
                raise _unreadable(path, "torch", error) from error
            tensors[str(name).removeprefix("module.")] = array
    return tensors


def _read_tensorflow(
    path: Path, read: Callable[[Path], Iterator[tuple[str, NDArray[Any]]]]
) -> Tensors:
    tensors: Tensors = {}
    try:
        for name, tensor in read(path):
            _check_bytes(path, name, tensor.shape, tensor.itemsize)
            if _is_real(tensor.dtype):
                tensors[name] = tensor.astype(np.float32)
    except ModelError:
        raise
    except Exception as error:  # protobuf's and TensorFlow's errors share no base class
        raise _unreadable(path, "TensorFlow", error) from error
    return tensors


def _is_real(dtype: np.dtype[Any]) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def _check_bytes(path: Path, name: str, shape: tuple[int, ...], size: int) -> None:
    if math.prod(shape) * size > MAX_BYTES:
        raise ModelError(
            f"{path} has '{name}' of shape {shape}, too large for any network here",
            "Check that the file is whole, and that it is one of 'mobilenet-cli import --help'",
        )


def _unreadable(path: Path, kind: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelError(
        f"{path} cannot be read as a {kind} file ({reason})",
        "It may be truncated or corrupt; download it again",
    )
