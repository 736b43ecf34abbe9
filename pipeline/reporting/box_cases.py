"""Images in which a detector is wrong, or in which int8 and float differ, are worth a look."""

from collections.abc import Sequence

import numpy as np

from mobilenet_cli.models.detections import Detections, matches
from mobilenet_cli.reports.records.detection import (
    BoxCase,
    BoxesRecord,
    BoxKind,
    CaseBox,
    ImageBoxes,
)

SHOWN = 12  # images in a gallery
PLAIN = ("right", "both")


def mistaken_boxes(record: BoxesRecord, names: Sequence[str]) -> tuple[BoxCase, ...]:
    """List images with wrong boxes: those with the surest inventions, and with the largest misses.

    Each are half of them, where there are enough of both.
    """
    cases = [_judged(image, names) for image in record.images]
    invented = sorted((c for c in cases if c.counts.get("invented")), key=_surest, reverse=True)
    missed = sorted((c for c in cases if c.counts.get("missed")), key=_largest_missed, reverse=True)
    shown = invented[: max(SHOWN // 2, SHOWN - len(missed))]
    shown += [case for case in missed if case not in shown][: SHOWN - len(shown)]
    return tuple(shown)


def differing_boxes(
    base: BoxesRecord, other: BoxesRecord, names: Sequence[str]
) -> tuple[BoxCase, ...]:
    """List images in which the float model ``base`` and int8 find different boxes, surest first."""
    others = {image.key: image for image in other.images}
    cases = [
        _compared(image, others[image.key], names) for image in base.images if image.key in others
    ]
    differing = [case for case in cases if case.counts.keys() - {"both"}]
    return tuple(sorted(differing, key=_surest, reverse=True)[:SHOWN])


def _judged(image: ImageBoxes, names: Sequence[str]) -> BoxCase:
    """Tell which boxes are right and which objects are missed, as AP50 counts them."""
    found, objects = _detections(image.found), _detections(image.objects)
    object_of, crowd_of = matches(found, objects), matches(found, _detections(image.ignored))
    kinds: list[BoxKind] = ["right" if place >= 0 else "invented" for place in object_of]
    counting = np.flatnonzero((object_of >= 0) | (crowd_of < 0))
    boxes = [_box(found, i, kinds[i], names) for i in counting.tolist()]
    lost = np.setdiff1d(np.arange(len(objects)), object_of)
    return _case(image, boxes + [_box(objects, i, "missed", names) for i in lost.tolist()])


def _compared(image: ImageBoxes, other: ImageBoxes, names: Sequence[str]) -> BoxCase:
    """Tell which boxes the float model and int8 both find, and which one of them alone."""
    ours, theirs = _detections(image.found), _detections(other.found)
    taken = matches(ours, theirs)
    kinds: list[BoxKind] = ["both" if place >= 0 else "float" for place in taken]
    boxes = [_box(ours, i, kind, names) for i, kind in enumerate(kinds)]
    alone = np.setdiff1d(np.arange(len(theirs)), taken)
    return _case(image, boxes + [_box(theirs, i, "int8", names) for i in alone.tolist()])


def _detections(rows: Sequence[tuple[float, ...]]) -> Detections:
    """Return rows of class, corners and perhaps probability; objects have a probability of 0."""
    table = np.array([(*row, 0.0)[:6] for row in rows], np.float32).reshape(-1, 6)
    return Detections(table[:, 1:5], table[:, 5], table[:, 0].astype(np.int64))


def _box(boxes: Detections, place: int, kind: BoxKind, names: Sequence[str]) -> CaseBox:
    left, top, right, bottom = (round(float(edge), 1) for edge in boxes.boxes[place])
    return CaseBox(
        kind=kind,
        name=names[boxes.classes[place]],
        probability=None if kind == "missed" else round(float(boxes.scores[place]), 4),
        corners=(left, top, right, bottom),
    )


def _case(image: ImageBoxes, boxes: list[CaseBox]) -> BoxCase:
    drawn = sorted(boxes, key=lambda box: box.kind not in PLAIN)
    return BoxCase(key=image.key, size=image.size, boxes=tuple(drawn))


def _surest(case: BoxCase) -> float:
    """Return the largest probability of a box that is invented, or that one model alone finds."""
    return max((box.probability or 0.0 for box in case.boxes if box.kind not in PLAIN), default=0)


def _largest_missed(case: BoxCase) -> float:
    """Return the area of the largest missed object, as a share of the image's."""
    areas = [
        (right - left) * (bottom - top)
        for box in case.boxes
        if box.kind == "missed"
        for left, top, right, bottom in [box.corners]
    ]
    return max(areas, default=0) / (case.size[0] * case.size[1])
