"""A spec says what a network is, apart from its weights and its input."""

import math
from dataclasses import dataclass
from typing import Literal

from mobilenet_cli.pipeline.errors import OptionError

Padding = Literal["symmetric", "same"]
Activation = Literal["relu6", "relu"]


WIDEST = 100  # far beyond what anybody trains, and near enough for arithmetic to hold


def check_width(width: float) -> None:
    """Raise OptionError unless ``width`` is a positive number, and at most ``WIDEST``."""
    if not 0 < width <= WIDEST:
        raise OptionError(
            f"width multiplier {width:g} is not a positive number up to {WIDEST}",
            "Pass --width with a value such as 1.0, 0.75, 0.5 or 0.25",
        )


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A spec describes one member of an architecture's family.

    Attributes:
        architecture: a key of ``models.MODELS``.
        width: the width multiplier (alpha in arXiv:1704.04861, section 3.3); any positive number.
        classes: number of outputs of the classifier; of a detector, at each anchor.
        padding: ``symmetric`` pads one pixel on every side of a 3x3 window; ``same`` is
            TensorFlow's rule, which pads bottom and right first and depends on the input size.
        bn_epsilon: added to the variance in every batch normalization.
        activation: after every batch normalization; ``relu`` only in some foreign checkpoints.

    Raises:
        OptionError: a value is outside its domain.
    """

    architecture: str = "mobilenet_v1"
    width: float = 1.0
    classes: int = 1000
    padding: Padding = "symmetric"
    bn_epsilon: float = 1e-3
    activation: Activation = "relu6"

    def __post_init__(self) -> None:
        check_width(self.width)
        if self.classes < 1:
            raise OptionError(
                f"a classifier cannot have {self.classes} classes", "Pass at least one class"
            )
        if self.padding not in ("symmetric", "same"):
            raise OptionError(
                f"unknown padding '{self.padding}'", "Use 'symmetric' or 'same' (TensorFlow's rule)"
            )
        if not (math.isfinite(self.bn_epsilon) and self.bn_epsilon > 0):
            raise OptionError(
                f"batch normalization epsilon {self.bn_epsilon} is not a positive number",
                "Use 1e-3 (TensorFlow) or 1e-5 (PyTorch)",
            )
        if self.activation not in ("relu6", "relu"):
            raise OptionError(
                f"unknown activation '{self.activation}'", "Use 'relu6', as the paper, or 'relu'"
            )
