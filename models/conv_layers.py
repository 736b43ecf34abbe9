"""The convolutional layers of a network are data, from which its sizes and arithmetic follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["conv", "depthwise", "pointwise"]
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class ConvLayer:
    """This is a convolution without bias, followed by batch normalization.

    Attributes:
        name: what the torch module calls it.
        kind: ``conv`` and ``depthwise`` have windows of 3x3, ``pointwise`` of 1x1.
        in_channels: the number of channels that it reads.
        out_channels: the number of channels that it makes.
        stride: in pixels, of both axes.
        linear: True if no activation follows (arXiv:1801.04381, section 3.2).
        source: name of the layer whose map it reads; empty for the one before it.
    """

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    stride: int
    linear: bool = False
    source: str = ""

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

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of its tensors in a checkpoint, by its name."""
        kernel = (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)
        norm = {f"{self.name}.bn.{part}": (self.out_channels,) for part in NORM_PARTS}
        return {f"{self.name}.conv.weight": kernel, **norm}


@dataclass(frozen=True)
class Head:
    """This is a convolution of 1x1 with a bias, which makes outputs of the network.

    Attributes:
        name: what the torch module calls it.
        in_channels: the number of channels that it reads.
        out_channels: the number of outputs at each position of its map.
        source: name of the layer whose map it reads.
    """

    name: str
    in_channels: int
    out_channels: int
    source: str

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of its tensors in a checkpoint, by its name."""
        kernel = (self.out_channels, self.in_channels, 1, 1)
        return {f"{self.name}.weight": kernel, f"{self.name}.bias": (self.out_channels,)}


def feature_sizes(layers: Sequence[ConvLayer], resolution: int) -> tuple[int, ...]:
    """Return the side in pixels of each layer's output; both paddings give ceil(side / stride)."""
    sides: dict[str, int] = {}
    before = resolution
    for layer in layers:
        before = sides[layer.name] = math.ceil(sides.get(layer.source, before) / layer.stride)
    return tuple(sides.values())
