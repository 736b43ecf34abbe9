"""A folder of predictions says what it was made from, and refuses to be continued as another."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from mobilenet_cli.data.dataset import printable
from mobilenet_cli.data.parts import Part, fingerprint
from mobilenet_cli.data.readers.files import read_bytes
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.files import write_record
from mobilenet_cli.pipeline.errors import DataError, OptionError, StorageError, counted, examples
from mobilenet_cli.pipeline.evaluating.predicting.answering import PredictConfig
from mobilenet_cli.reports.records.prediction import JobRecord

# What people call the options of a job.
WORDS = {
    "output": "what is written",
    "decoder": "what decodes the images",
    "provider": "--provider",
    "top": "--top",
    "min_score": "--min-score",
}
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
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise StorageError(f"{folder} is no folder", "Choose another --out")
    if not manifest.exists():
        if folder.is_dir() and any(folder.glob("part-*.parquet")):
            raise StorageError(f"{folder} has parts but no {MANIFEST}", "Choose another --out")
        return
    try:
        earlier = JobRecord.model_validate_json(read_bytes(manifest))
    except (DataError, ValidationError) as error:
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
        write_record(folder / MANIFEST, job)


def differences(earlier: JobRecord, now: JobRecord) -> list[str]:
    """Say for people how an earlier job differs from this one; nothing where it does not."""
    found = []
    if earlier.model != now.model:
        found.append(f"its model had the SHA-256 {earlier.model[:12]}..., which is not this one's")
    if earlier.sources != now.sources:
        found += _other_sources(earlier.sources, now.sources)
    elif earlier.images != now.images:
        found.append(
            "since then a file in its sources has come, gone or been renamed, or a shard has "
            "another size"
        )
    then, new = earlier.options, now.options
    # Rows of another kind have other options as well, which say nothing more.
    names = ["output"] if then.get("output") != new.get("output") else [*then, *new]
    found += [
        f"{WORDS.get(name, name)} was {then.get(name, 'not set')}, and is "
        f"{new.get(name, 'not set')} now"
        for name in dict.fromkeys(names)
        if then.get(name) != new.get(name)
    ]
    return found


def _other_sources(then: Sequence[str], now: Sequence[str]) -> list[str]:
    before, after = set(then), set(now)
    gone = [source for source in then if source not in after]
    new = [source for source in now if source not in before]
    found = [
        f"it {had} {counted(len(names), 'source')}{examples(names)}"
        for had, names in (("also had", gone), ("did not have", new))
        if names
    ]
    return found or ["its sources were in another order, or not as often"]
