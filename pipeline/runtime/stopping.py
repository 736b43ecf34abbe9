"""Commands end as they should when somebody hangs up: the terminal, a supervisor, or a reader."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from mobilenet_cli.pipeline.errors import Interrupted

CLOSED_PIPE = 128 + signal.SIGPIPE  # with which a shell shows that a reader had seen enough


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is under way as Ctrl-C does, so that it can clean up.

    A second signal ends the process at once. A signal that the parent of this process ignores, as
    nohup does, stays ignored.

    Raises:
        Interrupted: a signal has come.
    """

    def stop(number: int, _: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        name = signal.Signals(number).name
        raise Interrupted(f"stopped by {name}; earlier files are unchanged", 128 + number)

    wanted = (signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in wanted if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def open_streams() -> None:
    """Let the standard streams take any character, and be there even where a parent closed them.

    A stream that is missing leads nowhere; the next file that is opened would else take its place.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are files


def leave_quietly(status: int = CLOSED_PIPE) -> NoReturn:
    """End the program whose output nobody reads any more, as other tools end: without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # what they still hold is written at the very end
        os.dup2(nowhere, stream.fileno())
    raise SystemExit(status)
