"""This is what the pipeline asks of an architecture, so that one is added in one place."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from mobilenet_cli.models.boxes import AnchorMap
from mobilenet_cli.models.conv_layers import ConvLayer, Head, feature_sizes
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import OptionError

if TYPE_CHECKING:
    from mobilenet_cli.models.classifier_torch import Classifier
    from mobilenet_cli.models.detector_torch import Detector

    Network = Classifier | Detector

Task = Literal["classification", "detection"]
STATISTICS = ("running_mean", "running_var")  # of BatchNorm, which are stored but not trained


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture is a family of networks, told apart by the values of a ``ModelSpec``.

    Attributes:
        title: what people call it.
        layers: the convolutional layers of a spec, in the order of computation. In a classifier,
            global average pooling and a fully connected layer follow.
        heads: what makes the outputs of a detector, in pairs: boxes, scores; None of a classifier.
        anchors: of a detector, for images of so many pixels a side; none of a classifier.
        side_step: sides of images in pixels are multiples of this.
        backbone: the architecture whose weights a detector can start from; empty of a classifier.
        build: makes the torch module of a spec, with random weights; imports torch.
        width_layer: the layer whose number of channels tells the width multiplier best.
        smallest_side: the smallest side in pixels of an image whose last map is not empty.
    """

    title: str
    layers: Callable[[ModelSpec], tuple[ConvLayer, ...]]
    build: Callable[[ModelSpec], "Network"]
    width_layer: str
    smallest_side: int
    heads: Callable[[ModelSpec], tuple[Head, ...]] | None = None
    anchors: Callable[[int], tuple[AnchorMap, ...]] = lambda _: ()
    side_step: int = 1
    backbone: str = ""

    @property
    def task(self) -> Task:
        """Return what its networks are for."""
        return "detection" if self.heads else "classification"

    @property
    def class_layer(self) -> tuple[str, int]:
        """Return the name of a layer that scores every class, and how often it scores each."""
        if self.heads is None:
            return "classifier", 1
        scores = self.heads(ModelSpec(classes=1))[1]
        return scores.name, scores.out_channels

    def features(self, spec: ModelSpec) -> int:
        """Return the number of channels that reach the classifier."""
        return self.layers(spec)[-1].out_channels

    def last_side(self, resolution: int) -> int:
        """Return the side in pixels of the smallest map, which a classifier pools.

        Args:
            resolution: the side of the image in pixels.
        """
        return min(feature_sizes(self.layers(ModelSpec()), resolution))

    def tensor_shapes(self, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of a checkpoint, by its name in the module."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers(spec):
            shapes |= layer.tensor_shapes()
        if self.heads:
            return shapes | {k: v for h in self.heads(spec) for k, v in h.tensor_shapes().items()}
        shapes["classifier.weight"] = (spec.classes, self.features(spec))
        shapes["classifier.bias"] = (spec.classes,)
        return shapes

    def layer_multiply_adds(self, spec: ModelSpec, resolution: int) -> dict[str, int]:
        """Count the multiply-adds of one image by layer, as the module names its layers."""
        layers = self.layers(spec)
        sides = dict(
            zip((at.name for at in layers), feature_sizes(layers, resolution), strict=True)
        )
        found = {layer.name: layer.weights * sides[layer.name] ** 2 for layer in layers}
        if self.heads:
            return found | {
                h.name: h.in_channels * h.out_channels * sides[h.source] ** 2
                for h in self.heads(spec)
            }
        return found | {"classifier": self.features(spec) * spec.classes}

    def parameters(self, spec: ModelSpec) -> int:
        """Count the trainable parameters of a network."""
        shapes = self.tensor_shapes(spec).items()
        return sum(prod(shape) for name, shape in shapes if not name.endswith(STATISTICS))

    def multiply_adds(self, spec: ModelSpec, resolution: int) -> int:
        """Count the multiply-adds of one image through convolutions and classifier."""
        return sum(self.layer_multiply_adds(spec, resolution).values())

    def check_resolution(self, resolution: int) -> None:
        """Refuse images that are too small, or of sides that do not fit.

        Raises:
            OptionError: the strides of the network would leave no pixel, or maps would not meet.
        """
        if resolution < self.smallest_side:
            raise OptionError(
                f"resolution {resolution} is too small for {self.title}, whose strides leave no "
                "pixel of it",
                f"Use at least {self.smallest_side}",
            )
        if resolution % self.side_step:
            raise OptionError(
                f"resolution {resolution} does not fit {self.title}, each of whose maps has half "
                "the sides of the one before",
                f"Use a multiple of {self.side_step}",
            )
