"""Interleaved timing and its statistics are plain functions of durations; no runtime is here."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_NS = 20_000_000  # long enough to leave a cold cache behind, short against a machine's drift
MAX_BLOCK_RUNS = 100
MIN_BLOCKS = 10  # before an interval is believed
MIN_ROUNDS = 3  # even when time is up: slow rows on a busy machine
PRECISION = 0.02  # half-width of the median's 95 % interval, relative to the median


class Subject(Protocol):
    """A subject is something that can be run again and again."""

    def __call__(self, runs: int) -> NDArray[np.int64]:
        """Run once untimed, then ``runs`` times; return the duration of each in nanoseconds."""


@dataclass(frozen=True)
class Timing:
    """A timing has the durations of one subject in nanoseconds, block by block."""

    blocks: tuple[NDArray[np.int64], ...]

    @property
    def runs(self) -> NDArray[np.int64]:
        """Return all timed runs, in order."""
        return np.concatenate(self.blocks)

    @property
    def medians(self) -> NDArray[np.float64]:
        """Return the median of each block."""
        return np.array([np.median(block) for block in self.blocks])

    def percentile(self, q: float) -> float:
        """Return the ``q``-th percentile of all runs, linearly interpolated."""
        return float(np.percentile(self.runs, q))

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the median of all runs.

        Blocks are its units, not runs: neighbouring runs share their noise, and counting them as
        independent would make the interval too narrow. Woodruff's interval for cluster samples
        (JASA 47(260), 1952): with ``s`` the standard error, over blocks, of the fraction of runs
        below the median, it is the ``0.5 - t s`` and ``0.5 + t s`` quantiles of the runs.
        """
        runs, n = self.runs, len(self.blocks)
        median = np.median(runs)
        shares = [
            float((block < median).mean() + (block <= median).mean()) / 2 for block in self.blocks
        ]
        error = student_t(n - 1) * float(np.std(shares, ddof=1)) / n**0.5 if n > 1 else 0.5
        low, high = np.quantile(runs, [max(0.5 - error, 0.0), min(0.5 + error, 1.0)])
        return float(low), float(high)

    def settled(self) -> bool:
        """Tell whether the median's interval is within ``PRECISION`` of it on both sides."""
        return len(self.blocks) >= MIN_BLOCKS and self.uncertainty() <= PRECISION

    def uncertainty(self) -> float:
        """Return the larger distance of the median from an end of its interval, relative to it."""
        (low, high), median = self.interval(), self.percentile(50)
        return max(high - median, median - low) / median


def student_t(freedom: int) -> float:
    """Return Student's t at 97.5 % (Abramowitz and Stegun, 26.7.5; within 4 % from 3 on)."""
    z = 1.959964
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + (z**3 + z) / 4 / freedom + second / freedom**2


@functools.cache
def _interval_rank(n: int) -> int:
    """Return the largest k with ``2 P(B < k) <= 5 %`` for ``B ~ Binomial(n, 1/2)``, or 1."""
    k, term, tail = 0, 1, 1  # term = C(n, k), tail = P(B <= k) 2^n, in exact integers
    while 40 * tail <= 1 << n:
        k += 1
        term = term * (n - k + 1) // k
        tail += term
    return max(k, 1)


def median_interval(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return the distribution-free 95 % interval of the median: k-th smallest, k-th largest.

    It covers the median with probability ``1 - 2 P(B < k)``, ``B ~ Binomial(n, 1/2)`` (Conover,
    Practical Nonparametric Statistics, section 3.2). Fewer than six values do not suffice for
    95 %; the interval is then their whole range.
    """
    ordered, k = np.sort(values), _interval_rank(len(values))
    return float(ordered[k - 1]), float(ordered[-k])


def ratio(first: Timing, second: Timing) -> tuple[float, float, float]:
    """Return first over second: the median of block-by-block ratios, and its 95 % interval.

    Block i of one ran next to block i of the other, so drift of the machine cancels.
    """
    ratios = first.medians / second.medians
    return float(np.median(ratios)), *median_interval(ratios)


def warm_up(subject: Subject, limit_ns: int) -> int:
    """Run until the running median is stable; return how many runs fit in one block.

    Stable: the medians of the last and the last but one five runs differ by less than
    ``PRECISION``. A busy machine may never get there, so ``limit_ns`` bounds it.
    """
    start = time.monotonic_ns()
    history: list[int] = []
    while not (_stable(history) or (history and time.monotonic_ns() - start > limit_ns)):
        history += subject(1).tolist()
    return int(min(max(BLOCK_NS / max(np.median(history[-5:]), 1), 1), MAX_BLOCK_RUNS))


def _stable(history: list[int]) -> bool:
    if len(history) < 10:
        return False
    before, after = np.median(history[-10:-5]), np.median(history[-5:])
    return bool(abs(after - before) <= PRECISION * before)


def interleave(
    subjects: Sequence[Subject], limit_ns: int, on_round: Callable[[float], None] = lambda _: None
) -> list[Timing]:
    """Time every subject in turn, A B C A B C, until all medians are settled or time is up.

    Args:
        subjects: what to time.
        limit_ns: stop after this time; but not before ``MIN_ROUNDS`` rounds.
        on_round: told the fraction of ``limit_ns`` that has passed.
    """
    start = time.monotonic_ns()
    runs = [warm_up(subject, limit_ns // (10 * len(subjects))) for subject in subjects]
    blocks: list[list[NDArray[np.int64]]] = [[] for _ in subjects]
    while True:
        for subject, count, made in zip(subjects, runs, blocks, strict=True):
            made.append(subject(count))
        timings = [Timing(tuple(made)) for made in blocks]
        passed = (time.monotonic_ns() - start) / limit_ns
        on_round(min(passed, 1.0))
        out_of_time = passed >= 1 and len(blocks[0]) >= MIN_ROUNDS
        if out_of_time or all(timing.settled() for timing in timings):
            return timings


def time_block(run: Callable[[], Any], runs: int) -> NDArray[np.int64]:
    """Run once untimed, which brings weights, threads and clock back, then time ``runs`` runs.

    The loop costs two reads of the clock per run, some 0.1 microseconds, which are in the figure.
    """
    clock = time.perf_counter_ns
    durations = np.empty(runs, dtype=np.int64)
    run()
    for index in range(runs):
        start = clock()
        run()
        durations[index] = clock() - start
    return durations
