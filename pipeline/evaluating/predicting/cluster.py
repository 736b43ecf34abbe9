"""Parts are answered on a Ray cluster: parts go in and rows come out, which the driver writes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from mobilenet_cli.data.parts import Part
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.evaluating.predicting.answering import (
    Count,
    LocatedPart,
    PredictConfig,
    locate,
    open_answering,
)
from mobilenet_cli.pipeline.runtime.cluster import SentModel, on_cluster


@dataclass(frozen=True)
class AnsweredPart:
    """This is what an actor sends back.

    Attributes:
        found: the part, without its shard.
        tables: its rows, as the driver would have made them.
        counts: images, and seconds of decoding and of inference, of each batch.
    """

    found: LocatedPart
    tables: list[Any]
    counts: tuple[int, float, float]


class PartWorker:
    """A worker answers whole parts, in an actor with so many threads."""

    def __init__(self, model: SentModel, config: PredictConfig, cpus: int) -> None:
        stack = ExitStack()  # until the process ends
        with model.on_disk() as artifact:
            self.answering = stack.enter_context(open_answering(artifact, config, cpus))

    def __call__(self, item: tuple[int, Part]) -> AnsweredPart:
        """Answer one part."""
        batches: list[tuple[int, float, float]] = []
        located = locate(*item)
        answered = self.answering.tables([located], lambda *counts: batches.append(counts))
        tables = [table for _, found in answered for table in found]
        images, decoding, inference = (sum(column) for column in zip(*batches, strict=True))
        found = LocatedPart(located.number, located.part, problem=located.problem)
        return AnsweredPart(found, tables, (int(images), decoding, inference))


def answer_on_cluster(
    address: str,
    artifact: Artifact,
    config: PredictConfig,
    items: Sequence[tuple[int, Part]],
    count: Count,
) -> Iterator[tuple[LocatedPart, Iterator[Any]]]:
    """Yield each part with the tables of its rows, as ``Answering.tables`` does, in any order.

    Raises:
        MobilenetError: whatever ``on_cluster`` raises.
    """
    make = partial(PartWorker, SentModel.of(artifact), config)
    for answered in on_cluster(address, make, items, config.provider):
        count(*answered.counts)
        yield answered.found, iter(answered.tables)
