"""This is the layout of an SSD of the TensorFlow Object Detection API, as TensorFlow.js has it.

It is that of the face detector by yeephycho: ``MobilenetV1/Conv2d_0_pointwise/weights``,
``Prediction/BoxPredictor_0/ClassPredictor/weights``, ... and the anchors in ``Output/extra_dim``.
The converter has folded all normalizations but those of the depthwise layers.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.conv_layers import NORM_PARTS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.keras import keras_norm, orient
from mobilenet_cli.pipeline.importing.layouts.plan import TensorMapping, layer_names

EXPECTED = (
    "an SSD of TensorFlow.js: MobilenetV1/Conv2d_0_pointwise/weights, "
    "Prediction/BoxPredictor_0/ClassPredictor/weights, ..."
)
ARCHITECTURE = "ssd_mobilenet_v1"
ANCHORS = "Output/extra_dim"
EPSILON = 1e-3
# The program that the weights are for takes the sigmoid of logit 1, and neither of the other two.
FACE = BoxSpec(anchors=(), scores="sigmoid", columns=(1,))
# Theirs are ty, tx, th, tw (object_detection/box_coders/faster_rcnn_box_coder.py).
X_FIRST = (1, 0, 3, 2)


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has the first layer and a head of that network."""
    first = "MobilenetV1/Conv2d_0_pointwise/weights"
    return first in file.tensors and ANCHORS in file.tensors


def _convolutions() -> list[tuple[str, str]]:
    """Return ours and their name of each layer that is not depthwise."""
    first = [("layers.0", "MobilenetV1/Conv2d_0_pointwise")]
    backbone = [(f"layers.{2 * i}", f"MobilenetV1/Conv2d_{i}_pointwise") for i in range(1, 14)]
    extras = [
        (f"extras.{i // 2}.{'expand' if i % 2 else 'reduce'}", f"Prediction/Conv2d_{i}_pointwise")
        for i in range(8)
    ]
    return first + backbone + extras


def prepare(file: WeightFile) -> WeightFile:
    """Give every layer a normalization, put x before y, and leave out numbers of the program.

    A folded normalization becomes one that only adds: its variance and epsilon are 1 together.

    Raises:
        ModelError: the anchors are not those of the network.
    """
    tensors = {name: tensor for name, tensor in file.tensors.items() if tensor.ndim}
    for _, theirs in _convolutions():
        offset = tensors.pop(f"{theirs}/convolution_bn_offset", None)
        if offset is not None:
            values = (np.ones_like(offset), offset, np.zeros_like(offset))
            variance = np.full_like(offset, np.float32(1) - np.float32(EPSILON))
            for part, value in zip(NORM_PARTS, (*values, variance), strict=True):
                tensors[keras_norm(f"{theirs}/BatchNorm")[part]] = value
    tensors = {n: _x_first(t) if "BoxEncoding" in n else t for n, t in tensors.items()}
    _check_anchors(file)
    return replace(file, tensors=tensors)


def _x_first(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put x before y in the last axis of a head's kernel or bias."""
    groups = tensor.reshape(*tensor.shape[:-1], -1, 4)
    return groups[..., list(X_FIRST)].reshape(tensor.shape)


def _check_anchors(file: WeightFile) -> None:
    """See that the anchors in the file are those of the network for some resolution."""
    theirs = _x_first(file.tensors[ANCHORS].reshape(-1, 4))
    boxes = boxes_for(_side(file))
    if boxes.count != len(theirs) or not np.allclose(boxes.anchor_corners(), theirs, atol=1e-4):
        raise ModelError(
            f"{file.path} has anchors that are not those of an SSD on six maps of MobileNet v1",
            "Only the SSD of ssd_mobilenet_v1_coco.config can be imported",
        )


def _side(file: WeightFile) -> int:
    """Return the resolution, a multiple of 32, that the file has anchors for; 512 if none does."""
    anchors = file.tensors[ANCHORS].size // 4
    sides = (side for side in range(32, 1025, 32) if boxes_for(side).count == anchors)
    return next(sides, 512)


def boxes_for(resolution: int) -> BoxSpec:
    """Return how outputs become boxes for images of a resolution."""
    return replace(FACE, anchors=MODELS[ARCHITECTURE].anchors(resolution))


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Return the names and conventions of that network; the anchors tell its resolution."""
    names: dict[str, str] = {}
    for ours, theirs in _convolutions():
        names |= layer_names(ours, f"{theirs}/weights", keras_norm(f"{theirs}/BatchNorm"))
    for block in range(1, 14):
        theirs = f"MobilenetV1/Conv2d_{block}_depthwise"
        kernel, norm = f"{theirs}/depthwise_weights", keras_norm(f"{theirs}/BatchNorm")
        names |= layer_names(f"layers.{2 * block - 1}", kernel, norm)
    for head in MODELS[ARCHITECTURE].heads(ModelSpec()):  # type: ignore[misc]  # it is a detector
        _, index, kind = head.name.split(".")
        part = "BoxEncodingPredictor" if kind == "boxes" else "ClassPredictor"
        for ours, theirs in (("weight", "weights"), ("bias", "biases")):
            names[f"{head.name}.{ours}"] = f"Prediction/BoxPredictor_{index}/{part}/{theirs}"
    side = resolution or _side(file)
    return TensorMapping(
        layout="TensorFlow.js SSD",
        architecture=ARCHITECTURE,
        names=names,
        orient=orient,
        padding="same",
        bn_epsilon=EPSILON,
        input=InputSpec.stretched(side),
        unused=(ANCHORS,),
        boxes=boxes_for(side),
        classes=("face",),
    )
