"""These are the records of a detector's accuracy."""

from collections import Counter
from typing import Literal

from pydantic import JsonValue

from mobilenet_cli.reports.records.accuracy import AnswersRecord, Interval
from mobilenet_cli.reports.records.base import Record


class ClassPrecision(Record):
    """A class's average precision, in percent.

    Attributes:
        name: of the class.
        objects: how many the images have, without those that count neither way.
        ap: mean over overlaps from 0.5 to 0.95; None where there are no objects.
        ap50: at an overlap of 0.5.
        precision: at an overlap of 0.5, at 101 recalls from 0 to 1; 0 where none reaches one.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None
    precision: tuple[float, ...]


class DetectionRecord(Record):
    """A detection's record is the average precision of one detector on one set, as COCO has it.

    Attributes:
        model: path of the artifact; ``sha256`` its hash, ``stage`` what made it.
        data: the data set's name; ``data_fingerprint`` its hash over names, sizes and boxes.
        provider: what ran the model: an execution provider, or ``torch`` for a checkpoint.
        images: images evaluated; ``bad_images`` names those that could not be read.
        objects: in the images; ``detections`` how many boxes were found.
        ap: mean over classes and overlaps from 0.5 to 0.95, in percent, with a 95 % interval by
            bootstrap over images; ``ap50`` and ``ap75`` at one overlap.
        ap_small: likewise ``ap_medium`` and ``ap_large``, of objects up to 32x32 and 96x96 pixels,
            and of larger ones; None where there are none.
        classes: each class alone.
        remarks: what was wrong with the labels and was mended.
        min_score: boxes below this probability were left out.
        max_overlap: of two boxes that overlapped by more the less probable one was left out.
        images_per_second: decoding included, loading the model not.
        seconds: wall time of the same.
        preprocessing: decoder, resize and normalization used.
        ap50_resampled: AP50 of resampled images, in percent; every model of one set has the same
            resamples in the same order. Empty where one of them has no objects.
    """

    model: str
    sha256: str
    stage: str
    data: str
    data_fingerprint: str
    provider: str
    images: int
    bad_images: tuple[str, ...]
    objects: int
    detections: int
    ap: Interval
    ap50: Interval
    ap75: Interval
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    classes: tuple[ClassPrecision, ...]
    remarks: tuple[str, ...]
    min_score: float
    max_overlap: float
    images_per_second: float
    seconds: float
    preprocessing: dict[str, str | int | float | tuple[float, ...]]
    ap50_resampled: tuple[float, ...] = ()

    def as_document(self) -> dict[str, JsonValue]:
        """Return the record as JSON with AP as plain numbers, their intervals apart."""
        document: dict[str, JsonValue] = self.model_dump(mode="json")
        for name, metric in (("ap", self.ap), ("ap50", self.ap50), ("ap75", self.ap75)):
            document |= {name: metric.value, f"{name}_interval": [metric.low, metric.high]}
        return document


class ImageBoxes(Record):
    """These are the objects in one image, and the boxes that a detector found in it.

    Attributes:
        key: the image's name in its data set.
        size: width and height in pixels, in which all corners are.
        objects: index of the class, left, top, right, bottom.
        ignored: likewise those that count neither as found nor as missed.
        found: index of the class, left, top, right, bottom, probability; the most probable first.
    """

    key: str
    size: tuple[int, int]
    objects: tuple[tuple[int, float, float, float, float], ...]
    ignored: tuple[tuple[int, float, float, float, float], ...]
    found: tuple[tuple[int, float, float, float, float, float], ...]


class BoxesRecord(AnswersRecord):
    """A boxes record says what one detector found in each image of a set.

    Attributes:
        min_score: the probability above which boxes are here.
        images: in the set's order, no more than the first 500.
    """

    min_score: float
    images: tuple[ImageBoxes, ...]


BoxKind = Literal["right", "missed", "invented", "both", "float", "int8"]


class CaseBox(Record):
    """This is a box that a report draws.

    Attributes:
        kind: an object that was found or missed, or a box that is none; or who found it.
        name: of the class.
        probability: 0..1, of the surer one where both found it; None of a missed object.
        corners: left, top, right, bottom in pixels of the image.
    """

    kind: BoxKind
    name: str
    probability: float | None
    corners: tuple[float, float, float, float]


class BoxCase(Record):
    """A case is one evaluation image with the boxes that are worth a look.

    Attributes:
        key: the image's name in its data set.
        size: width and height in pixels.
        boxes: those to draw, the plain ones first.
    """

    key: str
    size: tuple[int, int]
    boxes: tuple[CaseBox, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Return how many boxes there are of each kind."""
        return dict(Counter(box.kind for box in self.boxes))


class PairedPrecision(Record):
    """A paired precision compares two detectors on the same images.

    Attributes:
        base: file name of one, and ``other`` of the other.
        data: the data set's name; ``images`` how many there are.
        difference: AP50 of the other less that of the base, in points, with a 95 % interval by
            bootstrap over images that are drawn for both.
    """

    base: str
    other: str
    data: str
    images: int
    difference: Interval
