"""The statistics of interleaved timing match published tables and simulations."""

import numpy as np
import pytest

from mobilenet_cli.pipeline.runtime.timing import (
    MAX_BLOCK_RUNS,
    Timing,
    interleave,
    median_interval,
    ratio,
    student_t,
    warm_up,
)


class Scripted:
    """A subject whose durations are a function of how many runs all subjects have made."""

    def __init__(self, name, ns, log):
        self.name, self.ns, self.log = name, ns, log

    def __call__(self, runs):
        self.log.append(self.name)
        return np.array([self.ns(len(self.log))] * runs, dtype=np.int64)


def timing(*blocks):
    return Timing(tuple(np.array(block) for block in blocks))


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (10, 2), (20, 6), (100, 40)])
def test_interval_matches_published_ranks(n, rank):
    # Conover's table for the median at 95 %: n=6 (1,6), 10 (2,9), 20 (6,15), 100 (40,61)
    assert median_interval(np.arange(1, n + 1)) == (rank, n + 1 - rank)


def test_interval_covers_the_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(rng.exponential(size=31))
        hits += low <= np.log(2) <= high
    assert 0.94 <= hits / 2000 <= 0.98  # 31 values: exactly 97.1 %, 29 would leave less than 95 %


def test_interval_of_many_values_does_not_overflow():
    low, high = median_interval(np.arange(5000.0))
    assert 0 < low < 2500 < high < 5000
    assert high - low == pytest.approx(1.96 * np.sqrt(5000), rel=0.05)


def test_few_values_give_their_whole_range():
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (1, 3)


def test_interval_counts_blocks_not_runs():
    # 300 runs, but only three independent ones: each block is a repetition of one value
    assert timing([1] * 100, [2] * 100, [3] * 100).interval() == (1, 3)


def test_interval_covers_the_median_of_correlated_runs():
    # Noise shared by the 20 runs of a block, as on a busy machine.
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        made = rng.normal(1000, 50, (15, 1)) + rng.normal(0, 10, (15, 20))
        low, high = Timing(tuple(made.astype(np.int64))).interval()
        hits += low <= 1000 <= high
    assert 0.92 <= hits / 500 <= 0.98


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (9, 2.262), (30, 2.042)])
def test_student_t_matches_the_table(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, rel=0.04)


def test_interval_holds_the_median_whatever_the_distribution():
    rng = np.random.default_rng(1)
    fast_or_slow = rng.choice(
        [100, 170], p=[0.55, 0.45], size=(12, 1)
    )  # another process comes and goes
    made = Timing(tuple((fast_or_slow + rng.integers(0, 9, (12, 30))).astype(np.int64)))
    low, high = made.interval()
    assert low <= made.percentile(50) <= high


def test_drift_cancels_in_the_ratio():
    slow_machine = np.linspace(1, 3, 40)  # it becomes three times slower meanwhile
    first = timing(*[[1000 * factor] for factor in slow_machine])
    second = timing(*[[2000 * factor] for factor in slow_machine])
    assert ratio(first, second) == pytest.approx((0.5, 0.5, 0.5))


def test_settled_needs_enough_blocks_and_a_narrow_interval():
    assert not timing(*[[100]] * 5).settled()
    assert timing(*[[100]] * 10).settled()
    assert not timing(*[[90], [110]] * 5).settled()


def test_subjects_take_turns_and_stop_when_settled():
    log = []
    subjects = [Scripted(name, lambda _: 50_000_000, log) for name in "ABC"]
    timings = interleave(subjects, limit_ns=60 * 10**9)
    turns = "".join(log)[30:]
    assert turns == "ABC" * 10  # after ten runs of warm-up each, until ten blocks each
    assert [len(t.blocks) for t in timings] == [10, 10, 10]


def test_time_that_is_up_ends_it_unsettled():
    log = []
    noisy = Scripted("A", lambda n: 10**9 * (1 + n % 7), log)
    shares = []
    (made,) = interleave([noisy], limit_ns=1, on_round=shares.append)
    assert len(made.blocks) == 3
    assert shares == [1.0, 1.0, 1.0]


def test_warm_up_ends_when_it_is_out_of_time():
    log = []
    assert warm_up(Scripted("A", lambda n: n * 10**9, log), 0) == 1
    assert len(log) == 1


def test_warm_up_lasts_until_runs_are_alike():
    log = []
    cold_at_first = Scripted("A", lambda n: 1_000_000 if n > 8 else 10_000_000 // n, log)
    assert warm_up(cold_at_first, 10**10) == 20  # runs of 1 ms in a block of 20 ms
    assert len(log) == 16  # the medians no longer see the first
    assert warm_up(Scripted("B", lambda _: 10**9, []), 10**10) == 1
    assert warm_up(Scripted("C", lambda _: 1, []), 10**10) == MAX_BLOCK_RUNS


def test_timing_summaries():
    made = timing([1, 2, 3], [4, 5])
    assert made.runs.tolist() == [1, 2, 3, 4, 5]
    assert made.medians.tolist() == [2, 4.5]
    assert made.percentile(50) == 3
    assert made.percentile(90) == pytest.approx(4.6)
