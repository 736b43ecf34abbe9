"""A detector learns from the anchors that objects match.

After Liu et al., SSD, arXiv:1512.02325, section 2.2:

``L = (L_conf + L_loc) / N`` with ``N`` matched anchors: cross entropy over matched anchors and the
hardest of the others, three to each matched one, and smooth L1 of the offsets of matched anchors.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.models.boxes import CORNERS, BoxSpec

if TYPE_CHECKING:
    import torch

MATCH = 0.5  # intersection over union from which an anchor matches an object
NEGATIVES = 3  # to each matched anchor
FEWEST_NEGATIVES = 6  # of an image, so that images without objects teach, too
NEITHER = -1  # the class of an anchor that counts neither way


def match(
    spec: BoxSpec,
    corners: NDArray[np.float32],
    classes: NDArray[np.int64],
    ignored: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Say what each anchor should find in one image.

    An anchor matches the object that it overlaps most, if by ``MATCH`` or more; and each object has
    the anchor that overlaps it most, in any case.

    Args:
        spec: has the anchors.
        corners: the objects [n, 4], fractions of the image.
        classes: of each, from 0.
        ignored: objects that count neither way.

    Returns:
        float32 [A, 5]: the column of the class, 0 for background, ``NEITHER`` where it overlaps an
        ignored object; and the offsets that the anchor should give.
    """
    target = np.zeros((spec.count, 1 + CORNERS), np.float32)
    if not len(corners):
        return target
    overlap = pairwise_overlaps(spec.anchor_corners(), corners)
    best = overlap.argmax(1)
    matched = overlap[np.arange(len(best)), best] >= MATCH
    own = overlap.argmax(0)
    # The best anchor of two objects goes to the one that it overlaps more.
    order = np.argsort(overlap[own, np.arange(len(own))])
    best[own[order]], matched[own[order]] = order, True
    columns = np.where(ignored, NEITHER, np.array(spec.columns)[classes])
    target[matched, 0] = columns[best[matched]]
    target[:, 1:] = spec.encode(corners[best])
    return target


def pairwise_overlaps(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the intersection over union of boxes [n, 4] and boxes [m, 4]: [n, m]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    found: NDArray[np.float32] = common / (areas[0][:, None] + areas[1][None] - common)
    return found


def multibox_loss(
    boxes: "torch.Tensor", scores: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """Compute the loss of raw boxes [n, A, 4] and scores [n, A, C] for targets [n, A, 5]."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    classes = targets[..., 0].long()
    positive = classes > 0
    entropy = F.cross_entropy(scores.transpose(1, 2), classes.clamp(min=0), reduction="none")
    others = entropy.detach().masked_fill(classes != 0, -torch.inf)
    wanted = (NEGATIVES * positive.sum(1)).clamp(min=FEWEST_NEGATIVES)
    order = others.argsort(dim=1, descending=True, stable=True)
    place = order.argsort(dim=1, stable=True)
    hard = (place < wanted[:, None]) & (classes == 0)
    count = positive.sum().clamp(min=1)
    confidence = entropy[positive | hard].sum()
    offsets = F.smooth_l1_loss(boxes[positive], targets[positive][:, 1:], reduction="sum")
    loss: torch.Tensor = (confidence + offsets) / count
    return loss


def matched_share(scores: "torch.Tensor", targets: "torch.Tensor") -> float:
    """Return the share of anchors on objects whose class has the largest score; 1 of none."""
    positive = targets[..., 0] > 0
    right = scores.argmax(2)[positive] == targets[..., 0][positive].long()
    return float(right.float().mean()) if len(right) else 1.0
