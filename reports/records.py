"""What each stage measured: frozen values that go to JSON and come back.

A record written by another version still loads: unknown fields are kept, missing ones that have a
default take it.
"""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: immutable, and unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1


class ExportRecord(Record):
    """What ``export`` proved.

    Attributes:
        opset: of the default ONNX domain.
        operators: number of nodes by type.
        batch_norms: number of BatchNormalization nodes left in place for ``simplify``.
        max_abs_error: largest difference of a logit between torch and ONNX Runtime.
        batches_checked: batch sizes that were run and compared.
    """

    opset: int
    operators: dict[str, int]
    batch_norms: int
    max_abs_error: float
    batches_checked: tuple[int, ...]


class SimplifyRecord(Record):
    """What ``simplify`` proved.

    Attributes:
        batch_norms_before: BatchNormalization nodes in the input.
        batch_norms_after: and in the output: 0.
        nodes_before: nodes in the input.
        nodes_after: nodes in the output.
        channels_checked: folded kernels compared with a float64 folding, one per output channel.
        max_weight_error: largest difference found there, relative to the channel's largest weight.
        max_abs_error: largest difference of a logit between input and output, on ``images``.
        images: how many images were compared, and ``images_from`` where they came from.
    """

    batch_norms_before: int
    batch_norms_after: int
    nodes_before: int
    nodes_after: int
    channels_checked: int
    max_weight_error: float
    max_abs_error: float
    images: int
    images_from: str


class Metric(Record):
    """A share of images with its 95 % confidence interval (Wilson score), all in percent."""

    value: float
    low: float
    high: float


class EvaluationRecord(Record):
    """Accuracy of one artifact on one data set.

    Attributes:
        model: path of the artifact; ``sha256`` its hash, ``stage`` what made it.
        data: the data set's name; ``data_fingerprint`` its hash over names and labels.
        provider: what ran the model: an execution provider, or ``torch`` for a checkpoint.
        images: images evaluated; ``bad_images`` names those that could not be read.
        top1: with interval, in percent; ``top1_correct`` the count. Likewise top5.
        images_per_second: over the whole evaluation, decoding included.
        seconds: wall time.
        preprocessing: decoder, resize, crop and normalization used.
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
