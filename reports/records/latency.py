"""These are the records of latency and of the machine that it was measured on."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mobilenet_cli.reports.records.base import Record

PERCENTILES = 101  # the 0th to the 100th
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # others are divided by it
# What the rows are called that run a file in another way than plainly.
UNFUSED = "batch norms not fused"
FROZEN = "frozen BatchNorm statistics"
NOISY = "noisy: "  # how earlier versions began the remark on a row whose median is not settled
INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger")


def is_integer(operators: Mapping[str, int]) -> bool:
    """Tell whether integer convolutions are among the operators of a graph that ran."""
    return any(name in operators for name in INTEGER_CONVOLUTIONS)


class MachineRecord(Record):
    """A machine is what a latency was measured on.

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
    """A ratio is one row's latency over another's, with its 95 % interval.

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
    """A result is the latency of one artifact in one setting; times are milliseconds a batch.

    Attributes:
        model: path of the artifact; ``sha256`` its hash, ``stage`` what made it.
        variant: what sets the row apart from others of the same file; empty for the plain one.
        direction: ``forward``, or ``forward-backward`` (torch, training mode).
        provider: what ran the model: an execution provider, ``torch``, or another engine.
        engine: ``onnxruntime`` with that provider, ``torch``, or another engine by name.
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
        noisy: True where time was up before the median was settled.
        batch_norms_fused: True where no batch normalization was left in the graph that ran.
        frozen_statistics: True where training used the running statistics, as the last maps have
            a single value a channel.
        sqnr_db: of the logits against what the file says by its definition, in decibels, larger is
            closer, 200 if equal; None where engines were not compared, like the next two.
        agreement: the fraction of the compared images with the same first class, 0..1.
        right: whether that is close enough for the same model, computed otherwise.
    """

    model: str
    sha256: str
    stage: str
    variant: str = ""
    direction: Literal["forward", "forward-backward"] = "forward"
    provider: str
    engine: str = "onnxruntime"
    threads: int
    cpus: tuple[int, ...] = ()
    batch: int
    p50_ms: Milliseconds
    p90_ms: float
    p99_ms: float
    min_ms: float
    low_ms: Milliseconds
    high_ms: Milliseconds
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
    noisy: bool = False
    batch_norms_fused: bool = True
    frozen_statistics: bool = False
    sqnr_db: float | None = None
    agreement: float | None = None
    right: bool | None = None

    @field_validator("percentiles_ms")
    @classmethod
    def _all_or_none(cls, percentiles: tuple[float, ...]) -> tuple[float, ...]:
        if len(percentiles) not in (0, PERCENTILES):
            raise ValueError(f"percentiles_ms are {PERCENTILES} numbers, or none")
        return percentiles

    @model_validator(mode="before")
    @classmethod
    def _flags_of_old_records(cls, values: Any) -> Any:
        """Take from remarks and variants the flags that earlier versions wrote there alone."""
        if isinstance(values, dict) and values.get("provider") == "torch":
            values = {"engine": "torch", **values}
        if not isinstance(values, dict) or "noisy" in values:
            return values
        variant, remarks = values.get("variant", ""), values.get("remarks", ())
        other = [remark for remark in remarks if not str(remark).startswith(NOISY)]
        flags = {
            "remarks": other,
            "noisy": len(other) < len(remarks),
            "batch_norms_fused": values.get("provider") != "torch" and variant != UNFUSED,
            "frozen_statistics": variant == FROZEN,
        }
        return values | flags


class LeftOut(Record):
    """A row was left out because its engine could not run the model, and others could.

    Attributes:
        model: path of the artifact.
        engine: by name.
        threads: it should have run on, with ``batch`` images a run.
        reason: a sentence, and one that says what to do.
    """

    model: str
    engine: str
    threads: int
    batch: int
    reason: str


class Roofline(Record):
    """A roofline is what this processor can do at best, measured with the runtime's own kernels.

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
    """A classic row is one of the table Device, Forward, Forward-Backward, Instruction set, ...

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
    """A benchmark's record is what was measured as ``pipeline/benchmarking/bench.py`` defines.

    Attributes:
        machine: where.
        input: where the images came from.
        provider_options: passed to the execution provider.
        results: one row an artifact and setting.
        ratios: of every pair of rows with the same batch.
        rooflines: one a thread count; none on a GPU.
        classic: the classic table.
        engines: the versions of the engines that were compared; empty if none were.
        left_out: rows of engines that could not run a model.
    """

    machine: MachineRecord
    input: str
    provider_options: dict[str, str]
    results: tuple[BenchResult, ...]
    ratios: tuple[Ratio, ...]
    rooflines: tuple[Roofline, ...]
    classic: tuple[ClassicRow, ...]
    engines: dict[str, str] = Field(default={})
    left_out: tuple[LeftOut, ...] = ()


class LoadgenRecord(Record):
    """A LoadGen record is one run of an MLPerf scenario, as LoadGen judged it.

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
    summary: dict[str, str] = Field(default={})
    top1: float | None = None


class LoadgenReport(Record):
    """A LoadGen report holds scenarios of several artifacts on one machine."""

    machine: MachineRecord
    results: tuple[LoadgenRecord, ...]
