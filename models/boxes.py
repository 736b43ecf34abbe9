"""The raw outputs of a detector become boxes by its anchors, which are data.

A detector looks at its image on a few maps. At each position of a map it has a few anchors, boxes
of fixed sizes, and says of each by how much the box of an object is off, and what the object is.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.errors import OptionError

CORNERS = 4  # numbers of a box
KEPT_RAW = ("raw_boxes", "raw_scores")  # what a graph calls raw outputs beside its final boxes
Scores = Literal["softmax", "sigmoid"]
# Of the logarithm of a size beside its anchor's: larger is a box of a thousand images' width, and
# exp would overflow float32 (torchvision's BoxCoder has the same bound, log(1000 / 16)).
LARGEST_EXPONENT = float(np.log(1000 / 16))


@dataclass(frozen=True, kw_only=True)
class AnchorMap:
    """An anchor map has the same anchors at each of its positions.

    Attributes:
        side: positions in a row, and rows.
        step: distance of two positions, of which the first is half a step from the edge; as all
            lengths here, a fraction of the image's side.
        sizes: width and height of each anchor.
    """

    side: int
    step: float
    sizes: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if self.side < 1 or not self.sizes or min(self.step, *itertools.chain(*self.sizes)) <= 0:
            raise OptionError(
                f"{self.side} positions a row with {len(self.sizes)} anchors each have no boxes",
                "Give at least one position, and anchors of positive width and height",
            )


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """A box spec says how a detector's raw outputs become boxes, classes and probabilities.

    The outputs of an anchor are ``(tx, ty, tw, th)``, which stand for a box with the centre
    ``ax + center_variance * tx * aw`` and the width ``aw * exp(size_variance * tw)``; likewise in
    the other direction (Liu et al., SSD, arXiv:1512.02325, section 2.2; its program's variances).

    Attributes:
        anchors: the maps, in the order of the outputs: of a map row by row, then its columns, then
            the anchors of a position.
        center_variance: a factor of the outputs for the centre.
        size_variance: a factor of the outputs for the size.
        scores: what makes probabilities of an anchor's logits.
        columns: the logit of each class; the others, such as of background, are no class's.
        max_overlap: of two boxes of one class whose intersection over union is above this, the less
            probable one is dropped, unless somebody says otherwise.
    """

    anchors: tuple[AnchorMap, ...]
    center_variance: float = 0.1
    size_variance: float = 0.2
    scores: Scores = "softmax"
    columns: tuple[int, ...]
    max_overlap: float = 0.5

    @property
    def count(self) -> int:
        """Return the number of anchors."""
        return sum(m.side**2 * len(m.sizes) for m in self.anchors)

    def anchor_boxes(self) -> NDArray[np.float32]:
        """Return the anchors [A, 4] as centre x, centre y, width, height: fractions of the side."""
        return np.concatenate([_boxes_of(m) for m in self.anchors]).astype(np.float32)

    def anchor_corners(self) -> NDArray[np.float32]:
        """Return the anchors [A, 4] as left, top, right, bottom: fractions of the side."""
        return self.decode(np.zeros((self.count, 4), np.float32))

    def decode(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the boxes [..., A, 4] of raw outputs: left, top, right, bottom, not clipped."""
        anchors = self.anchor_boxes()
        centers = (
            anchors[:, :2] + np.float32(self.center_variance) * outputs[..., :2] * anchors[:, 2:]
        )
        grown = np.minimum(np.float32(self.size_variance) * outputs[..., 2:], LARGEST_EXPONENT)
        halves = anchors[:, 2:] * np.exp(grown) / np.float32(2)
        return np.concatenate([centers - halves, centers + halves], axis=-1).astype(np.float32)

    def encode(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the raw outputs [A, 4] that stand for a box [A, 4] at each anchor."""
        anchors = self.anchor_boxes()
        centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        moved = (centers - anchors[:, :2]) / anchors[:, 2:] / np.float32(self.center_variance)
        grown = np.log(sizes / anchors[:, 2:]) / np.float32(self.size_variance)
        return np.concatenate([moved, grown], axis=1).astype(np.float32)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of each class [..., A, classes] from all logits [..., A, C]."""
        if self.scores == "sigmoid":
            with np.errstate(over="ignore"):  # to 0, as it should
                shares = 1 / (1 + np.exp(-logits[..., list(self.columns)]))
            return shares.astype(np.float32)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return np.ascontiguousarray(shares[..., list(self.columns)])


def _boxes_of(anchors: AnchorMap) -> NDArray[np.float64]:
    """Return the anchors of one map [side * side * anchors, 4]."""
    middles = (np.arange(anchors.side) + 0.5) * anchors.step
    y, x, size = np.meshgrid(middles, middles, np.arange(len(anchors.sizes)), indexing="ij")
    widths, heights = np.array(anchors.sizes, np.float64).T
    boxes: NDArray[np.float64]
    boxes = np.stack([part.ravel() for part in (x, y, widths[size], heights[size])], axis=-1)
    return boxes
