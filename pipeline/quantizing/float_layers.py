"""The fewest layers in float by which top-1 drops no more than asked for: all of it measured.

Layers are ranked by what each alone gives back: the logits' SQNR of a network in which only that
layer stays in float, calibrated and corrected anew on a few images. In that order one layer after
the other joins those in float, each time in a network quantized from the start on all images and
evaluated as it would be shipped, until the limit is met. Then all of these networks are timed in
turns, so that every layer's price is known.
"""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.runtime.timing import Subject, interleave, ratio, time_block
from mobilenet_cli.reports.records.quantization import FloatLayer

TIMING_NS = 5_000_000_000


@dataclass(frozen=True)
class Candidate:
    """A network with some layers in float.

    Attributes:
        kept: those layers, by the tensors they make.
        content: the model file.
        drop: of top-1 against the float model, in points.
    """

    kept: tuple[str, ...]
    content: bytes
    drop: float


@dataclass(frozen=True)
class Judge:
    """Measures drops of top-1 against a float model.

    Attributes:
        source: the float model.
        data: labelled images, as ``open_dataset`` takes them; None takes the model's own.
        top1: of the float model on them, in percent.
        images: how many.
        name: of the images, for the record.
    """

    source: Artifact
    data: str | None
    top1: float
    images: int
    name: str

    @classmethod
    def of(cls, source: Artifact, data: str | None) -> "Judge":
        """Evaluate the float model.

        Raises:
            DataError: the images have no labels, or cannot be used.
            OptionError: no images are known.
        """
        record = evaluate(source, EvaluateConfig(data=data))
        return cls(source, data, record.top1.value, record.images, record.data)

    def drop(self, content: bytes) -> float:
        """Points of top-1 that a quantized model loses."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            path.write_bytes(content)
            model = replace(self.source, path=path, sha256=hashlib.sha256(content).hexdigest())
            return self.top1 - evaluate(model, EvaluateConfig(data=self.data)).top1.value


def fewest(
    make: Callable[[tuple[str, ...]], bytes],
    ranked: Callable[[], Sequence[str]],
    drop: Callable[[bytes], float],
    limit: float,
) -> list[Candidate]:
    """Candidates with no, one, two, ... layers in float, of which the last keeps to the limit.

    Args:
        make: quantizes all but the layers given.
        ranked: the layers, those that matter most first; asked for only if none in float is
            too little.
        drop: measures a model.
        limit: in points of top-1.

    Raises:
        CheckError: even with all of them in float it drops by more.
    """
    candidates: list[Candidate] = []
    order: Sequence[str] = ()
    while True:
        kept = tuple(order[: len(candidates)])
        content = make(kept)
        candidates.append(Candidate(kept, content, drop(content)))
        if candidates[-1].drop <= limit:
            return candidates
        order = order or ranked()
        if len(kept) == len(order):
            raise CheckError(
                f"top-1 drops by {candidates[-1].drop:.2f} points even with all {len(order)} "
                "layers in float",
                "Raise --max-drop, or use more images to measure it on",
            )


def priced(
    candidates: Sequence[Candidate], image: NDArray[np.float32]
) -> tuple[tuple[FloatLayer, ...], float]:
    """What each layer in float costs, on one thread of this machine.

    Args:
        candidates: from ``fewest``.
        image: a prepared image [1, 3, R, R].

    Returns:
        The layers in the order in which they were taken, and the drop that is left.
    """

    def subject(candidate: Candidate) -> Subject:
        session = open_session(candidate.content, SessionConfig(threads=1))
        name = session.get_inputs()[0].name
        return lambda runs: time_block(lambda: session.run(None, {name: image}), runs)

    timings = interleave([subject(c) for c in candidates], TIMING_NS) if candidates[1:] else []
    layers = tuple(
        FloatLayer(
            name=candidate.kept[-1],
            drop=candidate.drop,
            p50_ms=timing.percentile(50) / 1e6,
            slowdown=ratio(timing, timings[0])[0],
        )
        for candidate, timing in zip(candidates[1:], timings[1:], strict=True)
    )
    return layers, candidates[-1].drop
