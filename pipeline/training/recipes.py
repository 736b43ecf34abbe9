"""Networks are trained by recipes, one row each."""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mobilenet_cli.pipeline.errors import OptionError

# The domain of each number: smallest and largest.
LIMITS: dict[str, tuple[float, float]] = {
    "epochs": (0.001, math.inf),
    "batch": (2, math.inf),  # BatchNorm needs two images
    "views": (1, math.inf),
    "accumulate": (1, math.inf),
    "learning_rate": (0, math.inf),
    "layer_rate": (0, 1),
    "weight_decay": (0, math.inf),
    "warmup": (0, math.inf),
    "drop_every": (0, math.inf),
    "label_smoothing": (0, 0.99),
    "crop": (0.1, 1),
    "area": (0.01, 1),
    "shift": (0, 1),
    "zoom": (0, 0.9),
    "rotation": (0, 180),
    "magnitude": (0, 10),
    "mixup": (0, math.inf),
    "cutmix": (0, math.inf),
    "erase": (0, 1),
    "ema": (0, 0.999999),
    "freeze_norms": (0, 1),
    "teacher_share": (0, 1),
    "temperature": (0.1, 100),
}
# The domain of each name.
CHOICES: dict[str, tuple[str, ...]] = {"optimizer": ("adamw", "sgd", "rmsprop")}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe has the hyperparameters of one way to train.

    Attributes:
        epochs: passes over the training images; the last may be a part of one.
        batch: images a step.
        views: copies of each image that a step takes, every other one reflected, each augmented by
            itself: more work, and a better gradient (arXiv:1901.09335).
        accumulate: parts of a batch that are computed one after another, to save memory; each has
            its own BatchNorm statistics.
        optimizer: ``adamw``, ``sgd`` (Nesterov momentum 0.9), or ``rmsprop`` (decay 0.9, momentum
            0.9, epsilon 1).
        learning_rate: the peak, reached after ``warmup`` epochs.
        layer_rate: learning rate of each layer, as a fraction of the next one's (arXiv:1801.06146,
            section 3.2); the classifier has ``learning_rate``.
        weight_decay: on dense kernels only; decoupled with ``adamw``. Decaying a depthwise filter
            of nine weights only weakens it (arXiv:1704.04861, section 3.1), and a decayed BatchNorm
            scale dies, which costs int8 its range.
        warmup: epochs of linear warm-up; at most half of all.
        drop_every: divide the rate by ten every so many epochs; 0: it falls to 0 along a half
            cosine.
        label_smoothing: fraction of the target for all classes (arXiv:1512.00567, section 7).
        crop: fraction of the resized image's side that the network sees in evaluation.
        area: smallest fraction of the image that a random-resized crop takes (arXiv:1409.4842,
            section 6); 1 takes evaluation's square instead.
        shift: largest random translation, as a fraction of the image's side.
        zoom: largest random change of size, as a fraction.
        rotation: largest random rotation in degrees.
        magnitude: of RandAugment's two operations (arXiv:1909.13719), 0 to 10; 0 for none. Of a
            detector, of changes of brightness, contrast and colour.
        mixup: alpha of mixup (arXiv:1710.09412), 0 for none.
        cutmix: alpha of cutmix (arXiv:1905.04899), 0 for none.
        erase: probability of random erasing (arXiv:1708.04896).
        ema: decay, a step, of the moving average of the weights that is kept instead of the
            weights; 0 for none.
        freeze_norms: 1 keeps the statistics of BatchNorms as they are, for small batches.
        teacher_share: fraction of the loss that is the teacher's, with ``--teacher``.
        temperature: that softens both opinions then (arXiv:1503.02531, section 2).
        pretrained: it starts from weights that are given, and cannot start from random ones.
        source: where its values come from.
        expected: top-1 on ImageNet or what else it reaches, and where that is said.
        note: what it is for.

    Raises:
        OptionError: a value is outside its domain.
    """

    epochs: float
    batch: int
    views: int = 1
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float
    layer_rate: float = 1.0
    weight_decay: float
    warmup: float = 0.0
    drop_every: int = 0
    label_smoothing: float = 0.0
    crop: float = 0.875
    area: float = 1.0
    shift: float = 0.0
    zoom: float = 0.0
    rotation: float = 0.0
    magnitude: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erase: float = 0.0
    ema: float = 0.0
    freeze_norms: int = 0
    teacher_share: float = 0.5
    temperature: float = 2.0
    pretrained: bool = False
    source: str
    expected: str
    note: str

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                upper = f" to {high:g}" if math.isfinite(high) else " or more"
                raise OptionError(f"{name} {value:g} makes no sense", f"Use {low:g}{upper}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise OptionError(
                    f"unknown {name} '{getattr(self, name)}'", f"Use one of {', '.join(choices)}"
                )


RECIPES: dict[str, Recipe] = {
    "quick": Recipe(
        epochs=24,
        batch=32,
        learning_rate=3e-3,
        weight_decay=0.05,
        warmup=2,
        shift=0.06,
        zoom=0.15,
        rotation=12,
        source="our own search on the digits",
        expected="98 to 99 % of the held-out digits",
        note="small images in a minute or two on a CPU",
    ),
    "finetune": Recipe(
        epochs=5,
        batch=32,
        views=2,
        learning_rate=2e-3,
        layer_rate=0.92,
        weight_decay=0.01,
        warmup=0.2,
        label_smoothing=0.1,
        crop=1.0,
        ema=0.998,
        pretrained=True,
        source="our own; see docs/training.md",
        expected="88 % of CIFAR-10 after one epoch at 96 pixels, width 0.75",
        note="pretrained weights to one's own classes, with --init",
    ),
    "detect": Recipe(
        epochs=40,
        batch=16,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup=1,
        crop=1.0,
        zoom=0.5,
        magnitude=3,
        ema=0.99,
        source="our own; loss and matching of SSD, arXiv:1512.02325; see docs/detection.md",
        expected="AP50 of 80 % on the 87 held-out images of BCCD, in 20 epochs; docs/detection.md",
        note="a detector, from ImageNet weights with --init or from nothing",
    ),
    "qat": Recipe(
        epochs=0.1,
        batch=32,
        learning_rate=2e-5,
        weight_decay=0.0,
        warmup=0.01,
        shift=0.04,
        ema=0.99,
        freeze_norms=1,
        pretrained=True,
        source="our own; see docs/training.md",
        expected="the accuracy of the checkpoint, in integers",
        note="with --qat: a checkpoint learns to be quantized; its BatchNorms are folded",
    ),
    "paper": Recipe(
        epochs=90,
        batch=256,
        optimizer="rmsprop",
        learning_rate=0.1,
        weight_decay=4e-5,
        drop_every=30,
        area=0.05,
        source="arXiv:1704.04861, section 3.1; rate and its drops as in Zehaos/MobileNet",
        expected="70.6 % of ImageNet (the paper's Table 8), 66.5 % by Zehaos/MobileNet",
        note="as the network was published",
    ),
    "sgd": Recipe(
        epochs=200,
        batch=1024,
        optimizer="sgd",
        learning_rate=0.4,
        weight_decay=1e-4,
        warmup=5,
        label_smoothing=0.1,
        area=0.08,
        mixup=0.2,
        source="GluonCV's train_imagenet.py for mobilenet1.0",
        expected="73.3 % of ImageNet (GluonCV's model zoo)",
        note="large batches; set batch and learning_rate in proportion",
    ),
    "long": Recipe(
        epochs=600,
        batch=1024,
        learning_rate=2e-3,
        weight_decay=0.02,
        warmup=5,
        label_smoothing=0.1,
        area=0.08,
        magnitude=9,
        mixup=0.5,
        cutmix=1.0,
        erase=0.25,
        ema=0.9998,
        source="in the manner of timm's mobilenetv1_100.ra4_e3600_r224_in1k",
        expected="75.4 % of ImageNet by timm in 3600 epochs; not run by us",
        note="the best accuracy, for those with time",
    ),
}


# What other programs call the values of a recipe.
ALIASES = {
    "lr": "learning_rate",
    "bs": "batch",
    "batch_size": "batch",
    "wd": "weight_decay",
    "smoothing": "label_smoothing",
    "warmup_epochs": "warmup",
    "opt": "optimizer",
}


def _meant(name: str, text: str) -> str:
    """Say which value of a recipe somebody meant, or list them all."""
    known = (*CHOICES, *LIMITS)
    plain = name.strip("-").replace("-", "_").lower()
    near = ALIASES.get(plain) or next(iter(difflib.get_close_matches(plain, known, 1)), None)
    return f"Write {near}={text}" if near else f"Write name=value with one of {', '.join(known)}"


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Replace values of a recipe, each change written ``name=value``.

    Raises:
        OptionError: no such name, not a number, or outside its domain.
    """
    values: dict[str, float | str] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name in CHOICES:
            values[name] = text
            continue
        if name not in LIMITS:
            raise OptionError(f"'{change}' changes no value of a recipe", _meant(name, text))
        whole = Recipe.__dataclass_fields__[name].type is int
        try:
            value = int(text) if whole else float(text)
            # Whole numbers of epochs are recorded as such.
            values[name] = int(value) if name == "epochs" and value % 1 == 0 else value
        except ValueError as error:
            kind = "a whole number" if whole else "a number"
            raise OptionError(f"'{change}' does not give {kind}", f"Write {name}=value") from error
    return dataclasses.replace(recipe, **values)  # type: ignore[arg-type]  # each has its field's type
