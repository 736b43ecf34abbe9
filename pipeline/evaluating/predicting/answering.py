"""The images of parts are answered here, on one machine: by a job, or by an actor of a cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.parts import FILES, Part
from mobilenet_cli.data.preprocess import square_of_file
from mobilenet_cli.data.readers.remote import fetch_file
from mobilenet_cli.models.detections import SHOWN, shown_boxes
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.evaluating.detecting import Detector
from mobilenet_cli.pipeline.evaluating.predicting.rows import ROW_GROUP, Kind, Row, row_of, table_of
from mobilenet_cli.pipeline.runtime.predictor import open_predictor
from mobilenet_cli.pipeline.runtime.session import CPU
from mobilenet_cli.pipeline.runtime.stream import Answers, Size, Stream, batched

Count = Callable[[int, float, float], None]  # images, and seconds of decoding and of inference


@dataclass(frozen=True)
class PredictConfig:
    """These settings decide what a job writes.

    Attributes:
        output: most probable classes, pooled features, or logits; of a detector, boxes.
        top: how many classes.
        min_score: a box is kept if its probability is above this.
        provider: an execution provider's full name.
        files: how many files of a folder make a part.
        scaled: decode JPEGs no larger than they are needed, as ``data.scaled`` does.
    """

    output: Kind = "classes"
    top: int = 5
    provider: str = CPU
    files: int = FILES
    scaled: bool = False
    min_score: float = SHOWN

    @property
    def decoder(self) -> str:
        """Return what turns files into pixels, which decides about the rows as well."""
        if not self.scaled:
            return f"Pillow {PIL.__version__}"
        return f"simplejpeg {version('simplejpeg')}, torch {version('torch')}, scaled"


@dataclass(frozen=True)
class LocatedPart:
    """This is a part whose shard is here.

    Attributes:
        number: the part's place in the plan.
        part: the part.
        shard: a file that was fetched for it, and is deleted after it.
        problem: why its shard cannot be had.
    """

    number: int
    part: Part
    shard: Path | None = None
    problem: DataError | None = None


def locate(number: int, part: Part) -> LocatedPart:
    """Fetch a part's shard, if it must be fetched."""
    if part.address is None:
        return LocatedPart(number, part)
    try:
        return LocatedPart(number, part, fetch_file(part.address))
    except DataError as error:
        return LocatedPart(number, part, problem=error)


@dataclass(frozen=True)
class Answering:
    """A model that is loaded answers parts.

    Attributes:
        artifact: the model file.
        config: what to make of its outputs.
        stream: prepares images, and runs the model on them.
        workers: threads, each for one CPU; None is one for each CPU there is to use.
    """

    artifact: Artifact
    config: PredictConfig
    stream: Stream[Row]
    workers: int | None

    def tables(
        self, located: Iterable[LocatedPart], count: Count
    ) -> Iterator[tuple[LocatedPart, Iterator[Any]]]:
        """Yield each part with the tables of its rows, which must be taken before the next part.

        Args:
            located: the parts, in order; those with a problem have no tables.
            count: is told of each batch that is done.
        """
        for found, answers in groupby(self._answers(located), key=lambda pair: pair[0]):
            outcomes = (o for _, answer in answers for o in _counted(answer, count).outcomes)
            kind, facts = self.config.output, self.artifact.facts
            groups = batched(outcomes, ROW_GROUP)
            yield found, (table_of(found.part, group, kind, facts) for group in groups)
            if found.shard is not None:
                found.shard.unlink(missing_ok=True)

    def _answers(
        self, located: Iterable[LocatedPart]
    ) -> Iterator[tuple[LocatedPart, Answers[Row]]]:
        """Answer the images of parts in their order, without a pause between two parts.

        A batch has images of one part alone, so that a part comes out the same whatever else is
        done; the last batch of each has none, so that parts without images are seen, too.
        """
        owners: deque[LocatedPart] = deque()

        def batches() -> Iterator[list[Sample | DataError]]:
            for found in located:
                images = iter(()) if found.problem else found.part.images(found.shard)
                for batch in chain(batched(images, self.stream.predictor.batch), [[]]):
                    owners.append(found)
                    yield batch

        for answers in self.stream.answers(batches(), self.workers):
            yield owners.popleft(), answers


def _counted(answers: Answers[Row], count: Count) -> Answers[Row]:
    count(len(answers.outcomes), answers.decoding, answers.inference)
    return answers


@contextmanager
def open_answering(
    artifact: Artifact, config: PredictConfig, workers: int | None = None
) -> Iterator[Answering]:
    """Load a model to answer parts.

    Raises:
        ModelError: the model cannot be used.
        ProviderError: the provider cannot run it.
    """
    with open_predictor(artifact, config.provider, config.output == "embedding") as predictor:
        detector = None
        if artifact.facts.boxes is not None:
            chosen = shown_boxes(artifact.facts.boxes, config.min_score)
            detector = Detector(artifact, chosen, predictor, workers)

        def finish(sample: Sample, output: NDArray[np.float32], size: Size) -> Row:
            if detector is None:
                return row_of(sample, output, config.output, config.top, predictor.independent)
            found, _ = detector.boxes(sample, output, size)
            return Row(found.scores, tuple(found.classes.tolist()), found.boxes)

        if config.scaled:  # with packages that exact decoding does without
            from mobilenet_cli.data.scaled import square_scaled
        square = square_scaled if config.scaled else square_of_file
        stream = Stream(predictor, artifact.facts.input, finish, square)
        yield Answering(artifact, config, stream, workers)
