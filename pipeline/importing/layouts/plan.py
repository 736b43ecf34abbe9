"""All layouts turn a file's tensors into ours by what is in this module."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models import find_architecture
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.conv_layers import NORM_PARTS
from mobilenet_cli.models.mobilenet_v1 import TABLE_1
from mobilenet_cli.models.spec import Activation, ModelSpec, Padding
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import Tensors, WeightFile

SLACK = 0.013  # of a width: half a divisor of 8 in the 320 channels of MobileNetV2's width layer
LAYERS = len(TABLE_1)  # of a MobileNet v1


@dataclass(frozen=True, kw_only=True)
class TensorMapping:
    """A mapping says which of a file's tensors is which of ours, and what the layout implies.

    Attributes:
        layout: its name.
        architecture: of the network, a key of ``models.MODELS``.
        names: from our tensors' names to the file's; without the classifier's two where the file
            has no classifier.
        orient: turns a tensor into torch's order of dimensions, given what it is: the kernel of a
            kind of layer, ``classifier``, or nothing of these.
        padding: of the convolutions.
        bn_epsilon: of the batch normalizations.
        activation: None where the file cannot tell.
        assumed: a note of what neither the file nor its layout says. One with ``{activation}`` in
            it lets the user name another activation.
        input: how an image becomes the input.
        unused: tensors of the file that are no weights of the network.
        boxes: how the outputs of a detector become boxes; None of a classifier.
        classes: what a detector finds, if its layout tells.
    """

    layout: str
    architecture: str = "mobilenet_v1"
    names: Mapping[str, str]
    orient: Callable[[str, NDArray[np.float32]], NDArray[np.float32]] = lambda _, tensor: tensor
    padding: Padding
    bn_epsilon: float
    activation: Activation | None = "relu6"
    assumed: str = ""
    input: InputSpec
    unused: tuple[str, ...] = ()
    boxes: BoxSpec | None = None
    classes: tuple[str, ...] = ()


def layer_names(layer: str, kernel: str, norm: Mapping[str, str]) -> dict[str, str]:
    """Map our names of a layer's tensors to the file's, of its normalization by ``NORM_PARTS``."""
    norms = {f"{layer}.bn.{part}": norm[part] for part in NORM_PARTS}
    return {f"{layer}.conv.weight": kernel, **norms}


def torch_norm(prefix: str) -> dict[str, str]:
    """Return the names of a torch BatchNorm2d's tensors."""
    return {part: f"{prefix}.{part}" for part in NORM_PARTS}


def without_biases(file: WeightFile, layers: Iterable[tuple[str, str, str]]) -> WeightFile:
    """Give every normalization a scale, and take away the biases before them.

    A normalization that does not scale gets ``gamma = 1``. A bias before a normalization only
    shifts its mean: ``BN(x + b; mean) = BN(x; mean - b)``.

    Args:
        file: the file's tensors by their names; what is missing is found later.
        layers: the names of each layer's bias, scale and mean.
    """
    tensors = dict(file.tensors)
    for bias, gamma, mean in layers:
        if mean not in tensors:
            continue
        tensors.setdefault(gamma, np.ones_like(tensors[mean]))
        if bias in tensors and tensors[bias].shape == tensors[mean].shape:
            tensors[mean] = tensors[mean] - tensors.pop(bias)
    return replace(file, tensors=tensors)


def convert(
    file: WeightFile, plan: TensorMapping, activation: Activation
) -> tuple[ModelSpec, Tensors]:
    """Rename and turn a file's tensors, and prove that they are those of the layout's network.

    A file without classifier gets one of zeros, to be trained, for ImageNet's 1000 classes.

    Returns:
        The network, and its tensors by our names.

    Raises:
        ModelError: a tensor is missing, unknown, of the wrong shape, not finite, or a negative
            variance.
    """
    path, architecture = file.path, find_architecture(plan.architecture)
    _check_names(path, plan, file.tensors)
    kinds = {f"{at.name}.conv.weight": str(at.kind) for at in architecture.layers(ModelSpec())}
    kinds["classifier.weight"] = "classifier"
    tensors = {
        ours: np.ascontiguousarray(plan.orient(kinds.get(ours, ""), file.tensors[theirs]))
        for ours, theirs in plan.names.items()
    }
    norm = ".bn.weight"
    channels = {n.removesuffix(norm): t.size for n, t in tensors.items() if n.endswith(norm)}
    layer, times = architecture.class_layer
    bias = tensors.get(f"{layer}.bias")
    spec = ModelSpec(
        architecture=plan.architecture,
        width=width_of(plan.architecture, channels),
        classes=1000 if bias is None else max(1, bias.size // times),
        padding=plan.padding,
        bn_epsilon=plan.bn_epsilon,
        activation=activation,
    )
    if bias is None:
        tensors["classifier.weight"] = np.zeros((1000, architecture.features(spec)), np.float32)
        tensors["classifier.bias"] = np.zeros(1000, np.float32)
    _check_values(path, plan, tensors, spec)
    return spec, {name: tensors[name] for name in architecture.tensor_shapes(spec)}


def width_of(name: str, channels: Mapping[str, int]) -> float:
    """Return the width multiplier that gives layers these numbers of channels.

    Many may, since channels are rounded; one of few decimals is preferred. Where none fits, some
    number of channels is wrong, and the answer is what one layer alone says.

    Args:
        name: of the architecture.
        channels: the number of channels of each layer, by its name.
    """
    architecture = find_architecture(name)
    whole = {layer.name: layer.out_channels for layer in architecture.layers(ModelSpec())}
    exact = max(channels[architecture.width_layer], 1) / whole[architecture.width_layer]

    def near(decimals: int) -> list[float]:
        steps = range(-round(SLACK * 10**decimals) - 1, round(SLACK * 10**decimals) + 2)
        found = (round(exact + step / 10**decimals, decimals) for step in steps)
        return sorted((w for w in found if w > 0), key=lambda w: abs(w - exact))

    def fits(width: float) -> bool:
        layers = architecture.layers(ModelSpec(width=width))
        return all(channels[layer.name] == layer.out_channels for layer in layers)

    return next(filter(fits, (*near(1), *near(2), exact, *near(3))), exact)


def _check_names(path: Path, plan: TensorMapping, tensors: Tensors) -> None:
    expected, title = set(plan.names.values()), find_architecture(plan.architecture).title
    for problem, names in (
        ("lacks", expected - tensors.keys()),
        (f"has, beyond a {title},", tensors.keys() - expected - set(plan.unused)),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"{path} looks like a {plan.layout} file but {problem} '{min(names)}'{more}",
                f"Only a plain {title} can be imported; check that the file is whole",
            )


def _check_values(path: Path, plan: TensorMapping, tensors: Tensors, spec: ModelSpec) -> None:
    architecture = find_architecture(plan.architecture)
    for ours, shape in architecture.tensor_shapes(spec).items():
        tensor, theirs = tensors[ours], plan.names.get(ours, ours)
        if tensor.shape != shape:
            raise ModelError(
                f"{path} has '{theirs}' of shape {tensor.shape}, but a {architecture.title} of "
                f"width {spec.width:g} needs {shape} (output channels first)",
                f"Check that the file is a {architecture.title}",
            )
        if not np.isfinite(tensor).all():
            raise ModelError(f"{path} has NaN or infinity in '{theirs}'", "Use another checkpoint")
        if ours.endswith("running_var") and (tensor < 0).any():
            raise ModelError(
                f"{path} has a negative variance in '{theirs}'", "Use another checkpoint"
            )
