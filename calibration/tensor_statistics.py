"""The float network's tensors are observed on the calibration images, in constant memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mobilenet_cli.calibration.graph.parse import GraphStep, Network, attributes_of
from mobilenet_cli.calibration.ranges.histogram import BINS, Histogram, count_values
from mobilenet_cli.pipeline.errors import DataError

Images = Callable[[], Iterable[NDArray[np.float32]]]  # the calibration images, batch by batch
FirstImages = Callable[[int], Iterable[NDArray[np.float32]]]
"""Gives the first so many images, prepared and read anew each time, in batches [n, 3, R, R]."""
Opener = Callable[[bytes], Any]  # makes an inference session of a serialized model
Tick = Callable[[int], None]  # told how many images are done
# Behind a tensor's name: what is made of it inside the session.
HIGHEST, MEAN, NEGATED, NEGATED_LOWEST = "__highest", "__mean", "__negated", "__negated_lowest"


@dataclass(frozen=True)
class Statistics:
    """Statistics describe each tensor over all images.

    Attributes:
        images: how many were seen.
        low: smallest value of each channel [channels]; its activation's bound where that is 0.
        high: largest value of each channel [channels].
        mean: the mean over images, shaped as one image's tensor, where it was asked for; of a map
            that only 1x1 convolutions read [channels, 1, 1], the mean over positions as well.
    """

    images: int
    low: dict[str, NDArray[np.float64]]
    high: dict[str, NDArray[np.float64]]
    mean: dict[str, NDArray[np.float64]]


def exposing(network: Network, tensors: Sequence[str], open_session: Opener) -> Any:
    """Open a session of the float network that also returns inner tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    inner = [name for name in tensors if name not in (network.input, *network.outputs)]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    return open_session(model.SerializeToString())


def run_exposed(
    session: Any, network: Network, tensors: Sequence[str], batch: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Return values of the named tensors for one batch; the input tensor is the batch itself."""
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
    """Make the first pass: extremes of each channel, and mean tensors.

    Extremes of maps are found inside the session, and means of those of which no single position
    is needed, which is twice as fast as bringing the maps out. Sums run image by image, so the
    result does not depend on the batch size.

    Raises:
        DataError: there are no images, or a tensor or an answer has NaN or infinity.
    """
    maps = [name for name in tensors if _is_map(network, name)]
    by_position = [name for name in maps if name in means and _position_counts(network, name)]
    outside = [name for name in tensors if name not in maps or name in by_position]
    session, pooled = _pooling(network, maps, outside, open_session)
    low: dict[str, NDArray[np.float64]] = {}
    high: dict[str, NDArray[np.float64]] = {}
    total: dict[str, Total] = {name: Total() for name in tensors if name in means}
    answers = [name for name in network.outputs if name not in tensors]
    seen = 0
    for batch in images():
        values = run_exposed(session, network, [*outside, *pooled, *answers], batch)
        for name in tensors:
            smallest, largest = _extremes(name, values)
            _check_finite(name, smallest, largest)
            low[name] = np.minimum(low.get(name, np.inf), smallest)
            high[name] = np.maximum(high.get(name, -np.inf), largest)
        for name in answers:  # they stay float, so that nothing else would look at them
            _check_finite(name, values[name])
        for name, images_of in total.items():
            images_of.add(values[name if name in outside else name + MEAN])
        seen += len(batch)
        tick(len(batch))
    if not seen:
        raise DataError("there are no calibration images", "Pass --calib-dir a folder with images")
    return Statistics(seen, low, high, {name: sums.mean for name, sums in total.items()})


def _check_finite(tensor: str, *values: NDArray[np.float32]) -> None:
    if not all(np.isfinite(some).all() for some in values):
        raise DataError(
            f"tensor '{tensor}' is NaN or infinite on the calibration images",
            "Check the model with 'mobilenet-cli evaluate'; its weights may be damaged",
        )


class Total:
    """A total is a sum over images: float32 within a block of them, float64 over the blocks.

    All in float64 takes three times as long, which is most of the pass; a block of 64 images keeps
    the error of float32 below 64 roundings.
    """

    BLOCK = 64

    def __init__(self) -> None:
        self._whole: NDArray[np.float64] | None = None
        self._block: NDArray[np.float32] | None = None
        self._count = 0

    def add(self, batch: NDArray[np.float32]) -> None:
        """Add the images of a batch one by one."""
        for image in batch:
            if self._block is None:
                self._block = image.copy()
            else:
                self._block += image
            self._count += 1
            if self._count % self.BLOCK == 0:
                self._whole, self._block = self.value, None

    @property
    def mean(self) -> NDArray[np.float64]:
        """Return the mean of what was added; a network may make several rows of an image."""
        return self.value / self._count

    @property
    def value(self) -> NDArray[np.float64]:
        """Return the sum of what was added, of which there must be some."""
        parts = [part for part in (self._whole, self._block) if part is not None]
        return np.sum(parts, axis=0, dtype=np.float64)  # type: ignore[no-any-return]  # of an array


def _is_map(network: Network, tensor: str) -> bool:
    return any(
        step.output == tensor and (step.kind == "pool" or step.node.op_type == "Conv")
        for step in network.steps
    )


def _position_counts(network: Network, tensor: str) -> bool:
    """Tell whether a linear step reads more, or less, than each position once by itself."""
    readers = [step for step in network.consumers(tensor) if step.kind == "linear"]
    return any(_sees_windows(network, step) for step in readers)


def _sees_windows(network: Network, step: GraphStep) -> bool:
    attributes = attributes_of(step.node)
    plain = set(attributes.get("strides", [1])) == {1} and not any(attributes.get("pads", []))
    return network.linears[step.output].weight.shape[2:] != (1, 1) or not plain


def _pooling(
    network: Network, maps: Sequence[str], outside: Sequence[str], open_session: Opener
) -> tuple[Any, list[str]]:
    """Open a session that returns ``maps`` pooled, and the tensors ``outside`` as they are.

    Pooling is by the operators that every opset has. Maxima drop NaN, a mean does not.

    Returns:
        The session, and the names of what is pooled.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    bounded = {step.output for step in network.steps if step.low == 0.0}
    for name in maps:
        parts = [("GlobalMaxPool", name, HIGHEST), ("GlobalAveragePool", name, MEAN)]
        if name not in bounded:
            parts += [("Neg", name, NEGATED), ("GlobalMaxPool", name + NEGATED, NEGATED_LOWEST)]
        for operator, source, suffix in parts:
            model.graph.node.append(helper.make_node(operator, [source], [name + suffix]))
    pooled = [
        name
        for node in model.graph.node
        for name in node.output
        if name.endswith((HIGHEST, MEAN, NEGATED_LOWEST))
    ]
    return exposing(replace(network, model=model), [*outside, *pooled], open_session), pooled


def _extremes(
    name: str, values: dict[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the smallest and largest value of each channel of a tensor in one batch."""
    if name + HIGHEST not in values:
        axes = (0, *range(2, values[name].ndim))
        return values[name].min(axes), values[name].max(axes)
    axes = (0, *range(2, values[name + HIGHEST].ndim))
    highest = values[name + HIGHEST].max(axes)
    with np.errstate(invalid="ignore"):  # NaN is what is looked for
        nothing = 0 * values[name + MEAN].sum(axes)  # NaN if the channel has NaN or infinity
    lowest = np.zeros_like(highest)
    if name + NEGATED_LOWEST in values:
        lowest = -values[name + NEGATED_LOWEST].max(axes)
    return lowest + nothing, highest


def histograms(
    network: Network,
    ranges: dict[str, tuple[float, float]],
    images: Images,
    open_session: Opener,
    tick: Tick,
) -> dict[str, Histogram]:
    """Make the second pass: the distribution of every tensor over its range.

    Args:
        network: the float network.
        ranges: of each tensor on these images.
        images: as in ``observe``.
        open_session: as in ``observe``.
        tick: as in ``observe``.
    """
    session = exposing(network, list(ranges), open_session)
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for batch in images():
        for name, values in run_exposed(session, network, list(ranges), batch).items():
            counts[name] += count_values(values, *ranges[name])
        tick(len(batch))
    return {name: Histogram(*ranges[name], counts[name]) for name in ranges}
