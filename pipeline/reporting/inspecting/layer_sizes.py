"""This module sums up what a file of training holds, by layer."""

import re
from collections.abc import Mapping

from mobilenet_cli.models import find_architecture
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.reports.records.inspection import LayerSize

NOT_TRAINED = ("running_mean", "running_var", "num_batches_tracked")  # statistics of BatchNorm
# What follows a layer's name in the names of its tensors.
TENSOR = re.compile(rf"(\.(conv|bn))?\.(weight|bias|{'|'.join(NOT_TRAINED)})$")


def layer_sizes(
    spec: ModelSpec | None,
    resolution: int | None,
    counts: Mapping[str, int],
    weights: Mapping[str, int],
    average: Mapping[str, int] | None = None,
    optimizer: Mapping[str, int] | None = None,
) -> tuple[LayerSize, ...]:
    """Sum up tensors by layer, in the order of the network.

    Args:
        spec: of the network; None where not known.
        resolution: that it is for; None likewise.
        counts: values by the tensor's name in the network's ``state_dict``.
        weights: bytes likewise.
        average: bytes of the moving average likewise.
        optimizer: bytes that the optimizer remembers of each.
    """
    products: Mapping[str, int] = {}
    order: dict[str, int] = {}
    if spec:
        architecture = find_architecture(spec.architecture)
        products = architecture.layer_multiply_adds(spec, resolution) if resolution else {}
        order = {layer.name: place for place, layer in enumerate(architecture.layers(spec))}
    trained = {name: n for name, n in counts.items() if not name.endswith(NOT_TRAINED)}
    parameters, held, kept, remembered = (
        _by_layer(sizes) for sizes in (trained, weights, average or {}, optimizer or {})
    )
    return tuple(
        LayerSize(
            name=name,
            parameters=parameters.get(name, 0),
            multiply_adds=products.get(name),
            weights=size,
            average=kept.get(name, 0),
            optimizer=remembered.get(name, 0),
        )
        for name, size in sorted(
            held.items(), key=lambda item: (order.get(item[0], len(order)), _position(item[0]))
        )
    )


def stored_bytes(layers: tuple[LayerSize, ...], size: int) -> dict[str, int]:
    """Return what a file of ``size`` bytes consists of."""
    parts = {
        part: sum(getattr(layer, part) for layer in layers)
        for part in ("weights", "average", "optimizer")
    }
    return parts | {"other": size - sum(parts.values())}


def _by_layer(sizes: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, size in sizes.items():
        layer = TENSOR.sub("", name)
        found[layer] = found.get(layer, 0) + size
    return found


def _position(layer: str) -> tuple[bool, int, str]:
    """Sort ``layers.2`` before ``layers.10``, and both before ``classifier``."""
    first, _, number = layer.partition(".")
    return first != "layers", int(number) if number.isdecimal() else 0, layer
