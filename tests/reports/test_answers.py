"""Paired comparison, disagreements and confusion, on answers small enough to count by hand."""

import math

import pytest

from mobilenet_cli.reports.accuracy_statistics import compare_paired, mcnemar, paired_difference
from mobilenet_cli.reports.answers import confusion, disagreements, mistakes
from mobilenet_cli.reports.records.accuracy import PredictionsRecord


def answers(model: str, guesses: str, sure: list[float], **update: object) -> PredictionsRecord:
    """Five images a to e of the classes 0, 0, 1, 1, 2; ``guesses`` are the first guesses."""
    targets = (0, 0, 1, 1, 2)
    top = tuple(int(guess) for guess in guesses)
    record = PredictionsRecord(
        model=f"runs/x/{model}",
        sha256=model,
        data="five",
        source="five",
        data_fingerprint="five",
        provider="CPUExecutionProvider",
        keys=tuple("abcde"),
        targets=targets,
        ranks=tuple(int(guess != target) for guess, target in zip(top, targets, strict=True)),
        top=tuple((guess, 3) for guess in top),
        probabilities=tuple((share, 1 - share) for share in sure),
    )
    return record.model_copy(update=update)


NAMES = ("zero", "one", "two", "three")
SURE = [0.9, 0.6, 0.8, 0.7, 0.95]


def test_paired_counts_by_image() -> None:
    pair = compare_paired(answers("a", "00110", SURE), answers("b", "01012", SURE))
    assert pair is not None
    assert (pair.both, pair.only_base, pair.only_other, pair.neither) == (2, 2, 1, 0)
    assert pair.difference.value == pytest.approx(-20)
    assert pair.p_value == 1.0


def test_images_are_matched_by_name_not_by_place() -> None:
    base = answers("a", "00110", SURE)
    short = base.model_copy(
        update={name: getattr(base, name)[::-1][:3] for name in ("keys", "ranks", "targets")}
    )
    pair = compare_paired(base, short)
    assert pair is not None
    assert (pair.images, pair.only_base, pair.only_other) == (3, 0, 0)


def test_other_images_are_not_compared() -> None:
    base = answers("a", "00110", SURE)
    assert compare_paired(base, answers("b", "00110", SURE, data_fingerprint="six")) is None


def test_mcnemar_exact() -> None:
    # 2 (1 + 10 + 45) / 2^10
    assert mcnemar(2, 8) == pytest.approx(0.109375)
    assert mcnemar(8, 2) == mcnemar(2, 8)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 10) == pytest.approx(2 / 1024)
    assert 0 <= mcnemar(3000, 5000) < 1e-100


def test_paired_interval_against_the_published_example() -> None:
    # Agresti and Min's formula at b = 12, c = 3, n = 50 worked by hand: (3.5 - 12.5) / 52
    interval = paired_difference(12, 3, 50)
    half = 1.959964 * math.sqrt(16 - 81 / 52) / 52
    assert interval.value == pytest.approx(-18)
    assert interval.low == pytest.approx(100 * (-9 / 52 - half), abs=1e-3)
    assert interval.high == pytest.approx(100 * (-9 / 52 + half), abs=1e-3)


def test_disagreements_begin_where_the_first_was_surest() -> None:
    cases = disagreements(answers("a", "00110", SURE), answers("b", "01012", SURE), NAMES)
    assert [case.key for case in cases] == ["e", "c", "b"]
    assert cases[0].label == "two"
    assert cases[0].guesses["a"][0].name == "zero"
    assert cases[0].guesses["b"][0].name == "two"


def test_mistakes_begin_with_the_surest() -> None:
    cases = mistakes(answers("b", "01010", SURE), NAMES)
    assert [case.key for case in cases] == ["e", "c", "b"]
    assert [guess.probability for guess in cases[0].guesses["b"]] == [0.95, pytest.approx(0.05)]


def test_confusion_of_few_classes_is_a_whole_square() -> None:
    found = confusion(answers("b", "01110", SURE), NAMES)
    assert found is not None
    assert found.classes == found.taken_for == tuple(NAMES)
    assert found.images == (2, 2, 1, 0)
    assert found.counts == ((1, 1, 0, 0), (0, 2, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0))


def test_confusion_of_many_classes_begins_with_the_worst() -> None:
    many = [*NAMES, *map(str, range(20))]
    found = confusion(answers("b", "01110", SURE), many)
    assert found is not None
    assert found.classes == found.taken_for == ("two", "zero", "one")
    assert found.counts == ((0, 1, 0), (0, 1, 1), (0, 0, 2))


def test_no_confusion_where_nothing_is_wrong() -> None:
    many = [*NAMES, *map(str, range(20))]
    assert confusion(answers("a", "00112", SURE), many) is None
