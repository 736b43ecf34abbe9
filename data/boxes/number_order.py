"""The four numbers of a box mean other things in other formats, and many a file has them wrong.

So sets are refused whose boxes mostly lie wrong as they are read, and rightly in another order.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.boxes.box_dataset import Labelled, MisreadError

Numbers = NDArray[np.float64]  # [4, n]
# By what an order is called: the corners left, top, right, bottom that its numbers mean. Of several
# in which boxes lie rightly, the first is named, as x and y of square images may be either.
ORDERS: Mapping[str, Callable[[Numbers], Numbers]] = {
    "x1, y1, x2, y2": lambda v: v,
    "x, y, width, height": lambda v: np.stack([v[0], v[1], v[0] + v[2], v[1] + v[3]]),
    "center x, center y, width, height": lambda v: np.concatenate(
        [v[:2] - v[2:] / 2, v[:2] + v[2:] / 2]
    ),
    "x1, x2, y1, y2": lambda v: v[[0, 2, 1, 3]],
    "y1, x1, y2, x2": lambda v: v[[1, 0, 3, 2]],
    "y, x, height, width": lambda v: np.stack([v[1], v[0], v[1] + v[3], v[0] + v[2]]),
}
AS_CORNERS, AS_EDGES_AND_SIZE, AS_MIDDLE_AND_SIZE, *_ = ORDERS
# The numbers of corners in the orders in which formats have them.
NUMBERS: Mapping[str, Callable[[Numbers], Numbers]] = {
    AS_CORNERS: lambda c: c,
    AS_EDGES_AND_SIZE: lambda c: np.concatenate([c[:2], c[2:] - c[:2]]),
    AS_MIDDLE_AND_SIZE: lambda c: np.concatenate([(c[:2] + c[2:]) / 2, c[2:] - c[:2]]),
}
ENOUGH = 10  # boxes to tell from
OUTSIDE = 1.0  # pixels by which boxes reach outside where programs round, or count from 1
FEW = 0.01  # of all boxes, which may lie wrong in the order that is the right one


def refuse_other_order(source: str, order: str, images: Sequence[Labelled]) -> None:
    """Refuse boxes whose numbers evidently stand in another order than their format has.

    Args:
        source: what holds the labels.
        order: in which they were read, of ``NUMBERS``.
        images: with their boxes.

    Raises:
        MisreadError: most boxes reach outside their image, or have no area, or their corners
            swapped, and nearly all are right in another order.
    """
    boxes = [box[1] for image in images for box in image.boxes]
    if len(boxes) < ENOUGH:
        return
    corners = np.array(boxes, np.float64).T
    sizes = np.repeat([i.size for i in images], [len(i.boxes) for i in images], axis=0).T
    finite = np.isfinite(corners).all(axis=0)
    corners, sizes = corners[:, finite], sizes[:, finite]
    units = sizes if order == AS_MIDDLE_AND_SIZE else np.ones_like(sizes)  # YOLO's fractions
    limits = -OUTSIDE / units, (sizes + OUTSIDE) / units
    numbers = NUMBERS[order](corners / np.tile(units, (2, 1)))
    count = sizes.shape[1]
    wrong = _wrong(ORDERS[order](numbers), *limits)
    if 2 * wrong <= count:
        return
    for other, corners_of in ORDERS.items():
        if _wrong(corners_of(numbers), *limits) <= FEW * count:
            raise MisreadError(
                f"{wrong:,} of the {count:,} boxes of {source} lie wrong in their images as "
                f"{order}, and rightly as {other}",
                f"Write each box as {order}",
            )


def _wrong(corners: Numbers, least: Numbers, most: Numbers) -> int:
    """Count boxes that reach outside their image, or have no area, or their corners swapped."""
    first, last = corners[:2], corners[2:]
    right = (first >= least) & (last <= most) & (first < last)
    return int((~right.all(axis=0)).sum())
