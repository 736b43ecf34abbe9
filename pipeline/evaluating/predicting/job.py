"""A job predicts all images of some sources into a folder, and goes on where it was stopped.

The folder holds ``_job.json``, which says what is predicted, and ``part-000000.parquet`` and so on.
A part is there whole or not at all, so what is there is finished.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mobilenet_cli.data.loader import ordered_map
from mobilenet_cli.data.parts import FILES, cut, refuse_missing
from mobilenet_cli.data.readers.remote import is_address
from mobilenet_cli.models.detections import SHOWN
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import DataError, OptionError, need
from mobilenet_cli.pipeline.evaluating.predicting.answering import (
    PredictConfig,
    locate,
    open_answering,
)
from mobilenet_cli.pipeline.evaluating.predicting.cluster import answer_on_cluster
from mobilenet_cli.pipeline.evaluating.predicting.manifest import check_folder, claim, job_of
from mobilenet_cli.pipeline.evaluating.predicting.rows import Kind, counts_of, schema, write_part
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.reports.records.prediction import PredictRecord

TOP = 5  # classes of an image
DOWNLOADS = 2  # shards that are fetched at once, ahead of those that are read


def config_of(
    top: int | None,
    provider: str,
    embeddings: bool,
    logits: bool,
    scaled: bool,
    folder: Path | None,
    draw: Path | None = None,
    min_score: float | None = None,
    cluster: str | None = None,
    json_lines: bool = False,
    as_json: bool = False,
) -> PredictConfig:
    """Understand the options of ``predict``.

    Raises:
        OptionError: they contradict each other, or a package is missing.
    """
    numbers, job = embeddings or logits, folder is not None
    contradictions = (
        (embeddings and logits, "a job writes either embeddings or logits", "Pass one of the two"),
        (
            (numbers or scaled) and not job,
            "embeddings, logits and scaled decoding are for files of predictions",
            "Pass --out with a folder",
        ),
        (
            cluster is not None and not job,
            "a cluster's answers become files of predictions",
            "Pass --out with a folder, or leave --ray out",
        ),
        (
            draw is not None and job,
            "files of predictions hold no pictures",
            "Pass either --out or --draw",
        ),
        (
            json_lines and job,
            "the answers of a job go into files and not to standard output",
            "Pass either --out or --jsonl",
        ),
        (
            json_lines and as_json,
            "--json prints one document, and --jsonl one on each line",
            "Pass one of the two",
        ),
        (
            top is not None and numbers,
            "embeddings and logits have no most probable classes",
            "Leave --top out",
        ),
    )
    for wrong, what, fix in contradictions:
        if wrong:
            raise OptionError(what, fix)
    for module in ("simplejpeg", "torch") if scaled else ():
        need(module, f"--scaled takes {module}")
    output: Kind = "embedding" if embeddings else "logits" if logits else "classes"
    least = SHOWN if min_score is None else min_score
    return PredictConfig(output, TOP if top is None else top, provider, FILES, scaled, least)


def predict_into(
    folder: Path,
    artifact: Artifact,
    sources: Sequence[str],
    config: PredictConfig,
    progress: Progress = silent,
    cluster: str | None = None,
) -> PredictRecord:
    """Predict all images of some sources into the parts of a folder; finished parts are kept.

    Args:
        folder: where the parts are, or will be.
        artifact: any model file.
        sources: as ``data.parts.cut`` takes them.
        config: what to write.
        progress: is told how many images are done.
        cluster: the address of a Ray cluster that does it, or ``auto``.

    Raises:
        DataError: a source does not exist or cannot be used, or none has any image.
        OptionError: a detector is asked for features or logits, the folder lies in a source, or is
            of a job with another model, other sources or other options.
        StorageError: the folder holds something else, or cannot be written to.
        ModelError: the model cannot be used.
        ProviderError: the provider cannot run it.
    """
    if artifact.facts.boxes is not None:
        if config.output != "classes":
            raise OptionError(
                f"{artifact.path} is a detector, which is asked for boxes",
                "Leave --embeddings and --logits out",
            )
        config = replace(config, output="boxes")
    _check_places(folder, sources)
    columns = schema(config.output, artifact.facts)  # first of all: pyarrow may be missing
    parts = list(cut(sources, config.files))
    refuse_missing(sources, parts)
    if all(part.problem for part in parts):
        raise next((part.problem for part in parts if part.problem), _no_images(sources))
    job = job_of(artifact, sources, parts, config)
    check_folder(folder, job)
    todo = [number for number in range(len(parts)) if not path_of(folder, number).exists()]
    meter = Meter(len(parts), len(todo), progress)
    items = [(number, parts[number]) for number in todo]
    with ExitStack() as stack:
        if cluster is None:
            answering = stack.enter_context(open_answering(artifact, config))
            ahead = ordered_map(lambda item: locate(*item), items, DOWNLOADS, 2 * DOWNLOADS)
            answered = answering.tables(ahead, meter.count)
        else:
            answered = answer_on_cluster(cluster, artifact, config, items, meter.count)
        claim(folder, job)
        for found, tables in answered:
            if found.problem is None:
                write_part(path_of(folder, found.number), tables, columns)
            meter.finish(found.problem)
    return record_of(folder, artifact, len(parts), meter)


def _check_places(folder: Path, sources: Sequence[str]) -> None:
    if "-" in sources:
        raise OptionError(
            "standard input cannot be read again, as a job may have to",
            "Name a file, or leave --out out",
        )
    for source in sources:
        if not is_address(source) and folder.resolve().is_relative_to(Path(source).resolve()):
            raise OptionError(
                f"{folder} lies in {source}, and what is written would become a part of it",
                "Choose another --out",
            )


def _no_images(sources: Sequence[str]) -> DataError:
    return DataError(f"{', '.join(sources)} contain no images", "Give folders of images or shards")


def path_of(folder: Path, number: int) -> Path:
    """Return the file of a part."""
    return folder / f"part-{number:06}.parquet"


class Meter:
    """A meter knows how far a job is, and where its time goes.

    Args:
        parts: the number of parts.
        todo: those that this start has to do.
        progress: is told.
    """

    def __init__(self, parts: int, todo: int, progress: Progress) -> None:
        self.parts, self.todo, self.progress = parts, todo, progress
        self.done = self.images = 0
        self.decoding = self.inference = 0.0
        self.failed: list[str] = []
        self.started = time.perf_counter()

    def count(self, images: int, decoding: float, inference: float) -> None:
        """Count what is done, and tell how many images there may be in all."""
        self.images += images
        self.decoding += decoding
        self.inference += inference
        expected = self.images * self.todo // max(1, self.done)
        part = self.parts - self.todo + self.done + 1
        note = f"part {part} of {self.parts}, {self.decoding_share:.0%} decoding"
        self.progress(self.images, max(self.images, expected), note)

    def finish(self, problem: DataError | None) -> None:
        """Count a part that is done, or why it cannot be."""
        self.done += 1
        if problem is not None:
            self.failed.append(problem.what)

    @property
    def decoding_share(self) -> float:
        """Return the share of the threads' time that decoding takes."""
        return self.decoding / max(self.decoding + self.inference, 1e-9)


def record_of(folder: Path, artifact: Artifact, parts: int, meter: Meter) -> PredictRecord:
    """Count what the folder holds, and say what this start has done."""
    seconds = time.perf_counter() - meter.started
    paths = (path_of(folder, number) for number in range(parts))
    counts = [counts_of(path) for path in paths if path.exists()]
    return PredictRecord(
        out=str(folder),
        model=str(artifact.path),
        sha256=artifact.sha256,
        parts=len(counts),
        rows=sum(rows for rows, _ in counts),
        errors=sum(errors for _, errors in counts) + len(meter.failed),
        failed=tuple(meter.failed),
        images=meter.images,
        images_per_second=meter.images / seconds,
        seconds=seconds,
        decoding_share=meter.decoding_share,
    )
