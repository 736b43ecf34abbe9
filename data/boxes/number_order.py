"""Formats write the four numbers of a box in different orders, and programs mix them up."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# What the four numbers of a box mean, and the matrix that makes left, top, right, bottom of them.
CORNERS = "left, top, right, bottom"
SIZES = "left, top, width, height"
CENTRES = "centre x, centre y, width, height"
ROWS_FIRST = "top, left, bottom, right"
ORDERS = {
    CORNERS: np.eye(4),
    SIZES: np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]),
    CENTRES: np.array([[1, 0, -0.5, 0], [0, 1, 0, -0.5], [1, 0, 0.5, 0], [0, 1, 0, 0.5]]),
    ROWS_FIRST: np.eye(4)[[1, 0, 3, 2]],
}
ENOUGH = 10  # boxes to tell from
WRONG = 0.2  # of the boxes; people who are careless with edges draw fewer so far outside
FAR = 0.1  # of the image's side
SLACK = 0.01  # of the image's side, and a pixel


def other_order(
    corners: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]], read: str
) -> str | None:
    """Return the order in which boxes are written that were read in another.

    That is so where many boxes reach far outside their images, or have their corners swapped, and
    read in the other order none would.

    Args:
        corners: [boxes, 4] left, top, right, bottom in pixels, as they were read.
        sizes: [boxes, 2] width and height of the image of each.
        read: the order in which they were read, one of ``ORDERS``.
    """
    if len(corners) < ENOUGH:
        return None
    boxes, sides = np.array(corners, float), np.array(sizes, float)
    if (~_inside(boxes, sides, FAR)).mean() < WRONG:
        return None
    numbers = boxes @ np.linalg.inv(ORDERS[read]).T
    orders = (order for order in ORDERS if order != read)
    return next((o for o in orders if _inside(numbers @ ORDERS[o].T, sides, SLACK).all()), None)


def _inside(
    boxes: NDArray[np.float64], sides: NDArray[np.float64], share: float
) -> NDArray[np.bool_]:
    """Tell which boxes have an area and lie in their images, but for a share of the sides."""
    first, last, beyond = boxes[:, :2], boxes[:, 2:], share * sides + 1
    inside = (first < last) & (first >= -beyond) & (last <= sides + beyond)
    return np.asarray(inside.all(1))
