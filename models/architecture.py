"""This is what the pipeline asks of an architecture, so that one is added in one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import OptionError

if TYPE_CHECKING:
    from mobilenet_cli.models.classifier_torch import Classifier

STATISTICS = ("running_mean", "running_var")  # of BatchNorm, which are stored but not trained


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture is a family of networks, told apart by the values of a ``ModelSpec``.

    Attributes:
        title: what people call it.
        build: makes the torch module of a spec, with random weights; imports torch.
        tensor_shapes: the shape of every tensor of a checkpoint, by its name in the module.
        layer_multiply_adds: multiply-adds of one image by layer, as the module names its layers,
            given the side of the image in pixels.
        last_side: the side in pixels of the map that is pooled, given the side of the image.
        smallest_side: the smallest side in pixels of an image whose last map is not empty.
    """

    title: str
    build: Callable[[ModelSpec], "Classifier"]
    tensor_shapes: Callable[[ModelSpec], Mapping[str, tuple[int, ...]]]
    layer_multiply_adds: Callable[[ModelSpec, int], Mapping[str, int]]
    last_side: Callable[[int], int]
    smallest_side: int

    def parameters(self, spec: ModelSpec) -> int:
        """Count the trainable parameters of a network."""
        shapes = self.tensor_shapes(spec).items()
        return sum(prod(shape) for name, shape in shapes if not name.endswith(STATISTICS))

    def multiply_adds(self, spec: ModelSpec, resolution: int) -> int:
        """Count the multiply-adds of one image through convolutions and classifier."""
        return sum(self.layer_multiply_adds(spec, resolution).values())

    def check_resolution(self, resolution: int) -> None:
        """Refuse images that are too small.

        Raises:
            OptionError: the strides of the network would leave no pixel.
        """
        if resolution < self.smallest_side:
            raise OptionError(
                f"resolution {resolution} is too small for {self.title}, whose strides leave no "
                "pixel of it",
                f"Use at least {self.smallest_side}",
            )
