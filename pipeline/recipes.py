"""How networks are trained: one row a recipe."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mobilenet_cli.pipeline.errors import OptionError

# The domain of each value: smallest and largest.
LIMITS: dict[str, tuple[float, float]] = {
    "epochs": (1, math.inf),
    "batch": (2, math.inf),  # BatchNorm needs two images
    "learning_rate": (0, math.inf),
    "body_rate": (0, 1),
    "weight_decay": (0, math.inf),
    "warmup": (0, math.inf),
    "label_smoothing": (0, 0.99),
    "shift": (0, 1),
    "zoom": (0, 0.9),
    "rotation": (0, 180),
}


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one way to train.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: the peak, reached after ``warmup`` epochs; falls to 0 along a half cosine.
        body_rate: learning rate of all but the classifier, as a share of the classifier's.
        weight_decay: decoupled (AdamW), on dense kernels only. Decaying a depthwise filter of nine
            weights only weakens it (arXiv:1704.04861, section 3.1), and a decayed BatchNorm scale
            dies, which costs int8 its range.
        warmup: epochs of linear warm-up; at most half of all.
        label_smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7).
        shift: largest random translation, as a share of the image's side.
        zoom: largest random change of size, as a share.
        rotation: largest random rotation in degrees.
        pretrained: it starts from weights that are given, and cannot start from random ones.
        source: where its values come from.
        note: what it is for, and what it reaches.

    Raises:
        OptionError: a value is outside its domain.
    """

    epochs: int
    batch: int
    learning_rate: float
    body_rate: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    shift: float
    zoom: float
    rotation: float
    pretrained: bool
    source: str
    note: str

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                upper = f" to {high:g}" if math.isfinite(high) else " or more"
                raise OptionError(f"{name} {value:g} makes no sense", f"Use {low:g}{upper}")


RECIPES: dict[str, Recipe] = {
    "quick": Recipe(
        epochs=24,
        batch=32,
        learning_rate=3e-3,
        body_rate=1.0,
        weight_decay=0.05,
        warmup=2,
        label_smoothing=0.0,
        shift=0.06,
        zoom=0.15,
        rotation=12,
        pretrained=False,
        source="our own search on the digits",
        note="small images in a minute or two on a CPU",
    ),
    "finetune": Recipe(
        epochs=5,
        batch=64,
        learning_rate=2e-3,
        body_rate=0.3,
        weight_decay=0.01,
        warmup=0.2,
        label_smoothing=0.05,
        shift=0.08,
        zoom=0.1,
        rotation=5,
        pretrained=True,
        source="our own; lower rates below the head as in arXiv:1801.06146, section 3.2",
        note="pretrained weights to one's own classes, with --init",
    ),
}


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with values replaced, each change written ``name=value``.

    Raises:
        OptionError: no such name, not a number, or outside its domain.
    """
    values: dict[str, float] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in LIMITS:
            raise OptionError(
                f"'{change}' changes no value of a recipe",
                f"Write name=value with one of {', '.join(LIMITS)}",
            )
        whole = isinstance(getattr(recipe, name), int)
        try:
            values[name] = int(text) if whole else float(text)
        except ValueError as error:
            kind = "a whole number" if whole else "a number"
            raise OptionError(f"'{change}' does not give {kind}", f"Write {name}=value") from error
    return dataclasses.replace(recipe, **values)  # type: ignore[arg-type]  # each has its field's type
