"""SSD (Liu et al., arXiv:1512.02325) on MobileNet v1 is data here: layers, heads and anchors.

All numbers are those of the TensorFlow Object Detection API, with which the MobileNet detectors
were published: six maps, of which two are MobileNet's own
(object_detection/models/ssd_mobilenet_v1_feature_extractor.py), and heads of 1x1
(samples/configs/ssd_mobilenet_v1_coco.config). In SSDLite (Sandler et al., arXiv:1801.04381,
section 6.2) the layers behind MobileNet and the heads are separable.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from mobilenet_cli.models import mobilenet_v1
from mobilenet_cli.models.boxes import AnchorMap
from mobilenet_cli.models.conv_layers import ConvLayer, Head, feature_sizes
from mobilenet_cli.models.mobilenet_v1 import scaled_channels
from mobilenet_cli.models.spec import ModelSpec

LITE = "ssdlite_mobilenet_v1"
BACKBONE_MAPS = ("layers.22", "layers.26")  # Conv2d_11_pointwise and Conv2d_13_pointwise
# Behind the backbone: filters at width 1.0 of a layer of 1x1, and of one of stride 2 behind it
# (feature_map_generators.py, multi_resolution_feature_maps).
EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
# anchor_generators/multiple_grid_anchor_generator.py, create_ssd_anchors: sizes grow evenly.
SMALLEST, LARGEST = 0.2, 0.95
RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)  # of width to height; the last one is what the file says
FIRST_MAP = ((0.1, 1.0), (SMALLEST, 2.0), (SMALLEST, 0.5))  # reduce_boxes_in_lowest_layer
BOX, SCORES = "boxes", "scores"


def layers(spec: ModelSpec) -> tuple[ConvLayer, ...]:
    """Return all layers with normalization, in the order of computation."""
    lite = spec.architecture == LITE

    def found() -> Iterator[ConvLayer]:
        backbone = mobilenet_v1.conv_layers(spec)
        yield from backbone
        channels = backbone[-1].out_channels
        for index, (narrow, wide) in enumerate(EXTRAS):
            name = f"extras.{index}"
            inner, out = scaled_channels(narrow, spec.width), scaled_channels(wide, spec.width)
            yield ConvLayer(f"{name}.reduce", "pointwise", channels, inner, 1)
            if lite:
                yield ConvLayer(f"{name}.depthwise", "depthwise", inner, inner, 2)
                yield ConvLayer(f"{name}.expand", "pointwise", inner, out, 1)
            else:
                yield ConvLayer(f"{name}.expand", "conv", inner, out, 2)
            channels = out
        for index, (source, width) in enumerate(_maps(spec)) if lite else ():
            for kind in (BOX, SCORES):
                name = f"heads.{index}.{kind}_depthwise"
                yield ConvLayer(name, "depthwise", width, width, 1, source=source)

    return tuple(found())


def heads(spec: ModelSpec) -> tuple[Head, ...]:
    """Return what makes the outputs of each map: boxes, then scores."""
    found = []
    for index, (source, width) in enumerate(_maps(spec)):
        anchors = len(FIRST_MAP) if index == 0 else len(RATIOS) + 1
        for kind, each in ((BOX, 4), (SCORES, spec.classes)):
            name = f"heads.{index}.{kind}"
            read = f"{name}_depthwise" if spec.architecture == LITE else source
            found.append(Head(name, width, anchors * each, read))
    return tuple(found)


def _maps(spec: ModelSpec) -> list[tuple[str, int]]:
    """Return the six layers that make a map, with the number of their channels."""
    backbone = {layer.name: layer.out_channels for layer in mobilenet_v1.conv_layers(spec)}
    own = [(name, backbone[name]) for name in BACKBONE_MAPS]
    wide = [scaled_channels(out, spec.width) for _, out in EXTRAS]
    return own + [(f"extras.{index}.expand", channels) for index, channels in enumerate(wide)]


def anchors(resolution: int) -> tuple[AnchorMap, ...]:
    """Return the anchors of each map for images of ``resolution`` pixels a side.

    Sizes grow evenly from map to map. Each map has an anchor for each of ``RATIOS`` and a square
    between its own size and the next map's.
    """
    spec = ModelSpec(architecture="ssd_mobilenet_v1")
    sides = dict(
        zip([x.name for x in layers(spec)], feature_sizes(layers(spec), resolution), strict=True)
    )
    maps = [sides[name] for name, _ in _maps(spec)]
    grows = (LARGEST - SMALLEST) / (len(maps) - 1)
    scales = [*(SMALLEST + grows * index for index in range(len(maps))), 1.0]
    found = []
    for index, (side, (scale, following)) in enumerate(zip(maps, pairwise(scales), strict=True)):
        shapes = [(scale, ratio) for ratio in RATIOS]
        shapes.insert(1, (math.sqrt(scale * following), 1.0))
        sizes = FIRST_MAP if index == 0 else shapes
        rows = tuple((s * math.sqrt(ratio), s / math.sqrt(ratio)) for s, ratio in sizes)
        found.append(AnchorMap(side=side, step=1 / side, sizes=rows))
    return tuple(found)
