"""Calibration images are chosen evenly over the classes, by the seed alone."""

from collections import Counter

import pytest

from mobilenet_cli.calibration.select_images import select
from mobilenet_cli.pipeline.errors import DataError, OptionError

LABELS = ["a"] * 50 + ["b"] * 7 + ["c"] * 3 + ["d"] * 40


def test_as_many_of_each_class_as_possible():
    chosen = Counter(LABELS[i] for i in select(LABELS, 24, 0))
    assert chosen == {"a": 7, "b": 7, "c": 3, "d": 7}


@pytest.mark.parametrize("count", range(1, 60, 7))
def test_no_class_is_ahead_while_another_has_images_left(count):
    chosen = Counter(LABELS[i] for i in select(LABELS, count, 1))
    available = Counter(LABELS)
    most = max(chosen.values())
    assert all(chosen[label] >= min(most - 1, available[label]) for label in available)
    assert sum(chosen.values()) == count


def test_ascending_and_without_repetition():
    chosen = select(LABELS, 30, 2)
    assert chosen == sorted(set(chosen))


def test_more_than_there_are():
    assert select(LABELS, 1000, 0) == list(range(100))


def test_same_seed_same_images_other_seed_others():
    assert select(LABELS, 10, 5) == select(LABELS, 10, 5)
    assert len({tuple(select(LABELS, 10, seed)) for seed in range(10)}) > 5


def test_flat_folder_is_drawn_from_everywhere():
    chosen = select([None] * 1000, 100, 0)
    assert len(chosen) == 100
    halves = Counter(position // 500 for position in chosen)
    assert min(halves.values()) > 30


def test_every_image_of_a_class_has_a_chance():
    firsts = {select(["a"] * 5 + ["b"] * 5, 2, seed)[0] for seed in range(60)}
    assert firsts == set(range(5))


def test_fewer_images_than_classes_do_not_always_come_from_the_first_classes():
    labels = [str(n) for n in range(20)]
    assert {i for seed in range(60) for i in select(labels, 3, seed)} == set(range(20))


@pytest.mark.parametrize("count", [0, -5])
def test_no_images_wanted(count):
    with pytest.raises(OptionError, match=f"cannot calibrate on {count} images"):
        select(LABELS, count, 0)


def test_nothing_to_choose_from():
    with pytest.raises(DataError, match="no calibration images"):
        select([], 5, 0)
