"""All layouts turn a file's tensors into ours by what is in this module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.mobilenet_v1 import (
    NORM_PARTS,
    TABLE_1,
    feature_channels,
    scaled_channels,
    tensor_shapes,
)
from mobilenet_cli.models.spec import Activation, ModelSpec, Padding
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.weight_files import Tensors, WeightFile

LAYERS = len(TABLE_1)


@dataclass(frozen=True, kw_only=True)
class TensorMapping:
    """A mapping says which of a file's tensors is which of ours, and what the layout implies.

    Attributes:
        layout: its name.
        names: from our tensors' names to the file's; without the classifier's two where the file
            has no classifier.
        orient: turns a tensor of the file into torch's order of dimensions.
        padding: of the convolutions.
        bn_epsilon: of the batch normalizations.
        activation: None where the file cannot tell.
        input: how an image becomes the input.
    """

    layout: str
    names: Mapping[str, str]
    orient: Callable[[str, NDArray[np.float32]], NDArray[np.float32]] = lambda _, tensor: tensor
    padding: Padding
    bn_epsilon: float
    activation: Activation | None = "relu6"
    input: InputSpec


def norm_names(layer: int, theirs: Mapping[str, str]) -> dict[str, str]:
    """Map our names of a layer's normalization to the file's, given by ``NORM_PARTS``."""
    return {f"layers.{layer}.bn.{part}": theirs[part] for part in NORM_PARTS}


def torch_norm(prefix: str) -> dict[str, str]:
    """Return the names of a torch BatchNorm2d's tensors."""
    return {part: f"{prefix}.{part}" for part in NORM_PARTS}


def convert(
    file: WeightFile, plan: TensorMapping, activation: Activation
) -> tuple[ModelSpec, Tensors]:
    """Rename and turn a file's tensors, and prove that they are a MobileNet v1's.

    A file without classifier gets one of zeros, to be trained, for ImageNet's 1000 classes.

    Raises:
        ModelError: a tensor is missing, unknown, of the wrong shape, not finite, or a negative
            variance.
    """
    path = file.path
    _check_names(path, plan, file.tensors)
    tensors = {
        ours: np.ascontiguousarray(plan.orient(ours, file.tensors[theirs]))
        for ours, theirs in plan.names.items()
    }
    width = width_of_features(tensors[f"layers.{LAYERS - 1}.bn.weight"].size)
    bias = tensors.get("classifier.bias")
    spec = ModelSpec(
        width=width,
        classes=1000 if bias is None else max(1, bias.size),
        padding=plan.padding,
        bn_epsilon=plan.bn_epsilon,
        activation=activation,
    )
    if bias is None:
        tensors["classifier.weight"] = np.zeros((1000, feature_channels(spec)), np.float32)
        tensors["classifier.bias"] = np.zeros(1000, np.float32)
    _check_values(path, plan, tensors, spec)
    return spec, {name: tensors[name] for name in tensor_shapes(spec)}


def width_of_features(features: int) -> float:
    """Return the width multiplier whose last layer has this many channels.

    ``features / 1024`` gives every layer its channels, since ``floor(32 w)`` is the same for w and
    for ``floor(1024 w) / 1024``; a multiplier of two decimals that does so too is preferred.
    """
    exact = max(features, 1) / TABLE_1[-1][2]
    short = round(exact, 2)
    layers = [filters for _, _, filters in TABLE_1]
    same = short > 0 and all(scaled_channels(f, short) == scaled_channels(f, exact) for f in layers)
    return short if same else exact


def _check_names(path: Path, plan: TensorMapping, tensors: Tensors) -> None:
    expected = set(plan.names.values())
    for problem, names in (
        ("lacks", expected - tensors.keys()),
        ("has, beyond a MobileNet v1,", tensors.keys() - expected),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"{path} looks like a {plan.layout} file but {problem} '{min(names)}'{more}",
                "Only plain MobileNet v1 classifiers can be imported; check that the file is whole",
            )


def _check_values(path: Path, plan: TensorMapping, tensors: Tensors, spec: ModelSpec) -> None:
    for ours, shape in tensor_shapes(spec).items():
        tensor, theirs = tensors[ours], plan.names.get(ours, ours)
        if tensor.shape != shape:
            raise ModelError(
                f"{path} has '{theirs}' of shape {tensor.shape}, but a MobileNet v1 of width "
                f"{spec.width:g} needs {shape} (output channels first)",
                "Check that the file is a MobileNet v1",
            )
        if not np.isfinite(tensor).all():
            raise ModelError(f"{path} has NaN or infinity in '{theirs}'", "Use another checkpoint")
        if ours.endswith("running_var") and (tensor < 0).any():
            raise ModelError(
                f"{path} has a negative variance in '{theirs}'", "Use another checkpoint"
            )
