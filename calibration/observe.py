"""What the float network's tensors look like on the calibration images, in constant memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilenet_cli.calibration.histogram import BINS, Histogram, count_values
from mobilenet_cli.calibration.network import Network
from mobilenet_cli.pipeline.errors import DataError

Images = Callable[[], Iterable[NDArray[np.float32]]]  # the calibration images, batch by batch
Opener = Callable[[bytes], Any]  # makes an inference session of a serialized model
Tick = Callable[[int], None]  # told how many images are done


@dataclass(frozen=True)
class Statistics:
    """Per tensor, over all images.

    Attributes:
        images: how many were seen.
        low: smallest value of each channel [channels].
        high: largest value of each channel [channels].
        mean: the mean over images, shaped as one image's tensor, where it was asked for.
    """

    images: int
    low: dict[str, NDArray[np.float64]]
    high: dict[str, NDArray[np.float64]]
    mean: dict[str, NDArray[np.float64]]


def exposing(network: Network, tensors: Sequence[str], open_session: Opener) -> Any:
    """A session of the float network that also returns inner tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    inner = [name for name in tensors if name not in (network.input, network.output)]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    return open_session(model.SerializeToString())


def run_exposed(
    session: Any, network: Network, tensors: Sequence[str], batch: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Values of the named tensors for one batch; the input tensor is the batch itself."""
    names = [name for name in tensors if name != network.input]
    values = dict(zip(names, session.run(names, {network.input: batch}), strict=True))
    if network.input in tensors:
        values[network.input] = batch
    return values


def observe(
    network: Network,
    tensors: Sequence[str],
    means: frozenset[str],
    images: Images,
    open_session: Opener,
    tick: Tick,
) -> Statistics:
    """First pass: extremes of each channel, and mean tensors.

    Sums run image by image in float64, so the result does not depend on the batch size.

    Raises:
        DataError: there are no images.
        DataError: a tensor has NaN or infinity.
    """
    session = exposing(network, tensors, open_session)
    low: dict[str, NDArray[np.float64]] = {}
    high: dict[str, NDArray[np.float64]] = {}
    total: dict[str, NDArray[np.float64]] = {}
    seen = 0
    for batch in images():
        for name, values in run_exposed(session, network, tensors, batch).items():
            axes = (0, *range(2, values.ndim))
            smallest, largest = values.min(axes), values.max(axes)
            if not (np.isfinite(smallest).all() and np.isfinite(largest).all()):
                raise DataError(
                    f"tensor '{name}' is NaN or infinite on the calibration images",
                    "Check the model with 'mobilenet-cli evaluate'; its weights may be damaged",
                )
            low[name] = np.minimum(low.get(name, np.inf), smallest)
            high[name] = np.maximum(high.get(name, -np.inf), largest)
            if name in means:
                for value in values:
                    total[name] = total.get(name, 0.0) + value.astype(np.float64)
        seen += len(batch)
        tick(len(batch))
    if not seen:
        raise DataError("there are no calibration images", "Pass --calib-dir a folder with images")
    return Statistics(seen, low, high, {name: value / seen for name, value in total.items()})


def histograms(
    network: Network,
    ranges: dict[str, tuple[float, float]],
    as_coded: Callable[[str, NDArray[np.float32]], NDArray[np.float32]],
    images: Images,
    open_session: Opener,
    tick: Tick,
) -> dict[str, Histogram]:
    """Second pass: the distribution of every tensor over its range.

    Args:
        network: the float network.
        ranges: of each tensor as the quantized network will have it.
        as_coded: what a tensor of the float network becomes there.
        images: as in ``observe``.
        open_session: as in ``observe``.
        tick: as in ``observe``.
    """
    session = exposing(network, list(ranges), open_session)
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for batch in images():
        for name, values in run_exposed(session, network, list(ranges), batch).items():
            counts[name] += count_values(as_coded(name, values), *ranges[name])
        tick(len(batch))
    return {name: Histogram(*ranges[name], counts[name]) for name in ranges}
