"""A tuner finds by measuring which layers of an integer network are faster in float, here.

Rules end where kernels differ from what anybody looked at: on AVX2 the first two layers of width
0.25, with eight channels, take four times as long in integers. The tuner goes through the layers in
the order of computation, once, and tries each in float, and with the one behind it: between two
layers of one kind nothing is converted. What counts is the whole network's latency on one thread,
in turns with the fastest one so far. A choice is kept if the 95 % interval of the ratio is below 1
in two comparisons, and all choices together must be faster than none in a third.

Candidates are not calibrated: integer layers keep the codes that they have in the network that is
integer throughout, and layers in float the model's weights, which makes nonsense of the logits and
no difference to the time. What was chosen is then quantized from the start and proven like any
other model, within the same limits of accuracy; ``--keep-float`` with the same layers makes the
same file again.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.choose_grids import coded_tensors
from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.integer_network import Quantized
from mobilenet_cli.pipeline.quantizing.quantizer import Quantizer
from mobilenet_cli.pipeline.quantizing.speed import time_models
from mobilenet_cli.pipeline.runtime.timing import ratio
from mobilenet_cli.reports.records.quantization import TunedLayers, TuningRecord

TRIAL_NS = 200_000_000  # most choices are no gain, and seen to be none
CONFIRM_NS = 1_000_000_000
LEAST_GAIN = 0.99  # of the time; less is not worth a layer in float


def tune(quantizer: Quantizer) -> tuple[Quantizer, TuningRecord]:
    """Choose the layers that stay in float.

    Returns:
        A quantizer that leaves them in float, and what was measured.
    """
    started = time.monotonic()
    integers = quantizer.make().integers
    image = next(quantizer.calibration.first_batches(1))
    layers = [step.output for step in integers.network.steps if step.kind == "linear"]
    none = candidate(quantizer, integers, ())
    best, chosen, tried, position = none, list[TunedLayers](), 0, 0
    while position < len(layers):
        quantizer.progress(position, len(layers), f"tuning, {len(chosen)} choices kept")
        for count in (1, 2)[: len(layers) - position]:
            names = tuple(layers[position : position + count])
            model = candidate(quantizer, integers, (*_names(chosen), *names))
            tried += 1
            gain = faster(model, best, image)
            if gain is not None:
                chosen.append(TunedLayers(names=names, ratio=gain[0], low=gain[1], high=gain[2]))
                best, position = model, position + count - 1
                break
        position += 1
    whole = faster(best, none, image) if chosen else None
    kept = _names(chosen) if whole else ()
    record = TuningRecord(
        tried=tried,
        kept=tuple(chosen) if whole else (),
        ratio=whole[0] if whole else 1.0,
        low=whole[1] if whole else 1.0,
        high=whole[2] if whole else 1.0,
        seconds=time.monotonic() - started,
    )
    config = replace(quantizer.config, tune=False, keep_float=kept)
    return replace(quantizer, config=config), record


def _names(chosen: Sequence[TunedLayers]) -> tuple[str, ...]:
    return tuple(name for layers in chosen for name in layers.names)


def candidate(quantizer: Quantizer, integers: Quantized, kept: tuple[str, ...]) -> bytes:
    """Write the integer network with some layers in float, for its time alone.

    Args:
        quantizer: what it was made by.
        integers: the network that is integer throughout.
        kept: the layers in float, by the tensors they make.
    """
    apart = [step.output for step in integers.network.steps if step.apart]
    network = parse(quantizer.model, frozenset((*apart, *kept)))
    grids = {name: integers.grids[name] for name in coded_tensors(network)}
    linears = {name: made for name, made in integers.linears.items() if name not in kept}
    model = Quantized(network, grids, linears).write(quantizer.config.kernels)
    content: bytes = model.SerializeToString()
    return content


def faster(
    model: bytes, than: bytes, image: NDArray[np.float32]
) -> tuple[float, float, float] | None:
    """Return the ratio of two models' times and its interval, or None unless it is a gain twice."""
    found = (1.0, 1.0, 1.0)
    for limit in (TRIAL_NS, CONFIRM_NS):
        found = ratio(*time_models([model, than], image, limit))
        if not (found[0] < LEAST_GAIN and found[2] < 1):
            return None
    return found
