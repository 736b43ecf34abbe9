"""Average precision as COCO measures it (cocodataset.org, "Detection evaluation"; pycocotools).

The figures are pycocotools'. Its matches of each image are then counted again for a bootstrap over
images (Efron, Annals of Statistics 7, 1979): each image counts as often as it was drawn.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.boxes.box_dataset import Boxes
from mobilenet_cli.models.detections import MAX_DETECTIONS, Detections
from mobilenet_cli.pipeline.errors import need

RESAMPLES = 300
AT_50, AT_75 = 0, 5  # places of the overlaps 0.5 and 0.75 among 0.5, 0.55, ..., 0.95


@dataclass(frozen=True)
class Precision:
    """This is the average precision of one class or of all, 0..1, None without objects.

    Attributes:
        ap: mean over overlaps.
        ap50: at an overlap of 0.5.
        ap75: at an overlap of 0.75.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None


@dataclass(frozen=True)
class Matches:
    """These are the detections of one class on all images, by falling probability.

    Attributes:
        image: of each detection, the index of its image [n].
        right: at each overlap, whether it matches an object [overlaps, n].
        ignored: at each overlap, whether it counts neither way [overlaps, n].
        objects: of each image, the number of objects that count [images].
    """

    image: NDArray[np.intp]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]

    def precision(self, drawn: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return the average precision at each overlap, as pycocotools' ``accumulate``.

        Args:
            drawn: how often each image counts [images].
        """
        total = int(self.objects @ drawn)
        if not total:
            return None
        times = np.where(self.ignored, 0, drawn[self.image])
        hits = np.where(self.right, times, 0).cumsum(1)
        misses = np.where(self.right, 0, times).cumsum(1)
        found: list[float] = []
        for hit, miss in zip(hits, misses, strict=True):
            shares = hit / np.maximum(hit + miss, 1)
            best = np.maximum.accumulate(shares[::-1])[::-1]
            at = np.searchsorted(hit / total, RECALLS, side="left")
            found.append(float(np.append(best, 0.0)[np.minimum(at, len(best))].mean()))
        return np.array(found)


RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Coco:
    """This is what pycocotools found.

    Attributes:
        stats: its twelve figures; -1 where there are no objects.
        matches: of each class.
        precision: of each class at an overlap of 0.5, at ``RECALLS``; 0 without objects.
        images: the number of images.
    """

    stats: NDArray[np.float64]
    matches: tuple[Matches, ...]
    precision: tuple[NDArray[np.float64], ...]
    images: int

    def of_class(self, index: int) -> Precision:
        """Return the average precision of one class."""
        return _figures([self.matches[index].precision(np.ones(self.images, np.int64))])

    def bootstrap(self, seed: int = 0) -> NDArray[np.float64]:
        """Return AP, AP50 and AP75 of resampled images [RESAMPLES, 3]; NaN without objects."""
        generator = np.random.default_rng(seed)
        rows = []
        for _ in range(RESAMPLES):
            drawn = generator.multinomial(self.images, np.full(self.images, 1 / self.images))
            found = _figures([m.precision(drawn) for m in self.matches])
            rows.append([np.nan if v is None else v for v in (found.ap, found.ap50, found.ap75)])
        return np.array(rows, np.float64)


def _figures(classes: Sequence[NDArray[np.float64] | None]) -> Precision:
    """Average over the classes that have objects."""
    found = [values for values in classes if values is not None]
    if not found:
        return Precision(None, None, None)
    mean = np.mean(found, axis=0)
    return Precision(float(mean.mean()), float(mean[AT_50]), float(mean[AT_75]))


def check_pycocotools() -> None:
    """Refuse to begin what will need pycocotools at its end, where that is not installed.

    Raises:
        OptionError: it is not.
    """
    need("pycocotools", "average precision is measured by pycocotools")


def measure(truth: Sequence[Boxes], found: Sequence[Detections], classes: int) -> Coco:
    """Measure detections on images against their objects.

    Args:
        truth: the objects of each image; classes are the detector's.
        found: what was found on each, in the same pixels.
        classes: the number of classes.

    Raises:
        OptionError: pycocotools is not installed.
    """
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        wanted = COCO()
        wanted.dataset = _document(truth, classes)
        wanted.createIndex()
        rows = _rows(found)
        # Without detections, loadRes fails; a box of no class of any image is none.
        guessed = wanted.loadRes(rows) if len(rows) else COCO()
        evaluation = COCOeval(wanted, guessed, "bbox")
        evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
        evaluation.params.imgIds = list(range(len(truth)))
        evaluation.params.catIds = list(range(classes))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][AT_50, :, :, 0, -1]
    return Coco(
        stats=evaluation.stats,
        matches=tuple(_matches(evaluation, index, len(truth)) for index in range(classes)),
        precision=tuple(np.maximum(precision[:, index], 0) for index in range(classes)),
        images=len(truth),
    )


def _document(truth: Sequence[Boxes], classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, boxes in enumerate(truth):
        rows = zip(boxes.corners.tolist(), boxes.classes, boxes.ignored, boxes.areas, strict=True)
        for (left, top, right, bottom), label, ignored, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would be "not matched"
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(area),
                    "iscrowd": int(ignored),
                }
            )
    return {
        "info": {},
        "images": [{"id": image} for image in range(len(truth))],
        "annotations": annotations,
        "categories": [{"id": index, "name": str(index)} for index in range(classes)],
    }


def _rows(found: Sequence[Detections]) -> NDArray[np.float64]:
    """Return [n, 7] of image, left, top, width, height, probability, class, as loadRes takes it."""
    parts = [np.empty((0, 7))]
    for image, one in enumerate(found):
        corners = one.boxes.astype(np.float64)
        parts.append(
            np.column_stack(
                [
                    np.full(len(one), image),
                    corners[:, :2],
                    corners[:, 2:] - corners[:, :2],
                    one.scores,
                    one.classes,
                ]
            )
        )
    return np.concatenate(parts)


def _matches(evaluation: Any, index: int, images: int) -> Matches:
    """Collect a class's matches from all images, in the order in which pycocotools takes them."""
    areas = len(evaluation.params.areaRng)
    first = index * areas * images  # of all sizes
    per_image = evaluation.evalImgs[first : first + images]
    objects = np.zeros(images, np.int64)
    scores, image, right, ignored = [np.empty(0)], [np.empty(0, np.intp)], [], []
    for place, found in enumerate(per_image):
        if found is None:
            continue
        objects[place] = np.count_nonzero(np.logical_not(found["gtIgnore"]))
        scores.append(np.array(found["dtScores"], np.float64))
        image.append(np.full(len(found["dtScores"]), place, np.intp))
        right.append(np.asarray(found["dtMatches"]) > 0)
        ignored.append(np.asarray(found["dtIgnore"], bool))
    overlaps = len(evaluation.params.iouThrs)
    nothing = np.empty((overlaps, 0), bool)
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return Matches(
        np.concatenate(image)[order],
        np.concatenate([nothing, *right], axis=1)[:, order],
        np.concatenate([nothing, *ignored], axis=1)[:, order],
        objects,
    )
