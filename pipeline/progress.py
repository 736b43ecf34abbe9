"""How far a stage is: what it tells, and the bar that shows it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Progress(Protocol):
    """A stage calls this with the units of work that are done, the total, and a note."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show how far the stage is."""


def silent(done: int, total: int, note: str = "") -> None:
    """Show nothing."""


@contextlib.contextmanager
def bar(console: "Console", title: str, unit: str) -> Iterator[Progress]:
    """Show a bar with rate and time left, where the console is a terminal.

    Yields:
        What a stage calls.
    """
    from rich import progress as rich
    from rich.table import Column
    from rich.text import Text

    class Note(rich.ProgressColumn):
        """A note is cut where the terminal ends: it is the only column that may be narrowed."""

        def render(self, task: rich.Task) -> Text:
            return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

    whole = functools.partial(Column, no_wrap=True)
    with rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(16, table_column=whole()),
        rich.MofNCompleteColumn(table_column=whole()),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(table_column=whole()),
        Note(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(title, total=None, note="", rate="")

        def update(done: int, total: int, note: str = "") -> None:
            speed = bars.tasks[task].speed or 0.0
            rate = f"{speed:.0f} {unit}/s" if speed else ""
            bars.update(task, completed=done, total=total, note=note, rate=rate)

        yield update


def fetch_addresses(
    show: Callable[[str, str], contextlib.AbstractContextManager[Progress]], *sources: str | None
) -> None:
    """Fetch what lies at addresses.

    Args:
        show: shows a bar, given a title and a unit, as ``bar`` does on a console.
        sources: data sets; those that are no addresses are left alone.
    """
    from mobilenet_cli.data.readers.remote import is_address, local_copy

    for source in sources:
        if source is not None and is_address(source):
            with show("fetching", "files") as progress:
                local_copy(source, progress)
