"""Whether a variant computes rightly on a machine is found out by trying it on a small probe."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.models.boxes import KEPT_RAW, BoxSpec
from mobilenet_cli.pipeline.deploying.pixels import PIXELS
from mobilenet_cli.pipeline.deploying.probabilities import PROBABILITIES
from mobilenet_cli.pipeline.runtime.predictor import largest
from mobilenet_cli.reports.records.deployment import ProbeAnswer, RawAnswer, VariantRecord

IMAGES = 4
TOP = 5
# Of log-probabilities. With width 0.75, kernels that are right differ from the definition by 0.07,
# which is ties rounded the other way; saturating ones differ by 4.1.
TOLERANCE = 0.25
# Of a detector's raw outputs, as a share of them: SSD at 512 pixels is 0.008 from the definition on
# kernels that are right, and 0.081 on those that saturate.
RAW_TOLERANCE = 0.03
OF_MAP = 6  # anchors
DECIMALS = 4
Answers = tuple[ProbeAnswer, ...] | tuple[RawAnswer, ...]
TINY = np.finfo(np.float32).tiny


def probe_pixels(side: int) -> NDArray[np.uint8]:
    """Return ``IMAGES`` seeded images [n, side, side, 3] of blots, edges and noise.

    They belong to nobody, and like photographs they have large and small structure at full
    contrast, which drives activations to the ends of their grids.
    """
    generator = np.random.default_rng(0)
    images = []
    for cells in (3, 7, 14, 28):
        coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), np.uint8))
        blots = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float64)
        noise = generator.normal(0, 24, (side, side, 1))
        images.append(np.clip((blots - 128) * 1.5 + 128 + noise, 0, 255).astype(np.uint8))
    return np.stack(images)


def answers_of(found: NDArray[np.float32], spec: BoxSpec | None) -> Answers:
    """Return the answers that a variant gives to the probe.

    Args:
        found: probabilities [images, classes]; of a detector raw outputs [images, anchors, values].
        spec: a detector's, of which a few anchors of each map are taken, so that every head counts.
    """
    if spec is not None:
        anchors = spread_anchors(spec)
        rows = np.round(found[:, anchors].astype(np.float64), DECIMALS).tolist()
        return tuple(RawAnswer(anchors=anchors, values=tuple(map(tuple, row))) for row in rows)
    answers = []
    for row in np.log(np.maximum(found, TINY)):
        classes = largest(row, TOP)
        answers.append(
            ProbeAnswer(
                classes=tuple(classes.tolist()), log_probabilities=tuple(row[classes].tolist())
            )
        )
    return tuple(answers)


def spread_anchors(spec: BoxSpec) -> tuple[int, ...]:
    """Return ``OF_MAP`` anchors of each map, or all where there are fewer."""
    counts = [m.side**2 * len(m.sizes) for m in spec.anchors]
    starts = np.cumsum([0, *counts[:-1]])
    chosen = [
        start + np.unique(np.linspace(0, count - 1, OF_MAP).astype(int))
        for start, count in zip(starts, counts, strict=True)
    ]
    return tuple(np.concatenate(chosen).tolist())


def distance(answers: Answers, found: NDArray[np.float32]) -> float:
    """Return how far a variant's answers to the probe are from those it must give.

    Of a classifier that is the largest difference of a log-probability of the classes in
    ``answers``; of a detector the largest root mean square of the differences of an image's values,
    as a share of that of the values.
    """
    worst = 0.0
    each: Sequence[ProbeAnswer | RawAnswer] = answers
    for answer, row in zip(each, found, strict=True):
        if isinstance(answer, ProbeAnswer):
            shares = np.log(np.maximum(row[list(answer.classes)], TINY))
            apart = np.abs(shares - np.array(answer.log_probabilities)).max()
        else:
            wanted = np.array(answer.values)
            apart = np.linalg.norm(row[list(answer.anchors)] - wanted) / np.linalg.norm(wanted)
        worst = np.maximum(worst, apart)  # NaN stays
    return float(worst)


def is_right(variant: VariantRecord, pixels: NDArray[np.uint8], session: Any) -> bool:
    """Tell whether a session of the variant's ``pixels`` model gives its answers; NaN does not."""
    boxes = isinstance(variant.answers[0], RawAnswer)
    outputs = session.run(KEPT_RAW if boxes else [PROBABILITIES], {PIXELS: pixels})
    return distance(variant.answers, np.concatenate(outputs, axis=-1)) <= variant.tolerance
