"""This is the layout of TensorFlow programs that were written with slim.

``MobilenetV1/Conv2d_0/weights`` is Google's own network, research/slim/nets/mobilenet_v1.py: the
released ``mobilenet_v1_1.0_224.ckpt`` and ``..._frozen.pb``, with 1001 outputs, background first.
``MobileNet/conv_1/weights`` is the network of Zehaos/MobileNet, nets/mobilenet.py: ReLU, biases
before normalizations that do not scale. Both pad as TensorFlow does and use slim's epsilon, 1e-3.
"""

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.importing.layouts.keras import NORM, orient
from mobilenet_cli.pipeline.importing.layouts.plan import (
    LAYERS,
    TensorMapping,
    norm_names,
)
from mobilenet_cli.pipeline.importing.weight_files import WeightFile

EXPECTED = "TensorFlow: MobilenetV1/Conv2d_0/weights, ... or MobileNet/conv_1/weights, ..."
GOOGLE, ZEHAOS = "MobilenetV1/Conv2d_0/weights", "MobileNet/conv_1/weights"
FILE_NAME = re.compile(r"mobilenet_v1_[\d.]+_(\d+)[._]")


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has the variables of one of the two networks."""
    return GOOGLE in file.tensors or ZEHAOS in file.tensors


def prepare(file: WeightFile) -> WeightFile:
    """Give every layer what slim leaves out, and take away what it need not have.

    A normalization that does not scale gets ``gamma = 1``. A bias before a normalization only
    shifts its mean: ``BN(x + b; mean) = BN(x; mean - b)``.
    """
    tensors = dict(file.tensors)
    for kernel, norm in _layers(file):
        bias, mean = f"{kernel.rpartition('/')[0]}/biases", tensors.get(f"{norm}/moving_mean")
        if mean is None:
            continue  # names are checked later, with a sentence
        tensors.setdefault(f"{norm}/gamma", np.ones_like(mean))
        if bias in tensors and tensors[bias].shape == mean.shape:
            tensors[f"{norm}/moving_mean"] = mean - tensors.pop(bias)
    return replace(file, tensors=tensors)


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Take the network's names and conventions; the resolution is in the file's name, or 224."""
    google = GOOGLE in file.tensors
    names: dict[str, str] = {}
    for layer, (kernel, norm) in enumerate(_layers(file)):
        names[f"layers.{layer}.conv.weight"] = kernel
        names |= norm_names(layer, {ours: f"{norm}/{part}" for ours, part in NORM.items()})
    classifier = "MobilenetV1/Logits/Conv2d_1c_1x1" if google else "MobileNet/fc_16"
    if any(name.startswith(f"{classifier}/") for name in file.tensors):
        names["classifier.weight"] = f"{classifier}/weights"
        names["classifier.bias"] = f"{classifier}/biases"
    named = FILE_NAME.match(file.path.name)
    side = resolution or (int(named[1]) if named else 224)
    return TensorMapping(
        layout="TF-slim" if google else "Zehaos/MobileNet",
        names=names,
        orient=_orient,
        padding="same",
        bn_epsilon=1e-3,
        activation="relu6" if google else "relu",
        input=InputSpec.cropped(side),
    )


def _layers(file: WeightFile) -> list[tuple[str, str]]:
    """Return the kernel and scope of the normalization of each layer, in order."""
    if GOOGLE in file.tensors:
        layers = ["MobilenetV1/Conv2d_0"] + [
            f"MobilenetV1/Conv2d_{block}_{kind}"
            for block in range(1, (LAYERS + 1) // 2)
            for kind in ("depthwise", "pointwise")
        ]
        return [(f"{layer}/{_kernel(layer)}", f"{layer}/BatchNorm") for layer in layers]
    first = [(ZEHAOS, "MobileNet/conv_1/batch_norm")]
    blocks = [f"MobileNet/conv_ds_{block}" for block in range(2, (LAYERS + 1) // 2 + 1)]
    return first + [
        (f"{block}/{kind}_conv/{_kernel(kind)}", f"{block}/{kind[0]}w_batch_norm")
        for block in blocks
        for kind in ("depthwise", "pointwise")
    ]


def _kernel(layer: str) -> str:
    return "depthwise_weights" if layer.endswith("depthwise") else "weights"


def _orient(name: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a kernel as Keras has it, or a classifier that is a matrix [in, out]."""
    if name == "classifier.weight" and tensor.ndim == 2:
        return tensor.T
    return orient(name, tensor)
