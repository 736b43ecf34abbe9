"""MobileNet v1 (Howard et al., arXiv:1704.04861) is data here: Table 1 and what follows."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mobilenet_cli.models.spec import ModelSpec

Kind = Literal["conv", "depthwise", "pointwise"]

# Table 1, row by row: kind, stride, filters at width 1.0 (a depthwise layer keeps its input's).
# The table prints stride 2 for the last depthwise layer, yet also an unchanged 7x7 output; every
# published implementation uses stride 1 there, and so do the table's multiply-add counts.
TABLE_1: tuple[tuple[Kind, int, int], ...] = (
    ("conv", 2, 32),
    ("depthwise", 1, 32),
    ("pointwise", 1, 64),
    ("depthwise", 2, 64),
    ("pointwise", 1, 128),
    ("depthwise", 1, 128),
    ("pointwise", 1, 128),
    ("depthwise", 2, 128),
    ("pointwise", 1, 256),
    ("depthwise", 1, 256),
    ("pointwise", 1, 256),
    ("depthwise", 2, 256),
    ("pointwise", 1, 512),
    *(("depthwise", 1, 512), ("pointwise", 1, 512)) * 5,
    ("depthwise", 2, 512),
    ("pointwise", 1, 1024),
    ("depthwise", 1, 1024),
    ("pointwise", 1, 1024),
)
MIN_CHANNELS = 8  # TF-slim's min_depth: no layer is narrowed below this
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class ConvLayer:
    """This is a convolution without bias, followed by batch normalization and ReLU6."""

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    stride: int

    @property
    def kernel(self) -> int:
        """Return the side of the square kernel in pixels."""
        return 1 if self.kind == "pointwise" else 3

    @property
    def groups(self) -> int:
        """Return the number of groups: one filter per channel for a depthwise layer."""
        return self.in_channels if self.kind == "depthwise" else 1

    @property
    def weights(self) -> int:
        """Return the number of kernel weights."""
        return self.kernel**2 * self.in_channels * self.out_channels // self.groups


def scaled_channels(filters: int, width: float) -> int:
    """Return ``max(int(filters * width), 8)``, as in TF-slim's mobilenet_v1.py."""
    return max(int(filters * width), MIN_CHANNELS)


def conv_layers(spec: ModelSpec) -> tuple[ConvLayer, ...]:
    """Return the 27 convolutional layers of Table 1 at the spec's width, from the image on."""

    def layers() -> Iterator[ConvLayer]:
        channels = 3
        for index, (kind, stride, filters) in enumerate(TABLE_1):
            out = channels if kind == "depthwise" else scaled_channels(filters, spec.width)
            yield ConvLayer(f"layers.{index}", kind, channels, out, stride)
            channels = out

    return tuple(layers())


def feature_channels(spec: ModelSpec) -> int:
    """Return the number of channels that reach the classifier."""
    return conv_layers(spec)[-1].out_channels


def feature_sizes(resolution: int) -> tuple[int, ...]:
    """Return the side in pixels of each layer's output; both paddings give ceil(side / stride)."""
    strides = (stride for _, stride, _ in TABLE_1)
    sizes = itertools.accumulate(strides, lambda side, s: math.ceil(side / s), initial=resolution)
    return tuple(sizes)[1:]


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint, by its name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in conv_layers(spec):
        shapes[f"{layer.name}.conv.weight"] = (
            layer.out_channels,
            layer.in_channels // layer.groups,
            layer.kernel,
            layer.kernel,
        )
        shapes |= {f"{layer.name}.bn.{part}": (layer.out_channels,) for part in NORM_PARTS}
    shapes["classifier.weight"] = (spec.classes, feature_channels(spec))
    shapes["classifier.bias"] = (spec.classes,)
    return shapes


def layer_multiply_adds(spec: ModelSpec, resolution: int) -> dict[str, int]:
    """Count the multiply-adds of one image by layer; their sums are those of tables 6 and 7."""
    pairs = zip(conv_layers(spec), feature_sizes(resolution), strict=True)
    found = {layer.name: layer.weights * side**2 for layer, side in pairs}
    return found | {"classifier": feature_channels(spec) * spec.classes}
