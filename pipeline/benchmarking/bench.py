"""Bench measures latency, throughput, cold start and memory of every artifact, side by side.

**What is measured.** The latency of a row is the time of one call from a NumPy array in host
memory to a NumPy array in host memory, for a whole batch, read from a monotonic clock around the
call. ``p50``, ``p90``, ``p99`` and the minimum are over all timed runs. Throughput is batch size
over ``p50``. Cold start is session creation plus first run in a fresh process, with the libraries
imported and the file in the operating system's cache. Peak memory is the largest resident set of
that process, interpreter and runtime included.

**How.** Each row lives in its own process (``child``). Rows with the same batch are
interleaved A B C A B C: a turn is one untimed run, which brings caches, threads and clock back to
the row, then a block of some 20 milliseconds. Drift of the machine therefore hits all rows alike,
and ratios between rows are medians of block-by-block ratios. Each row first warms up until its
running median is stable. Measuring ends when the 95 % interval of every median is within 2 % of
it, or after ``seconds`` per row; a row that had not got there is marked noisy. The
intervals count blocks, not runs (``timing``).

**Threads.** Each is pinned to a logical CPU of its own, out of those this process may use, on
different physical cores as long as there are such; the record names them. On a GPU the threads
only launch kernels, and more threads than CPUs take turns: neither are pinned.

**Which rows.** A model that still has BatchNormalization nodes is measured twice: as ONNX Runtime
runs it, which fuses them when it loads the model, and with that fusion disabled, which shows what
folding gives (ONNX Runtime then runs each normalization as a depthwise 1x1 Conv). On a GPU there
is a further row whose input and output stay in its memory. A checkpoint is run by torch, forward
and forward-backward, on the GPU if the provider is one.

**The roofline.** ``limit_ms`` is the time below which the row cannot be on this processor: its
multiply-adds at the rate of a large matrix product, or its file at the rate at which memory is
copied, whichever takes longer. Both rates are measured, with the row's number of threads.
"""

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.onnx_graph import multiply_adds
from mobilenet_cli.pipeline.benchmarking.inputs import input_images
from mobilenet_cli.pipeline.benchmarking.job import BenchJob
from mobilenet_cli.pipeline.benchmarking.operator_profile import Inside
from mobilenet_cli.pipeline.benchmarking.remarks import remarks_on
from mobilenet_cli.pipeline.benchmarking.roofline import measure_roofline
from mobilenet_cli.pipeline.benchmarking.rows import Row, rows_of
from mobilenet_cli.pipeline.benchmarking.worker import Worker
from mobilenet_cli.pipeline.errors import OptionError, counted
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.runtime.machine import (
    available_memory,
    cpus_to_pin,
    machine,
    usable_cpus,
)
from mobilenet_cli.pipeline.runtime.session import CPU, PROVIDERS, SessionConfig, check_provider
from mobilenet_cli.pipeline.runtime.timing import Timing, interleave, ratio
from mobilenet_cli.pipeline.runtime.torch_kernels import kernel_folder
from mobilenet_cli.reports.latency_tables import classic_table
from mobilenet_cli.reports.records.latency import (
    FROZEN,
    UNFUSED,
    BenchRecord,
    BenchResult,
    Ratio,
    Roofline,
    is_integer,
)

TOP_OPERATORS = 10


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """A configuration says what to measure.

    Attributes:
        provider: execution provider of the ONNX artifacts.
        provider_options: passed to it as they are.
        allow_fallback: let nodes that the provider cannot run go to the CPU.
        threads: counts of threads within one operator, each a set of rows of its own; empty takes
            every CPU this process may use.
        batches: batch sizes, likewise.
        seconds: most time to spend on timing a row.
        data: data set whose images are the input; None takes the training data of the model, or
            seeded noise where it does not name any; ``noise`` always takes noise.
        compiled: also run checkpoints through ``torch.compile``, which takes a minute to build.

    Raises:
        OptionError: a value is outside its domain.
    """

    provider: str = CPU
    provider_options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    threads: tuple[int, ...] = ()
    batches: tuple[int, ...] = (1,)
    seconds: float = 5.0
    data: str | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        if not self.batches:
            raise OptionError("no batch size to measure", "Pass --batch 1 or more")
        if min(self.batches) < 1:
            raise OptionError(
                f"cannot run a batch of {min(self.batches)} images", "Pass --batch 1 or more"
            )
        if not 0 < self.seconds < float("inf"):
            raise OptionError(f"cannot measure for {self.seconds} seconds", "Pass --seconds 5")
        self.sessions()

    def sessions(self) -> list[SessionConfig]:
        """Return how ONNX Runtime is to run the plain rows, one session a thread count."""
        return [
            SessionConfig(
                provider=self.provider,
                threads=count,
                cpus=() if _on_gpu(self.provider) else cpus_to_pin(count),
                provider_options=self.provider_options,
                allow_fallback=self.allow_fallback,
            )
            for count in self.threads or (usable_cpus(),)
        ]


@dataclass(frozen=True)
class Measured:
    """A measured row is what its worker yielded."""

    timing: Timing
    cold_start_ms: float
    peak_rss_mb: float
    inside: Inside


def bench(
    artifacts: Sequence[Artifact], config: BenchConfig, progress: Progress = silent
) -> BenchRecord:
    """Measure every artifact at every thread count and batch size.

    Args:
        artifacts: ONNX files and checkpoints; a checkpoint needs torch, in its own process.
        config: the settings.
        progress: told the fraction of the time that has passed, in percent.

    Raises:
        ProviderError: the provider asked for is missing or cannot run an artifact.
        OptionError: a batch does not fit in memory or to a model.
        ModelError: a file is not a model with one image input.
        CheckError: a model gives NaN or infinity.
    """
    check_provider(config.provider)
    results: list[BenchResult] = []
    ratios: list[Ratio] = []
    rooflines: dict[int, Roofline] = {}
    source = ""
    groups = list(itertools.product(config.sessions(), config.batches))
    for done, (session, batch) in enumerate(groups):
        threads = session.threads or usable_cpus()
        if not _on_gpu(config.provider) and threads not in rooflines:
            rooflines[threads] = measure_roofline(threads)
        rows = [row for a in artifacts for row in rows_of(a, session, batch, config.compiled)]
        measured, source = measure(rows, config, _share(progress, done, len(groups)))
        first = len(results)
        results += [
            result_of(row, made, first + reference_of(rows), rooflines.get(threads))
            for row, made in zip(rows, measured, strict=True)
        ]
        ratios += ratios_of([made.timing for made in measured], first)
    here = machine()
    return BenchRecord(
        machine=here,
        input=source,
        provider_options=dict(config.provider_options),
        results=tuple(results),
        ratios=tuple(ratios),
        rooflines=tuple(rooflines.values()),
        classic=classic_table(results, here),
    )


def _on_gpu(provider: str) -> bool:
    return provider in PROVIDERS and bool(PROVIDERS[provider].device)


def _share(progress: Progress, done: int, total: int) -> Progress:
    """Return ``progress`` for part ``done`` of ``total`` equal parts, each in percent."""
    return lambda percent, _, note="": progress(100 * done + percent, 100 * total, note)


def reference_of(rows: Sequence[Row]) -> int:
    """Return the index of the row to compare with: the folded one, or else the first."""
    folded = (i for i, row in enumerate(rows) if row.artifact.facts.stage == "simplify")
    return next(folded, 0)


def measure(
    rows: Sequence[Row], config: BenchConfig, progress: Progress
) -> tuple[list[Measured], str]:
    """Start a worker per row, time them interleaved, and say where the images came from."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(kernel_folder(any(row.compiled for row in rows)))
        workers, source = [], ""
        for index, row in enumerate(rows):
            progress(0, 100, f"starting {row.label}")
            images, source = input_images(row, config.data)
            path = folder / f"{index}.npy"
            np.save(path, images)
            workers.append(stack.enter_context(contextlib.closing(Worker(job_of(row, path)))))
        note = f"{counted(len(rows), 'row')}, batch {rows[0].batch}"
        timings = interleave(
            workers,
            limit_ns=int(config.seconds * len(rows) * 1e9),
            on_round=lambda fraction: progress(int(100 * fraction), 100, note),
        )
        # Memory first: profiling costs some.
        measured = [
            Measured(timing, worker.cold_start_ms, worker.peak_rss_mb(), worker.inside())
            for worker, timing in zip(workers, timings, strict=True)
        ]
    return measured, source


def job_of(row: Row, images: Path) -> BenchJob:
    """Return the row as its worker sees it."""
    return BenchJob(
        model=row.artifact.path,
        images=images,
        batch=row.batch,
        session=row.session,
        memory=available_memory(),
        direction=row.direction,
        on_device=row.on_device,
        compiled=row.compiled,
    )


def result_of(
    row: Row, measured: Measured, reference: int, roofline: Roofline | None
) -> BenchResult:
    """Summarize one row."""
    timing, inside = measured.timing, measured.inside
    low, high = timing.interval()
    p50 = timing.percentile(50)
    operators = dict(Counter(operator for operator, _ in inside.nodes).most_common())
    return BenchResult(
        model=str(row.artifact.path),
        sha256=row.artifact.sha256,
        stage=row.artifact.facts.stage,
        variant=row.variant,
        direction=row.direction,
        provider="torch" if row.artifact.is_checkpoint else row.session.provider,
        threads=row.session.threads or usable_cpus(),
        cpus=row.session.cpus,
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
        operators=operators,
        operator_ms=dict(list(inside.milliseconds.items())[:TOP_OPERATORS]),
        nodes_by_provider=dict(Counter(provider for _, provider in inside.nodes)),
        remarks=remarks_on(row.session, operators, inside, row.artifact.facts.boxes),
        limit_ms=limit_ms(row, operators, roofline),
        reference=reference,
        percentiles_ms=tuple(timing.percentile(q) / 1e6 for q in range(101)),
        noisy=not timing.settled(),
        batch_norms_fused=not row.artifact.is_checkpoint and row.variant != UNFUSED,
        frozen_statistics=row.variant == FROZEN,
    )


def limit_ms(row: Row, operators: Mapping[str, int], roofline: Roofline | None) -> float | None:
    """Return the roofline's bound in milliseconds; None without one, and for forward-backward."""
    products = multiply_adds(row.artifact)
    if roofline is None or products is None or row.direction != "forward":
        return None
    rate = roofline.int8_gmacs if is_integer(operators) else roofline.fp32_gmacs
    size = row.artifact.path.stat().st_size
    return max(products * row.batch / rate, size / roofline.gb_per_s) / 1e6


def ratios_of(timings: Sequence[Timing], offset: int) -> list[Ratio]:
    """Return the ratios of all ordered pairs of interleaved rows, the first of index ``offset``."""
    return [
        Ratio(row=offset + row, reference=offset + reference, value=value, low=low, high=high)
        for row, reference in itertools.permutations(range(len(timings)), 2)
        for value, low, high in [ratio(timings[row], timings[reference])]
    ]
