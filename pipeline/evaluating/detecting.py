"""A detector's boxes are found on images as people have them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.models.boxes import CORNERS
from mobilenet_cli.models.detections import Detections, NmsConfig, detect
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import DataError, ModelError
from mobilenet_cli.pipeline.runtime.predictor import Predictor, open_predictor, refuse_not_finite
from mobilenet_cli.pipeline.runtime.stream import Outcome, Stream, batched


@contextmanager
def open_detector(
    artifact: Artifact, config: NmsConfig, provider: str, workers: int | None = None
) -> Iterator["Detector"]:
    """Load a detector.

    Raises:
        ModelError: the model is none, or cannot be used.
        ProviderError: the provider cannot run it.
    """
    if artifact.facts.boxes is None:
        raise ModelError(
            f"{artifact.path} is a classifier, which finds no boxes", "Name a detector"
        )
    with open_predictor(artifact, provider) as predictor:
        yield Detector(artifact, config, predictor, workers)


class Detector:
    """A detector finds boxes in images, which it takes one after the other.

    Args:
        artifact: the model.
        config: which boxes to keep.
        predictor: runs the model.
        workers: threads; None takes every CPU this process may use.
    """

    def __init__(
        self, artifact: Artifact, config: NmsConfig, predictor: Predictor, workers: int | None
    ) -> None:
        assert artifact.facts.boxes is not None  # as ``open_detector`` has seen
        self.spec = artifact.facts.boxes
        self.config = config
        self.provider = predictor.provider
        self.workers = workers
        self._stream = Stream(predictor, artifact.facts.input, self.boxes)

    def find(
        self, samples: Iterable[Sample | DataError]
    ) -> Iterator[Outcome[tuple[Detections, tuple[int, int]]]]:
        """Yield for each image its boxes and its size; an unreadable one gets its error.

        So does one for which the model's output is NaN or infinite.
        """
        batches = batched(samples, self._stream.predictor.batch)
        for answers in self._stream.answers(batches, self.workers):
            yield from answers.outcomes

    def boxes(
        self, sample: Sample, row: NDArray[np.float32], size: tuple[int, int]
    ) -> tuple[Detections, tuple[int, int]]:
        """Return the boxes of an image of this size, and the size, from its raw outputs.

        Raises:
            NotFiniteError: they are NaN or infinite.
        """
        refuse_not_finite(row, sample.key)
        boxes, logits = row[:, :CORNERS], row[:, CORNERS:]
        return detect(boxes, logits, self.spec, size, self.config), size
