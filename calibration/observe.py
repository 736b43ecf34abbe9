"""What the float network's tensors look like on the calibration images, in constant memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mobilenet_cli.calibration.histogram import BINS, Histogram, count_values
from mobilenet_cli.calibration.network import Network, Step
from mobilenet_cli.pipeline.errors import DataError

Images = Callable[[], Iterable[NDArray[np.float32]]]  # the calibration images, batch by batch
Opener = Callable[[bytes], Any]  # makes an inference session of a serialized model
Tick = Callable[[int], None]  # told how many images are done
# Behind a tensor's name: what is made of it inside the session.
HIGHEST, MEAN, NEGATED, NEGATED_LOWEST = "__highest", "__mean", "__negated", "__negated_lowest"


@dataclass(frozen=True)
class Statistics:
    """Per tensor, over all images.

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

    Maps of which no single position is needed are pooled inside the session, which is twice as
    fast as bringing them out. Sums run image by image in float64, so the result does not depend on
    the batch size.

    Raises:
        DataError: there are no images.
        DataError: a tensor has NaN or infinity.
    """
    inside = [name for name in tensors if _can_be_pooled(network, name, name in means)]
    outside = [name for name in tensors if name not in inside]
    session, pooled = _pooling(network, inside, outside, open_session)
    low: dict[str, NDArray[np.float64]] = {}
    high: dict[str, NDArray[np.float64]] = {}
    total: dict[str, NDArray[np.float64]] = {}
    seen = 0
    for batch in images():
        values = run_exposed(session, network, [*outside, *pooled], batch)
        for name in tensors:
            smallest, largest = _extremes(name, values)
            if not (np.isfinite(smallest).all() and np.isfinite(largest).all()):
                raise DataError(
                    f"tensor '{name}' is NaN or infinite on the calibration images",
                    "Check the model with 'mobilenet-cli evaluate'; its weights may be damaged",
                )
            low[name] = np.minimum(low.get(name, np.inf), smallest)
            high[name] = np.maximum(high.get(name, -np.inf), largest)
            if name in means:
                for value in values[name if name in outside else name + MEAN]:
                    total[name] = total.get(name, 0.0) + value.astype(np.float64)
        seen += len(batch)
        tick(len(batch))
    if not seen:
        raise DataError("there are no calibration images", "Pass --calib-dir a folder with images")
    return Statistics(seen, low, high, {name: value / seen for name, value in total.items()})


def _can_be_pooled(network: Network, tensor: str, mean: bool) -> bool:
    """Is it a map that is needed by channel alone, its mean included if that is asked for?"""
    is_map = any(
        step.output == tensor and (step.kind == "pool" or step.node.op_type == "Conv")
        for step in network.steps
    )
    readers = [step for step in network.consumers(tensor) if step.kind == "linear"]
    return is_map and not (mean and any(_sees_windows(network, step) for step in readers))


def _sees_windows(network: Network, step: Step) -> bool:
    """Does a linear step read more, or less, than each position once by itself?"""
    attributes = {a.name: helper.get_attribute_value(a) for a in step.node.attribute}
    plain = set(attributes.get("strides", [1])) == {1} and not any(attributes.get("pads", []))
    return network.linears[step.output].weight.shape[2:] != (1, 1) or not plain


def _pooling(
    network: Network, inside: Sequence[str], outside: Sequence[str], open_session: Opener
) -> tuple[Any, list[str]]:
    """A session that returns what is pooled ``inside`` and the tensors ``outside`` as they are.

    Pooling is by the operators that every opset has. Maxima drop NaN, a mean does not.

    Returns:
        The session, and the names of what is pooled.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    bounded = {step.output for step in network.steps if step.low == 0.0}
    for name in inside:
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
    """Smallest and largest value of each channel of a tensor in one batch."""
    if name in values:
        axes = (0, *range(2, values[name].ndim))
        return values[name].min(axes), values[name].max(axes)
    highest = values[name + HIGHEST].max((0, 2, 3))
    with np.errstate(invalid="ignore"):  # NaN is what is looked for
        nothing = 0 * values[name + MEAN].sum((0, 2, 3))  # NaN if the channel has NaN or infinity
    lowest = np.zeros_like(highest)
    if name + NEGATED_LOWEST in values:
        lowest = -values[name + NEGATED_LOWEST].max((0, 2, 3))
    return lowest + nothing, highest


def histograms(
    network: Network,
    ranges: dict[str, tuple[float, float]],
    images: Images,
    open_session: Opener,
    tick: Tick,
) -> dict[str, Histogram]:
    """Second pass: the distribution of every tensor over its range.

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
