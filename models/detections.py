"""A detector's boxes overlap; of those that mean the same object, the most probable one is kept.

This is the reference: NumPy, float32, in the order of operations of ONNX's NonMaxSuppression as
ONNX Runtime has it (core/providers/cpu/object_detection/non_max_suppression_helper.h), so that a
graph with that operator gives the same boxes, ties and boxes without area included.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.pipeline.errors import OptionError

SHOWN = 0.5  # the least probability of a box that people are shown, unless they name one
MAX_DETECTIONS = 100  # of an image, as COCO's evaluation takes


@dataclass(frozen=True, kw_only=True)
class NmsConfig:
    """These are the settings of non-maximum suppression.

    Attributes:
        min_score: a box is kept if its probability is above this; by default far below what anybody
            is shown, so that all of the curve of precision is there.
        max_overlap: of two boxes of one class whose intersection over union is above this, the
            less probable one is dropped.
        max_detections: boxes of an image, the most probable ones.
    """

    min_score: float = 0.02
    max_overlap: float = 0.5
    max_detections: int = MAX_DETECTIONS

    def __post_init__(self) -> None:
        if not (0 <= self.min_score < 1 and 0 < self.max_overlap <= 1):
            raise OptionError(
                f"boxes above a probability of {self.min_score:g} and an overlap of "
                f"{self.max_overlap:g} cannot be chosen",
                "Give a probability from 0 to 1 and an overlap above 0, up to 1",
            )
        if self.max_detections < 1:
            raise OptionError(
                f"{self.max_detections} boxes of an image are none", "Give a number of at least 1"
            )


def shown_boxes(spec: BoxSpec | None, min_score: float | None) -> NmsConfig:
    """Return how the boxes that people are shown are chosen.

    Args:
        spec: says which overlap the detector was made for; None for a classifier (no boxes).
        min_score: the least probability; None takes ``SHOWN``.
    """
    least = SHOWN if min_score is None else min_score
    return NmsConfig(min_score=least, max_overlap=spec.max_overlap if spec else 0.5)


@dataclass(frozen=True)
class Detections:
    """These are the boxes of one image, the most probable first.

    Attributes:
        boxes: float32 [n, 4], left, top, right, bottom.
        scores: float32 [n], probabilities.
        classes: int64 [n], indices of the detector's classes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.scores)


def overlaps(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of a box [4] with others [n, 4]: 0 without area.

    The corners of a box may come in any order.
    """
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    lows = np.minimum(others[:, :2], others[:, 2:])
    highs = np.maximum(others[:, :2], others[:, 2:])
    sides = np.minimum(high, highs) - np.maximum(low, lows)
    common = sides[:, 0] * sides[:, 1]
    area, areas = (high - low).prod(), (highs - lows).prod(1)
    union = area + areas - common
    real = (sides > 0).all(1) & (common > 0) & (area > 0) & (areas > 0) & (union > 0)
    found: NDArray[np.float32] = np.divide(common, union, np.zeros_like(common), where=real)
    return found


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], config: NmsConfig
) -> NDArray[np.intp]:
    """Choose boxes of one class: the most probable first, of equal ones the first.

    Args:
        boxes: [A, 4].
        scores: [A].
        config: how many, and what may overlap.

    Returns:
        The indices of those that are kept; none has a coordinate or a score that is not finite.
    """
    usable = np.isfinite(boxes).all(1) & (scores > np.float32(config.min_score))
    left = np.flatnonzero(usable)
    left = left[np.argsort(-scores[left], kind="stable")]
    limit = np.float32(config.max_overlap)
    chosen: list[int] = []
    with np.errstate(over="ignore", invalid="ignore"):  # of sizes beyond float32: they are no area
        while len(left) and len(chosen) < config.max_detections:
            chosen.append(int(left[0]))
            left = left[1:][~(overlaps(boxes[left[0]], boxes[left[1:]]) > limit)]
    return np.array(chosen, np.intp)


def choose(
    boxes: NDArray[np.float32], probabilities: NDArray[np.float32], config: NmsConfig
) -> Detections:
    """Suppress overlapping boxes of each class, and keep the most probable of all that are left.

    Args:
        boxes: [A, 4].
        probabilities: [A, classes].
        config: how many, and what may overlap.
    """
    kept = [suppress(boxes, scores, config) for scores in probabilities.T]
    classes = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
    anchors = np.concatenate(kept)
    order = np.lexsort((anchors, classes, -probabilities[anchors, classes]))
    order = order[: config.max_detections]
    anchors, classes = anchors[order], classes[order]
    return Detections(boxes[anchors], probabilities[anchors, classes], classes)


def detect(
    boxes: NDArray[np.float32],
    logits: NDArray[np.float32],
    spec: BoxSpec,
    size: tuple[int, int],
    config: NmsConfig,
) -> Detections:
    """Return what raw outputs say about one image.

    Args:
        boxes: raw [A, 4].
        logits: raw [A, C].
        spec: what they mean.
        size: width and height of the image, in whose pixels the boxes are.
        config: which boxes to keep.
    """
    scale = np.array([*size, *size], np.float32)
    corners = np.clip(spec.decode(boxes), np.float32(0), np.float32(1))
    return choose(corners * scale, spec.probabilities(logits), config)


def matches(first: Detections, second: Detections, overlap: float = 0.5) -> NDArray[np.int64]:
    """Return for each box of ``first`` the index of that of ``second`` which means the same, or -1.

    They are of one class and overlap enough. Each box of ``first``, the most probable one first,
    takes the box of ``second`` that it overlaps most of those that are left.
    """
    free = np.ones(len(second), bool)
    found = np.full(len(first), -1)
    for place, (box, label) in enumerate(zip(first.boxes, first.classes, strict=True)):
        near = np.where(free & (second.classes == label), overlaps(box, second.boxes), 0.0)
        if len(near) and near.max() >= overlap:
            found[place] = near.argmax()
            free[found[place]] = False
    return found


def common(first: Detections, second: Detections, overlap: float = 0.5) -> int:
    """Count the boxes that two detectors both find, as ``matches`` tells."""
    return int((matches(first, second, overlap) >= 0).sum())
