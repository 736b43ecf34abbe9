"""What each stage measured: frozen values that go to JSON and come back.

A record written by another version still loads: unknown fields are kept, missing ones that have a
default take it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue


class Record(BaseModel):
    """Base of all records: immutable, and unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1


class ImportRecord(Record):
    """Where imported weights came from.

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


class EpochRecord(Record):
    """One line of ``train.jsonl``.

    Attributes:
        epoch: from 1.
        loss: mean training loss; ``train_top1`` the accuracy on the augmented images, in percent.
        top1: on the held-out images, in percent; likewise ``top5``.
        learning_rate: at the epoch's end.
        waiting: share of the time so far, 0..1, that was spent waiting for images.
    """

    epoch: int
    loss: float
    train_top1: float
    top1: float
    top5: float
    learning_rate: float
    waiting: float | None = None


class TrainRecord(Record):
    """What ``train`` did.

    Attributes:
        epochs: how many, the last of which may be a part of one; ``images`` in each.
        top1: of what was kept, on the held-out images, in percent; likewise ``top5``.
        start_top1: likewise of what training started from, with ``--qat``.
        kept_epoch: whose weights were kept, from 1; 0 for those that it started from.
        seconds: of the steps, without evaluation; ``images_per_second`` over them.
        parameters: trainable parameters; ``multiply_adds`` of one image.
        device: ``cpu`` or ``cuda``; ``threads`` of the CPU, on whose number sums depend.
        waiting: share of the time, 0..1, that was spent waiting for images.
        bad_images: training images that could not be read; others took their place.
        replaced: the file beside it that keeps the checkpoint of other settings which was there.
    """

    epochs: int | float
    images: int
    top1: float
    top5: float
    start_top1: float | None = None
    kept_epoch: int | None = None
    seconds: float
    images_per_second: float
    parameters: int
    multiply_adds: int
    device: str
    threads: int | None = None
    waiting: float | None = None
    bad_images: tuple[str, ...] = ()
    replaced: str | None = None


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


class CalibrationImage(Record):
    """An image that was calibrated on: its path or name, and the SHA-256 of its bytes."""

    key: str
    sha256: str


class LayerRecord(Record):
    """How well one step of the network survived quantization.

    Attributes:
        name: of the tensor it makes.
        operator: its ONNX operator.
        sqnr_db: of that tensor against the float network's on the same images, everything before
            it quantized too; None for a step that stayed float.
        scale: of the tensor's grid; None where it stayed float.
        kernel_error: largest difference, in codes, between this machine's integer kernels and the
            simulation given the same inputs; 1 is a tie rounded the other way.
    """

    name: str
    operator: str
    sqnr_db: float | None
    scale: float | None
    kernel_error: float = 0.0


class FloatLayer(Record):
    """A layer that stays in float so that accuracy drops by no more than was asked for.

    Attributes:
        name: of the tensor it makes.
        drop: of top-1 in points against the float model, with it and those listed before it.
        p50_ms: median latency of that model, one image, one thread, here.
        slowdown: that against the model that is integer throughout, timed in turns.
    """

    name: str
    drop: float
    p50_ms: float
    slowdown: float


class QuantizeRecord(Record):
    """What ``quantize`` did and proved.

    Attributes:
        images: calibration images used; ``calibration`` lists them, ``bad_images`` those that
            could not be read, ``leakage`` those that are also in the evaluation set.
        leakage_checked: the evaluation set they were compared with, None if it is not known.
        calibrator: range method; ``target`` the kernels the model is made for.
        weight_bits: of the stored weights.
        pairs_limited: neighbouring weights were kept from saturating 16-bit sums.
        format: ``qdq`` or ``qoperator``.
        sqnr_db: of the logits against the float model's, on the calibration images, by the
            integer kernels of this machine; likewise ``agreement`` (top-1, 0..1) and
            ``max_abs_error``.
        kernel_sqnr_db: of the same logits against the simulated ones: what only the kernels add.
            None where the model cannot run here.
        operators: nodes by type in the graph that really runs.
        layers: in the order of computation; ``float_layers`` names those not integer.
        max_drop: of top-1 in points that was asked for, None if it was not.
        drop: what it is, measured on ``drop_images`` images of ``drop_data``.
        kept_float: the layers that stayed in float for it, and their price.
        seconds: wall time; ``peak_rss_mb`` the process's peak memory.
    """

    images: int
    calibration: tuple[CalibrationImage, ...]
    bad_images: tuple[str, ...]
    leakage: tuple[str, ...]
    leakage_checked: str | None
    calibrator: str
    target: str
    weight_bits: int
    pairs_limited: bool
    format: str
    sqnr_db: float
    agreement: float
    max_abs_error: float
    kernel_sqnr_db: float | None
    operators: dict[str, int]
    layers: tuple[LayerRecord, ...]
    float_layers: tuple[str, ...]
    max_drop: float | None = None
    drop: float | None = None
    drop_data: str | None = None
    drop_images: int | None = None
    kept_float: tuple[FloatLayer, ...] = ()
    seconds: float
    peak_rss_mb: float


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
        images_per_second: decoding included, loading the model not.
        seconds: wall time of the same.
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


class ConvertRecord(Record):
    """What ``convert`` proved.

    Attributes:
        max_abs_error: largest difference of a logit to the float32 model's.
        sqnr_db: signal-to-noise ratio of the logits; ``agreement`` the share of equal top-1.
        images: how many were compared, and ``images_from`` where they came from.
        provider: execution provider of the comparison.
    """

    max_abs_error: float
    sqnr_db: float
    agreement: float
    images: int
    images_from: str
    provider: str


class PredictionsRecord(Record):
    """What one artifact says about every image of a data set: compact, one entry an image.

    Attributes:
        model: path of the artifact; ``sha256`` its hash.
        data: the data set's name, ``source`` what opens it; ``data_fingerprint`` its hash.
        provider: what ran the model.
        keys: names of the images that could be read.
        targets: index of the right class of each.
        ranks: how many classes came before the right one: 0 where top-1 is right.
        top: indices of the most probable classes, at most three, most probable first.
        probabilities: theirs, 0..1, to four decimals.
    """

    model: str
    sha256: str
    data: str
    source: str
    data_fingerprint: str
    provider: str
    keys: tuple[str, ...]
    targets: tuple[int, ...]
    ranks: tuple[int, ...]
    top: tuple[tuple[int, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]


class MachineRecord(Record):
    """What a latency was measured on.

    Attributes:
        cpu: the processor's name; ``architecture`` such as ``x86_64``.
        instruction_sets: those that choose between a runtime's kernels, most specific last.
        cpus: logical CPUs of the machine; ``usable_cpus`` those this process may keep busy.
        cpu_quota: CPUs' worth of time granted by the container; None without a limit.
        memory_mb: physical memory in MiB.
        versions: of the libraries that took part.
        gpus: name, driver version and memory of each NVIDIA GPU.
    """

    cpu: str
    architecture: str
    instruction_sets: tuple[str, ...]
    cpus: int
    usable_cpus: int
    cpu_quota: float | None
    memory_mb: float
    os: str
    python: str
    versions: dict[str, str]
    gpus: tuple[str, ...]


class Ratio(Record):
    """One row's latency over another's, with its 95 % interval.

    Attributes:
        row: index of the slower or faster row in ``BenchRecord.results``.
        reference: index of the row it is compared with.
        value: median of the block-by-block ratios; below 1 the row is faster than the reference.
    """

    row: int
    reference: int
    value: float
    low: float
    high: float


class BenchResult(Record):
    """Latency of one artifact in one setting; every time is in milliseconds for a whole batch.

    Attributes:
        model: path of the artifact; ``sha256`` its hash, ``stage`` what made it.
        variant: what sets the row apart from others of the same file; empty for the plain one.
        direction: ``forward``, or ``forward-backward`` (torch, training mode).
        provider: what ran the model: an execution provider, or ``torch``.
        threads: of the runtime within one operator; ``batch`` images per run.
        cpus: logical CPUs to which they were pinned; empty where they were not, and in old records.
        p50_ms: median of all timed runs; ``p90_ms``, ``p99_ms``, ``min_ms`` likewise.
        low_ms: of the 95 % interval of the median; ``high_ms`` its other end.
        runs: timed runs, in ``blocks`` that were interleaved with the other rows'.
        images_per_second: ``1000 * batch / p50_ms``.
        cold_start_ms: session creation plus first run, in a fresh process.
        peak_rss_mb: largest resident set of that process in MiB, interpreter included.
        size_mb: of the file, in MiB.
        operators: nodes by type in the optimised graph; empty for torch, like the next two.
        operator_ms: time by operator type, the ten slowest, from the runtime's profiler.
        nodes_by_provider: where the nodes ran; more than one entry is a fallback.
        remarks: what keeps the row from being what it seems, and the cure.
        percentiles_ms: the 0th to 100th percentile of all timed runs; empty in old records.
        limit_ms: the roofline's bound for this row; None on a GPU and where a shape is unknown.
        reference: index of the row to compare with: the folded one of the same batch and thread
            count, or the first of them.
    """

    model: str
    sha256: str
    stage: str
    variant: str = ""
    direction: Literal["forward", "forward-backward"] = "forward"
    provider: str
    threads: int
    cpus: tuple[int, ...] = ()
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    low_ms: float
    high_ms: float
    runs: int
    blocks: int
    images_per_second: float
    cold_start_ms: float
    peak_rss_mb: float
    size_mb: float
    operators: dict[str, int]
    operator_ms: dict[str, float]
    nodes_by_provider: dict[str, int]
    remarks: tuple[str, ...]
    limit_ms: float | None
    reference: int
    percentiles_ms: tuple[float, ...] = ()


class Roofline(Record):
    """What this processor can do at best, measured with the runtime's own kernels.

    Attributes:
        threads: that took part.
        fp32_gmacs: multiply-adds per nanosecond in a 1024x1024x1024 matrix product.
        int8_gmacs: the same with unsigned by signed 8-bit integers.
        gb_per_s: bytes read and written per nanosecond when memory is copied.
    """

    threads: int
    fp32_gmacs: float
    int8_gmacs: float
    gb_per_s: float


class ClassicRow(Record):
    """One row of the table Device | Forward | Forward-Backward | Instruction set | ...

    Attributes:
        device: the processor that ran it.
        forward_ms: median latency; ``forward_backward_ms`` None where it was not measured.
        instruction_set: the widest that the device has for this arithmetic.
        quantized: integer convolutions ran.
        fused_bn: no batch normalization was left in the graph that ran.
        remark: runtime, threads, batch.
    """

    device: str
    forward_ms: float
    forward_backward_ms: float | None
    instruction_set: str
    quantized: bool
    fused_bn: bool
    remark: str


class BenchRecord(Record):
    """What ``bench`` measured; the method is defined in ``pipeline/bench.py``.

    Attributes:
        machine: where.
        input: where the images came from.
        provider_options: passed to the execution provider.
        results: one row an artifact and setting.
        ratios: of every pair of rows with the same batch.
        rooflines: one a thread count; none on a GPU.
        classic: the classic table.
    """

    machine: MachineRecord
    input: str
    provider_options: dict[str, str]
    results: tuple[BenchResult, ...]
    ratios: tuple[Ratio, ...]
    rooflines: tuple[Roofline, ...]
    classic: tuple[ClassicRow, ...]


class Finding(Record):
    """One thing that ``doctor`` looked at.

    Attributes:
        subject: what was looked at.
        status: ``ok``; ``note`` limits speed or choice; ``problem`` keeps a command from working.
        what: the finding, a sentence without a full stop.
        mend: the command or action that mends it; empty where nothing needs to be done.
    """

    subject: str
    status: Literal["ok", "note", "problem"]
    what: str
    mend: str = ""


class DoctorRecord(Record):
    """What ``doctor`` found, and the machine it found it on."""

    machine: MachineRecord
    findings: tuple[Finding, ...]


class LayerSize(Record):
    """What a file of training holds of one layer, in bytes.

    Attributes:
        name: of the module, such as ``layers.3``.
        parameters: that training adjusts.
        multiply_adds: for one image; None where the layer or the image's size is not known.
        weights: of the network, statistics of BatchNorm included; ``average`` their moving
            average; ``optimizer`` what the optimizer remembers of each.
    """

    name: str
    parameters: int
    multiply_adds: int | None
    weights: int
    average: int = 0
    optimizer: int = 0


class InspectRecord(Record):
    """What one model file says and holds.

    Attributes:
        model: path; ``sha256`` its hash, ``size_mb`` its size in MiB.
        format: ``ONNX``, ``safetensors`` or ``training state``.
        opset: of the default ONNX domain; None for a checkpoint, as are inputs and outputs.
        inputs: shape of each input, such as ``input: N x 3 x 224 x 224 float32``.
        outputs: likewise.
        parameters: stored numbers that training would have adjusted.
        multiply_adds: of convolutions and matrix products for one image.
        operators: nodes by type in the graph as written; empty for a checkpoint.
        weight_types: number of stored values by type.
        facts: what the file says about itself; None for a foreign file.
        provenance: the files it was made from, newest first, as far as they lie beside it.
        layers: of a checkpoint or training state, in the order of the network.
        stored_bytes: of weights, average, optimizer and everything else, which add up to the file;
            empty for ONNX.
    """

    model: str
    sha256: str
    size_mb: float
    format: str
    opset: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int
    multiply_adds: int | None
    operators: dict[str, int]
    weight_types: dict[str, int]
    facts: dict[str, JsonValue] | None
    provenance: tuple[str, ...]
    layers: tuple[LayerSize, ...] = ()
    stored_bytes: dict[str, int] = {}


class Interval(Record):
    """A number with its 95 % confidence interval; the interval is None where it is unknown."""

    value: float
    low: float | None = None
    high: float | None = None


class ArtifactRecord(Record):
    """A model file of a run and what its stage said about it.

    Attributes:
        file: name in the run's folder; ``sha256`` its hash, ``size_mb`` its size in MiB.
        stage: what made it, with the settings ``config``, from the file with hash ``parent``.
        versions: of the libraries that took part.
        data: what the weights were trained on, None if unknown.
        classes: identifier of each output, and ``names`` what people call them.
        record: what the stage measured: an ExportRecord and so on.
    """

    file: str
    sha256: str
    size_mb: float
    stage: str
    parent: str | None = None
    config: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    data: str | None = None
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    record: dict[str, JsonValue] = {}


class GuessRecord(Record):
    """One class as people call it, with its probability, 0..1."""

    name: str
    probability: float


class ImageCase(Record):
    """One evaluation image and what the artifacts say about it.

    Attributes:
        key: the image's name in its data set.
        label: its class as people call it.
        guesses: the most probable classes by artifact's file name, most probable first.
    """

    key: str
    label: str
    guesses: dict[str, tuple[GuessRecord, ...]]


class Confusion(Record):
    """What the images of the worst classes were taken for.

    Attributes:
        model: file name of the artifact.
        classes: the worst classes, the worst first; ``images`` how many each has.
        taken_for: classes that were predicted for them, the most frequent first.
        counts: images by class and prediction, [classes, taken_for].
    """

    model: str
    classes: tuple[str, ...]
    images: tuple[int, ...]
    taken_for: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class PairedRecord(Record):
    """Two artifacts on the same images.

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


class WeightRange(Record):
    """Smallest and largest weight of a layer, in float and as its integers stand for."""

    layer: str
    low: float
    high: float
    quantized_low: float
    quantized_high: float


class Missing(Record):
    """A part of a run that is not there, or not usable.

    Attributes:
        file: name in the run's folder.
        why: what is wrong with it, as the end of a sentence without a full stop.
        command: what makes it.
    """

    file: str
    why: str
    command: str


class RunRecord(Record):
    """Everything that is known about a run: what the renderers turn into a report.

    Attributes:
        run: the folder's name.
        artifacts: model files in the order in which the chain makes them.
        training: one JSON object an epoch, as ``train`` wrote them.
        evaluations: of the artifacts as they are now.
        bench: latencies; None if there are none.
        paired: each other artifact against the float one, on the same images.
        disagreements: images on which the int8 and the float artifact differ most surely.
        mistakes: images on which the last artifact is wrong most surely.
        confusion: of the last artifact's worst classes.
        weights: of the layers before and after quantization.
        missing: what the report has to do without.
        warnings: what a reader must know before he trusts the figures.
    """

    run: str
    artifacts: tuple[ArtifactRecord, ...]
    training: tuple[dict[str, JsonValue], ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()
    bench: BenchRecord | None = None
    paired: tuple[PairedRecord, ...] = ()
    disagreements: tuple[ImageCase, ...] = ()
    mistakes: tuple[ImageCase, ...] = ()
    confusion: Confusion | None = None
    weights: tuple[WeightRange, ...] = ()
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()


class ReportRow(Record):
    """One artifact in the table of a report.

    Attributes:
        file: name of the artifact; ``stage`` what made it, ``size_mb`` its size in MiB.
        data: what it was evaluated on; ``images`` how many there were.
        top1: percent, with interval; likewise top5.
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
    """A run with its summary: the content of ``report.json``."""

    headline: str
    rows: tuple[ReportRow, ...]
    run: RunRecord


class LoadgenRecord(Record):
    """One run of an MLPerf scenario, as LoadGen judged it.

    Attributes:
        model: path of the artifact; ``sha256`` its hash.
        scenario: ``single-stream``, ``offline`` or ``server``.
        mode: ``performance`` or ``accuracy``.
        provider: what ran the model, on ``threads`` threads in batches of at most ``batch``.
        data: where the images came from; ``images`` how many there are.
        valid: LoadGen's verdict on a performance run; ``reasons`` why not.
        metric: what the scenario is compared by; ``value`` in the unit that the name ends in.
        summary: all of LoadGen's summary.
        top1: of an accuracy run, in percent.
    """

    model: str
    sha256: str
    scenario: str
    mode: Literal["performance", "accuracy"]
    provider: str
    threads: int
    batch: int
    data: str
    images: int
    valid: bool | None = None
    reasons: tuple[str, ...] = ()
    metric: str | None = None
    value: float | None = None
    summary: dict[str, str] = {}
    top1: float | None = None


class LoadgenReport(Record):
    """Scenarios of several artifacts on one machine."""

    machine: MachineRecord
    results: tuple[LoadgenRecord, ...]


class ComparedPair(Record):
    """One kind of artifact in two runs.

    Attributes:
        stage: what made the artifact in both.
        base: name of the one run, and ``other`` of the other.
        accuracy: top-1 on the same images; None where ``accuracy_note`` says why not.
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


class ComparedRun(Record):
    """A run as it is listed beside others.

    Attributes:
        run: its name; ``made`` when its newest model was written, as ISO 8601 in UTC.
        machine: the processor that its latencies were measured on, None if there are none.
        headline: of its report, and ``rows`` its table.
        broken: why the run cannot be read; empty if it can.
    """

    run: str
    made: str | None = None
    machine: str | None = None
    headline: str = ""
    rows: tuple[ReportRow, ...] = ()
    broken: str = ""


class ComparisonRecord(Record):
    """Runs side by side, the first against each other one."""

    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]


class HistoryRecord(Record):
    """The runs of a folder, oldest first."""

    runs: tuple[ComparedRun, ...]
