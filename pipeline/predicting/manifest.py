"""A folder of predictions says what it was made from, and refuses to be continued as another."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from mobilenet_cli.data.dataset import printable
from mobilenet_cli.data.parts import Part, fingerprint
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.errors import OptionError, StorageError
from mobilenet_cli.pipeline.predicting.answering import PredictConfig
from mobilenet_cli.reports.records.prediction import JobRecord

MANIFEST = "_job.json"  # libraries that read a folder of parquet files pass over it


def job_of(
    artifact: Artifact, sources: Sequence[str], parts: Sequence[Part], config: PredictConfig
) -> JobRecord:
    """Describe a job by all that decides about its rows."""
    options: dict[str, str | int | float] = {"output": config.output, "provider": config.provider}
    options["decoder"] = config.decoder
    if config.output == "classes":
        options["top"] = config.top
    if config.output == "boxes":
        options["min_score"] = config.min_score
    return JobRecord(
        model=artifact.sha256,
        sources=tuple(map(printable, sources)),
        images=fingerprint(parts),
        parts=len(parts),
        options=options,
    )


def check_folder(folder: Path, job: JobRecord) -> None:
    """See that the folder is this job's, or nobody's.

    Raises:
        OptionError: it is another job's.
        StorageError: it holds something else.
    """
    manifest = folder / MANIFEST
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is no folder", "Choose another --out")
    if not manifest.exists():
        if folder.is_dir() and any(folder.glob("part-*.parquet")):
            raise StorageError(f"{folder} has parts but no {MANIFEST}", "Choose another --out")
        return
    try:
        earlier = JobRecord.model_validate_json(manifest.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"{manifest} is no record of a job"
        raise StorageError(what, "Choose another --out") from error
    if found := differences(earlier, job):
        raise OptionError(
            f"{folder} holds another job: {'; '.join(found)}",
            "Choose another --out, or start it with what it was started with",
        )


def claim(folder: Path, job: JobRecord) -> None:
    """Make the folder this job's.

    Raises:
        StorageError: it cannot be written to.
    """
    if not (folder / MANIFEST).exists():
        content = job.model_dump_json(indent=2) + "\n"
        write_atomically(folder / MANIFEST, content.encode())


def differences(earlier: JobRecord, now: JobRecord) -> list[str]:
    """Say what is not as it was, with both values."""
    then, new = ({**(d := job.model_dump()), **d.pop("options")} for job in (earlier, now))
    return [
        f"its {name} was {then.get(name, 'not set')}, now {new.get(name, 'not set')}"
        for name in dict.fromkeys([*then, *new])
        if name != "options" and then.get(name) != new.get(name)
    ]
