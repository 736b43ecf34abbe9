"""Moments of a layer's inputs are taken from the codes that it will really see."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import GraphStep, Linear, Network, attributes_of
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.weights import rounding

Codes = NDArray[np.uint8 | np.int8]
POSITIONS = 200_000  # input positions that the second moments of one layer are taken over
FEWEST_IMAGES = 16  # however large the map
JOINED = 1000  # positions of small maps, or rows of a matrix, that are taken together


@dataclass(frozen=True)
class Geometry:
    """A geometry says where a convolution's window goes.

    Attributes:
        kernel: rows, columns.
        stride: rows, columns.
        dilation: rows, columns.
        pads: top, left, bottom, right, in pixels.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]


def geometry(step: GraphStep, linear: Linear, height: int, width: int) -> Geometry:
    """Return a Conv's window on a map of that size (ONNX operator Conv with ``auto_pad``)."""
    attributes = attributes_of(step.node)
    kernel = (int(linear.weight.shape[2]), int(linear.weight.shape[3]))
    stride = tuple(attributes.get("strides", (1, 1)))
    dilation = tuple(attributes.get("dilations", (1, 1)))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        totals = [
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, k, s, d in zip((height, width), kernel, stride, dilation, strict=True)
        ]
        small = [total // 2 for total in totals]
        large = [total - half for total, half in zip(totals, small, strict=True)]
        pads = (*small, *large) if auto == b"SAME_UPPER" else (*large, *small)
    return Geometry(kernel, stride, dilation, pads)


def patches(values: NDArray[np.float32], step: GraphStep, linear: Linear) -> NDArray[np.float32]:
    """Return what each output position sees: [channels, taps, positions] of one image.

    The rows of a matrix [K, rows], or its only one [K], are the positions of a matrix product.
    """
    if linear.weight.ndim == 2:
        return values.reshape(len(values), 1, -1)
    window = geometry(step, linear, *values.shape[1:])
    top, left, bottom, right = window.pads
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
    spans = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    view = sliding_window_view(padded, spans, axis=(1, 2))
    view = view[
        :, :: window.stride[0], :: window.stride[1], :: window.dilation[0], :: window.dilation[1]
    ]
    channels, rows, columns = view.shape[:3]
    return view.transpose(0, 3, 4, 1, 2).reshape(channels, -1, rows * columns)


def inputs_of(
    images: Iterable[NDArray[np.float32]], step: GraphStep, linear: Linear
) -> Iterator[NDArray[np.float32]]:
    """Yield what each position of some images sees: [groups, K, positions].

    Those of small maps are joined: of a few positions, the sums over all of them take longer than
    the products.
    """
    several: list[NDArray[np.float32]] = []
    for image in images:
        seen = patches(image, step, linear)
        several.append(seen.reshape(linear.groups, -1, seen.shape[2]))
        if sum(part.shape[2] for part in several) >= JOINED:
            yield several[0] if len(several) == 1 else np.concatenate(several, axis=2)
            several = []
    if several:
        yield np.concatenate(several, axis=2)


def second_moments(
    codes: Codes,
    grid: Grid,
    step: GraphStep,
    linear: Linear,
    part: NDArray[np.intp] | None = None,
) -> NDArray[np.float64]:
    """Return the damped covariance of a layer's inputs in codes: [K, K], or [groups, K, K].

    The covariance rather than the raw moments, since the bias absorbs every change of the mean.

    Args:
        codes: the inputs [images, ...].
        grid: of the inputs.
        step: the layer.
        linear: its parameters.
        part: the taps of a dense layer that are meant, if not all.
    """
    total: NDArray[np.float64] | float = 0.0
    sums: NDArray[np.float64] | float = 0.0
    count = 0
    zero_point = np.float32(grid.zero_point)
    images = (image.astype(np.float32) - zero_point for image in _images(codes, linear))
    for seen in inputs_of(images, step, linear):
        if part is not None:
            seen = seen[:, part]
        total = total + (seen @ seen.transpose(0, 2, 1)).astype(np.float64)
        sums = sums + seen.sum(2, dtype=np.float64)
        count += seen.shape[2]
        if count >= POSITIONS and count >= FEWEST_IMAGES * seen.shape[2]:
            break
    mean = np.asarray(sums) / count
    covariance = np.asarray(total) / count - mean[:, :, None] * mean[:, None, :]
    return rounding.damped(covariance if linear.groups > 1 else covariance[0])


def _images(codes: Codes, linear: Linear) -> Iterator[Codes]:
    """Yield image by image, or ``JOINED`` rows of a matrix at once as [K, rows]."""
    if linear.weight.ndim > 2:
        yield from codes
        return
    for start in range(0, len(codes), JOINED):
        yield codes[start : start + JOINED].T


def mean_outputs(
    network: Network,
    step: GraphStep,
    weight: NDArray[np.floating],
    mean_input: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return a layer's mean outputs [out] without bias, over positions, given its mean input."""
    groups = network.linears[step.output].groups
    taps = weight.reshape(groups, len(weight) // groups, -1).astype(np.float64)
    linear = Linear(weight.astype(np.float64), np.zeros(len(weight)), groups)
    seen = patches(mean_input.astype(np.float32), step, linear).mean(2, dtype=np.float64)
    means: NDArray[np.float64] = (taps @ seen.reshape(groups, -1, 1)).ravel()
    return means
