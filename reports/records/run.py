"""A run's records are frozen values that go to JSON and come back.

A record written by another version still loads: unknown fields are kept, missing ones that have a
default take it.
"""

from typing import TypeVar

from pydantic import Field, JsonValue, ValidationError

from mobilenet_cli.reports.records.accuracy import (
    Confusion,
    EvaluationRecord,
    ImageCase,
    Interval,
    Metric,
    PairedRecord,
)
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.conversion import (
    ConvertRecord,
    ExportRecord,
    ImportRecord,
    SimplifyRecord,
)
from mobilenet_cli.reports.records.detection import BoxCase, DetectionRecord, PairedPrecision
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.training import TrainRecord

R = TypeVar("R", bound=Record)
STAGE_RECORDS: dict[str, type[Record]] = {
    "train": TrainRecord,
    "import": ImportRecord,
    "export": ExportRecord,
    "simplify": SimplifyRecord,
    "convert": ConvertRecord,
    "quantize": QuantizeRecord,
}


class NetworkRecord(Record):
    """A network is a member of an architecture's family; the fields are those of ``ModelSpec``."""

    architecture: str | None = None
    width: float | None = None


class InputRecord(Record):
    """An input is prepared as the model's ``InputSpec`` says; the fields are its fields."""

    resolution: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str
    convention: str = "keras"


BOXES = "boxes"


class ArtifactRecord(Record):
    """An artifact's record is a model file of a run and what its stage said about it.

    Attributes:
        file: name in the run's folder; ``sha256`` its hash, ``size_mb`` its size in MiB.
        stage: what made it, with the settings ``config``, from the file with hash ``parent``.
        versions: of the libraries that took part.
        data: what the weights were trained on, None if unknown.
        classes: identifier of each output, and ``names`` what people call them.
        record: what the stage measured: an ExportRecord and so on.
        model: the network, None where it is not one of ours.
        input: how an image becomes the input, None in old reports; ``input_name`` what an ONNX
            graph calls it.
        output: what an ONNX graph gives: logits, or probabilities by softmax or sigmoid; of a
            detector, in any file, ``BOXES``.
    """

    file: str
    sha256: str
    size_mb: float
    stage: str
    parent: str | None = None
    config: dict[str, JsonValue] = Field(default={})
    versions: dict[str, str] = Field(default={})
    data: str | None = None
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    record: dict[str, JsonValue] = Field(default={})
    model: NetworkRecord | None = None
    input: InputRecord | None = None
    input_name: str = "input"
    output: str = "logits"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return what people call each class: its name, or its identifier where it has none."""
        return self.names or self.classes

    def measured(self, kind: type[R]) -> R | None:
        """Return what the stage measured; None where another stage or version wrote it."""
        if STAGE_RECORDS.get(self.stage) is not kind:
            return None
        try:
            return kind.model_validate(self.record)
        except ValidationError:
            return None

    @property
    def of_another_version(self) -> bool:
        """Tell whether a known stage left a record that this version cannot read."""
        kind = STAGE_RECORDS.get(self.stage)
        return bool(self.record and kind and self.measured(kind) is None)


class WeightRange(Record):
    """A range is the smallest and largest weight of a layer, in float and as int8 stands for."""

    layer: str
    low: float
    high: float
    quantized_low: float
    quantized_high: float


class Missing(Record):
    """A missing part of a run is not there, or not usable.

    Attributes:
        file: name in the run's folder.
        why: what is wrong with it, as the end of a sentence without a full stop.
        command: what makes it.
    """

    file: str
    why: str
    command: str


class RunRecord(Record):
    """A run's record is everything that is known about it, which becomes a report.

    Attributes:
        run: the folder's name.
        artifacts: model files in the order in which the chain makes them.
        training: one JSON object an epoch, as ``train`` wrote them.
        evaluations: of the artifacts as they are now; ``detections`` likewise of detectors.
        bench: latencies; None if there are none.
        paired: each other artifact against the float one, on the same images; of detectors
            ``paired_precision``.
        disagreements: images on which the int8 and the float artifact differ most surely.
        mistakes: images on which the last artifact is wrong most surely.
        mistaken_boxes: of detectors, images in which the last artifact misses objects or invents
            some; ``differing_boxes`` those in which int8 and float find different ones.
        confusion: of the last artifact's worst classes.
        weights: of the layers before and after quantization.
        missing: what the report has to do without.
        warnings: what a reader must know before trusting the figures.
        multiply_adds: products in convolutions and the classifier for one image, None if unknown.
        network: what people call the architecture, where it is one of ours.
    """

    run: str
    artifacts: tuple[ArtifactRecord, ...]
    training: tuple[dict[str, JsonValue], ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()
    detections: tuple[DetectionRecord, ...] = ()
    bench: BenchRecord | None = None
    paired: tuple[PairedRecord, ...] = ()
    paired_precision: tuple[PairedPrecision, ...] = ()
    disagreements: tuple[ImageCase, ...] = ()
    mistakes: tuple[ImageCase, ...] = ()
    mistaken_boxes: tuple[BoxCase, ...] = ()
    differing_boxes: tuple[BoxCase, ...] = ()
    confusion: Confusion | None = None
    weights: tuple[WeightRange, ...] = ()
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()
    multiply_adds: int | None = None
    network: str = "MobileNet v1"


class ReportRow(Record):
    """A row is one artifact in the table of a report.

    Attributes:
        file: name of the artifact; ``stage`` what made it, ``size_mb`` its size in MiB.
        data: what it was evaluated on; ``images`` how many there were.
        top1: percent, with interval; likewise top5.
        ap50: of a detector, percent, with interval; likewise ap.
        provider: what ran it for p50_ms and p99_ms, milliseconds for ``batch`` images on
            ``threads`` threads, pinned to ``cpus`` where any are named.
        speedup: how many times faster than ``speedup_over``; None where that was not measured.
        result: index in ``BenchRecord.results``.
    """

    file: str
    stage: str
    size_mb: float
    data: str | None = None
    images: int | None = None
    top1: Metric | None = None
    top5: Metric | None = None
    ap50: Interval | None = None
    ap: Interval | None = None
    provider: str | None = None
    threads: int | None = None
    cpus: tuple[int, ...] = ()
    batch: int | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    speedup: Interval | None = None
    speedup_over: str | None = None
    result: int | None = None


class ReportRecord(Record):
    """A report is a run with its summary: the content of ``report.json``.

    Attributes:
        headline: the sentence that says how int8 compares with float.
        rows: the table, one row an artifact.
        run: all that is known about the run.
        facts: what the network is and what it was made from, a sentence each.
    """

    headline: str
    rows: tuple[ReportRow, ...]
    run: RunRecord
    facts: tuple[str, ...] = ()


class ComparedPair(Record):
    """A compared pair is one kind of artifact in two runs.

    Attributes:
        stage: what made the artifact in both.
        base: name of the one run, and ``other`` of the other.
        accuracy: top-1 on the same images, of detectors ``precision``; None where
            ``accuracy_note`` says why not.
        speedup: how many times faster the other's artifact is, from the intervals of the two
            medians; None where ``latency_note`` says why not.
    """

    stage: str
    base: str
    other: str
    accuracy: PairedRecord | None
    accuracy_note: str
    speedup: Interval | None
    latency_note: str
    precision: PairedPrecision | None = None

    @property
    def difference(self) -> Interval | None:
        """Return by how much the other is more accurate, in points."""
        found = self.accuracy or self.precision
        return found.difference if found else None

    @property
    def images(self) -> int | None:
        """Return on how many images both were evaluated."""
        found = self.accuracy or self.precision
        return found.images if found else None

    @property
    def measure(self) -> str:
        """Return what the accuracy is called."""
        return "AP50" if self.precision else "top-1"


class ComparedRun(Record):
    """A compared run is a run as it is listed beside others.

    Attributes:
        run: its name; ``made`` when its newest model was written, as ISO 8601 in UTC.
        machine: the processor that its latencies were measured on, None if there are none.
        headline: the sentence of its report, and ``rows`` its table.
        width: the width multiplier; ``resolution`` the side of the input in pixels.
        epochs: how long it was trained, and ``data`` on what; None where that is not known.
        broken: why the run cannot be read; empty if it can.
    """

    run: str
    made: str | None = None
    machine: str | None = None
    headline: str = ""
    rows: tuple[ReportRow, ...] = ()
    width: float | None = None
    resolution: int | None = None
    epochs: float | None = None
    data: str | None = None
    broken: str = ""


class ComparisonRecord(Record):
    """A comparison is runs side by side, the first against each other one."""

    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]


class HistoryRecord(Record):
    """A history is the runs of a folder, oldest first."""

    runs: tuple[ComparedRun, ...]
