"""A deployed model answers as its task asks: with probabilities of classes, or with boxes.

``Classes`` and ``Boxes`` say what is put behind a model, what its answers are compared by, and by
which a program recognises them on another machine. Answers of a detector are compared raw, [n,
anchors, 4 + scores], since two that agree may lie on different sides of a least probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilenet_cli.models.boxes import CORNERS, KEPT_RAW, BoxSpec
from mobilenet_cli.models.detections import Detections, NmsConfig, common, detect
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_graph import OutputKind, output_kind
from mobilenet_cli.pipeline.deploying.probabilities import PROBABILITIES, give_probabilities
from mobilenet_cli.pipeline.exporting.nms import (
    DECODED,
    LEAST,
    OUTPUTS,
    SIZES,
    append_nms,
    check_answers,
)
from mobilenet_cli.pipeline.runtime.predictor import logits_of, probabilities_of
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

BEST = 10  # boxes of an image that are compared, whatever their probability
Answers = NDArray[np.float32]


@dataclass(frozen=True)
class Classes:
    """A classifier answers with probabilities [n, classes].

    Attributes:
        count: how many classes there are.
        top: how many of the most probable ones are named in addition; None names none.
        outputs: those that are compared; joined along their last axis they are the answers.
    """

    count: int
    top: int | None
    outputs: tuple[str, ...] = (PROBABILITIES,)

    def behind(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with probabilities for outputs."""
        return give_probabilities(model, output_kind(model.graph), self.count, self.top)

    def of_model(self, model: onnx.ModelProto, made: Sequence[NDArray[Any]]) -> Answers:
        """Return the probabilities that ``predict`` would give."""
        kind: OutputKind = output_kind(model.graph)
        logits = logits_of(made[0].reshape(len(made[0]), -1), kind)
        return np.asarray(probabilities_of(logits, kind == "sigmoid"), np.float32)

    def compare(self, expected: Answers, found: Answers) -> tuple[float, float]:
        """Compare the most probable class, and all probabilities."""
        agreement = float((expected.argmax(1) == found.argmax(1)).mean())
        return agreement, float(np.abs(expected - found).max())


@dataclass(frozen=True)
class Boxes:
    """A detector answers with final boxes, and with the raw outputs that they come from.

    Attributes:
        spec: what raw outputs mean.
        nms: which boxes are chosen.
        side: of the model's input in pixels.
        outputs: as of ``Classes``.
    """

    spec: BoxSpec
    nms: NmsConfig
    side: int
    outputs: tuple[str, ...] = KEPT_RAW

    def behind(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with final boxes, in pixels of its input, and its raw outputs."""
        made = append_nms(model, self.spec, self.nms, self.side, keep_raw=True)
        kept = [value for value in made.graph.input if value.name != SIZES]
        del made.graph.input[:]  # an input that may be left out makes ONNX Runtime warn
        made.graph.input.extend(kept)
        return made

    def of_model(self, _model: onnx.ModelProto, made: Sequence[NDArray[Any]]) -> Answers:
        """Return the raw outputs, joined."""
        return np.concatenate(made, axis=-1)

    def compare(self, expected: Answers, found: Answers) -> tuple[float, float]:
        """Compare the most probable boxes of each image, and the probabilities of all anchors."""
        every = replace(self.nms, min_score=0.0)
        agreeing = boxes = 0
        for ours, theirs in zip(expected, found, strict=True):
            best = _first(self._choose(ours, every), BEST)
            agreeing += common(best, self._choose(theirs, every))
            boxes += len(best)
        shares = [self.spec.probabilities(a[..., CORNERS:]) for a in (expected, found)]
        return agreeing / max(1, boxes), float(np.abs(shares[0] - shares[1]).max())

    def check_chosen(
        self, model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]], running: SessionConfig
    ) -> int:
        """Check that a file's final boxes are those that the reference chooses of its raw outputs.

        That is tried with all boxes, too, since an image may have none above the probability.

        Args:
            model: as in the file.
            images: its inputs, [1, R, R, 3] or, of any size, [rows, columns, 3].
            running: how it is run.

        Returns:
            The number of boxes that were compared.

        Raises:
            CheckError: they differ.
        """
        checked, every = 0, replace(self.nms, min_score=0.0)
        names = [*OUTPUTS, *DECODED, *KEPT_RAW]
        for config in (self.nms, every):
            tried = onnx.ModelProto()
            tried.CopyFrom(model)
            tried.graph.output.extend(onnx.ValueInfoProto(name=name) for name in DECODED)
            for constant in tried.graph.initializer:
                if constant.name == LEAST:
                    least = np.array([config.min_score], np.float32)
                    constant.CopyFrom(onnx.numpy_helper.from_array(least, LEAST))
            session = open_session(tried.SerializeToString(), running)
            for image in images:
                made = session.run(names, {model.graph.input[0].name: image})
                rows, columns = image.shape[-3:-1]
                size = np.array([[columns, rows]], np.float32)
                checked += check_answers(made[:-2], made[-2:], size, self.spec, config)
        return checked

    def _choose(self, raw: NDArray[np.float32], config: NmsConfig) -> Detections:
        size = (self.side, self.side)
        return detect(raw[:, :CORNERS], raw[:, CORNERS:], self.spec, size, config)


def _first(found: Detections, count: int) -> Detections:
    return Detections(found.boxes[:count], found.scores[:count], found.classes[:count])


Answering = Classes | Boxes


def answering_of(facts: Facts, nms: NmsConfig, top: int | None) -> Answering:
    """Return what the model's task asks of it."""
    if facts.boxes is None:
        return Classes(len(facts.classes), top)
    return Boxes(facts.boxes, nms, facts.input.resolution)
