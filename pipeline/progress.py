"""How a stage tells its caller how far it is. Stages never print."""

from typing import Protocol


class Progress(Protocol):
    """Called with the work done so far, the total, and a short note such as ``loss 0.31``."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report progress; cheap enough to call for every batch."""


def silent(done: int, total: int, note: str = "") -> None:
    """Report to nobody."""
