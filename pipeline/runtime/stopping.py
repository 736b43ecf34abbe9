"""Commands end as they should when somebody hangs up: the terminal, a supervisor, or a reader."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from mobilenet_cli.pipeline.errors import Interrupted, StorageError

CLOSED_PIPE = 128 + signal.SIGPIPE  # with which a shell shows that a reader had seen enough
AGAIN = 0.2  # seconds after which an exception that was put off or swallowed is raised again


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is under way as Ctrl-C does, so that it can clean up.

    A second signal ends the process at once. A signal that the parent of this process ignores, as
    nohup does, stays ignored. A native library is loaded to its end first, since on the way it
    turns the exception into another one or aborts. Where a library swallows the exception, it is
    raised again.

    Raises:
        Interrupted: a signal has come.
    """
    came: list[int] = []

    def interrupted() -> Interrupted:
        name = signal.Signals(came[0]).name
        return Interrupted(f"stopped by {name}; earlier files are unchanged", 128 + came[0])

    def stop(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            came.append(number)
            signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        if not loads_native_code(frame) and not cleans_up(sys.exc_info()[1]):
            raise interrupted()

    wanted = (signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in wanted if signal.getsignal(number) == signal.SIG_DFL]
    alarm = signal.getsignal(signal.SIGALRM)
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if came:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
    if came:  # whatever ended in the meantime
        raise interrupted()


def refuse_removed_folder() -> None:
    """Refuse to work in a folder that another program has removed: libraries abort there.

    Raises:
        StorageError: it has.
    """
    try:
        os.getcwd()  # noqa: PTH109 - pathlib takes long to import
    except FileNotFoundError as error:
        raise StorageError(
            "the folder in which this command was started has been removed",
            "Change to another folder, or make it again and enter it again with 'cd \"$PWD\"'",
        ) from error


def loads_native_code(frame: FrameType | None) -> bool:
    """Tell whether what runs is part of an import of a native library."""
    while frame is not None and not frame.f_code.co_qualname.startswith("ExtensionFileLoader."):
        frame = frame.f_back
    return frame is not None


def cleans_up(error: BaseException | None) -> bool:
    """Tell whether what runs handles an interruption, or an error that came of one."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


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
