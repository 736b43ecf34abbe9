"""This module finds boxes in single images, and draws them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import ImageDraw, ImageFont
from pydantic import JsonValue

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.decode import decoded
from mobilenet_cli.models.detections import Detections, shown_boxes
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.evaluating.detecting import open_detector
from mobilenet_cli.pipeline.runtime.session import CPU

SHORT_SIDE = 1 / 30  # of a label's letters, as a share of the image's shorter side
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@dataclass(frozen=True)
class FoundBox:
    """This is a box with its class and probability.

    Attributes:
        identifier: of the class, as in the model.
        name: what people call it.
        probability: 0..1.
        corners: left, top, right, bottom in pixels of the upright image.
    """

    identifier: str
    name: str
    probability: float
    corners: tuple[float, float, float, float]

    def as_document(self) -> dict[str, JsonValue]:
        """Return the box as JSON."""
        corners: list[JsonValue] = [round(edge, 2) for edge in self.corners]
        named = {"class": self.identifier, "name": self.name}
        return {**named, "probability": self.probability, "box": corners}


@dataclass(frozen=True)
class BoxPrediction:
    """A prediction has the boxes found in an image, or says why there are none.

    Attributes:
        image: the image's name.
        boxes: the most probable one first.
        drawn: the file with the picture in which they are drawn, if that was asked for.
        error: why the image cannot be read, or that the model gives NaN or infinity for it.
    """

    image: str
    boxes: tuple[FoundBox, ...] = ()
    drawn: Path | None = None
    error: DataError | None = None

    @property
    def rows(self) -> list[tuple[str, float]]:
        """Return what to print of each box, and its probability."""
        return [
            (f"{box.name}  {' '.join(f'{edge:.0f}' for edge in box.corners)}", box.probability)
            for box in self.boxes
        ]

    def as_document(self) -> dict[str, JsonValue]:
        """Return the prediction as JSON."""
        if self.error:
            return {"image": self.image, "error": self.error.what}
        boxes: list[JsonValue] = [box.as_document() for box in self.boxes]
        drawn: dict[str, JsonValue] = {"drawn": str(self.drawn)} if self.drawn else {}
        return {"image": self.image, "boxes": boxes, **drawn}


def predict_boxes(
    artifact: Artifact,
    samples: Iterable[Sample | DataError],
    min_score: float | None = None,
    provider: str = CPU,
    draw: Path | None = None,
) -> Iterator[BoxPrediction]:
    """Find boxes in images, in their order; one without an answer gets its error and stops nothing.

    Args:
        artifact: a detector.
        samples: the images.
        min_score: the least probability of a box; None takes ``SHOWN``.
        provider: an execution provider's full name.
        draw: a folder for pictures with the boxes drawn in; None draws none.

    Raises:
        ModelError: the model is no detector, or cannot be used.
        OptionError: the probability is none.
        ProviderError: the provider cannot run it.
        StorageError: a picture cannot be written.
    """
    config = shown_boxes(artifact.facts.boxes, min_score)
    taken = set[str]()
    with open_detector(artifact, config, provider) as detector:
        for outcome in detector.find(samples):
            name = outcome.sample.key if outcome.sample else ""
            if isinstance(outcome.answer, DataError):
                yield BoxPrediction(name, error=outcome.answer)
                continue
            boxes = tuple(_boxes(artifact, outcome.answer[0]))
            drawn = None
            if draw is not None and outcome.sample is not None:
                drawn = draw / _file_name(name, taken)
                write_atomically(drawn, picture_with(outcome.sample, boxes))
            yield BoxPrediction(name, boxes, drawn)


def refuse_for_task(
    artifact: Artifact, top: int | None, draw: Path | None, min_score: float | None
) -> None:
    """Refuse options that would be ignored.

    Raises:
        OptionError: the model is a classifier, and one for boxes is given, or the reverse.
    """
    classifies = artifact.facts.task == "classification"
    if classifies and (draw is not None or min_score is not None):
        raise OptionError(
            f"{artifact.path} is a classifier, which finds no boxes",
            "Leave --draw and --min-score out, or name a detector",
        )
    if not classifies and top is not None:
        raise OptionError(
            f"{artifact.path} is a detector, which gives all boxes above a probability",
            "Pass --min-score in place of --top",
        )


def _boxes(artifact: Artifact, found: Detections) -> Iterator[FoundBox]:
    for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True):
        left, top, right, bottom = map(float, box)
        named = artifact.facts.class_of(label)
        yield FoundBox(*named, float(score), (left, top, right, bottom))


def _file_name(key: str, taken: set[str]) -> str:
    """Name the picture after the image; a second image of the same name gets a number."""
    stem, number = Path(key).stem or "image", 1
    while (name := f"{stem}{f'-{number}' if number > 1 else ''}-boxes.png") in taken:
        number += 1
    taken.add(name)
    return name


def picture_with(sample: Sample, boxes: tuple[FoundBox, ...]) -> bytes:
    """Return an image as PNG, with boxes drawn in, the most probable one on top.

    Raises:
        DataError: the image cannot be read.
    """
    with decoded(sample.read(), sample.key) as image:
        picture = image.copy()
    side = min(picture.size)
    width, letters = max(1, side // 150), max(9, round(side * SHORT_SIDE))
    font = ImageFont.load_default(letters)
    pen = ImageDraw.Draw(picture)
    classes = sorted({box.identifier for box in boxes})
    for box in reversed(boxes):
        colour = COLOURS[classes.index(box.identifier) % len(COLOURS)]
        left, top, *_ = box.corners
        pen.rectangle(box.corners, outline=colour, width=width)
        text = f"{box.name} {box.probability:.0%}"
        place = (left, max(0.0, top - letters - 2 * width))
        pen.rectangle(pen.textbbox(place, text, font), fill=colour)
        pen.text(place, text, fill="black", font=font)
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
