"""These are the records of accuracy, and of single answers."""

from pydantic import JsonValue, model_validator

from mobilenet_cli.reports.records.base import Record


class Metric(Record):
    """A metric is a fraction of images with its 95 % Wilson interval, all in percent."""

    value: float
    low: float
    high: float


class EvaluationRecord(Record):
    """An evaluation is the accuracy of one artifact on one data set.

    Attributes:
        model: path of the artifact; ``sha256`` its hash, ``stage`` what made it.
        data: the data set's name; ``data_fingerprint`` its hash over names and labels.
        provider: what ran the model: an execution provider, or ``torch`` for a checkpoint.
        images: images evaluated; ``bad_images`` names those that could not be read.
        top1: with interval, in percent; ``top1_correct`` the count. Likewise top5.
        images_per_second: decoding included, loading the model not.
        seconds: wall time of the same.
        preprocessing: decoder, resize, crop and normalization used.
        label_shift: -1 or 1 where most images' first class is the one before or after that of their
            label, so that the labels seem to be counted otherwise than the model's classes; else 0.
    """

    model: str
    sha256: str
    stage: str
    data: str
    data_fingerprint: str
    provider: str
    images: int
    bad_images: tuple[str, ...]
    top1: Metric
    top5: Metric
    top1_correct: int
    top5_correct: int
    images_per_second: float
    seconds: float
    preprocessing: dict[str, str | int | float | tuple[float, ...]]
    label_shift: int = 0

    def as_document(self) -> dict[str, JsonValue]:
        """Return the record as JSON with top1 and top5 as plain numbers, their intervals apart."""
        document: dict[str, JsonValue] = self.model_dump(mode="json")
        for name, metric in (("top1", self.top1), ("top5", self.top5)):
            document |= {name: metric.value, f"{name}_interval": [metric.low, metric.high]}
        return document


class AnswersRecord(Record):
    """Answers are what one artifact says about each image of a data set.

    Attributes:
        model: path of the artifact; ``sha256`` its hash.
        data: the data set's name, as in the record of the same evaluation.
        source: where the images are, as ``evaluate --data`` took it.
        data_fingerprint: the data set's hash, as in the record of the same evaluation.
        provider: what ran the model.
    """

    model: str
    sha256: str
    data: str
    source: str
    data_fingerprint: str
    provider: str


class PredictionsRecord(AnswersRecord):
    """Predictions are a classifier's answers about every image of a data set, one entry an image.

    Attributes:
        keys: names of the images that could be read.
        targets: index of the right class of each.
        ranks: how many classes came before the right one: 0 where top-1 is right.
        top: indices of the most probable classes, at most three, most probable first.
        probabilities: theirs, 0..1, to four decimals.
    """

    keys: tuple[str, ...]
    targets: tuple[int, ...]
    ranks: tuple[int, ...]
    top: tuple[tuple[int, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _of_the_same_images(self) -> "PredictionsRecord":
        columns = (self.targets, self.ranks, self.top, self.probabilities)
        if {len(column) for column in columns} != {len(self.keys)}:
            raise ValueError("there is not one entry for each image")
        return self


class Interval(Record):
    """An interval is a number with its 95 % confidence interval, which is None where unknown."""

    value: float
    low: float | None = None
    high: float | None = None


class GuessRecord(Record):
    """A guess is one class as people call it, with its probability, 0..1."""

    name: str
    probability: float


class ImageCase(Record):
    """A case is one evaluation image and what the artifacts say about it.

    Attributes:
        key: the image's name in its data set.
        label: its class as people call it.
        guesses: the most probable classes by artifact's file name, most probable first.
    """

    key: str
    label: str
    guesses: dict[str, tuple[GuessRecord, ...]]


class Confusion(Record):
    """A confusion matrix counts what the images of each class were taken for.

    Attributes:
        model: file name of the artifact.
        classes: the classes, all of them or the worst first; ``images`` how many each has.
        taken_for: the classes that were predicted, the same ones but in old records.
        counts: number of images by class and prediction, [classes, taken_for].
    """

    model: str
    classes: tuple[str, ...]
    images: tuple[int, ...]
    taken_for: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class PairedRecord(Record):
    """A pair is two artifacts on the same images.

    Attributes:
        base: file name of one, and ``other`` of the other.
        data: the data set's name; ``images`` how many both could read.
        both: images that both classify rightly; ``neither`` that neither does.
        only_base: images that only the first classifies rightly; ``only_other`` the second.
        difference: top-1 of the other less that of the base, in points.
        p_value: of McNemar's exact test that neither is better.
    """

    base: str
    other: str
    data: str
    images: int
    both: int
    neither: int
    only_base: int
    only_other: int
    difference: Interval
    p_value: float
