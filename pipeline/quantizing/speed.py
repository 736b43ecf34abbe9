"""Quantize times what it makes on this machine, so that no file is slower without a word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.runtime.timing import Subject, Timing, interleave, ratio, time_block
from mobilenet_cli.reports.records.quantization import SpeedRecord

SPEED_NS = 500_000_000


def time_models(
    models: Sequence[Path | bytes], image: NDArray[np.float32], limit_ns: int
) -> list[Timing]:
    """Time models in turns, on one thread.

    Args:
        models: ONNX files, or their content.
        image: a prepared image [1, 3, R, R].
        limit_ns: the time after which no new round begins, in nanoseconds.
    """

    def subject(model: Path | bytes) -> Subject:
        session = open_session(model, SessionConfig(threads=1))
        name = session.get_inputs()[0].name
        return lambda runs: time_block(lambda: session.run(None, {name: image}), runs)

    return interleave([subject(model) for model in models], limit_ns)


def speed_of(source: Path, content: bytes, image: NDArray[np.float32]) -> SpeedRecord:
    """Compare the latency of a quantized model with the float model's, in half a second.

    Args:
        source: the float model.
        content: the quantized model.
        image: a prepared image [1, 3, R, R].
    """
    float_, integer = time_models([source, content], image, SPEED_NS)
    value, low, high = ratio(integer, float_)
    return SpeedRecord(
        float_ms=float_.percentile(50) / 1e6,
        int8_ms=integer.percentile(50) / 1e6,
        ratio=value,
        low=low,
        high=high,
    )
