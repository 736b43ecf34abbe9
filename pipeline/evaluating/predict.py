"""This module names the most probable classes of single images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.loader import ordered_map
from mobilenet_cli.data.open_dataset import open_images
from mobilenet_cli.data.preprocess import prepare
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.file_kinds import kind_of
from mobilenet_cli.pipeline.artifacts.package_folder import is_package
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.evaluating.evaluate import pad_batch
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.predictor import open_predictor, top_classes
from mobilenet_cli.pipeline.runtime.session import CPU

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


@dataclass(frozen=True)
class Prediction:
    """A prediction has the most probable classes of an image, or says why there are none.

    Attributes:
        image: the image's name.
        guesses: its classes, the most probable one first.
        error: why the image cannot be read.
    """

    image: str
    guesses: tuple[Guess, ...] = ()
    error: DataError | None = None

    def as_document(self) -> dict[str, JsonValue]:
        """Return the prediction as JSON."""
        if self.error:
            return {"image": self.image, "error": self.error.what}
        guesses: list[JsonValue] = [
            {"class": g.identifier, "name": g.name, "probability": g.probability}
            for g in self.guesses
        ]
        return {"image": self.image, "predictions": guesses}


def open_sources(sources: Sequence[str], stdin: BinaryIO) -> tuple[Path | None, list[Sample]]:
    """Tell a model file from images.

    Args:
        sources: a model file or package, if one is named, and then images, folders, or ``-``.
        stdin: standard input, which ``-`` stands for.

    Returns:
        The model file, if one is named, and the images.

    Raises:
        OptionError: there is no image, a second model file, or another program's weights.
        DataError: a path does not exist, or a folder has no images.
    """
    models = [s for s in sources if Path(s).suffix in MODEL_SUFFIXES or is_package(Path(s))]
    if models and (len(models) > 1 or sources[0] != models[0]):
        raise OptionError(
            f"{models[-1]} is a model file, not an image",
            "Name one model, before the images, or none to take the newest run's",
        )
    images = list(sources[len(models) :])
    for path in map(Path, images):
        kind = kind_of(path) if path.is_file() else None
        if kind is not None and kind.role == "weights":
            raise OptionError(f"{path} is {kind.name}, not an image", kind.fix.format(path=path))
    if not images:
        raise OptionError("no image was named", "Pass image files or folders of them")
    samples: list[Sample] = []
    for source in images:
        if source == "-":
            samples.append(Sample("standard input", None, stdin.read))
        else:
            samples += open_images([source])
    return (Path(models[0]) if models else None), samples


def predict(
    artifact: Artifact, samples: Sequence[Sample], top: int = 5, provider: str = CPU
) -> Iterator[Prediction]:
    """Classify images in their order; an unreadable one gets its error and stops nothing.

    Raises:
        ModelError: the model cannot be used.
        ProviderError: the provider cannot run it.
    """
    facts = artifact.facts
    with open_predictor(artifact, provider) as predictor:

        def classify(sample: Sample) -> Prediction:
            try:
                image = prepare(sample.read(), sample.key, facts.input)
            except DataError as error:
                return Prediction(sample.key, error=error)
            logits = predictor.logits(pad_batch(image[None], predictor.batch))[0]
            ranked = top_classes(logits, top, predictor.independent)
            guesses = tuple(
                Guess(*_describe(artifact, index), probability)
                for index, probability in zip(*ranked, strict=True)
            )
            return Prediction(sample.key, guesses)

        workers = usable_cpus()
        yield from ordered_map(classify, samples, workers, 2 * workers)


def _describe(artifact: Artifact, index: int) -> tuple[str, str]:
    """Return a class's identifier and name."""
    facts = artifact.facts
    identifier = facts.classes[index] if facts.classes else str(index)
    return identifier, facts.names[index] if facts.names else identifier
