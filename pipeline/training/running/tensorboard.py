"""Scalars for TensorBoard are written while training goes on."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenet_cli.pipeline.errors import StorageError

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

EVERY = 10  # steps between two values of the loss


class Board:
    """A board is a file of events, or none at all."""

    def __init__(self, writer: "EventsWriter | None" = None) -> None:
        self._writer = writer

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by tag, at once: what a saved state is past must not be lost in a kill."""
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for tag, value in values.items():
            event = Event(wall_time=time.time(), step=step, summary=scalar(tag, value))
            self._writer.write_event(event)
        self._writer.flush()

    def add_loss(self, step: int, value: float) -> None:
        """Add the loss of a step, from 0; every ``EVERY``th is written."""
        if step % EVERY == 0:
            self.add(step, {"loss/step": value})


@contextlib.contextmanager
def board(folder: Path, first: int, wanted: bool) -> Iterator[Board]:
    """Open one more file of events for the steps from ``first`` on.

    What an interrupted training wrote of these steps no longer counts: TensorBoard drops it when it
    meets the start of a session (``SessionLog.START``, tensorboard/compat/proto/event.proto). From
    step 0 on, the earlier files are of another training, and go.

    Raises:
        StorageError: the folder cannot be written.
    """
    if not wanted:
        yield Board()
        return
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if first == 0:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        # Files are read in the order of their names, which tell no more than the second: the step
        # follows, with leading zeros.
        writer = EventsWriter(str(folder / "events"), f".{first:012}")
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror})", "Train without --tensorboard"
        ) from error
    start = SessionLog(status=SessionLog.START)
    writer.write_event(Event(wall_time=time.time(), step=first, session_log=start))
    with contextlib.closing(writer):
        yield Board(writer)
