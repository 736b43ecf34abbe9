"""Disagreements, sure mistakes and confused classes are the answers of a model worth a look."""

from collections import Counter
from collections.abc import Sequence

from mobilenet_cli.reports.records.accuracy import (
    Confusion,
    GuessRecord,
    ImageCase,
    PredictionsRecord,
)
from mobilenet_cli.reports.summary import file_name

SHOWN = 12  # images in a gallery
FULL = 20  # classes that a confusion matrix can show
WORST = 10  # classes that it begins with, where there are more


def disagreements(
    base: PredictionsRecord, other: PredictionsRecord, names: Sequence[str]
) -> tuple[ImageCase, ...]:
    """List images that two models classify differently, where the first was surest first."""
    position = {key: index for index, key in enumerate(other.keys)}
    pairs = [(i, position[key]) for i, key in enumerate(base.keys) if key in position]
    differing = [(i, j) for i, j in pairs if base.top[i][0] != other.top[j][0]]
    differing.sort(key=lambda pair: -base.probabilities[pair[0]][0])
    return tuple(
        ImageCase(
            key=base.keys[i],
            label=name_of(base.targets[i], names),
            guesses={
                file_name(base.model): guesses(base, i, names),
                file_name(other.model): guesses(other, j, names),
            },
        )
        for i, j in differing[:SHOWN]
    )


def mistakes(record: PredictionsRecord, names: Sequence[str]) -> tuple[ImageCase, ...]:
    """List images whose class the model gets wrong, where it was surest first."""
    wrong = [i for i, rank in enumerate(record.ranks) if rank > 0]
    wrong.sort(key=lambda i: -record.probabilities[i][0])
    return tuple(
        ImageCase(
            key=record.keys[i],
            label=name_of(record.targets[i], names),
            guesses={file_name(record.model): guesses(record, i, names)},
        )
        for i in wrong[:SHOWN]
    )


def confusion(record: PredictionsRecord, names: Sequence[str]) -> Confusion | None:
    """Count how often each class was taken for each other one: a square matrix.

    Up to ``FULL`` classes all are shown, in the model's order. Of more, those with the smallest
    share of right answers, the worst first, and then what they were taken for; None if nothing is
    wrong.
    """
    images = Counter(record.targets)
    predicted = Counter(
        (target, top[0]) for target, top in zip(record.targets, record.top, strict=True)
    )
    seen = {*range(len(names)), *images, *(guess for _, guess in predicted)}
    shown = sorted(seen) if len(seen) <= FULL else worst_classes(images, predicted)
    if not shown:
        return None
    labels = tuple(name_of(index, names) for index in shown)
    return Confusion(
        model=file_name(record.model),
        classes=labels,
        images=tuple(images[target] for target in shown),
        taken_for=labels,
        counts=tuple(tuple(predicted[target, guess] for guess in shown) for target in shown),
    )


def worst_classes(images: Counter[int], predicted: Counter[tuple[int, int]]) -> list[int]:
    """List the classes most often wrong, and those that they were most often taken for."""
    right = {target: predicted[target, target] / count for target, count in images.items()}
    # of equally bad classes, the one with more images says more
    worst = [t for t in sorted(images, key=lambda t: (right[t], -images[t], t)) if right[t] < 1]
    worst = worst[:WORST]
    taken = Counter[int]()
    for (target, guess), count in predicted.items():
        if target in worst and guess not in worst:
            taken[guess] += count
    return [*worst, *(guess for guess, _ in taken.most_common(FULL - len(worst)))]


def guesses(record: PredictionsRecord, index: int, names: Sequence[str]) -> tuple[GuessRecord, ...]:
    """Return the most probable classes of one image, by name."""
    pairs = zip(record.top[index], record.probabilities[index], strict=True)
    return tuple(GuessRecord(name=name_of(c, names), probability=p) for c, p in pairs)


def name_of(index: int, names: Sequence[str]) -> str:
    """Return what people call a class, or its number where it has no name."""
    return names[index] if 0 <= index < len(names) else str(index)
