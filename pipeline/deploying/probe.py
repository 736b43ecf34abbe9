"""Whether a variant computes rightly on a machine is found out by trying it on a small probe."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.reports.records.deployment import ProbeAnswer, VariantRecord

IMAGES = 4
TOP = 5
# Of log-probabilities. With width 0.75, kernels that are right differ from the definition by 0.07,
# which is ties rounded the other way; saturating ones differ by 4.1.
TOLERANCE = 0.25
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


def answers_of(probabilities: NDArray[np.float32]) -> tuple[ProbeAnswer, ...]:
    """Return the answers that probabilities [images, classes] are."""
    answers = []
    for row in np.log(np.maximum(probabilities, TINY)):
        classes = np.argsort(-row, kind="stable")[:TOP]
        answers.append(
            ProbeAnswer(
                classes=tuple(classes.tolist()), log_probabilities=tuple(row[classes].tolist())
            )
        )
    return tuple(answers)


def distance(answers: Sequence[ProbeAnswer], probabilities: NDArray[np.float32]) -> float:
    """Return the largest difference of a log-probability of the classes in ``answers``."""
    rows = np.log(np.maximum(probabilities, TINY))
    found = [row[list(answer.classes)] for answer, row in zip(answers, rows, strict=True)]
    wanted = [answer.log_probabilities for answer in answers]
    return float(np.abs(np.array(found) - np.array(wanted)).max())


def is_right(variant: VariantRecord, pixels: NDArray[np.uint8], session: Any) -> bool:
    """Tell whether a session of the variant's ``pixels`` model gives its answers; NaN does not."""
    probabilities = session.run(["probabilities"], {"pixels": pixels})[0]
    return distance(variant.answers, probabilities) <= variant.tolerance
