"""What to show of a model's answers: disagreements, sure mistakes, confused classes."""

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
WORST = 10  # classes in the confusion table


def disagreements(
    base: PredictionsRecord, other: PredictionsRecord, names: Sequence[str]
) -> tuple[ImageCase, ...]:
    """Images that two models put into different classes, where the first was surest first."""
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
    """Images whose class the model gets wrong, where it was surest first."""
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
    """The classes with the smallest fraction of right answers; None if nothing is wrong."""
    images = Counter(record.targets)
    predicted = Counter(
        (target, top[0]) for target, top in zip(record.targets, record.top, strict=True)
    )
    right = {target: predicted[target, target] / count for target, count in images.items()}
    # of equally bad classes, the one with more images says more
    worst = [t for t in sorted(images, key=lambda t: (right[t], -images[t], t)) if right[t] < 1]
    worst = worst[:WORST]
    if not worst:
        return None
    columns = Counter[int]()
    for (target, guess), count in predicted.items():
        if target in worst:
            columns[guess] += count
    shown = [guess for guess, _ in columns.most_common(2 * WORST)]
    return Confusion(
        model=file_name(record.model),
        classes=tuple(name_of(target, names) for target in worst),
        images=tuple(images[target] for target in worst),
        taken_for=tuple(name_of(guess, names) for guess in shown),
        counts=tuple(tuple(predicted[target, guess] for guess in shown) for target in worst),
    )


def guesses(record: PredictionsRecord, index: int, names: Sequence[str]) -> tuple[GuessRecord, ...]:
    """The most probable classes of one image, by name."""
    pairs = zip(record.top[index], record.probabilities[index], strict=True)
    return tuple(GuessRecord(name=name_of(c, names), probability=p) for c, p in pairs)


def name_of(index: int, names: Sequence[str]) -> str:
    """What people call a class; its number where it has no name."""
    return names[index] if 0 <= index < len(names) else str(index)
