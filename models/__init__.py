"""Network architectures are data here, with the torch modules that are built from them.

``MODELS`` is the one place in which an architecture is added.
"""

from typing import TYPE_CHECKING

from mobilenet_cli.models import mobilenet_v1
from mobilenet_cli.models.architecture import Architecture
from mobilenet_cli.models.spec import ModelSpec

if TYPE_CHECKING:
    from mobilenet_cli.models.classifier_torch import Classifier


def _mobilenet_v1(spec: ModelSpec) -> "Classifier":
    from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1

    return MobileNetV1(spec)


MODELS: dict[str, Architecture] = {
    "mobilenet_v1": Architecture(
        title="MobileNet v1",
        build=_mobilenet_v1,
        tensor_shapes=mobilenet_v1.tensor_shapes,
        layer_multiply_adds=mobilenet_v1.layer_multiply_adds,
        last_side=lambda resolution: mobilenet_v1.feature_sizes(resolution)[-1],
        smallest_side=32,  # five layers of stride 2 leave one pixel
    ),
}
