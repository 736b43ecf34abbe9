"""How networks are trained: one row a recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one way to train.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: the peak, reached after ``warmup`` epochs; falls to 0 along a half cosine.
        weight_decay: decoupled (AdamW), on dense kernels only. Decaying a depthwise filter of nine
            weights only weakens it (arXiv:1704.04861, section 3.1), and a decayed BatchNorm scale
            dies, which costs int8 its range.
        warmup: epochs of linear warm-up.
        label_smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7).
        shift: largest random translation, as a share of the image's side.
        zoom: largest random change of size, as a share.
        rotation: largest random rotation in degrees.
        note: what it is for.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    shift: float
    zoom: float
    rotation: float
    note: str


RECIPES: dict[str, Recipe] = {
    "quick": Recipe(
        epochs=24,
        batch=32,
        learning_rate=3e-3,
        weight_decay=0.05,
        warmup=2,
        label_smoothing=0.0,
        shift=0.06,
        zoom=0.15,
        rotation=12,
        note="small images in a minute or two on a CPU",
    ),
}
