"""State dicts of torch programs at large are matched by shape and order.

``model.0.0.weight`` ... ``fc.weight`` is the layout of marvis/pytorch-mobilenet, which uses ReLU.
``conv1.0.weight``, ``features.0.0.weight`` ... ``classifier.0.weight`` is that of the networks of
mit-han-lab, with ReLU in amc and ReLU6 in haq: there, and in any other layout, only the user knows.
"""

import re

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.spec import Activation
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.layouts.plan import (
    LAYERS,
    TensorMapping,
    norm_names,
    torch_norm,
)
from mobilenet_cli.pipeline.importing.weight_files import WeightFile

EXPECTED = (
    "torch programs: 27 convolutions, 27 batch normalizations and a linear layer in order, such "
    "as model.0.0.weight, model.0.1.weight, ..., fc.weight"
)
MARVIS = re.compile(r"model\.\d+\.\d+\.")


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has as many kernels and normalizations as a MobileNet v1."""
    kernels, norms, linear = _parts(file)
    return len(kernels) == len(norms) == LAYERS and len(linear) <= 1


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Pair kernels and normalizations in order.

    Raises:
        ModelError: the order is ambiguous: that of the file and that of its names differ.
    """
    kernels, norms, linear = _parts(file)
    if file.ordered and (kernels, norms) != (sorted(kernels, key=_natural), _sorted(norms)):
        raise ModelError(
            f"{file.path} is ambiguous: its tensors are in another order than their names",
            "Rename them as in marvis/pytorch-mobilenet: " + EXPECTED,
        )
    names: dict[str, str] = {}
    for layer, (kernel, norm) in enumerate(
        zip(sorted(kernels, key=_natural), _sorted(norms), strict=True)
    ):
        names[f"layers.{layer}.conv.weight"] = kernel
        names |= norm_names(layer, torch_norm(norm))
    if linear:
        names["classifier.weight"] = linear[0]
        names["classifier.bias"] = f"{linear[0].removesuffix('.weight')}.bias"
    activation: Activation | None = "relu" if MARVIS.match(kernels[0]) else None
    side = resolution or 224
    return TensorMapping(
        layout="torch",
        names=names,
        orient=_orient,
        padding="symmetric",
        bn_epsilon=1e-5,
        activation=activation,
        input=InputSpec.cropped(side, normalization="imagenet"),
    )


def _parts(file: WeightFile) -> tuple[list[str], list[str], list[str]]:
    """Find the kernels' names, the normalizations' prefixes, and the linear layer's weight."""
    norms = [n.removesuffix(".running_mean") for n in file.tensors if n.endswith(".running_mean")]
    kernels = [n for n, t in file.tensors.items() if t.ndim == 4]
    linear = [n for n, t in file.tensors.items() if t.ndim == 2]
    if len(kernels) == LAYERS + 1 and not linear:  # a 1x1 convolution classifies
        linear = [kernels.pop()]
    return kernels, norms, linear


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which ``model.10`` comes after ``model.2``."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def _sorted(names: list[str]) -> list[str]:
    return sorted(names, key=_natural)


def _orient(name: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a 1x1 convolution that classifies into a linear layer."""
    if name == "classifier.weight" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor
