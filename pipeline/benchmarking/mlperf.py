"""MLPerf Inference scenarios run with MLCommons' own LoadGen, which issues, times and judges.

LoadGen decides when a query comes and whether the result counts; this file only answers queries.
*Single stream* sends one image when the last is done and reports the 90th percentile of latency;
*offline* sends all images at once and reports throughput; *server* sends images at random times
(Poisson) and is valid if 99 % are answered within a bound. A run is judged by LoadGen's own rules
for the duration asked for; a submission to MLPerf needs ten minutes and the closed division's
images besides.
"""

import array
import contextlib
import json
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import denormalize
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.files import is_checkpoint
from mobilenet_cli.pipeline.artifacts.onnx_graph import takes_pixels
from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig
from mobilenet_cli.pipeline.errors import CheckError, OptionError, need
from mobilenet_cli.pipeline.evaluating.labels import evaluation_set, targets_of
from mobilenet_cli.pipeline.progress import Progress
from mobilenet_cli.pipeline.runtime.machine import machine, usable_cpus
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.latency import LoadgenRecord, LoadgenReport

SCENARIOS = {"single-stream": "SingleStream", "offline": "Offline", "server": "Server"}
METRICS = {
    "single-stream": "90.0th percentile latency (ns)",
    "offline": "Samples per second",
    "server": "Completed samples per second",
}
LOADED_IMAGES = 256  # in memory at a time
SERVER_LOAD = 0.5  # of what one image after the other would give


@dataclass(frozen=True, kw_only=True)
class LoadgenConfig:
    """A configuration says what LoadGen is to do.

    Attributes:
        scenario: a key of ``SCENARIOS``.
        accuracy: every image once, and top-1 instead of time.
        seconds: least duration of a performance run.
        batch: most images in one run of the model; offline and server only.
        server_qps: queries per second of the server scenario; None takes half of what the model
            answers one after the other.
        server_latency_ms: bound that 99 % of the server's queries must keep.
        session: provider and threads.
        data: labelled images; None takes the model's training data, held-out part.

    Raises:
        OptionError: a value is outside its domain.
    """

    scenario: str
    accuracy: bool = False
    seconds: float = 60.0
    batch: int = 1
    server_qps: float | None = None
    server_latency_ms: float = 15.0
    session: SessionConfig = field(default_factory=SessionConfig)
    data: str | None = None

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise OptionError(
                f"unknown scenario '{self.scenario}'", f"Use one of {', '.join(SCENARIOS)}"
            )
        positive = (self.seconds, self.batch, self.server_latency_ms, self.server_qps or 1)
        if not all(0 < value < float("inf") for value in positive):
            raise OptionError(
                "seconds, batch, queries per second and latency must be positive numbers",
                "Leave them out for the defaults",
            )


class Library:
    """A library holds images in memory only while LoadGen wants them (its query sample library)."""

    def __init__(self, artifact: Artifact, data: str | None) -> None:
        dataset = evaluation_set(artifact, data)
        self.name, self.samples = dataset.name, dataset.samples
        self.targets = targets_of(dataset, artifact)
        self._spec = artifact.facts.input
        self._pixels = takes_pixels(artifact.path)
        self.images: dict[int, NDArray[np.float32] | NDArray[np.uint8]] = {}

    def load(self, indices: Sequence[int]) -> None:
        """Decode these images."""
        wanted = [index for index in indices if index not in self.images]
        for batch in batches([self.samples[i] for i in wanted], self._spec, 16):
            for position, image in zip(batch.indices, batch.images, strict=True):
                made = denormalize(image, self._spec) if self._pixels else image
                self.images[wanted[position]] = made

    def unload(self, indices: Sequence[int]) -> None:
        """Forget them."""
        for index in indices:
            self.images.pop(index, None)


class System:
    """A system is a session that one thread feeds from a queue (LoadGen's system under test)."""

    def __init__(self, session: Any, library: Library, batch: int) -> None:
        self._session, self._library, self._batch = session, library, batch
        self._input = session.get_inputs()[0].name
        self._queue: queue.SimpleQueue[list[tuple[int, int]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve)
        self.failure: Exception | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator["System"]:
        """Answer queries until the end of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._queue.put(None)
            self._thread.join()

    def issue(self, queries: Sequence[Any]) -> None:
        """Take LoadGen's queries; returns at once."""
        self._queue.put([(query.id, query.index) for query in queries])

    def flush(self) -> None:
        """Do nothing, for nothing is held back."""

    def classify(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Return the top-1 classes of images of the library."""
        images = np.stack([self._library.images[index] for index in indices])
        classes: NDArray[np.int64] = self._session.run(None, {self._input: images})[0].argmax(1)
        return classes

    def _serve(self) -> None:
        while (queries := self._queue.get()) is not None:
            for start in range(0, len(queries), self._batch):
                self._answer(queries[start : start + self._batch])

    def _answer(self, queries: list[tuple[int, int]]) -> None:
        import mlperf_loadgen as lg

        try:
            classes = self.classify([index for _, index in queries])
        except Exception as error:  # LoadGen waits for an answer whatever happens
            self.failure = error
            classes = np.full(len(queries), -1)
        answers = [array.array("i", [int(value)]) for value in classes]
        responses = []
        for (identifier, _), answer in zip(queries, answers, strict=True):
            address, length = answer.buffer_info()
            responses.append(lg.QuerySampleResponse(identifier, address, length * answer.itemsize))
        lg.QuerySamplesComplete(responses)


def run_scenarios(
    paths: Sequence[Path],
    scenario: str,
    accuracy: bool,
    server_qps: float | None,
    config: BenchConfig,
    progress: Progress,
) -> LoadgenReport:
    """Run a scenario on each ONNX file; checkpoints have none and are left out.

    Raises:
        OptionError: a value is outside its domain.
        CheckError: a model fails under load.
    """
    settings = LoadgenConfig(
        scenario=scenario,
        accuracy=accuracy,
        seconds=config.seconds,
        batch=max(config.batches),
        server_qps=server_qps,
        session=config.sessions()[0],
        data=config.data,
    )
    models = [path for path in paths if not is_checkpoint(path)]
    results = []
    for done, path in enumerate(models):
        progress(done, len(models), str(path))
        results.append(run_scenario(load_artifact(path), settings))
    return LoadgenReport(machine=machine(), results=tuple(results))


def run_scenario(artifact: Artifact, config: LoadgenConfig) -> LoadgenRecord:
    """Run one scenario on one ONNX file.

    Raises:
        OptionError: mlcommons-loadgen is not installed.
        CheckError: the model failed on an image.
        DataError: there are no labelled images.
        ProviderError: the provider cannot run the model here.
    """
    need("mlperf_loadgen", "--scenario takes MLPerf's LoadGen")
    import mlperf_loadgen as lg

    library = Library(artifact, config.data)
    session = open_session(artifact.path, config.session)
    system = System(session, library, 1 if config.scenario == "single-stream" else config.batch)
    settings = settings_of(config, seconds_per_image(system, library))
    with tempfile.TemporaryDirectory() as folder, system.running():
        logs = lg.LogSettings()
        logs.log_output = lg.LogOutputSettings()
        logs.log_output.outdir = folder
        sut = lg.ConstructSUT(system.issue, system.flush)
        count = len(library.samples)
        qsl = lg.ConstructQSL(count, min(count, LOADED_IMAGES), library.load, library.unload)
        try:
            lg.StartTestWithLogSettings(sut, qsl, settings, logs)
        finally:
            lg.DestroyQSL(qsl)
            lg.DestroySUT(sut)
        if system.failure:
            raise CheckError(
                f"{artifact.path} failed on an image ({system.failure})",
                "Bench it without --scenario",
            ) from system.failure
        return record_of(artifact, config, library, Path(folder))


def seconds_per_image(system: System, library: Library) -> float:
    """Estimate the time of one image, from which LoadGen sizes its run."""
    library.load([0])
    system.classify([0])
    start = time.perf_counter()
    for _ in range(5):
        system.classify([0])
    return (time.perf_counter() - start) / 5


def settings_of(config: LoadgenConfig, estimate: float) -> Any:
    """Return LoadGen's settings for the scenario."""
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, SCENARIOS[config.scenario])
    mode = lg.TestMode.AccuracyOnly if config.accuracy else lg.TestMode.PerformanceOnly
    settings.mode = mode
    settings.min_duration_ms = int(1000 * config.seconds)
    settings.single_stream_expected_latency_ns = int(1e9 * estimate)
    # Offline issues everything at once: too low a guess ends before the least duration.
    settings.offline_expected_qps = 2 / estimate
    settings.server_target_qps = config.server_qps or SERVER_LOAD / estimate
    settings.server_target_latency_ns = int(1e6 * config.server_latency_ms)
    return settings


def record_of(
    artifact: Artifact, config: LoadgenConfig, library: Library, folder: Path
) -> LoadgenRecord:
    """Read LoadGen's logs."""
    record = LoadgenRecord(
        model=str(artifact.path),
        sha256=artifact.sha256,
        scenario=config.scenario,
        mode="accuracy" if config.accuracy else "performance",
        provider=config.session.provider,
        threads=config.session.threads or usable_cpus(),
        batch=config.batch,
        data=library.name,
        images=len(library.samples),
    )
    if config.accuracy:
        answers = json.loads((folder / "mlperf_log_accuracy.json").read_text())
        return record.model_copy(update={"top1": accuracy(answers, library.targets)})
    text = (folder / "mlperf_log_summary.txt").read_text()
    summary = parse_summary(text)
    valid, metric = summary.get("Result is") == "VALID", METRICS[config.scenario]
    return record.model_copy(
        update={
            "valid": valid,
            "reasons": () if valid else parse_reasons(text),
            "metric": metric,
            "value": float(summary[metric]),
            "summary": summary,
        }
    )


def accuracy(answers: Sequence[dict[str, Any]], targets: Sequence[int]) -> float:
    """Read top-1 in percent from LoadGen's accuracy log: ``data`` is a little-endian int32."""
    correct: int = sum(
        int.from_bytes(bytes.fromhex(a["data"]), "little", signed=True) == targets[a["qsl_idx"]]
        for a in answers
    )
    return 100 * correct / len(answers)


def parse_summary(text: str) -> dict[str, str]:
    """Read the ``key : value`` lines of ``mlperf_log_summary.txt``."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon and value.strip()}


def parse_reasons(text: str) -> tuple[str, ...]:
    """Read why a result is INVALID: conditions that were not satisfied, and LoadGen's advice."""
    lines = [line.strip() for line in text.splitlines()]
    unmet = [line for line in lines if line.lower().endswith(": no")]
    advice = [line.removeprefix("* ") for line in lines if line.startswith("* ")]
    return (*unmet, *advice)
