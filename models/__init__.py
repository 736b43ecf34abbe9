"""Network architectures are data here, with the torch modules that are built from them.

``MODELS`` is the one place in which an architecture is added.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mobilenet_cli.models import mobilenet_v1, mobilenet_v2, retinaface, ssd
from mobilenet_cli.models.architecture import Architecture
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import ModelError

if TYPE_CHECKING:
    from mobilenet_cli.models.classifier_torch import Classifier
    from mobilenet_cli.models.detector_torch import Detector


def _mobilenet_v1(spec: ModelSpec) -> "Classifier":
    from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1

    return MobileNetV1(spec)


def _mobilenet_v2(spec: ModelSpec) -> "Classifier":
    from mobilenet_cli.models.mobilenet_v2_torch import MobileNetV2

    return MobileNetV2(spec)


def _ssd(spec: ModelSpec) -> "Detector":
    from mobilenet_cli.models.ssd_torch import SSD

    return SSD(spec)


def _retinaface(spec: ModelSpec) -> "Detector":
    from mobilenet_cli.models.retinaface_torch import RetinaFace

    return RetinaFace(spec)


# Of the classifiers, five layers of stride 2 leave one pixel of 32.
MODELS: dict[str, Architecture] = {
    "mobilenet_v1": Architecture(
        title="MobileNet v1",
        layers=mobilenet_v1.conv_layers,
        build=_mobilenet_v1,
        width_layer="layers.26",
        smallest_side=32,
    ),
    "mobilenet_v2": Architecture(
        title="MobileNetV2",
        layers=mobilenet_v2.conv_layers,
        build=_mobilenet_v2,
        width_layer="layers.17.project",
        smallest_side=32,
    ),
    "ssd_mobilenet_v1": Architecture(
        title="MobileNet v1 SSD",
        layers=ssd.layers,
        build=_ssd,
        width_layer="layers.26",
        smallest_side=32,
        heads=ssd.heads,
        anchors=ssd.anchors,
        backbone="mobilenet_v1",
    ),
    "retinaface_mobilenet_v1": Architecture(
        title="MobileNet v1 RetinaFace",
        layers=retinaface.layers,
        build=_retinaface,
        width_layer="layers.26",
        smallest_side=32,
        heads=retinaface.heads,
        anchors=retinaface.anchors,
        side_step=32,
        backbone="mobilenet_v1",
    ),
    ssd.LITE: Architecture(
        title="MobileNet v1 SSDLite",
        layers=ssd.layers,
        build=_ssd,
        width_layer="layers.26",
        smallest_side=32,
        heads=ssd.heads,
        anchors=ssd.anchors,
        backbone="mobilenet_v1",
    ),
}


def find_architecture(name: str, file: Path | None = None) -> Architecture:
    """Return an architecture.

    Args:
        name: a key of ``MODELS``.
        file: where the name was read, if in a file.

    Raises:
        ModelError: this version of the program does not know it.
    """
    found = MODELS.get(name)
    if found is None:
        origin = f", which {file} names," if file else ""
        raise ModelError(
            f"the architecture '{name}'{origin} is not known to this version of mobilenet-cli",
            f"Use {' or '.join(MODELS)}, or the version of mobilenet-cli that made the file",
        )
    return found
