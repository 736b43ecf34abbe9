"""This is the layout of Keras applications' MobileNetV2, alone or under another classifier.

Layer names, 'same' padding, epsilon 1e-3 and the scaling to -1..1 are those of
keras/src/applications/mobilenet_v2.py.
"""

import re

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.keras import (
    depthwise_kernel,
    input_side,
    keras_norm,
    orient,
)
from mobilenet_cli.pipeline.importing.layouts.plan import TensorMapping, layer_names

EXPECTED = (
    "Keras applications: Conv1/kernel, expanded_conv_depthwise/depthwise_kernel, "
    "block_1_expand/kernel, ..., predictions/kernel"
)
FILE_NAME = re.compile(r"mobilenet_v2_.*_(\d+)(_no_top)?\.h5")


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has Keras' layer names."""
    return "Conv1/kernel" in file.tensors and "expanded_conv_project/kernel" in file.tensors


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Return the names and conventions of Keras; the resolution is in the file's name or 224."""
    architecture = "mobilenet_v2"
    names: dict[str, str] = {}
    for layer in MODELS[architecture].layers(ModelSpec(architecture=architecture)):
        theirs, norm = _names(*layer.name.split(".")[1:])
        depthwise = layer.kind == "depthwise"
        kernel = depthwise_kernel(file, theirs) if depthwise else f"{theirs}/kernel"
        names |= layer_names(layer.name, kernel, keras_norm(norm))
    dense = [n.removesuffix("/kernel") for n, tensor in file.tensors.items() if tensor.ndim == 2]
    if len(dense) == 1:  # called Logits, predictions, or as the user did
        names |= {f"classifier.{ours}": f"{dense[0]}/{t}" for ours, t in DENSE.items()}
    named = FILE_NAME.fullmatch(file.path.name)
    return TensorMapping(
        layout="Keras",
        architecture=architecture,
        names=names,
        orient=orient,
        padding="same",
        bn_epsilon=1e-3,
        input=InputSpec.cropped(
            resolution or (int(named[1]) if named else input_side(file) or 224)
        ),
    )


DENSE = {"weight": "kernel", "bias": "bias"}


def _names(block: str, part: str = "") -> tuple[str, str]:
    """Return what Keras calls a layer and its normalization, of ours such as ``3.expand``."""
    if not part:
        return ("Conv1", "bn_Conv1") if block == "0" else ("Conv_1", "Conv_1_bn")
    theirs = f"expanded_conv_{part}" if block == "1" else f"block_{int(block) - 1}_{part}"
    return theirs, f"{theirs}_BN"
