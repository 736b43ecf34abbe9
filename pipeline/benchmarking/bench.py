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

**Other engines.** With ``engines``, each ONNX file also gets a row for each of them (``engines``),
which takes its turns with the others. All answers on ``COMPARED`` images are then held against
what the file says by its definition: a row that is further from it than ``RIGHT_DB`` computes
something else, and says so. An engine that is not installed, or fails at any time, has no row but
a sentence, and the others are measured without it.

**The roofline.** ``limit_ms`` is the time below which the row cannot be on this processor: its
multiply-adds at the rate of a large matrix product, or its file at the rate at which memory is
copied, whichever takes longer. Both rates are measured, with the row's number of threads.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.benchmarking.inputs import input_images
from mobilenet_cli.pipeline.benchmarking.processes import child
from mobilenet_cli.pipeline.benchmarking.processes.engines import (
    ENGINES,
    check_engines,
    engine_error,
    logits_of,
)
from mobilenet_cli.pipeline.benchmarking.processes.job import ONNX_RUNTIME, BenchJob
from mobilenet_cli.pipeline.benchmarking.processes.worker import Worker
from mobilenet_cli.pipeline.benchmarking.results import Measured, ratios_of, results_of
from mobilenet_cli.pipeline.benchmarking.roofline import measure_roofline
from mobilenet_cli.pipeline.benchmarking.rows import Row, rows_of
from mobilenet_cli.pipeline.errors import EngineError, MobilenetError, OptionError, counted
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.runtime.machine import (
    available_memory,
    cpus_to_pin,
    machine,
    usable_cpus,
)
from mobilenet_cli.pipeline.runtime.session import CPU, SessionConfig, check_provider, device_of
from mobilenet_cli.pipeline.runtime.timing import interleave
from mobilenet_cli.pipeline.runtime.torch_kernels import kernel_folder
from mobilenet_cli.reports.latency_tables import classic_table
from mobilenet_cli.reports.records.latency import BenchRecord, BenchResult, LeftOut, Ratio, Roofline

COMPARED = 8  # images


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
        engines: keys of ``ENGINES``; ONNX Runtime's rows are always there to compare with.

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
    engines: tuple[str, ...] = (ONNX_RUNTIME,)

    def __post_init__(self) -> None:
        check_engines(self.engines)
        if self.compares and self.provider != CPU:
            raise OptionError(
                f"other engines are not compared with {self.provider}, but on the CPU",
                "Leave --provider or --engine out",
            )
        if not self.batches:
            raise OptionError("no batch size to measure", "Pass --batch 1 or more")
        if min(self.batches) < 1:
            raise OptionError(
                f"cannot run a batch of {min(self.batches)} images", "Pass --batch 1 or more"
            )
        if not 0 < self.seconds < float("inf"):
            raise OptionError(f"cannot measure for {self.seconds} seconds", "Pass --seconds 5")
        self.sessions()

    @property
    def compares(self) -> bool:
        """Tell whether there are other engines than ONNX Runtime."""
        return any(engine != ONNX_RUNTIME for engine in self.engines)

    def sessions(self) -> list[SessionConfig]:
        """Return how ONNX Runtime is to run the plain rows, one session a thread count."""
        return [
            SessionConfig(
                provider=self.provider,
                threads=count,
                cpus=() if device_of(self.provider) else cpus_to_pin(count),
                provider_options=self.provider_options,
                allow_fallback=self.allow_fallback,
            )
            for count in self.threads or (usable_cpus(),)
        ]


@dataclass(frozen=True)
class Group:
    """A group is what rows of one batch size and thread count yielded that took turns.

    Attributes:
        measured: the rows that ran to the end.
        left_out: the rows of engines that did not.
        source: where the images came from.
    """

    measured: tuple[Measured, ...]
    left_out: tuple[LeftOut, ...]
    source: str


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
    left_out: list[LeftOut] = []
    rooflines: dict[int, Roofline] = {}
    source = ""
    groups = list(itertools.product(config.sessions(), config.batches))
    for done, (session, batch) in enumerate(groups):
        threads = session.threads or usable_cpus()
        if not device_of(config.provider) and threads not in rooflines:
            rooflines[threads] = measure_roofline(threads)
        settings = (session, batch, config.compiled, config.engines)
        rows = [row for artifact in artifacts for row in rows_of(artifact, *settings)]
        group = measure(rows, config, _share(progress, done, len(groups)))
        first, source = len(results), group.source
        results += results_of(group.measured, first, rooflines.get(threads))
        ratios += ratios_of([made.timing for made in group.measured], first)
        left_out += group.left_out
    here = machine()
    return BenchRecord(
        machine=here,
        input=source,
        provider_options=dict(config.provider_options),
        results=tuple(results),
        ratios=tuple(ratios),
        rooflines=tuple(rooflines.values()),
        classic=classic_table(results, here),
        engines={
            row.engine: ENGINES[row.engine].version
            for row in results
            if row.engine in ENGINES and config.compares
        },
        left_out=tuple(left_out),
    )


def _share(progress: Progress, done: int, total: int) -> Progress:
    """Return ``progress`` for part ``done`` of ``total`` equal parts, each in percent."""
    return lambda percent, _, note="": progress(100 * done + percent, 100 * total, note)


def measure(rows: Sequence[Row], config: BenchConfig, progress: Progress) -> Group:
    """Start a worker per row, time them interleaved, and compare their answers.

    An engine that fails is left out, and the rows that remain take their turns from the start.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(kernel_folder(any(row.compiled for row in rows)))
        workers: list[tuple[Row, Worker]] = []
        left_out, source = [], ""
        for index, row in enumerate(rows):
            progress(0, 100, f"starting {row.label}")
            place = folder / str(index)
            place.mkdir()
            images, source = input_images(row, config.data, COMPARED if config.compares else 1)
            np.save(place / "images.npy", images)
            try:
                job = job_of(row, place / "images.npy")
                workers.append((row, stack.enter_context(contextlib.closing(Worker(job)))))
            except EngineError as error:
                left_out.append(_left_out(row, error))
        while True:
            try:
                measured = take_turns(workers, config, progress)
            except EngineError:
                failed = [(row, worker.failure) for row, worker in workers if worker.failure]
                left_out += [_left_out(row, error) for row, error in failed]
                workers = [(row, worker) for row, worker in workers if not worker.failure]
            else:
                return Group(measured, tuple(left_out), source)


def _left_out(row: Row, error: MobilenetError | None) -> LeftOut:
    threads = row.session.threads or usable_cpus()
    return LeftOut(
        model=str(row.artifact.path),
        engine=row.engine,
        threads=threads,
        batch=row.batch,
        reason=str(error),
    )


def take_turns(
    workers: Sequence[tuple[Row, Worker]], config: BenchConfig, progress: Progress
) -> tuple[Measured, ...]:
    """Time all workers interleaved, then ask each what else it knows.

    Raises:
        EngineError: the worker of another engine than ONNX Runtime fails.
    """
    note = f"{counted(len(workers), 'row')}, batch {workers[0][0].batch}"
    timings = interleave(
        [worker for _, worker in workers],
        limit_ns=int(config.seconds * len(workers) * 1e9),
        on_round=lambda fraction: progress(int(100 * fraction), 100, note),
    )
    measured = []
    for (row, worker), timing in zip(workers, timings, strict=True):
        # Memory first: profiling costs some, and so does a second model.
        memory, inside = worker.ask(child.peak_memory), worker.ask(child.inside_of)
        made = Measured(row, timing, worker.cold_start_ms, memory, inside)
        if config.compares and not row.artifact.is_checkpoint:
            made = replace(made, answers=logits_of(worker.ask(child.answers_of), row.engine))
            if row.engine == ONNX_RUNTIME and not row.variant:
                defined = logits_of(worker.ask(child.defined_of), row.engine)
                made = replace(made, defined=defined)
        measured.append(made)
    return tuple(measured)


def job_of(row: Row, images: Path) -> BenchJob:
    """Return the row as its worker sees it, beside ``images`` the file that its engine reads.

    Raises:
        EngineError: the engine cannot be given this model.
    """
    model, convert = row.artifact.path, ENGINES[row.engine].convert
    if convert is not None:
        try:
            shape = (row.batch, *row.artifact.facts.input.shape)
            model = convert(row.artifact, shape, images.parent)
        except EngineError:
            raise
        except Exception as error:  # a converter's own, of any type
            raise engine_error(row.engine, model, error) from error
    return BenchJob(
        model=model,
        images=images,
        batch=row.batch,
        session=row.session,
        memory=available_memory(),
        engine=row.engine,
        direction=row.direction,
        on_device=row.on_device,
        compiled=row.compiled,
    )
