"""A detector's average precision is measured on images with boxes."""

import difflib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.boxes.box_dataset import BoxDataset, Boxes, BoxImage
from mobilenet_cli.data.boxes.open_boxes import held_out_boxes
from mobilenet_cli.models.detections import SHOWN, Detections, NmsConfig
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import DataError, NotFiniteError, OptionError, counted
from mobilenet_cli.pipeline.evaluating.average_precision import Coco, check_pycocotools, measure
from mobilenet_cli.pipeline.evaluating.detecting import open_detector
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, preprocessing
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.reports.records.accuracy import Interval
from mobilenet_cli.reports.records.detection import (
    BoxesRecord,
    ClassPrecision,
    DetectionRecord,
    ImageBoxes,
)

FEW = 500  # images whose boxes are kept for people to look at


def evaluate_detector(
    artifact: Artifact,
    config: EvaluateConfig,
    progress: Progress = silent,
    kept: list[ImageBoxes] | None = None,
) -> DetectionRecord:
    """Measure average precision, as COCO has it.

    Args:
        artifact: a detector, in any file.
        config: on which images, and how.
        progress: is told how many images are done.
        kept: takes what was found in the first ``FEW`` images, for people to look at.

    Raises:
        DataError: no data, labels that the model does not know, no readable image, no object; or,
            if strict, the first unreadable one.
        ModelError: the model cannot be used.
        OptionError: no images are known, or pycocotools is not installed.
        ProviderError: the provider cannot run it.
        NotFiniteError: the model's output is NaN or infinite.
    """
    check_pycocotools()
    dataset = evaluation_boxes(artifact, config.data)
    index = class_indices(dataset, artifact.facts.classes, artifact.path)
    if config.strict and dataset.lost:
        raise dataset.lost[0]
    if config.strict and dataset.absent:
        raise DataError(
            f"{dataset.name} has labels of an image that is not there ({dataset.absent})",
            "Add the image, or evaluate the others without --strict",
        )
    assert artifact.facts.boxes is not None
    nms = NmsConfig(max_overlap=artifact.facts.boxes.max_overlap)
    bad = [error.what for error in dataset.lost]
    truth: list[Boxes] = []
    found: list[Detections] = []
    with open_detector(artifact, nms, config.provider, config.workers) as detector:
        started = time.perf_counter()
        samples = [image.sample for image in dataset.images]
        for image, outcome in zip(dataset.images, detector.find(samples), strict=True):
            answer = usable(image, outcome.answer)
            if isinstance(answer, DataError):
                if config.strict or isinstance(answer, NotFiniteError):
                    raise answer
                bad.append(answer.what)
            else:
                found.append(answer)
                truth.append(replace(image.boxes, classes=index[image.boxes.classes]))
                if kept is not None and len(kept) < FEW:
                    kept.append(image_boxes(image.sample.key, image.size, truth[-1], found[-1]))
            progress(len(found) + len(bad) - len(dataset.lost), len(samples), "")
    seconds = time.perf_counter() - started
    if not found:
        raise DataError(
            f"no image of {dataset.name} can be used: {counted(len(bad), 'image')} tried, such as: "
            f"{bad[0]}",
            "Check that the files are images",
        )
    if all(boxes.ignored.all() for boxes in truth):
        raise DataError(
            f"the images of {dataset.name} have no objects to find, so there is no precision",
            "Give images with labels",
        )
    return _record(artifact, dataset, detector.provider, bad, truth, found, seconds)


def usable(
    image: BoxImage, answer: tuple[Detections, tuple[int, int]] | DataError
) -> Detections | DataError:
    """Return what was found in an image, unless it is of another size than its labels say."""
    if isinstance(answer, DataError):
        return answer
    found, size = answer
    if size == image.size:
        return found
    return DataError(
        f"{image.sample.key} has {size[0]}x{size[1]} pixels, and its labels are for "
        f"{image.size[0]}x{image.size[1]}",
        "Export the labels again",
    )


def _record(
    artifact: Artifact,
    dataset: BoxDataset,
    provider: str,
    bad: Sequence[str],
    truth: Sequence[Boxes],
    found: Sequence[Detections],
    seconds: float,
) -> DetectionRecord:
    """Measure what was found in each image that can be used, against the objects there."""
    facts = artifact.facts
    assert facts.boxes is not None  # of a detector
    coco = measure(truth, found, len(facts.classes))
    rows = coco.bootstrap()
    ap, ap50, ap75 = intervals(coco, rows)
    small, medium, large = (None if v < 0 else 100 * float(v) for v in coco.stats[3:6])
    return DetectionRecord(
        model=str(artifact.path),
        sha256=artifact.sha256,
        stage=facts.stage,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        provider=provider,
        images=len(found),
        bad_images=tuple(bad),
        objects=sum(int((~boxes.ignored).sum()) for boxes in truth),
        detections=sum(map(len, found)),
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        ap_small=small,
        ap_medium=medium,
        ap_large=large,
        classes=tuple(by_class(coco, facts.labels)),
        remarks=dataset.remarks,
        min_score=NmsConfig.min_score,
        max_overlap=facts.boxes.max_overlap,
        images_per_second=len(dataset.images) / seconds,
        seconds=seconds,
        preprocessing=preprocessing(facts),
        ap50_resampled=resampled(rows[:, 1]),
    )


def image_boxes(key: str, size: tuple[int, int], truth: Boxes, found: Detections) -> ImageBoxes:
    """Return what is worth a look in one image: its objects, and the boxes that are shown."""
    objects = [
        (int(label), *(round(float(edge), 1) for edge in corners))
        for label, corners in zip(truth.classes, truth.corners, strict=True)
    ]
    boxes = [
        (int(label), *(round(float(edge), 1) for edge in corners), round(float(score), 4))
        for label, corners, score in zip(found.classes, found.boxes, found.scores, strict=True)
        if score > SHOWN
    ]
    return ImageBoxes.model_validate(
        {
            "key": key,
            "size": size,
            "objects": [o for o, out in zip(objects, truth.ignored, strict=True) if not out],
            "ignored": [o for o, out in zip(objects, truth.ignored, strict=True) if out],
            "found": boxes,
        }
    )


def boxes_record(record: DetectionRecord, source: str, kept: Sequence[ImageBoxes]) -> BoxesRecord:
    """Return what an evaluation found in each image.

    Args:
        record: of the evaluation.
        source: where the images are, as ``open_boxes`` takes it.
        kept: the images.
    """
    return BoxesRecord(
        model=record.model,
        sha256=record.sha256,
        data=record.data,
        source=source,
        data_fingerprint=record.data_fingerprint,
        provider=record.provider,
        min_score=SHOWN,
        images=tuple(kept),
    )


def evaluation_boxes(artifact: Artifact, data: str | None) -> BoxDataset:
    """Return the images on which to evaluate: never those that the model was trained on.

    Raises:
        DataError: they cannot be opened.
        OptionError: none are known.
    """
    source = data or artifact.facts.data
    if source is None:
        raise OptionError(
            f"{artifact.path} does not say on which images to evaluate it",
            "Pass --data with images and boxes: a COCO file, or a folder of Pascal VOC or YOLO",
        )
    return held_out_boxes(source, artifact.facts.data)


def class_indices(dataset: BoxDataset, classes: Sequence[str], model: Path) -> NDArray[np.int64]:
    """Return the detector's class of each class of a set, which may have a subset of them.

    Raises:
        DataError: a class with objects is none of the detector's.
    """
    known = {name: place for place, name in enumerate(classes)}
    used = {int(label) for image in dataset.images for label in image.boxes.classes}
    unknown = [
        dataset.classes[label] for label in sorted(used) if dataset.classes[label] not in known
    ]
    if unknown:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        raise DataError(
            f"{len(unknown)} of the {counted(len(used), 'class', 'classes')} of {dataset.name} "
            f"{'is no class' if len(unknown) == 1 else 'are no classes'} of {model}, such as "
            f"'{unknown[0]}'",
            f"Name the classes like the model's: '{near[0] if near else classes[0]}'",
        )
    return np.array([known.get(name, 0) for name in dataset.classes], np.int64)


def resampled(shares: NDArray[np.float64]) -> tuple[float, ...]:
    """Return shares in percent; none where one of them is not known."""
    return tuple((100 * shares).round(4).tolist()) if np.isfinite(shares).all() else ()


def intervals(coco: Coco, rows: NDArray[np.float64]) -> list[Interval]:
    """Return AP, AP50 and AP75 in percent, with their intervals over resamples [n, 3]."""
    ends = np.full((2, 3), np.nan)
    if np.isfinite(rows).any():
        ends = np.nanpercentile(rows, (2.5, 97.5), axis=0)
    return [
        Interval(
            value=100 * max(0.0, float(value)),
            low=None if np.isnan(low) else 100 * float(low),
            high=None if np.isnan(high) else 100 * float(high),
        )
        for value, low, high in zip(coco.stats[:3], *ends, strict=True)
    ]


def by_class(coco: Coco, names: Sequence[str]) -> list[ClassPrecision]:
    """Return the average precision of each class, in percent."""
    rows = []
    for index, name in enumerate(names):
        own = coco.of_class(index)
        rows.append(
            ClassPrecision(
                name=name,
                objects=int(coco.matches[index].objects.sum()),
                ap=None if own.ap is None else 100 * own.ap,
                ap50=None if own.ap50 is None else 100 * own.ap50,
                precision=tuple(round(float(v), 4) for v in coco.precision[index]),
            )
        )
    return rows
