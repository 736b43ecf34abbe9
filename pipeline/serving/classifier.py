"""A classifier is the variant of a package that this machine runs rightly, ready to be shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.decode import decoded
from mobilenet_cli.data.preprocess import InputSpec, square_of_bytes
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.deploying.package import Package
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

Image = NDArray[np.uint8]
Answer = tuple[NDArray[Any], ...]
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
class Classifier:
    """A classifier runs one session, which as many threads as there are CPUs may share.

    Attributes:
        package: what it was taken from.
        target: the variant that answered the probe rightly here.
        spec: how images become squares of pixels.
        classes: identifier and name of each class.
        pixels: the model's input.
        outputs: the model's outputs.
        session: of ONNX Runtime, one thread a run.
    """

    package: Package
    target: str
    spec: InputSpec
    classes: tuple[tuple[str, str], ...]
    pixels: Tensor
    outputs: tuple[Tensor, ...]
    session: Any

    def square(self, encoded: bytes, key: str, max_pixels: int) -> Image:
        """Decode an image file, resize it and cut it as ``predict`` does.

        Returns:
            Pixels [R, R, 3].

        Raises:
            DataError: it is not an image that can be read, or larger than allowed.
        """
        with decoded(encoded, key, max_pixels) as image:
            return square_of_bytes(image, self.spec, key)

    def answers(self, images: Sequence[Image]) -> list[Answer]:
        """Run the model once on images [R, R, 3], and return the outputs of each image."""
        made = self.session.run(None, {self.pixels.name: np.stack(images)})
        return [tuple(output[i] for output in made) for i in range(len(images))]


def open_classifier(package: Package) -> Classifier:
    """Load the first variant of a package that this machine runs rightly.

    Raises:
        ModelError: it cannot be loaded.
        ProviderError: there is no such variant.
    """
    variant = package.pick()
    path = package.folder / variant.pixels.model
    facts, session = load_artifact(path).facts, open_session(path, SessionConfig(threads=1))
    (pixels,), outputs = map(partial(map, _tensor), (session.get_inputs(), session.get_outputs()))
    return Classifier(
        package=package,
        target=variant.target,
        spec=facts.input,
        classes=tuple(zip(facts.classes, facts.names or facts.classes, strict=True)),
        pixels=pixels,
        outputs=tuple(outputs),
        session=session,
    )


def _tensor(described: Any) -> Tensor:
    shape = tuple(size if isinstance(size, int) else -1 for size in described.shape)
    return Tensor(described.name, DATATYPES[described.type], shape)
