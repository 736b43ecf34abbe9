"""This is the layout of Keras applications: ``mobilenet_7_5_224_tf.h5`` and others.

Layer names, 'same' padding, epsilon 1e-3 and the scaling to -1..1 are those of
keras/src/applications/mobilenet.py.
"""

import re

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.importing.layouts.plan import (
    LAYERS,
    TensorMapping,
    norm_names,
)
from mobilenet_cli.pipeline.importing.weight_files import WeightFile

EXPECTED = "Keras applications: conv1/kernel, conv_dw_1/depthwise_kernel, ..., conv_preds/kernel"
FILE_NAME = re.compile(r"mobilenet_\d+_\d+_(\d+)_tf(_no_top)?\.h5")
NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has Keras' layer names."""
    return "conv1/kernel" in file.tensors


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Return the names and conventions of Keras; the resolution is in the file's name, or 224."""
    names: dict[str, str] = {}
    for layer in range(LAYERS):
        block, pointwise = (layer + 1) // 2, layer % 2 == 0
        theirs = "conv1" if layer == 0 else f"conv_{'pw' if pointwise else 'dw'}_{block}"
        kernel = "kernel" if pointwise else "depthwise_kernel"
        names[f"layers.{layer}.conv.weight"] = f"{theirs}/{kernel}"
        names |= norm_names(layer, {ours: f"{theirs}_bn/{part}" for ours, part in NORM.items()})
    if any(name.startswith("conv_preds/") for name in file.tensors):
        names |= {"classifier.weight": "conv_preds/kernel", "classifier.bias": "conv_preds/bias"}
    named = FILE_NAME.fullmatch(file.path.name)
    side = resolution or (int(named[1]) if named else 224)
    return TensorMapping(
        layout="Keras",
        names=names,
        orient=orient,
        padding="same",
        bn_epsilon=1e-3,
        input=InputSpec.cropped(side),
    )


def orient(name: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn kernels [H, W, in, out], or depthwise [H, W, channels, 1], to torch's order."""
    if tensor.ndim != 4:
        return tensor
    if name == "classifier.weight":
        return tensor[0, 0].T if tensor.shape[:2] == (1, 1) else tensor
    depthwise = tensor.shape[3] == 1 and int(name.split(".")[1]) % 2 == 1
    return tensor.transpose(2, 3, 0, 1) if depthwise else tensor.transpose(3, 2, 0, 1)
