"""This is the layout of a Keras program that names no layer: ``conv2d``, ``conv2d_1``, and so on.

MLPerf Tiny's visual wake words is one: a MobileNet v1 with ReLU and with biases before its
normalizations, on pixels scaled to 0..1 that were resized without a crop
(mlcommons/tiny, benchmark/training/visual_wake_words).
"""

import re
from collections.abc import Iterator
from typing import Any

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.conv_layers import ConvLayer
from mobilenet_cli.models.mobilenet_v1 import conv_layers
from mobilenet_cli.models.spec import Activation, ModelSpec
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.keras import input_side, keras_norm, orient
from mobilenet_cli.pipeline.importing.layouts.plan import TensorMapping, layer_names, without_biases

EXPECTED = (
    "Keras without names: conv2d/kernel, batch_normalization/gamma, "
    "depthwise_conv2d/depthwise_kernel, ..., dense/kernel"
)
KINDS = {"conv2d": "kernel", "depthwise_conv2d": "(?:depthwise_)?kernel"}
# What the network may have beside convolutions, normalizations and activations.
PASSING = frozenset(
    [
        "InputLayer",
        "AveragePooling2D",
        "GlobalAveragePooling2D",
        "Flatten",
        "Reshape",
        "Dropout",
        "Softmax",
    ]
)


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has as many layers of each kind as a MobileNet v1."""
    depthwise = sum(layer.kind == "depthwise" for layer in conv_layers(ModelSpec()))
    found = [len(_numbered(file, kind, part)) for kind, part in KINDS.items()]
    return found == [depthwise + 1, depthwise]


def prepare(file: WeightFile) -> WeightFile:
    """Take biases before normalizations away, and give every normalization a scale."""
    layers = ((owner(kernel), norm) for _, kernel, norm in _layers(file))
    return without_biases(
        file, ((f"{conv}/bias", f"{norm}/gamma", f"{norm}/moving_mean") for conv, norm in layers)
    )


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Pair layers in order; of a whole model its configuration says what the tensors do not."""
    names: dict[str, str] = {}
    for layer, kernel, norm in _layers(file):
        names |= layer_names(layer.name, kernel, keras_norm(norm))
    for dense in _numbered(file, "dense", "kernel"):
        names |= {"classifier.weight": dense, "classifier.bias": f"{owner(dense)}/bias"}
    side, activation, epsilon = _conventions(file)
    side = resolution or side
    return TensorMapping(
        layout="Keras (automatic names)",
        names=names,
        orient=orient,
        padding="same",
        bn_epsilon=epsilon,
        activation=activation,
        assumed="assumed as in MLPerf Tiny: pixels are scaled to 0..1, images resized to "
        f"{side} x {side} without a crop",
        input=InputSpec(resolution=side, resize=side, mean=(0, 0, 0), std=(1, 1, 1)),
    )


def _numbered(file: WeightFile, kind: str, part: str) -> list[str]:
    """Return a tensor's name in every layer of a kind, ``conv2d`` before ``conv2d_1``."""
    name = re.compile(rf"{kind}(?:_(\d+))?/{part}")
    found = filter(None, map(name.fullmatch, file.tensors))
    return [match[0] for match in sorted(found, key=lambda match: int(match[1] or 0))]


def owner(tensor: str) -> str:
    """Return the layer of a tensor's name."""
    return tensor.rpartition("/")[0]


def _layers(file: WeightFile) -> Iterator[tuple[ConvLayer, str, str]]:
    """Yield each layer with the name of its kernel and of its normalization."""
    kernels = {kind: iter(_numbered(file, kind, part)) for kind, part in KINDS.items()}
    norms = _numbered(file, "batch_normalization", "beta")
    for layer, norm in zip(conv_layers(ModelSpec()), norms, strict=False):
        kind = "depthwise_conv2d" if layer.kind == "depthwise" else "conv2d"
        yield layer, next(kernels[kind]), owner(norm)


def _conventions(file: WeightFile) -> tuple[int, Activation | None, float]:
    """Read what the configuration of a whole model says, and check that it is a MobileNet v1.

    Returns:
        The side of the input, the activation, and the epsilon of the normalizations. Of a file
        with weights alone they are 96, None, and Keras' 1e-3.

    Raises:
        ModelError: it is another network.
    """
    theirs = {entry["config"]["name"]: entry for entry in file.config.get("layers", ())}
    if not theirs:
        return 96, None, 1e-3
    for layer, kernel, _ in _layers(file):
        config = theirs[name := owner(kernel)]["config"]
        strides, padded = set(config["strides"]), config["padding"] == "same" or layer.kernel == 1
        if strides != {layer.stride} or not padded or config["activation"] != "linear":
            raise ModelError(
                f"layer '{name}' of {file.path} has strides {config['strides']}, padding "
                f"'{config['padding']}' and activation '{config['activation']}', but that of a "
                f"MobileNet v1 has stride {layer.stride}, padding 'same' and no activation",
                "Export the model as ONNX and import that",
            )
    activations, epsilons, side = list[Activation](), set[float](), input_side(file)
    for entry in theirs.values():
        kind, config = entry["class_name"], entry["config"]
        if kind in ("Activation", "ReLU", "Dense"):
            activations += _activation(file, kind, config)
        elif kind == "BatchNormalization":
            epsilons.add(float(config["epsilon"]))
        elif kind not in PASSING and not kind.endswith("Conv2D"):
            raise _unknown(file, kind, config)
    kinds, expected = set(activations), len(conv_layers(ModelSpec()))
    if side is None or len(activations) != expected or not len(kinds) == len(epsilons) == 1:
        raise ModelError(
            f"{file.path} has {len(activations)} activations ({', '.join(sorted(kinds))}) and "
            f"epsilons {sorted(epsilons)}, but a MobileNet v1 has {expected} activations of one "
            "kind and one epsilon, and here a square input of known size",
            "Export the model as ONNX and import that",
        )
    return side, kinds.pop(), epsilons.pop()


def _activation(file: WeightFile, kind: str, config: dict[str, Any]) -> list[Activation]:
    """Return the activation of a layer; none for that of the logits."""
    name, limit = config.get("activation"), config.get("max_value")
    if kind == "ReLU" and limit in (None, 6) and not config.get("negative_slope"):
        return ["relu6" if limit else "relu"]
    if kind == "Activation" and name in ("relu", "relu6"):
        return ["relu6" if name == "relu6" else "relu"]
    if name in ("softmax", "linear"):
        return []
    raise _unknown(file, kind, config)


def _unknown(file: WeightFile, kind: str, config: dict[str, Any]) -> ModelError:
    return ModelError(
        f"{file.path} has a layer '{config['name']}' of Keras' kind {kind} with activation "
        f"'{config.get('activation', 'none')}', which is no part of a MobileNet v1",
        "Export the model as ONNX and import that",
    )
