"""This is the layout of TensorFlow programs that were written with slim.

``MobilenetV1/Conv2d_0/weights`` is Google's own network, research/slim/nets/mobilenet_v1.py: the
released ``mobilenet_v1_1.0_224.ckpt`` and ``..._frozen.pb``, with 1001 outputs, background first.
``MobileNet/conv_1/weights`` is the network of Zehaos/MobileNet, nets/mobilenet.py: ReLU, biases
before normalizations that do not scale. Both pad as TensorFlow does and use slim's epsilon, 1e-3.
"""

import re

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.keras import keras_norm, orient
from mobilenet_cli.pipeline.importing.layouts.plan import (
    LAYERS,
    TensorMapping,
    layer_names,
    without_biases,
)

EXPECTED = "TensorFlow: MobilenetV1/Conv2d_0/weights, ... or MobileNet/conv_1/weights, ..."
GOOGLE, ZEHAOS = "MobilenetV1/Conv2d_0/weights", "MobileNet/conv_1/weights"
FILE_NAME = re.compile(r"mobilenet_v1_[\d.]+_(\d+)[._]")


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has the variables of one of the two networks."""
    return GOOGLE in file.tensors or ZEHAOS in file.tensors


def prepare(file: WeightFile) -> WeightFile:
    """Give every layer what slim leaves out, and take away what it need not have."""
    layers = ((kernel.rpartition("/")[0], norm) for kernel, norm in _layers(file))
    return without_biases(
        file, ((f"{conv}/biases", f"{norm}/gamma", f"{norm}/moving_mean") for conv, norm in layers)
    )


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Take the network's names and conventions; the resolution is in the file's name, or 224."""
    google = GOOGLE in file.tensors
    names: dict[str, str] = {}
    for layer, (kernel, norm) in enumerate(_layers(file)):
        names |= layer_names(f"layers.{layer}", kernel, keras_norm(norm))
    classifier = "MobilenetV1/Logits/Conv2d_1c_1x1" if google else "MobileNet/fc_16"
    if any(name.startswith(f"{classifier}/") for name in file.tensors):
        names["classifier.weight"] = f"{classifier}/weights"
        names["classifier.bias"] = f"{classifier}/biases"
    _check_output(file, f"{classifier}/weights")
    named = FILE_NAME.match(file.path.name)
    side = resolution or (int(named[1]) if named else 224)
    return TensorMapping(
        layout="TF-slim" if google else "Zehaos/MobileNet",
        names=names,
        orient=orient,
        padding="same",
        bn_epsilon=1e-3,
        activation="relu6" if google else "relu",
        input=InputSpec.cropped(side, convention="tf-slim" if google else "keras"),
    )


def _check_output(file: WeightFile, classifier: str) -> None:
    """Refuse a graph whose output another layer makes, as retraining on own classes adds one.

    Raises:
        ModelError: one of its outputs does not come from the classifier.
    """
    for output, weights in sorted(file.last.items()):
        if weights != classifier:
            raise ModelError(
                f"the output '{output}' of {file.path} is made by '{weights}', not by "
                f"'{classifier}', the classifier of the network that it was retrained from",
                "Convert the graph to ONNX with tf2onnx, and import that",
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
