"""These are the records of the stages that turn one file format into another."""

from mobilenet_cli.reports.records.base import Record


class ImportRecord(Record):
    """An import's record says where the weights came from.

    Attributes:
        source: the file or hub repository as the user named it.
        source_sha256: of the file that was read.
        revision: commit of the hub repository; None for a file.
        layout: which program's naming of tensors was recognized.
        parameters: trainable parameters of the network.
        outputs: of the classifier.
        notes: assumptions that the file itself does not confirm.
    """

    source: str
    source_sha256: str
    revision: str | None
    layout: str
    parameters: int
    outputs: int
    notes: tuple[str, ...]


class ExportRecord(Record):
    """An export's record says what was proved.

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
    """A simplification's record says what was proved.

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


class NmsRecord(Record):
    """A record of final boxes says what was proved.

    Attributes:
        min_score: the probability above which a box is kept; ``max_overlap`` the intersection over
            union above which one of two is dropped; ``max_detections`` boxes of an image.
        boxes_checked: boxes that were compared with the reference's.
        images: how many images they were in, and ``images_from`` where these came from.
    """

    min_score: float
    max_overlap: float
    max_detections: int
    boxes_checked: int
    images: int
    images_from: str


class ConvertRecord(Record):
    """A conversion's record says what was proved.

    Attributes:
        max_abs_error: largest difference of a logit to the float32 model's.
        sqnr_db: signal-to-noise ratio of the logits; ``agreement`` the fraction of equal top-1.
        images: how many were compared, and ``images_from`` where they came from.
        provider: execution provider of the comparison.
    """

    max_abs_error: float
    sqnr_db: float
    agreement: float
    images: int
    images_from: str
    provider: str
