"""Signals that ask a training to stop are remembered, so that it can save its state first."""

import contextlib
import signal
from collections.abc import Callable, Iterator

from mobilenet_cli.pipeline.errors import Interrupted

WANTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a polite kill, a closed terminal


@contextlib.contextmanager
def interruption(run: str) -> Iterator[Callable[[], bool]]:
    """Remember Ctrl-C, SIGTERM and SIGHUP instead of obeying them at once.

    A signal that the parent of this process ignores, as nohup does, stays ignored.

    Args:
        run: the run that is trained, for the message.

    Yields:
        A function that tells whether a signal has come.

    Raises:
        Interrupted: the training saw that and stopped, by raising KeyboardInterrupt.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in WANTED}
    for number in WANTED:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    except KeyboardInterrupt:
        if not came:  # a signal of before the training
            raise
        raise Interrupted(
            "stopped; the same command goes on from here, or 'mobilenet-cli train --resume "
            f"--run {run}' with its options",
            128 + came[0],
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
