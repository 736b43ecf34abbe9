"""RetinaFace (Deng et al., arXiv:1905.00641) on MobileNet v1 is data here, without landmarks.

Three maps of MobileNet are joined from the coarse to the fine (feature pyramid, arXiv:1612.03144),
and each is looked at through windows of three sizes (the context module of SSH, arXiv:1708.03979,
figure 3). Numbers are those of the program that published the weights at width 0.25
(biubug6/Face-Detector-1MB-with-landmark, data/config.py, models/net.py); its channels grow with the
width here.
"""

import math
from collections.abc import Iterator

from mobilenet_cli.models import mobilenet_v1
from mobilenet_cli.models.boxes import AnchorMap
from mobilenet_cli.models.conv_layers import ConvLayer, Head
from mobilenet_cli.models.mobilenet_v1 import scaled_channels
from mobilenet_cli.models.spec import ModelSpec

BACKBONE_MAPS = ("layers.10", "layers.22", "layers.26")
STEPS = (8, 16, 32)  # pixels between two positions of each map
SIZES = ((10, 20), (32, 64), (128, 256))  # sides of the square anchors of each map in pixels
CHANNELS = 256  # of the pyramid at width 1.0


def layers(spec: ModelSpec) -> tuple[ConvLayer, ...]:
    """Return all layers with normalization, in the order of computation."""

    def found() -> Iterator[ConvLayer]:
        backbone = mobilenet_v1.conv_layers(spec)
        yield from backbone
        made = {layer.name: layer.out_channels for layer in backbone}
        wide = scaled_channels(CHANNELS, spec.width)
        half, quarter = wide // 2, wide // 4
        for index, source in enumerate(BACKBONE_MAPS):
            name = f"pyramid.{index}.lateral"
            yield ConvLayer(name, "pointwise", made[source], wide, 1, source=source)
        for index in (1, 0):
            source = f"pyramid.{index}.lateral"
            yield ConvLayer(f"pyramid.{index}.merge", "conv", wide, wide, 1, source=source)
        for index in range(len(BACKBONE_MAPS)):
            seen, name = f"pyramid.{index}.lateral", f"context.{index}"
            yield ConvLayer(f"{name}.3x3", "conv", wide, half, 1, linear=True, source=seen)
            yield ConvLayer(f"{name}.5x5_1", "conv", wide, quarter, 1, source=seen)
            yield ConvLayer(f"{name}.5x5_2", "conv", quarter, quarter, 1, linear=True)
            yield ConvLayer(f"{name}.7x7_2", "conv", quarter, quarter, 1)
            yield ConvLayer(f"{name}.7x7_3", "conv", quarter, quarter, 1, linear=True)

    return tuple(found())


def heads(spec: ModelSpec) -> tuple[Head, ...]:
    """Return what makes the outputs of each map: boxes, then scores."""
    wide = scaled_channels(CHANNELS, spec.width)
    return tuple(
        Head(f"heads.{index}.{kind}", wide, len(sizes) * each, f"context.{index}.3x3")
        for index, sizes in enumerate(SIZES)
        for kind, each in (("boxes", 4), ("scores", spec.classes))
    )


def anchors(resolution: int) -> tuple[AnchorMap, ...]:
    """Return the anchors of each map for images of ``resolution`` pixels a side."""
    return tuple(
        AnchorMap(
            side=math.ceil(resolution / step),
            step=step / resolution,
            sizes=tuple((size / resolution, size / resolution) for size in sizes),
        )
        for step, sizes in zip(STEPS, SIZES, strict=True)
    )
