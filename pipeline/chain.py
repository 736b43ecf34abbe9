"""The whole chain is one call, in which a stage runs only if its result is not there already.

A model file is current when its sidecar names the same stage, parent and settings and the hash of
exactly this file; a measurement, when it was made of these very files in the same setting. Nothing
depends on times, and a chain that was killed goes on where it stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact, load_with_record
from mobilenet_cli.pipeline.artifacts.files import write_record
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.artifacts.sidecar import is_current
from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig, bench
from mobilenet_cli.pipeline.benchmarking.processes.job import ONNX_RUNTIME
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.evaluate_detector import evaluation_boxes
from mobilenet_cli.pipeline.evaluating.evaluate_model import evaluate_model
from mobilenet_cli.pipeline.evaluating.labels import evaluation_set
from mobilenet_cli.pipeline.evaluating.records import detections_of, evaluations_of
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.progress import Progress
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.reporting.report import report
from mobilenet_cli.pipeline.runtime.machine import machine, usable_cpus
from mobilenet_cli.pipeline.runtime.predictor import TORCH, provider_name
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.running.interruption import interruption
from mobilenet_cli.pipeline.training.setup import ResolvedTraining, resolve
from mobilenet_cli.pipeline.training.train import train
from mobilenet_cli.reports.records.accuracy import EvaluationRecord
from mobilenet_cli.reports.records.conversion import ExportRecord, SimplifyRecord
from mobilenet_cli.reports.records.detection import DetectionRecord
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.run import ReportRecord
from mobilenet_cli.reports.records.training import EpochRecord, TrainingStart, TrainRecord

# Given a stage's name and its unit of work, shows its progress while it runs.
Watch = Callable[[str, str], AbstractContextManager[Progress]]
# Is told what a training starts with, and each epoch's result.
Tell = Callable[[TrainingStart | EpochRecord], None]


@dataclass(frozen=True)
class ChainConfig:
    """These are the settings of every stage that has some; export and simplify take the usual."""

    train: TrainConfig = field(default_factory=TrainConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)


@dataclass(frozen=True)
class ChainResult:
    """This is what a run holds when the chain is complete.

    Attributes:
        run: the run.
        models: the model files by the stage that made them, in the order of the chain.
        evaluations: the accuracy of each model.
        bench: the latency of all models.
        report: what the report says.
        report_paths: where the report is, by format.
        skipped: the stages whose result was there already.
    """

    run: Run
    models: Mapping[str, Artifact[BaseModel]]
    evaluations: tuple[EvaluationRecord | DetectionRecord, ...]
    bench: BenchRecord
    report: ReportRecord
    report_paths: Mapping[str, Path]
    skipped: tuple[str, ...]

    @property
    def replaced(self) -> str | None:
        """Return the file that keeps a checkpoint that training has just replaced, if any."""
        record = self.models["train"].record
        assert isinstance(record, TrainRecord)
        return None if "train" in self.skipped else record.replaced

    def as_document(self) -> dict[str, Any]:
        """Return what each stage recorded as JSON."""
        stages = {stage: model.as_document() for stage, model in self.models.items()}
        stages["train"] |= {"run": self.run.name, "checkpoint": stages["train"].pop("model")}
        return {
            "run": self.run.name,
            "skipped": list(self.skipped),
            **stages,
            "evaluate": [record.as_document() for record in self.evaluations],
            "bench": self.bench.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class ChainStage:
    """This is a stage that makes a model file.

    Attributes:
        name: the stage's name in the file's facts.
        out: the file.
        record: the type of the record that it leaves.
        settings: as the file's facts hold them.
        make: runs the stage, given the models made so far, of which the last is its input.
    """

    name: str
    out: Path
    record: type[BaseModel]
    settings: Mapping[str, Any]
    make: Callable[[Sequence[Artifact], Progress], Artifact[BaseModel]]


def stages_of(
    run: Run, config: ChainConfig, training: ResolvedTraining, tell: Tell
) -> tuple[ChainStage, ...]:
    """Return the stages from images to int8."""
    return (
        ChainStage(
            "train",
            run.checkpoint,
            TrainRecord,
            training.recorded,
            lambda _, progress: _train(run, config.train, progress, tell),
        ),
        ChainStage(
            "export",
            run.fp32,
            ExportRecord,
            asdict(ExportConfig()),
            lambda models, _: export(models[-1], ExportConfig(), run.fp32),
        ),
        ChainStage(
            "simplify",
            run.folded,
            SimplifyRecord,
            asdict(SimplifyConfig()),
            lambda models, _: simplify(models[-1], SimplifyConfig(), run.folded),
        ),
        ChainStage(
            "quantize",
            run.int8,
            QuantizeRecord,
            config.quantize.resolved().recorded,
            lambda models, progress: quantize(models[-1], config.quantize, run.int8, progress),
        ),
    )


def _train(run: Run, config: TrainConfig, progress: Progress, tell: Tell) -> Artifact[TrainRecord]:
    with interruption(run.name) as stop:
        return train(config, run.checkpoint, progress, stop, tell)


def run_chain(
    run: Run, config: ChainConfig, watch: Watch, tell: Tell = lambda _: None
) -> ChainResult:
    """Bring a run up to date.

    Args:
        run: the run.
        config: the settings of every stage.
        watch: shows the progress of a stage.
        tell: is told what the training starts with, and each epoch's result.

    Raises:
        OptionError: training would replace imported or fine-tuned weights by others.
        MobilenetError: of the first stage that fails; the results before it stay.
    """
    training = resolve(config.train)
    _refuse_replacing(run, training.parent)
    skipped: list[str] = []
    models: list[Artifact[BaseModel]] = []
    for stage in stages_of(run, config, training, tell):
        parent = models[-1].sha256 if models else training.parent
        if is_current(stage.out, stage.name, parent, stage.settings):
            skipped.append(stage.name)
            models.append(load_with_record(stage.out, stage.record))
        else:
            with watch(stage.name, "images") as progress:
                models.append(stage.make(models, progress))
    evaluations = evaluate_all(run, models, config.evaluate, watch, skipped)
    measured = bench_all(run, models, config.bench, watch, skipped)
    summary, paths = report(run)
    return ChainResult(
        run=run,
        models={model.facts.stage: model for model in models},
        evaluations=evaluations,
        bench=measured,
        report=summary,
        report_paths=paths,
        skipped=tuple(skipped),
    )


def _refuse_replacing(run: Run, parent: str | None) -> None:
    """Refuse to train over weights that this tool did not make from nothing."""
    if not run.checkpoint.is_file():
        return
    facts = load_artifact(run.checkpoint).facts
    imported = facts.stage == "import"
    if imported or facts.parent not in (None, parent):
        kind = "imported" if imported else "fine-tuned"
        raise OptionError(
            f"run '{run.name}' holds {kind} weights, which training would replace",
            "Choose another --run, or take its stages one by one, beginning with export",
        )


def evaluate_all(
    run: Run, models: Sequence[Artifact], config: EvaluateConfig, watch: Watch, skipped: list[str]
) -> tuple[EvaluationRecord | DetectionRecord, ...]:
    """Evaluate each model that has no current record."""
    found = [current_evaluation(run, model, config) for model in models]
    if all(found):
        skipped.append("evaluate")
    records = []
    for model, record in zip(models, found, strict=True):
        if record is None:
            with watch(f"evaluate {model.path.name}", "images") as progress:
                record = evaluate_model(model, config, run, progress)
        records.append(record)
    return tuple(records)


def bench_all(
    run: Run, models: Sequence[Artifact], config: BenchConfig, watch: Watch, skipped: list[str]
) -> BenchRecord:
    """Measure all models together, unless there is a current record."""
    if record := current_bench(run, models, config):
        skipped.append("bench")
        return record
    with watch("bench", "%") as progress:
        record = bench(models, config, progress)
    write_record(run.bench, record)
    return record


def current_evaluation(
    run: Run, model: Artifact, config: EvaluateConfig
) -> EvaluationRecord | DetectionRecord | None:
    """Return the run's record of this very file on the same images and provider, if any.

    Images are told apart by their names and labels, not by their content.
    """
    detects = model.facts.task == "detection"
    images = (evaluation_boxes if detects else evaluation_set)(model, config.data)
    provider = provider_name(model, config.provider)
    wanted = (model.sha256, images.name, images.fingerprint, provider)
    kept: Sequence[EvaluationRecord | DetectionRecord]
    kept = detections_of(run).read() if detects else evaluations_of(run).read()
    for record in kept:
        if wanted == (record.sha256, record.data, record.data_fingerprint, record.provider):
            return record
    return None


def current_bench(run: Run, models: Sequence[Artifact], config: BenchConfig) -> BenchRecord | None:
    """Return the run's record of these very files in this setting on this machine, if any."""
    try:
        record = BenchRecord.model_validate_json(run.bench.read_bytes())
    except (OSError, ValidationError):
        return None
    settings = {
        (row.sha256, row.provider, row.threads, row.batch)
        for row in record.results
        if row.engine in (ONNX_RUNTIME, TORCH)
    }
    wanted = {
        (model.sha256, provider_name(model, config.provider), n, batch)
        for model in models
        for n in config.threads or (usable_cpus(),)
        for batch in config.batches
    }
    here = machine()
    same_machine = (record.machine.cpu, record.machine.versions) == (here.cpu, here.versions)
    same_options = record.provider_options == dict(config.provider_options)
    return record if settings == wanted and same_machine and same_options else None
