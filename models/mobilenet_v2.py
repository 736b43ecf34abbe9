"""MobileNetV2 (Sandler et al., arXiv:1801.04381) is data here: Table 2 and what follows."""

from collections.abc import Iterator
from dataclasses import dataclass

from mobilenet_cli.models.conv_layers import ConvLayer
from mobilenet_cli.models.spec import ModelSpec

# Table 2, its rows of bottlenecks: expansion t, filters c at width 1.0, repetitions n, and the
# stride s of the first of them. Before them comes a convolution of stride 2, after them one of 1x1.
TABLE_2: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
FIRST, LAST = 32, 1280
DIVISOR = 8  # of every number of channels; also the smallest


@dataclass(frozen=True)
class Block:
    """A block is one convolutional layer, or an inverted residual of several.

    Attributes:
        layers: in the order of computation.
        residual: True adds the block's input to its output.
    """

    layers: tuple[ConvLayer, ...]
    residual: bool = False


def scaled_channels(filters: int, width: float) -> int:
    """Return the multiple of 8 next to ``filters * width``, not below nine tenths of it.

    That is ``_make_divisible`` of TF-slim (nets/mobilenet/mobilenet.py), torchvision and Keras.
    """
    wanted = filters * width
    nearest = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    return nearest + DIVISOR if nearest < 0.9 * wanted else nearest


def blocks(spec: ModelSpec) -> tuple[Block, ...]:
    """Return the 19 rows of Table 2 that convolve, repetitions apart, at the spec's width.

    Widths below 1 do not narrow the last one (section 4, "Trade-off hyper parameters").
    """

    def found() -> Iterator[Block]:
        channels = scaled_channels(FIRST, spec.width)
        yield Block((ConvLayer("layers.0", "conv", 3, channels, 2),))
        index = 1
        for expansion, filters, repetitions, first_stride in TABLE_2:
            out = scaled_channels(filters, spec.width)
            for repetition in range(repetitions):
                stride = 1 if repetition else first_stride
                yield inverted_residual(f"layers.{index}", channels, out, stride, expansion)
                channels, index = out, index + 1
        last = scaled_channels(LAST, max(1.0, spec.width))
        yield Block((ConvLayer(f"layers.{index}", "pointwise", channels, last, 1),))

    return tuple(found())


def inverted_residual(name: str, channels: int, out: int, stride: int, expansion: int) -> Block:
    """Return a bottleneck residual block (Table 1): expand, filter, project without activation.

    An expansion by 1 is left out. The input is added where nothing changes its shape.
    """
    wide = channels * expansion
    layers = (
        ConvLayer(f"{name}.expand", "pointwise", channels, wide, 1),
        ConvLayer(f"{name}.depthwise", "depthwise", wide, wide, stride),
        ConvLayer(f"{name}.project", "pointwise", wide, out, 1, linear=True),
    )
    return Block(layers[expansion == 1 :], residual=stride == 1 and channels == out)


def conv_layers(spec: ModelSpec) -> tuple[ConvLayer, ...]:
    """Return the 52 convolutional layers at the spec's width, from the image on."""
    return tuple(layer for block in blocks(spec) for layer in block.layers)
