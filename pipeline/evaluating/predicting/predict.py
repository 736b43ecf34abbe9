"""This module names the most probable classes of single images."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.parts import cut
from mobilenet_cli.data.readers.remote import fetch_file
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.file_kinds import kind_of
from mobilenet_cli.pipeline.artifacts.files import is_package
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.runtime.predictor import open_predictor, refuse_not_finite, top_classes
from mobilenet_cli.pipeline.runtime.session import CPU
from mobilenet_cli.pipeline.runtime.stream import Size, Stream, batched

MODEL_SUFFIXES = (".onnx", ".safetensors")


@dataclass(frozen=True)
class Guess:
    """A guess is one class with its probability.

    Attributes:
        identifier: of the class, as in the model; its index where the model names none.
        name: what people call it.
        probability: softmax (or sigmoid) of the logits, 0..1.
    """

    identifier: str
    name: str
    probability: float

    def as_document(self) -> dict[str, JsonValue]:
        """Return the guess as JSON."""
        return {"class": self.identifier, "name": self.name, "probability": self.probability}


@dataclass(frozen=True)
class Prediction:
    """A prediction has the most probable classes of an image, or says why there are none.

    Attributes:
        image: the image's name.
        guesses: its classes, the most probable one first.
        error: why the image cannot be read, or that the model gives NaN or infinity for it.
    """

    image: str
    guesses: tuple[Guess, ...] = ()
    error: DataError | None = None

    @property
    def rows(self) -> list[tuple[str, float]]:
        """Return what to print of each class, and its probability."""
        return [(guess.name, guess.probability) for guess in self.guesses]

    def as_document(self) -> dict[str, JsonValue]:
        """Return the prediction as JSON."""
        if self.error:
            return {"image": self.image, "error": self.error.what}
        guesses: list[JsonValue] = [guess.as_document() for guess in self.guesses]
        return {"image": self.image, "predictions": guesses}


def tell_model(sources: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Tell a model file from images.

    Args:
        sources: a model file or package, if one is named, and then images, or ``-``.

    Returns:
        The model file, if one is named, and the other sources.

    Raises:
        OptionError: there is no image, a second model file, or another program's weights.
    """
    models = [s for s in sources if _is_model(Path(s))]
    if models and (len(models) > 1 or sources[0] != models[0]):
        raise OptionError(
            f"{models[-1]} is a model file, not an image",
            "Name one model, before the images, or none to take the newest run's",
        )
    images = list(sources[len(models) :])
    for path in map(Path, images):
        if path.is_dir() and Run(path).artifacts():
            raise OptionError(
                f"{path} is the folder of a run, and holds no images to predict",
                f"Pass --run {Run(path).name} to take its model",
            )
        kind = kind_of(path) if path.is_file() else None
        if kind is not None and kind.role == "weights":
            raise OptionError(f"{path} is {kind.name}, not an image", kind.fix.format(path=path))
    if not images:
        raise OptionError("no image was named", "Pass image files or folders of them")
    return (Path(models[0]) if models else None), images


def _is_model(path: Path) -> bool:
    return path.suffix.lower() in MODEL_SUFFIXES or is_package(path)


def open_images(sources: Sequence[str], stdin: BinaryIO) -> Iterator[Sample | DataError]:
    """Yield images, each by its whole name; they are looked for as they are needed.

    Args:
        sources: as ``data.parts.cut`` takes them.
        stdin: standard input, an image that ``-`` stands for.

    Yields:
        The images, and a DataError in place of what is lost.

    Raises:
        DataError: a list or a pattern cannot be used.
    """
    with ExitStack() as at_last:
        for source in sources:
            if source == "-":
                yield Sample("standard input", None, stdin.read)
                continue
            for part in cut([source]):
                try:
                    shard = fetch_file(part.address) if part.address else None
                except DataError as error:
                    yield error
                    continue
                if shard is not None:  # threads read it yet
                    at_last.callback(shard.unlink)
                for image in part.images(shard):
                    if isinstance(image, DataError):
                        yield image
                    else:
                        yield replace(image, key=part.whole_name(image.key))


def predict(
    artifact: Artifact,
    samples: Iterable[Sample | DataError],
    top: int = 5,
    provider: str = CPU,
) -> Iterator[Prediction]:
    """Classify images in their order; one without an answer gets its error and stops nothing.

    Images are looked for as they are needed, and answers are yielded as they come.

    Raises:
        ModelError: the model cannot be used.
        ProviderError: the provider cannot run it.
    """
    with open_predictor(artifact, provider) as predictor:

        def guesses(sample: Sample, logits: NDArray[np.float32], _size: Size) -> tuple[Guess, ...]:
            refuse_not_finite(logits, sample.key)
            ranked = top_classes(logits, top, predictor.independent)
            return tuple(
                Guess(*artifact.facts.class_of(index), probability)
                for index, probability in zip(*ranked, strict=True)
            )

        stream = Stream(predictor, artifact.facts.input, guesses)
        for answers in stream.answers(batched(samples, predictor.batch)):
            for outcome in answers.outcomes:
                name = outcome.sample.key if outcome.sample else ""
                if isinstance(outcome.answer, DataError):
                    yield Prediction(name, error=outcome.answer)
                else:
                    yield Prediction(name, outcome.answer)
