"""State dicts of torch programs at large are matched by shape and order.

``features.0.0.weight``, ``features.1.conv.0.0.weight`` ... ``classifier.1.weight`` is torchvision's
MobileNetV2 (torchvision/models/mobilenetv2.py).
``model.0.0.weight`` ... ``fc.weight`` is the layout of marvis/pytorch-mobilenet, which uses ReLU.
``conv1.0.weight``, ``features.0.0.weight`` ... ``classifier.0.weight`` is that of the networks of
mit-han-lab, with ReLU in amc and ReLU6 in haq: there, and in any other layout, only the user knows.
"""

import re

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import Activation, ModelSpec
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.plan import TensorMapping, layer_names, torch_norm

EXPECTED = (
    "torch programs: the convolutions, batch normalizations and linear layer of a MobileNet v1 or "
    "MobileNetV2 in order, such as model.0.0.weight, model.0.1.weight, ..., fc.weight or "
    "features.0.0.weight, features.0.1.weight, ..., classifier.1.weight"
)
ASSUMED = (
    "assumed as usual in torch: {activation}, symmetric padding, epsilon 1e-5, ImageNet's mean and "
    "deviation"
)
BY_LAYERS = {len(network.layers(ModelSpec())): name for name, network in MODELS.items()}
TORCHVISION = "features.1.conv.0.0.weight"
MARVIS = re.compile(r"model\.\d+\.\d+\.")


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has as many kernels and normalizations as one of our networks."""
    kernels, norms, linear = _parts(file)
    return len(kernels) == len(norms) and len(norms) in BY_LAYERS and len(linear) <= 1


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Pair kernels and normalizations in order.

    Raises:
        ModelError: the order is ambiguous: that of the file and that of its names differ.
    """
    kernels, norms, linear = _parts(file)
    if file.ordered and (kernels, norms) != (_sorted(kernels), _sorted(norms)):
        raise ModelError(
            f"{file.path} is ambiguous: its tensors are in another order than their names",
            "Rename them as in marvis/pytorch-mobilenet: " + EXPECTED,
        )
    architecture = BY_LAYERS[len(norms)]
    layers = MODELS[architecture].layers(ModelSpec())
    names: dict[str, str] = {}
    for layer, kernel, norm in zip(layers, _sorted(kernels), _sorted(norms), strict=True):
        names |= layer_names(layer.name, kernel, torch_norm(norm))
    if linear:
        names["classifier.weight"] = linear[0]
        names["classifier.bias"] = f"{linear[0].removesuffix('.weight')}.bias"
    activation: Activation | None = "relu" if MARVIS.match(kernels[0]) else None
    known = TORCHVISION in kernels
    side = resolution or 224
    return TensorMapping(
        layout="torchvision" if known else "torch",
        architecture=architecture,
        names=names,
        orient=_orient,
        padding="symmetric",
        bn_epsilon=1e-5,
        activation="relu6" if known else activation,
        assumed="" if known else ASSUMED,
        input=InputSpec.cropped(side, normalization="imagenet", convention="torchvision"),
    )


def _parts(file: WeightFile) -> tuple[list[str], list[str], list[str]]:
    """Find the kernels' names, the normalizations' prefixes, and the linear layer's weight."""
    norms = [n.removesuffix(".running_mean") for n in file.tensors if n.endswith(".running_mean")]
    kernels = [n for n, t in file.tensors.items() if t.ndim == 4]
    linear = [n for n, t in file.tensors.items() if t.ndim == 2]
    if len(kernels) == len(norms) + 1 and not linear:  # a 1x1 convolution classifies
        linear = [kernels.pop()]
    return kernels, norms, linear


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which ``model.10`` comes after ``model.2``."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def _sorted(names: list[str]) -> list[str]:
    return sorted(names, key=_natural)


def _orient(kind: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a 1x1 convolution that classifies into a linear layer."""
    if kind == "classifier" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor
