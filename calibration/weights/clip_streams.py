"""Channels of a residual stream are cut off where that costs less than coarser codes.

Equalization gives each channel of a stream all codes up to its largest value, and that value is
rare. Every addition rounds the stream anew. What is cut off is cut off once, and the layers that
read it make good a part (``compensate``). So a channel ends where its squared errors are least,
with those of clipping counted as ``CLIPPED`` of those of rounding (as ``ranges.mse`` with 1): on
MobileNetV2 half a decibel and a point of agreement (``docs/experiments.md``).
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import Network
from mobilenet_cli.calibration.ranges.histogram import SMALLEST_WIDTH
from mobilenet_cli.calibration.tensor_statistics import (
    FirstImages,
    Opener,
    Statistics,
    exposing,
    run_exposed,
)
from mobilenet_cli.calibration.weights.equalize import residual_streams

IMAGES = 64  # whose values are counted
BINS = 256  # of the magnitudes of a channel, up to its largest
CLIPPED = 0.03
ENDS = np.linspace(0.1, 1.0, 91)  # where a channel may end, of its largest magnitude


def clip_streams(
    network: Network, statistics: Statistics, images: FirstImages, open_session: Opener
) -> Statistics:
    """Return the statistics with channels of residual streams that end where they lose least.

    Args:
        network: the float network.
        statistics: of all calibration images.
        images: gives the first so many of them.
        open_session: makes a session of a float model.
    """
    streams = residual_streams(network)
    tensors = [name for stream in streams for name in stream if name in statistics.low]
    if not tensors:
        return statistics
    low, high = dict(statistics.low), dict(statistics.high)
    peaks = {name: np.maximum(-low[name], high[name]) for name in tensors}
    counts = {name: np.zeros((len(peak), BINS), np.int64) for name, peak in peaks.items()}
    session = exposing(network, tensors, open_session)
    for batch in images(IMAGES):
        for name, values in run_exposed(session, network, tensors, batch).items():
            counts[name] += magnitudes(values, peaks[name])
    for name, peak in peaks.items():
        levels = 255 if low[name].min() >= 0 else 127
        end = peak * best_ends(counts[name], levels)
        low[name], high[name] = np.maximum(low[name], -end), np.minimum(high[name], end)
    return replace(statistics, low=low, high=high)


def magnitudes(values: NDArray[np.float32], peak: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the magnitudes of [images, channels, ...] in bins [channels, BINS] up to ``peak``.

    Zeros are left out, for they are represented exactly.
    """
    by_channel = np.abs(values).swapaxes(0, 1).reshape(len(peak), -1)
    scale = (BINS / np.maximum(peak, SMALLEST_WIDTH)).astype(np.float32)
    bins = np.minimum(by_channel * scale[:, None], BINS - 1).astype(np.int64)
    bins += BINS * np.arange(len(peak))[:, None]
    seen: NDArray[Any] = np.bincount(bins[by_channel > 0], minlength=BINS * len(peak))
    return seen.reshape(len(peak), BINS)


def best_ends(counts: NDArray[np.int64], levels: int) -> NDArray[np.float64]:
    """Choose of ``ENDS`` that of the least squared error for each channel [channels].

    Args:
        counts: magnitudes in equal bins [channels, BINS].
        levels: codes from 0 to the end.
    """
    centers = (np.arange(BINS) + 0.5) / BINS
    excess = np.maximum(centers - ENDS[:, None], 0.0)  # [ends, BINS]
    rounded = (centers <= ENDS[:, None]) * (ENDS[:, None] / levels) ** 2 / 12
    errors = counts @ (CLIPPED * excess**2 + rounded).T  # [channels, ends]
    chosen: NDArray[np.float64] = ENDS[::-1][errors[:, ::-1].argmin(1)]  # of equal ones the widest
    return chosen
