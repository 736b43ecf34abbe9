"""Warnings are what a reader must know first: broken descent, leakage, fallback, lost images."""

from collections.abc import Sequence

from mobilenet_cli.reports.latency_tables import noise_note, row_name
from mobilenet_cli.reports.records.conversion import ImportRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.run import ArtifactRecord, RunRecord
from mobilenet_cli.reports.records.training import TrainRecord
from mobilenet_cli.reports.summary import evaluation_of, file_name

SCHEMA_VERSION = 1


def warnings_of(run: RunRecord) -> tuple[str, ...]:
    """Return what a reader must know first: broken descent, leakage, fallback, lost images."""
    found = [*descent_warnings(run.artifacts), *version_warnings(run)]
    for artifact in run.artifacts:
        found += record_warnings(artifact)
    for record in run.evaluations:
        if record.bad_images:
            shown = ", ".join(record.bad_images[:3])
            found.append(
                f"{len(record.bad_images)} images of {record.data} cannot be read and were left "
                f"out of the evaluation of {file_name(record.model)}, such as {shown}"
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


def descent_warnings(artifacts: Sequence[ArtifactRecord]) -> list[str]:
    """Name the files whose parent is not the file that now lies beside them."""
    hashes = {artifact.sha256 for artifact in artifacts}
    return [
        f"{artifact.file} was not made from the file before it as it is now; "
        f"'mobilenet-cli {artifact.stage}' makes it again"
        for artifact in artifacts[1:]
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
    noted: list[tuple[Sequence[str], str]] = []
    if trained:
        noted += [(trained.bad_images, "training images cannot be read; others took their place")]
    if imported:
        noted += [(imported.notes, "assumptions that the weights' file does not confirm")]
    if quantized:
        noted += [
            (quantized.bad_images, "calibration images cannot be read and were left out"),
            (quantized.leakage, "calibration images are also in the evaluation set"),
            (quantized.float_layers, "layers stayed in float"),
        ]
    return [
        f"{artifact.file}: {len(names)} {what}, such as {', '.join(names[:3])}"
        for names, what in noted
        if names
    ]
