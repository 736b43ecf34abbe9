"""All that lies in a run's folder becomes one record; what is missing or broken is listed."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.files import is_checkpoint, sha256_file
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.artifacts.onnx_graph import multiply_adds, output_kind
from mobilenet_cli.pipeline.artifacts.runs import NO_RUN_YET, Run, no_such_run
from mobilenet_cli.pipeline.artifacts.sidecar import read_sidecar
from mobilenet_cli.pipeline.errors import MobilenetError, ModelError
from mobilenet_cli.pipeline.evaluating.answers import read_many
from mobilenet_cli.pipeline.reporting.box_cases import differing_boxes, mistaken_boxes
from mobilenet_cli.pipeline.reporting.report_warnings import NEEDS, command, warnings_of
from mobilenet_cli.pipeline.reporting.weight_ranges import weight_ranges
from mobilenet_cli.reports.accuracy_statistics import compare_paired, compare_precision
from mobilenet_cli.reports.answers import confusion, disagreements, mistakes
from mobilenet_cli.reports.records.accuracy import (
    AnswersRecord,
    EvaluationRecord,
    PredictionsRecord,
)
from mobilenet_cli.reports.records.detection import BoxesRecord, DetectionRecord
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.run import BOXES, ArtifactRecord, Missing, RunRecord
from mobilenet_cli.reports.summary import main_data

COMMANDS = {
    "model.safetensors": "train",
    "fp32.onnx": "export",
    "folded.onnx": "simplify",
    "int8.onnx": "quantize",
    "train.jsonl": "train",
    "evaluate.json": "evaluate",
    "predictions.json": "evaluate",
    "boxes.json": "evaluate",
    "detection.json": "evaluate",
    "bench.json": "bench",
}
T = TypeVar("T")
Answers = TypeVar("Answers", bound=AnswersRecord | DetectionRecord)
EPOCHS = TypeAdapter(list[dict[str, JsonValue]])
EVALUATIONS = TypeAdapter(list[EvaluationRecord])
DETECTIONS = TypeAdapter(list[DetectionRecord])
BOX_RECORDS = TypeAdapter(list[BoxesRecord])
PREDICTIONS = TypeAdapter(list[PredictionsRecord])
BENCH = TypeAdapter(BenchRecord)


def collect(run: Run, layers: bool = True) -> tuple[RunRecord, Sequence[AnswersRecord]]:
    """Read everything in a run's folder; what is missing or broken is listed, not raised.

    What the models say about each image is too much for the record, and is returned beside it:
    a detector's boxes, or a classifier's predictions. Without ``layers`` the models are not opened
    for the ranges of their weights, which saves a third.

    Raises:
        ModelError: there is no such run, or it has no model.
    """
    if not run.folder.is_dir():
        raise no_such_run(run.name)
    missing: list[Missing] = []
    artifacts = [
        found
        for path in expected_files(run)
        if (found := read_part(run, path, missing, artifact_record)) is not None
    ]
    if not artifacts:
        raise ModelError(f"{run.folder} has no model", NO_RUN_YET)
    imported = artifacts[0].stage == "import"
    if detects := artifacts[-1].output == BOXES:
        detections = read_part(run, run.detection, missing, reader(DETECTIONS)) or []
        evaluations = []
    else:
        detections = []
        evaluations = read_part(run, run.evaluation, missing, reader(EVALUATIONS)) or []
    bench = read_part(run, run.bench, missing, reader(BENCH))
    training = None if imported else read_part(run, run.training, missing, read_epochs)
    predictions = list(many_predictions(run, missing))
    if run.predictions.is_file() or not (predictions or detects):
        few = read_part(run, run.predictions, missing, reader(PREDICTIONS))
        predictions = [*(few or []), *predictions]
    kept = detects and run.boxes.is_file()  # which older runs do not have
    boxes = (read_part(run, run.boxes, missing, reader(BOX_RECORDS)) if kept else None) or []
    both = layers and run.folded.is_file() and run.int8.is_file()
    weights = read_part(run, run.int8, missing, partial(weight_ranges, run.folded)) if both else ()
    record = RunRecord(
        run=run.name,
        artifacts=tuple(artifacts),
        training=tuple(training or ()),
        evaluations=tuple(evaluations),
        detections=tuple(detections),
        bench=bench,
        weights=weights or (),
        missing=tuple(dict.fromkeys(with_images(part, artifacts[0]) for part in missing)),
        network=title_of(artifacts[-1]),
    )
    record = with_answers(with_precisions(without_outdated(record)), predictions)
    record = with_boxes(record, boxes)
    record = record.model_copy(update={"multiply_adds": products(run.artifacts())})
    return record.model_copy(update={"warnings": warnings_of(record)}), boxes or predictions


def many_predictions(run: Run, missing: list[Missing]) -> Iterator[PredictionsRecord]:
    """Read the predictions of evaluations of very many images, which have files of their own."""
    for path in sorted(run.many_predictions.glob("*.parquet")):
        try:
            yield read_many(path)
        except (ImportError, OSError, ValueError, KeyError) as error:
            why = f"of {path.name} cannot be read ({reason(error)})"
            missing.append(missing_part(run, run.predictions.name, why))


def title_of(artifact: ArtifactRecord) -> str:
    """Return what people call a model's architecture; MobileNet v1 was the only one for long."""
    name = (artifact.model and artifact.model.architecture) or ModelSpec.architecture
    return MODELS[name].title if name in MODELS else name


def expected_files(run: Run) -> tuple[Path, ...]:
    """Return the model files of a complete run: from its first one on, if that was imported."""
    files = (run.checkpoint, run.fp32, run.folded, run.int8)
    present = [path for path in files if path.is_file()]
    if present and present[0] != run.checkpoint:
        first, sidecar = present[0], read_sidecar(present[0])
        current = sidecar is not None and sidecar.sha256 == sha256_file(first)
        if sidecar and current and sidecar.facts.stage == "import":
            return files[files.index(first) :]
    return files


def with_answers(run: RunRecord, predictions: Sequence[PredictionsRecord]) -> RunRecord:
    """Add to a run what its models say about single images, with the float model as the base."""
    main = main_data(run.evaluations)
    found = [
        (artifact, record)
        for artifact in run.artifacts
        if (record := newest(predictions, artifact.sha256, main)) is not None
    ]
    if not found:
        return run
    by_stage = {artifact.stage: record for artifact, record in found}
    base = by_stage.get("simplify") or by_stage.get("export")
    last_artifact, last = found[-1]
    names = last_artifact.labels
    update: dict[str, object] = {
        "mistakes": mistakes(last, names),
        "confusion": confusion(last, names),
    }
    if base is not None:
        others = [record for _, record in found if record is not base]
        pairs = [compare_paired(base, record) for record in others]
        update["paired"] = tuple(pair for pair in pairs if pair is not None)
        int8 = by_stage.get("quantize")
        if int8 is not None and int8.data_fingerprint == base.data_fingerprint:
            update["disagreements"] = disagreements(base, int8, names)
    return run.model_copy(update=update)


def with_precisions(run: RunRecord) -> RunRecord:
    """Add to a detector's run how its files compare with the float one, on the same images."""
    stages = {artifact.sha256: artifact.stage for artifact in run.artifacts}
    by_stage = {stages[record.sha256]: record for record in run.detections}
    base = by_stage.get("simplify") or by_stage.get("export")
    if base is None:
        return run
    others = [record for record in by_stage.values() if record is not base]
    pairs = (compare_precision(base, record) for record in others)
    found = tuple(pair for pair in pairs if pair is not None)
    return run.model_copy(update={"paired_precision": found})


def with_boxes(run: RunRecord, boxes: Sequence[BoxesRecord]) -> RunRecord:
    """Add to a detector's run the images worth a look."""
    found = {a.stage: r for a in run.artifacts if (r := newest(boxes, a.sha256)) is not None}
    if not found:
        return run
    last = run.artifacts[-1]
    names = last.labels
    update = {"mistaken_boxes": mistaken_boxes(list(found.values())[-1], names)}
    base, int8 = found.get("simplify") or found.get("export"), found.get("quantize")
    if base and int8 and base.data_fingerprint == int8.data_fingerprint:
        update["differing_boxes"] = differing_boxes(base, int8, names)
    return run.model_copy(update=update)


def newest(records: Sequence[Answers], sha256: str, data: str | None = None) -> Answers | None:
    """Return the last record of exactly this file, of the data set ``data`` if there is one."""
    found = [record for record in records if record.sha256 == sha256]
    same = [record for record in found if record.data_fingerprint == data]
    return next(reversed(same or found), None)


def products(models: Sequence[Path]) -> int | None:
    """Count one image's multiply-adds, by the first model file that tells."""
    for path in models:
        with contextlib.suppress(MobilenetError):
            if found := multiply_adds(load_artifact(path)):
                return found
    return None


def read_part(run: Run, path: Path, missing: list[Missing], read: Callable[[Path], T]) -> T | None:
    """Read one file of the run; return None, and list it in ``missing``, where it cannot be had."""
    if not path.is_file():
        missing.append(missing_part(run, path.name, "has not been made"))
        return None
    try:
        return read(path)
    except (MobilenetError, OSError, ValueError) as error:
        missing.append(missing_part(run, path.name, f"cannot be read ({reason(error)})"))
        return None


def missing_part(run: Run, file: str, why: str) -> Missing:
    """Name a part that the report does without, and the command that makes it."""
    return Missing(file=file, why=why, command=command(COMMANDS[file], run.name, ""))


def with_images(part: Missing, first: ArtifactRecord) -> Missing:
    """Name images in the command that makes a part, where the models do not name any."""
    if first.data is not None:
        return part
    return part.model_copy(
        update={"command": f"{part.command}{NEEDS.get(COMMANDS[part.file], '')}"}
    )


def reason(error: Exception) -> str:
    """Say why a record cannot be read, in a few words."""
    if isinstance(error, MobilenetError):
        return error.what
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return "it is no JSON, or only the start of it"
        where = ".".join(map(str, first["loc"]))
        return f"another version wrote it: {where}: {first['msg']}"
    return str(error)


def reader(kind: TypeAdapter[T]) -> Callable[[Path], T]:
    """Read a JSON file as a record or a list of them."""
    return lambda path: kind.validate_json(path.read_bytes())


def read_epochs(path: Path) -> list[dict[str, JsonValue]]:
    """Read the lines of train.jsonl; a last line that was cut off is left out."""
    lines = path.read_text().splitlines()
    if lines and not is_json(lines[-1]):
        lines.pop()
    return EPOCHS.validate_json(f"[{','.join(filter(None, lines))}]")


def is_json(line: str) -> bool:
    """Tell whether the line is a whole JSON document."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def artifact_record(path: Path) -> ArtifactRecord:
    """Describe a model file as its sidecar does, or else as the file itself does.

    Raises:
        ModelError: the file is no model.
    """
    sha256 = sha256_file(path)
    sidecar = read_sidecar(path)
    current = sidecar is not None and sidecar.sha256 == sha256
    facts = sidecar.facts if sidecar and current else load_artifact(path).facts
    record = sidecar.record if sidecar and current else {}
    known = facts.model_dump(mode="json")
    kept = {name: known[name] for name in ArtifactRecord.model_fields if name in known}
    kept |= {"file": path.name, "sha256": sha256, "size_mb": path.stat().st_size / 2**20}
    if not is_checkpoint(path):
        graph = load_onnx(path).graph
        kept |= {"input_name": graph.input[0].name, "output": output_kind(graph)}
    if facts.task == "detection":
        kept["output"] = BOXES
    return ArtifactRecord.model_validate({**kept, "record": record})


def without_outdated(run: RunRecord) -> RunRecord:
    """Leave out what was measured on files that have been made again since, and list it."""
    current = {artifact.sha256 for artifact in run.artifacts}
    kept = tuple(record for record in run.evaluations if record.sha256 in current)
    found = tuple(record for record in run.detections if record.sha256 in current)
    missing = list(run.missing)
    measured = {
        "evaluate.json": [(r.model, r.sha256) for r in run.evaluations],
        "detection.json": [(r.model, r.sha256) for r in run.detections],
        "bench.json": [(r.model, r.sha256) for r in run.bench.results] if run.bench else [],
    }
    for file, pairs in measured.items():
        known = {sha256 for _, sha256 in pairs}
        lacking = [a.file for a in run.artifacts if pairs and a.sha256 not in known]
        if lacking:
            why = f"does not have {', '.join(lacking)} as it is now"
            missing.append(
                Missing(
                    file=file,
                    why=why,
                    command=command(COMMANDS[file], run.run, run.artifacts[0].data),
                )
            )
    update = {"evaluations": kept, "detections": found, "missing": tuple(missing)}
    return run.model_copy(update=update)
