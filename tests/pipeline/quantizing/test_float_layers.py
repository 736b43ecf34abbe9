"""The search for the smallest_float_set layers in float; real models are in test_quantize.py."""

from types import SimpleNamespace

import pytest

from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.quantizing.float_layers import smallest_float_set

ORDER = ("c", "a", "b")


def search(drops: dict[int, float], limit: float):
    asked: list[bool] = []

    def ranked():
        asked.append(True)
        return ORDER

    def make(kept):
        assert kept == ORDER[: len(kept)]
        return SimpleNamespace(content=str(len(kept)).encode())

    return smallest_float_set(make, ranked, lambda model: drops[int(model.content)], limit), asked


def test_nothing_stays_float_where_the_limit_is_met():
    candidates, asked = search({0: 0.3}, 0.3)
    assert [c.kept for c in candidates] == [()]
    assert asked == []  # ranking takes minutes


def test_the_first_prefix_that_meets_the_limit_is_taken():
    candidates, asked = search({0: 2.0, 1: 2.5, 2: 0.1, 3: 0.0}, 0.3)
    assert [c.kept for c in candidates] == [(), ("c",), ("c", "a")]
    assert [c.drop for c in candidates] == [2.0, 2.5, 0.1]
    assert len(asked) == 1


def test_a_limit_that_no_prefix_meets():
    with pytest.raises(CheckError, match=r"drops by 1\.00 points even with 3 layers in float"):
        search({0: 2.0, 1: 1.5, 2: 1.2, 3: 1.0}, 0.3)
