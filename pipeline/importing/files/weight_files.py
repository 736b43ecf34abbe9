"""Tensors are read from HDF5, safetensors, torch and TensorFlow files; no code in them runs."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.readers.files import utf8_path
from mobilenet_cli.pipeline.artifacts.file_kinds import no_such_file, not_a_model
from mobilenet_cli.pipeline.artifacts.files import foreign
from mobilenet_cli.pipeline.errors import ModelError, need
from mobilenet_cli.pipeline.importing.files.shards import SHARD, all_shards, check_checkpoint
from mobilenet_cli.pipeline.importing.files.tensorflow_files import (
    GRAPH_HEAD,
    Variable,
    checkpoint_index,
    last_weights,
    read_checkpoint,
    read_graph,
)
from mobilenet_cli.pipeline.importing.files.tensorflow_js import Group, groups_in, read_group

Tensors = dict[str, NDArray[np.float32]]
MAX_VALUES = 1 << 27  # of all tensors together, 512 MiB as float32: 30 times a MobileNet v1
MAX_TENSORS = 20_000
DEEPEST = 32  # groups inside groups
MAX_FILE = 1 << 31  # bytes
CONFIG_BYTES = 1 << 24
SHARDS_LISTED = ".index.json"  # the end of the name of what lists which shard has which tensor
DAMAGED = "It may be truncated or corrupt; download it again"


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


class Budget:
    """A budget refuses tensors by what a file says of them, before any memory is taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = 0
        self.values = 0

    def spend(self, name: str, shape: Sequence[int]) -> None:
        """Count a tensor.

        Raises:
            ModelError: its shape is impossible, or there is more in the file than in any network
                that can be imported.
        """
        self.tensors += 1
        self.values += math.prod(shape)
        if self.tensors > MAX_TENSORS:
            raise ModelError(
                f"{self.path} has more than {MAX_TENSORS} tensors or groups, which no network "
                "that can be imported has",
                "Check that it is the right file",
            )
        if self.values > MAX_VALUES or min(shape, default=0) < 0:
            raise ModelError(
                f"{self.path} has '{name}' of shape {tuple(shape)}, which is more than any network "
                "that can be imported",
                "Check that the file is whole and that it is a MobileNet",
            )


def read_weights(path: Path) -> WeightFile:
    """Read a weights file, or the one in a folder as the Hugging Face hub has them.

    Of a TensorFlow checkpoint, any of its files or their common name; of TensorFlow.js, the JSON
    document that lists the weights.

    Raises:
        ModelError: no such file, an unknown format, truncated, too large, or a pickle with code in
            it.
    """
    if path.is_dir():
        path = _in_folder(path)
    elif path.name.endswith(SHARDS_LISTED) and path.is_file():
        path = _in_folder(path.parent)
    if index := checkpoint_index(path):
        check_checkpoint(index)
        return WeightFile(index, False, _read_tensorflow(index, read_checkpoint))
    try:
        if not path.is_file():  # a pipe might never end
            raise no_such_file(path, "Check the path")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error
    if path.stat().st_size > MAX_FILE:
        raise ModelError(
            f"{path} has {path.stat().st_size / 2**30:.0f} GiB, which is more than any network "
            "that can be imported",
            "Check that it is the right file",
        )
    folder = path.parent
    config, preprocessor = _json(folder / "config.json"), _json(folder / "preprocessor_config.json")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        tensors, model = _read_h5(path)
        return WeightFile(path, False, tensors, model or config, preprocessor)
    if head[8:9] == b"{":  # eight bytes of length, then the header
        return WeightFile(path, False, _read_all(path, _read_safetensors), config, preprocessor)
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return WeightFile(path, True, _read_all(path, _read_torch), config, preprocessor)
    if head.startswith(GRAPH_HEAD):
        tensors = _read_tensorflow(path, read_graph)
        with foreign(path, "a TensorFlow file", DAMAGED):
            return WeightFile(path, False, tensors, last=last_weights(path))
    if head.lstrip()[:1] in (b"{", b"[") and (groups := groups_in(path)) is not None:
        return WeightFile(path, False, _read_tensorflow_js(path, groups))
    raise not_a_model(
        path,
        f"{path} is no HDF5, safetensors, torch or TensorFlow file; it begins with {head!r}",
        "Check that the file is whole; of a TensorFlow checkpoint all of its files are needed",
    )


def _in_folder(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    shards = sorted(file for file in folder.iterdir() if SHARD.fullmatch(file.name))
    for end in (".safetensors", ".bin"):
        if of_this_end := [shard for shard in shards if shard.suffix == end]:
            return of_this_end[0]
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
    need("h5py", f"{path} is an HDF5 file, and takes h5py", ModelError)
    import h5py

    tensors: Tensors = {}
    budget = Budget(path)

    def visit(name: str, item: object) -> None:
        if name.count("/") > DEEPEST:
            raise ModelError(f"{path} has groups deeper than {DEEPEST}", "Export the weights again")
        if not isinstance(item, h5py.Dataset):
            budget.spend(name, (0,))
            return
        if name.startswith("optimizer_weights/"):
            return
        key = "/".join(name.split(":")[0].split("/")[-2:])
        if key.startswith("vars/"):
            raise ModelError(
                f"{path} holds the weights of Keras 3 without the names of their layers",
                "Save the whole model as HDF5, with model.save('model.h5')",
            )
        if key in tensors:
            raise ModelError(f"{path} has two tensors called '{key}'", "Export the weights again")
        budget.spend(name, item.shape or ())
        if item.external or item.is_virtual:
            raise ModelError(f"{path} keeps '{name}' in another file", "Export the weights again")
        tensors[key] = np.asarray(item[()], dtype=np.float32)

    with foreign(path, "an HDF5 file", DAMAGED), h5py.File(path, "r") as file:
        file.visititems(visit)
        config = json.loads(file.attrs.get("model_config", "{}")).get("config", {})
    return tensors, config if isinstance(config, dict) else {"layers": config}


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import safe_open

    tensors: Tensors = {}
    budget = Budget(path)
    with (
        foreign(path, "a safetensors file", DAMAGED),
        utf8_path(path) as name,
        safe_open(name, framework="numpy") as file,
    ):
        for key in file.keys():  # noqa: SIM118 - not a dict
            budget.spend(key, file.get_slice(key).get_shape())
            tensor = file.get_tensor(key)
            if _is_real(tensor.dtype):
                tensors[key] = tensor.astype(np.float32)
    return tensors


def _read_all(path: Path, read: Callable[[Path], Tensors]) -> Tensors:
    """Read a file, or all files of the weights that it is a part of."""
    tensors: Tensors = {}
    budget = Budget(path)
    for part in all_shards(path):
        for name, tensor in read(part).items():
            budget.spend(name, tensor.shape)
            tensors[name] = tensor
    return tensors


def _read_torch(path: Path) -> Tensors:
    need("torch", f"{path} is a file of torch", ModelError)
    from pickle import UnpicklingError

    import torch

    with foreign(path, "a torch file", DAMAGED), utf8_path(path) as name:
        try:
            # Mapped, a storage cannot be larger than the file, whatever the pickle says.
            content = torch.load(
                name, map_location="cpu", weights_only=True, mmap=_is_zip_of_torch(path)
            )
        except UnpicklingError as error:
            raise ModelError(
                f"{path} holds more than tensors, and its code was not run "
                f"({' '.join(str(error).split())[:200]})",
                "Load it where you trust it and save only its state_dict, as safetensors",
            ) from error
        for wrapper in ("state_dict", "model_state_dict", "model"):
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        if not isinstance(content, dict):
            raise ModelError(
                f"{path} holds a {type(content).__name__}, not tensors by name",
                "Save the state_dict",
            )
        tensors: Tensors = {}
        budget = Budget(path)
        for name, value in content.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                budget.spend(str(name), value.shape)  # of a view, too, which has few of its own
                array = value.detach().to(torch.float32).numpy().copy()
                tensors[str(name).removeprefix("module.")] = array
    return tensors


def _is_zip_of_torch(path: Path) -> bool:
    """Tell torch's zip format from its older one.

    Raises:
        ModelError: something in it is compressed, which torch never does.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ModelError(
                    f"{path} has '{member.filename}' compressed, which torch does not do",
                    "Save the state_dict again with torch.save",
                )
    return True


def _read_tensorflow(path: Path, read: Callable[[Path], Iterator[Variable]]) -> Tensors:
    tensors: Tensors = {}
    budget = Budget(path)
    with foreign(path, "a TensorFlow file", DAMAGED):
        for variable in read(path):
            budget.spend(variable.name, variable.shape)
            tensor = variable.read()
            if _is_real(tensor.dtype):
                tensors[variable.name] = tensor.astype(np.float32)
    return tensors


def _read_tensorflow_js(path: Path, groups: tuple[Group, ...]) -> Tensors:
    tensors: Tensors = {}
    budget = Budget(path)
    for group in groups:
        for weight in group.weights:
            budget.spend(weight.name, weight.shape)
        for weight, content in read_group(path, group):
            if len(content) != weight.size:
                raise ModelError(f"the shards of {path} end within '{weight.name}'", DAMAGED)
            if weight.dtype == "float32":
                tensors[weight.name] = weight.read(content)
    return tensors


def _is_real(dtype: np.dtype[Any]) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"
