"""A detector's boxes are found on images as people have them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.decode import decoded
from mobilenet_cli.data.preprocess import InputSpec, resize_and_crop
from mobilenet_cli.models.boxes import CORNERS
from mobilenet_cli.models.detections import Detections, NmsConfig, detect
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import CheckError, DataError, ModelError
from mobilenet_cli.pipeline.runtime.predictor import Predictor, open_predictor
from mobilenet_cli.pipeline.runtime.stream import Outcome, Pixels, Stream, batched


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
        self._sizes: dict[str, tuple[int, int]] = {}  # of the images that are on their way
        self._stream = Stream(predictor, artifact.facts.input, self._finish, self._square)

    def find(
        self, samples: Iterable[Sample | DataError]
    ) -> Iterator[Outcome[tuple[Detections, tuple[int, int]]]]:
        """Yield for each image its boxes and its size; an unreadable one gets its error.

        Raises:
            CheckError: the model's output is NaN.
        """
        batches = batched(samples, self._stream.predictor.batch)
        for answers in self._stream.answers(batches, self.workers):
            yield from answers.outcomes

    def _square(self, encoded: bytes, key: str, spec: InputSpec) -> Pixels:
        with decoded(encoded, key) as image:
            self._sizes[key] = image.size
            return resize_and_crop(image, spec, key)

    def _finish(
        self, sample: Sample, row: NDArray[np.float32]
    ) -> tuple[Detections, tuple[int, int]]:
        if np.isnan(row).any():
            raise CheckError(
                f"the model's output for {sample.key} is NaN", "Train or import the model again"
            )
        size = self._sizes[sample.key]
        boxes, logits = row[:, :CORNERS], row[:, CORNERS:]
        return detect(boxes, logits, self.spec, size, self.config), size
