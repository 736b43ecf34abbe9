"""MobileNet v1 (Howard et al., arXiv:1704.04861) is data here: Table 1 and what follows."""

from collections.abc import Iterator

from mobilenet_cli.models.conv_layers import ConvLayer, Kind
from mobilenet_cli.models.spec import ModelSpec

# Table 1, row by row: kind, stride, filters at width 1.0 (a depthwise layer keeps its input's).
# The table prints stride 2 for the last depthwise layer, yet also an unchanged 7x7 output; every
# published implementation uses stride 1 there, and so do the table's multiply-add counts.
TABLE_1: tuple[tuple[Kind, int, int], ...] = (
    ("conv", 2, 32),
    ("depthwise", 1, 32),
    ("pointwise", 1, 64),
    ("depthwise", 2, 64),
    ("pointwise", 1, 128),
    ("depthwise", 1, 128),
    ("pointwise", 1, 128),
    ("depthwise", 2, 128),
    ("pointwise", 1, 256),
    ("depthwise", 1, 256),
    ("pointwise", 1, 256),
    ("depthwise", 2, 256),
    ("pointwise", 1, 512),
    *(("depthwise", 1, 512), ("pointwise", 1, 512)) * 5,
    ("depthwise", 2, 512),
    ("pointwise", 1, 1024),
    ("depthwise", 1, 1024),
    ("pointwise", 1, 1024),
)
MIN_CHANNELS = 8  # TF-slim's min_depth: no layer is narrowed below this


def scaled_channels(filters: int, width: float) -> int:
    """Return ``max(int(filters * width), 8)``, as in TF-slim's mobilenet_v1.py."""
    return max(int(filters * width), MIN_CHANNELS)


def conv_layers(spec: ModelSpec) -> tuple[ConvLayer, ...]:
    """Return the 27 convolutional layers of Table 1 at the spec's width, from the image on."""

    def layers() -> Iterator[ConvLayer]:
        channels = 3
        for index, (kind, stride, filters) in enumerate(TABLE_1):
            out = channels if kind == "depthwise" else scaled_channels(filters, spec.width)
            yield ConvLayer(f"layers.{index}", kind, channels, out, stride)
            channels = out

    return tuple(layers())
