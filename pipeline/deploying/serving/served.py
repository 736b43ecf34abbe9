"""What is served is the variant of a package that this machine runs rightly, ready to be shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.decode import decoded
from mobilenet_cli.data.preprocess import InputSpec, Square, square_of_bytes
from mobilenet_cli.models.boxes import KEPT_RAW
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.deploying.package import Package
from mobilenet_cli.pipeline.evaluating.predicting.predict import Guess
from mobilenet_cli.pipeline.evaluating.predicting.predict_boxes import FoundBox
from mobilenet_cli.pipeline.runtime.predictor import largest
from mobilenet_cli.pipeline.runtime.session import CPU, SessionConfig, open_session

Image = NDArray[np.uint8]
Answer = tuple[NDArray[Any], ...]
CLASSIFIER, DETECTOR = "classifier", "detector"
DATATYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32", "tensor(int64)": "INT64"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model is described as the Open Inference Protocol does it.

    Attributes:
        name: of the tensor.
        datatype: such as ``FP32``.
        shape: -1 stands for any number of images.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_document(self) -> dict[str, Any]:
        """Return the tensor as JSON."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Served:
    """A served model runs one session, which as many threads as there are CPUs may share.

    Attributes:
        package: what it was taken from.
        target: the variant that answered the probe rightly here.
        name: what the Open Inference Protocol calls it: ``classifier`` or ``detector``.
        spec: how images become squares of pixels.
        classes: identifier and name of each class.
        pixels: the model's input.
        outputs: the model's outputs; of a detector, the final boxes, and not what they come from.
        session: of ONNX Runtime, one thread a run.
    """

    package: Package
    target: str
    name: str
    spec: InputSpec
    classes: tuple[tuple[str, str], ...]
    pixels: Tensor
    outputs: tuple[Tensor, ...]
    session: Any

    @property
    def path(self) -> str:
        """Return the path that answers image files."""
        return "/detect" if self.name == DETECTOR else "/classify"

    def square(self, encoded: bytes, key: str, max_pixels: int) -> Square:
        """Decode an image file, resize it and cut it as ``predict`` does.

        Raises:
            DataError: it is not an image that can be read, or larger than allowed.
        """
        with decoded(encoded, key, max_pixels) as image:
            return Square(square_of_bytes(image, self.spec, key), image.size)

    def answers(self, images: Sequence[Square]) -> list[Answer]:
        """Run the model once, and return the outputs of each image: boxes in pixels of its size."""
        names = [tensor.name for tensor in self.outputs]
        stacked = np.stack([image.pixels for image in images])
        made = self.session.run(names, {self.pixels.name: stacked})
        if self.name == DETECTOR:
            sides = np.array([2 * image.size for image in images], np.float32)
            made[0] = made[0] * (sides / self.spec.resolution)[:, None]
        return [tuple(output[i] for output in made) for i in range(len(images))]

    def describe(self, answer: Answer, top: int) -> dict[str, Any]:
        """Return what the outputs for an image say, as JSON.

        Args:
            answer: the outputs.
            top: how many classes of a classifier to name.
        """
        if self.name == DETECTOR:
            found = zip(*(values.tolist() for values in answer[:3]), strict=True)
            boxes = [
                FoundBox(*self.classes[int(i)], share, box) for box, share, i in found if i >= 0
            ]
            return {"boxes": [box.as_document() for box in boxes]}
        probabilities, *_ = answer
        guesses = [
            Guess(*self.classes[int(index)], float(probabilities[index]))
            for index in largest(probabilities, top)
        ]
        return {"predictions": [guess.as_document() for guess in guesses]}


def open_served(package: Package, provider: str = CPU) -> Served:
    """Load the first variant of a package that an execution provider runs rightly here.

    Raises:
        ModelError: it cannot be loaded.
        ProviderError: there is no such variant.
    """
    variant = package.pick(provider=provider)
    path = package.folder / variant.pixels.model
    facts, session = load_artifact(path).facts, open_session(path, SessionConfig(provider, 1))
    (pixels,), outputs = map(partial(map, _tensor), (session.get_inputs(), session.get_outputs()))
    return Served(
        package=package,
        target=variant.target,
        name=DETECTOR if facts.boxes else CLASSIFIER,
        spec=facts.input,
        classes=tuple(map(facts.class_of, range(len(facts.classes)))),
        pixels=pixels,
        outputs=tuple(tensor for tensor in outputs if tensor.name not in KEPT_RAW),
        session=session,
    )


def _tensor(described: Any) -> Tensor:
    shape = tuple(size if isinstance(size, int) else -1 for size in described.shape)
    return Tensor(described.name, DATATYPES[described.type], shape)
