"""Warnings are what a reader must know first: broken descent, leakage, fallback, lost images."""

from collections.abc import Sequence

from mobilenet_cli.pipeline.errors import counted, examples
from mobilenet_cli.reports.latency_tables import noise_note, row_name
from mobilenet_cli.reports.records.conversion import ImportRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.run import ArtifactRecord, RunRecord
from mobilenet_cli.reports.records.training import TrainRecord
from mobilenet_cli.reports.summary import evaluation_of, file_name, slower_sentence

SCHEMA_VERSION = 1
# What a command must be told of models that do not say on which images they were trained.
NEEDS = {"quantize": " --calib-dir FOLDER", "evaluate": " --data FOLDER"}


def warnings_of(run: RunRecord) -> tuple[str, ...]:
    """Return what a reader must know first: broken descent, leakage, fallback, lost images."""
    found = [*descent_warnings(run), *version_warnings(run)]
    for artifact in run.artifacts:
        found += record_warnings(artifact)
    for record in run.evaluations:
        if record.bad_images:
            unread = counted(len(record.bad_images), "unreadable image")
            found.append(
                f"The evaluation of {file_name(record.model)} on {record.data} left out {unread}"
                f"{examples(record.bad_images)}"
            )
    used = {e.data for a in run.artifacts if (e := evaluation_of(run, a)) is not None}
    if len(used) > 1:
        found.append(f"The artifacts were evaluated on different images: {', '.join(sorted(used))}")
    others = dict.fromkeys(record.data for record in run.evaluations if record.data not in used)
    if others:
        found.append(f"There are evaluations on {', '.join(others)} besides, in evaluate.json")
    if run.bench is not None:
        found += [
            f"{row_name(result)}: {remark}"
            for result in run.bench.results
            for remark in result.remarks
        ]
        found += filter(None, [noise_note(run.bench.results)])
    return tuple(dict.fromkeys(found))


def descent_warnings(run: RunRecord) -> list[str]:
    """Name the files whose parent is not the file that now lies beside them."""
    hashes = {artifact.sha256 for artifact in run.artifacts}
    return [
        f"{artifact.file} was not made from the file before it as it is now; "
        f"'{command(artifact.stage, run.run, artifact.data)}' makes it again"
        for artifact in run.artifacts[1:]
        if artifact.parent is not None and artifact.parent not in hashes
    ]


def version_warnings(run: RunRecord) -> list[str]:
    """Say which records have a format that is newer than this program."""
    records = [*run.evaluations, *([run.bench] if run.bench else [])]
    newer = max((record.schema_version for record in records), default=0)
    if newer <= SCHEMA_VERSION:
        return []
    return [
        f"Records of format {newer} were written by a newer version than this one, which knows "
        f"format {SCHEMA_VERSION}: what is new in them is not shown"
    ]


def record_warnings(artifact: ArtifactRecord) -> list[str]:
    """Return what the stage itself noted against its result."""
    if artifact.of_another_version:
        return [
            f"{artifact.file}: another version wrote what {artifact.stage} noted beside it, so "
            "that is not shown"
        ]
    trained, imported = artifact.measured(TrainRecord), artifact.measured(ImportRecord)
    quantized = artifact.measured(QuantizeRecord)
    noted: list[tuple[Sequence[str], str, str]] = []
    if trained:
        noted += [(trained.bad_images, "unreadable image", " left out of training")]
    if imported:
        noted += [(imported.notes, "assumption", " that the weights' file does not confirm")]
    if quantized:
        against = f" also in the evaluation set {quantized.leakage_checked}"
        noted += [
            (quantized.bad_images, "unreadable calibration image", " left out"),
            (quantized.leakage, "calibration image", against),
            (quantized.float_layers, "layer", " in float"),
        ]
    speed = quantized.speed if quantized else None
    slower = [f"{artifact.file}: {slower_sentence(speed)}"] if speed and speed.slower else []
    return slower + [
        f"{artifact.file}: {counted(len(names), noun)}{rest}{examples(names)}"
        for names, noun, rest in noted
        if names
    ]


def command(stage: str, run: str, data: str | None) -> str:
    """Return the command that takes a stage of a run.

    Args:
        stage: the command's name.
        run: the run's name.
        data: the images that the run's models were trained on; where that is not known, images
            must be named.
    """
    return f"mobilenet-cli {stage} --run {run}{NEEDS.get(stage, '') if data is None else ''}"
