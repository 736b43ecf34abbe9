"""Can the numbers of ``bench`` be trusted? Measured, on the machine at hand.

    python benchmarks/method.py MODEL.onnx [--calls 10] [--seconds 5]

1. What the timing loop itself adds to a run: the time of a run that does nothing.
2. How far two measurements of the same file in one call are apart, over several calls.
3. Whether a file that is artificially 5 % slower is recognised: its runs are followed by busy
   waiting for 5 % of their own duration, and the interval of the ratio must exclude 1.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.benchmarking.inputs import input_images, open_model
from mobilenet_cli.pipeline.benchmarking.rows import rows_of
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.runtime.timing import Subject, interleave, ratio, time_block

SLOWDOWN = 0.05


def subject(run: Callable[[], object]) -> Subject:
    """Time a function as a worker does."""

    def block(runs: int) -> NDArray[np.int64]:
        return time_block(run, runs)

    return block


def slowed(run: Callable[[], object]) -> Callable[[], object]:
    """The same, 5 % slower."""

    def run_and_wait() -> None:
        start = time.perf_counter_ns()
        run()
        end = time.perf_counter_ns()
        until = end + SLOWDOWN * (end - start)
        while time.perf_counter_ns() < until:
            pass

    return run_and_wait


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="most time to spend on a row")
    arguments = parser.parse_args()

    empty = np.concatenate([time_block(lambda: None, 1000) for _ in range(20)])
    print(f"timing loop: {np.median(empty):.0f} ns a run (p99 {np.percentile(empty, 99):.0f} ns)")

    session_config = SessionConfig(threads=1)
    row = rows_of(open_model(arguments.model), session_config, 1, compiled=False)[0]
    images, _ = input_images(row, None)

    def load() -> Callable[[], object]:
        session = open_session(arguments.model, session_config)
        feed = {session.get_inputs()[0].name: images}
        return lambda: session.run(None, feed)

    same = medians = seen = 0
    for call in range(arguments.calls):
        subjects = [subject(run) for run in (load(), load(), slowed(load()))]
        first, second, slower = interleave(subjects, int(3e9 * arguments.seconds))
        value, low, high = ratio(second, first)
        of_medians = second.percentile(50) / first.percentile(50)
        slow, slow_low, slow_high = ratio(slower, first)
        same += abs(value - 1) <= 0.02
        medians += abs(of_medians - 1) <= 0.02
        seen += slow_low > 1
        print(
            f"call {call + 1}: same file {value:.4f} ({low:.4f} to {high:.4f}), of medians "
            f"{of_medians:.4f}; 5 % slower {slow:.4f} ({slow_low:.4f} to {slow_high:.4f}); "
            f"{first.percentile(50) / 1e6:.2f} ms, {len(first.blocks)} blocks"
        )
    print(
        f"of {arguments.calls} calls: same file within 2 % in {same} (ratio of medians: {medians}),"
        f" 5 % slower recognised in {seen}"
    )


if __name__ == "__main__":
    main()
