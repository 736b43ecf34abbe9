"""This is the layout of Keras applications: ``mobilenet_7_5_224_tf.h5`` and others.

Layer names, 'same' padding, epsilon 1e-3 and the scaling to -1..1 are those of
keras/src/applications/mobilenet.py.
"""

import re

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.plan import LAYERS, TensorMapping, layer_names

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
    """Return the names and conventions of Keras; the resolution is in the file's name or 224."""
    names: dict[str, str] = {}
    for layer in range(LAYERS):
        block, pointwise = (layer + 1) // 2, layer % 2 == 0
        theirs = "conv1" if layer == 0 else f"conv_{'pw' if pointwise else 'dw'}_{block}"
        kernel = f"{theirs}/kernel" if pointwise else depthwise_kernel(file, theirs)
        names |= layer_names(f"layers.{layer}", kernel, keras_norm(f"{theirs}_bn"))
    if any(name.startswith("conv_preds/") for name in file.tensors):
        names |= {"classifier.weight": "conv_preds/kernel", "classifier.bias": "conv_preds/bias"}
    named = FILE_NAME.fullmatch(file.path.name)
    side = resolution or (int(named[1]) if named else input_side(file) or 224)
    return TensorMapping(
        layout="Keras",
        names=names,
        orient=orient,
        padding="same",
        bn_epsilon=1e-3,
        input=InputSpec.cropped(side),
    )


def input_side(file: WeightFile) -> int | None:
    """Return the side of a whole model's input in pixels; None where the file does not tell."""
    for entry in file.config.get("layers", ()):
        config = entry["config"]
        if entry["class_name"] == "InputLayer":
            shape = config.get("batch_input_shape") or config["batch_shape"]
            return int(shape[1]) if shape[1] == shape[2] and shape[1] else None
    return None


def keras_norm(layer: str) -> dict[str, str]:
    """Return the names of a BatchNormalization's tensors, by ours."""
    return {ours: f"{layer}/{part}" for ours, part in NORM.items()}


def depthwise_kernel(file: WeightFile, layer: str) -> str:
    """Return the name of a depthwise layer's kernel, which Keras 3 calls ``kernel`` too."""
    name = f"{layer}/kernel"
    return name if name in file.tensors else f"{layer}/depthwise_kernel"


def orient(kind: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn kernels to torch's order.

    They are [H, W, in, out], depthwise [H, W, channels, 1], and of a fully connected layer
    [in, out], or [1, 1, in, out] where a convolution takes its place.
    """
    if kind == "classifier":
        return tensor[0, 0].T if tensor.shape[:2] == (1, 1) and tensor.ndim == 4 else tensor.T
    if tensor.ndim != 4:
        return tensor
    return tensor.transpose((2, 3, 0, 1) if kind == "depthwise" else (3, 2, 0, 1))
