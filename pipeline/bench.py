"""Latency, throughput, cold start and memory of every artifact, side by side.

**What is measured.** The latency of a row is the time of one call from a NumPy array in host
memory to a NumPy array in host memory, for a whole batch, read from a monotonic clock around the
call. ``p50``, ``p90``, ``p99`` and the minimum are over all timed runs. Throughput is batch size
over ``p50``. Cold start is session creation plus first run in a fresh process, with the libraries
imported and the file in the operating system's cache. Peak memory is the largest resident set of
that process, interpreter and runtime included.

**How.** Each row lives in its own process (``bench_worker``). Rows with the same batch are
interleaved A B C A B C: a turn is one untimed run, which brings caches, threads and clock back to
the row, then a block of some 20 milliseconds. Drift of the machine therefore hits all rows alike,
and ratios between rows are medians of block-by-block ratios. Each row first warms up until its
running median is stable. Measuring ends when the 95 % interval of every median is within 2 % of
it, or after ``seconds`` per row. The intervals count blocks, not runs (``timing``).

A model that still has BatchNormalization nodes is measured twice: as ONNX Runtime runs it, which
fuses them when it loads the model, and with that fusion disabled, which shows what folding gives
(ONNX Runtime then runs each normalization as a depthwise 1x1 Conv). A checkpoint is run by torch,
forward and forward-backward.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.mobilenet_v1 import feature_sizes
from mobilenet_cli.pipeline.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.bench_worker import Direction, Job, Worker
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.machine import available_memory, machine, usable_cpus
from mobilenet_cli.pipeline.probe import probe_images
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.session import CPU, SessionConfig, check_provider
from mobilenet_cli.pipeline.timing import Timing, interleave, ratio
from mobilenet_cli.reports.records import (
    BenchRecord,
    BenchResult,
    ClassicRow,
    MachineRecord,
    Ratio,
)

NO_FUSION = "batch norms not fused"
MAX_IMAGES = 64  # different ones in a batch


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure.

    Attributes:
        provider: execution provider of the ONNX artifacts.
        provider_options: passed to it as they are.
        allow_fallback: let nodes that the provider cannot run go to the CPU.
        threads: of the runtime within one operator; None takes every CPU this process may use.
        batches: batch sizes; each is a set of rows of its own.
        seconds: most time to spend on timing a row.
        data: data set whose images are the input; None takes the training data of the model, or
            seeded noise where it does not name any; ``noise`` always takes noise.

    Raises:
        OptionError: a value is outside its domain.
    """

    provider: str = CPU
    provider_options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    threads: int | None = None
    batches: tuple[int, ...] = (1,)
    seconds: float = 5.0
    data: str | None = None

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise OptionError(f"cannot run batches of {self.batches}", "Pass --batch 1 or more")
        if not 0 < self.seconds < float("inf"):
            raise OptionError(f"cannot measure for {self.seconds} seconds", "Pass --seconds 5")
        self.session()

    def session(self) -> SessionConfig:
        """How ONNX Runtime is to run the plain rows."""
        return SessionConfig(
            provider=self.provider,
            threads=usable_cpus() if self.threads is None else self.threads,
            provider_options=self.provider_options,
            allow_fallback=self.allow_fallback,
        )


def parse_batches(text: str) -> tuple[int, ...]:
    """``1,8,32`` as batch sizes.

    Raises:
        OptionError: something else than whole numbers separated by commas.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"'{text}' is not a list of batch sizes", "Write it like --batch 1,8,32"
        ) from error


@dataclass(frozen=True)
class Row:
    """One line of the result: an artifact in one setting."""

    artifact: Artifact
    session: SessionConfig
    batch: int
    variant: str = ""
    direction: Direction = "forward"

    @property
    def is_checkpoint(self) -> bool:
        """Does torch run it?"""
        return self.artifact.path.suffix == ".safetensors"

    @property
    def label(self) -> str:
        """What to call the row in a message."""
        extra = self.variant or (self.direction if self.is_checkpoint else "")
        return f"{self.artifact.path.name} {extra}".strip()


@dataclass(frozen=True)
class Measured:
    """What the worker of one row yielded."""

    timing: Timing
    cold_start_ms: float
    peak_rss_mb: float
    operators: dict[str, int]


def bench(
    artifacts: Sequence[Artifact], config: BenchConfig, progress: Progress = silent
) -> BenchRecord:
    """Measure every artifact at every batch size.

    Args:
        artifacts: ONNX files and checkpoints; a checkpoint needs torch, in its own process.
        config: the settings.
        progress: told the share of the time that has passed, in percent.

    Raises:
        ProviderError: the provider asked for is missing or cannot run an artifact.
        OptionError: a batch does not fit in memory or to a model.
        ModelError: a file is not a model with one image input.
        CheckError: a model gives NaN or infinity.
    """
    check_provider(config.provider)
    results: list[BenchResult] = []
    ratios: list[Ratio] = []
    source = ""
    for done, batch in enumerate(config.batches):
        rows = [row for artifact in artifacts for row in rows_of(artifact, config, batch)]
        first = len(results)
        reference = first + reference_of(rows)
        measured, source = measure(rows, config, _share(progress, done, len(config.batches)))
        results += [
            result_of(row, made, reference) for row, made in zip(rows, measured, strict=True)
        ]
        ratios += ratios_of([made.timing for made in measured], first)
    here = machine()
    return BenchRecord(
        machine=here,
        input=source,
        results=tuple(results),
        ratios=tuple(ratios),
        classic=classic_table(results, here),
    )


def _share(progress: Progress, done: int, total: int) -> Progress:
    """``progress`` for part ``done`` of ``total`` equal parts, each in percent."""
    return lambda percent, _, note="": progress(100 * done + percent, 100 * total, note)


def rows_of(artifact: Artifact, config: BenchConfig, batch: int) -> Iterator[Row]:
    """The settings in which one artifact is measured."""
    plain = Row(artifact, config.session(), batch)
    if plain.is_checkpoint:
        yield plain
        # Batch statistics need more than one value a channel.
        if batch * feature_sizes(artifact.facts.input.resolution)[-1] ** 2 > 1:
            yield replace(plain, direction="forward-backward")
        return
    yield plain
    if has_batch_norms(artifact.path):
        unfused = replace(plain.session, disabled_optimizers=("ConvBNFusion",))
        yield replace(plain, session=unfused, variant=NO_FUSION)


def has_batch_norms(path: Path) -> bool:
    """Are there BatchNormalization nodes in the graph as written?"""
    from mobilenet_cli.pipeline.onnx_file import load_onnx

    return any(node.op_type == "BatchNormalization" for node in load_onnx(path).graph.node)


def reference_of(rows: Sequence[Row]) -> int:
    """Index of the row to compare with: the folded one, or else the first."""
    folded = (i for i, row in enumerate(rows) if row.artifact.facts.stage == "simplify")
    return next(folded, 0)


def measure(
    rows: Sequence[Row], config: BenchConfig, progress: Progress
) -> tuple[list[Measured], str]:
    """Start a worker per row, time them interleaved, and say where the images came from."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers, source = [], ""
        for index, row in enumerate(rows):
            progress(0, 100, f"starting {row.label}")
            images, source = input_images(row, config.data)
            path = folder / f"{index}.npy"
            np.save(path, images)
            job = Job(row.artifact.path, path, row.session, available_memory(), row.direction)
            workers.append(stack.enter_context(contextlib.closing(Worker(job))))
        note = f"{len(rows)} rows, batch {rows[0].batch}"
        timings = interleave(
            workers,
            limit_ns=int(config.seconds * len(rows) * 1e9),
            on_round=lambda share: progress(int(100 * share), 100, note),
        )
        # Memory before operators: optimising the graph once more costs some.
        measured = [
            Measured(timing, worker.cold_start_ms, worker.peak_rss_mb(), worker.operators())
            for worker, timing in zip(workers, timings, strict=True)
        ]
    return measured, source


def input_images(row: Row, data: str | None) -> tuple[NDArray[np.float32], str]:
    """The input [batch, 3, R, R] of a row, and where it comes from.

    Real images of ``data`` or of the set the model was trained on, repeated where the batch is
    larger than ``MAX_IMAGES``; seeded noise where neither is known or ``data`` is ``noise``. The
    latency of these networks does not depend on the values: no kernel branches on them.
    """
    facts, batch = row.artifact.facts, row.batch
    if not row.is_checkpoint:
        check_input(row.artifact.path, facts.input, batch)
    needed = batch * 3 * facts.input.resolution**2 * np.dtype(np.float32).itemsize
    if needed > available_memory():
        raise OptionError(
            f"a batch of {batch} images does not fit in memory ({needed / 2**30:.0f} GiB of input)",
            "Pass a smaller --batch",
        )
    if data == "noise":
        facts, data = facts.model_copy(update={"data": None}), None
    images, source = probe_images(facts, data, min(batch, MAX_IMAGES))
    return images[np.arange(batch) % len(images)], source


def check_input(path: Path, spec: InputSpec, batch: int) -> None:
    """Raise unless the model takes a batch of images of the spec's resolution."""
    shape = input_shape(path)
    if shape[0] not in (None, batch):
        raise OptionError(
            f"{path} takes batches of {shape[0]} only, not {batch}", f"Pass --batch {shape[0]}"
        )
    if any(side not in (None, spec.resolution) for side in shape[2:]):
        raise ModelError(
            f"{path} takes images of {shape[2]}x{shape[3]}, but says its resolution is "
            f"{spec.resolution}",
            "Export the model again",
        )


def input_shape(path: Path) -> tuple[int | None, ...]:
    """The model's input shape [N, 3, H, W]; None where a dimension is free.

    Raises:
        ModelError: not exactly one input, or not a batch of float32 RGB images.
    """
    import onnx

    from mobilenet_cli.pipeline.onnx_file import load_onnx

    graph = load_onnx(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.type.tensor_type for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs instead of one", "Use an image model")
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else None for dim in inputs[0].shape.dim
    )
    if len(shape) != 4 or shape[1] not in (None, 3):
        dims = "x".join("?" if size is None else str(size) for size in shape)
        raise ModelError(
            f"the input of {path} is {dims}, not a batch of images (Nx3xHxW)",
            "Export the model with a batch dimension in front and channels before rows",
        )
    if inputs[0].elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(
            f"the input of {path} is {onnx.TensorProto.DataType.Name(inputs[0].elem_type)}, "
            "not float32",
            "Export the model with a float32 input",
        )
    return shape


def open_model(path: Path) -> Artifact:
    """Load any model file; a foreign one is measured at the resolution its graph names, or 224."""
    foreign = None
    if path.suffix != ".safetensors" and path.is_file():
        side = input_shape(path)[2] or InputSpec().resolution
        foreign = InputSpec(resolution=side, resize=side)
    return load_artifact(path, foreign)


def result_of(row: Row, measured: Measured, reference: int) -> BenchResult:
    """Summarize one row."""
    timing = measured.timing
    low, high = timing.interval()
    p50 = timing.percentile(50)
    return BenchResult(
        model=str(row.artifact.path),
        sha256=row.artifact.sha256,
        stage=row.artifact.facts.stage,
        variant=row.variant,
        direction=row.direction,
        provider="torch" if row.is_checkpoint else row.session.provider,
        threads=row.session.threads or usable_cpus(),
        batch=row.batch,
        p50_ms=p50 / 1e6,
        p90_ms=timing.percentile(90) / 1e6,
        p99_ms=timing.percentile(99) / 1e6,
        min_ms=timing.percentile(0) / 1e6,
        low_ms=low / 1e6,
        high_ms=high / 1e6,
        runs=len(timing.runs),
        blocks=len(timing.blocks),
        images_per_second=1e9 * row.batch / p50,
        cold_start_ms=measured.cold_start_ms,
        peak_rss_mb=measured.peak_rss_mb,
        size_mb=row.artifact.path.stat().st_size / 2**20,
        operators=measured.operators,
        reference=reference,
    )


def ratios_of(timings: Sequence[Timing], offset: int) -> list[Ratio]:
    """Ratios of all ordered pairs of interleaved rows, the first of which has index ``offset``."""
    return [
        Ratio(row=offset + row, reference=offset + reference, value=value, low=low, high=high)
        for row, reference in itertools.permutations(range(len(timings)), 2)
        for value, low, high in [ratio(timings[row], timings[reference])]
    ]


def classic_table(results: Sequence[BenchResult], here: MachineRecord) -> tuple[ClassicRow, ...]:
    """Device | Forward | Forward-Backward | Instruction set | Quantized | Fused-BN | Remark."""
    backward = {
        (result.model, result.batch, result.threads): result.p50_ms
        for result in results
        if result.direction == "forward-backward"
    }
    return tuple(
        ClassicRow(
            device=device_of(result, here),
            forward_ms=result.p50_ms,
            forward_backward_ms=backward.get((result.model, result.batch, result.threads)),
            instruction_set=instruction_set_of(result, here),
            quantized=is_integer(result),
            fused_bn=result.provider != "torch" and result.variant != NO_FUSION,
            remark=remark_of(result, here),
        )
        for result in results
        if result.direction == "forward"
    )


def is_integer(result: BenchResult) -> bool:
    """Did integer convolutions run?"""
    return any(name in result.operators for name in ("QLinearConv", "ConvInteger"))


def device_of(result: BenchResult, here: MachineRecord) -> str:
    """The processor or the first GPU."""
    on_gpu = result.provider.startswith(("CUDA", "Tensorrt"))
    return here.gpus[0].split(",")[0] if on_gpu and here.gpus else here.cpu


def instruction_set_of(result: BenchResult, here: MachineRecord) -> str:
    """The widest instruction set that the processor has for the row's arithmetic."""
    if result.provider not in (CPU, "torch"):
        return "GPU"
    floats = ("SSE4.2", "AVX", "AVX2", "AVX-512F", "NEON", "SVE")
    integers = (*floats, "AVX-VNNI", "AVX-512 VNNI", "AMX-INT8", "NEON dot product", "NEON I8MM")
    wanted = integers if is_integer(result) else floats
    return [name for name in ("scalar", *here.instruction_sets) if name in ("scalar", *wanted)][-1]


def remark_of(result: BenchResult, here: MachineRecord) -> str:
    """Runtime with version, artifact, threads, batch."""
    names = ("torch",) if result.provider == "torch" else ("onnxruntime", "onnxruntime-gpu")
    runtime = next((f"{name} {here.versions[name]}" for name in names if name in here.versions), "")
    parts = [runtime, Path(result.model).name, result.variant]
    parts += [f"{result.threads} threads" if result.threads > 1 else "1 thread"]
    parts += [f"batch {result.batch}"] if result.batch > 1 else []
    return ", ".join(part for part in parts if part)
