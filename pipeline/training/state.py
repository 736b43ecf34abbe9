"""A training goes on from its state: one file, replaced whole, in which no code runs.

The order of the images and everything random follow from seed, epoch and step, so that weights,
optimizer and counters are all there is to keep.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.errors import MobilenetError, ModelError, OptionError
from mobilenet_cli.reports.records.training import EpochRecord

if TYPE_CHECKING:
    from mobilenet_cli.pipeline.training.learner import Learner


@dataclass
class TrainingState:
    """The state says how far a training is.

    Attributes:
        epoch: the epoch, from 0.
        step: the next step to take within it, from 0.
        loss_sum: the sum of the loss over the images of the epoch so far.
        correct: the number of these images whose class was the network's first.
        seen: the number of these images.
        seconds: the duration of the training so far, without evaluation.
        waited: the part of it, in seconds, that was spent waiting for images.
        bad: the images that could not be read, in the order in which they were met.
        start: top-1 and top-5 of held-out images before the first step, in percent, with ``--qat``.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0
    seen: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    bad: list[str] = field(default_factory=list)
    start: tuple[float, float] | None = None

    @property
    def waiting(self) -> float:
        """Return the fraction of the time, 0..1, that was spent waiting for images."""
        return self.waited / max(self.seconds, 1e-9)

    def without_sums(self) -> "TrainingState":
        """Return the state without the sums of the epoch, which have been counted elsewhere."""
        return replace(self, loss_sum=0.0, correct=0, seen=0)

    def as_document(self) -> dict[str, Any]:
        """Return the state as JSON; ``correct`` is called ``hits`` there."""
        values = asdict(self)
        values["hits"] = values.pop("correct")
        return values

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "TrainingState":
        """Read what ``as_document`` gave."""
        values = dict(document)
        values["correct"] = values.pop("hits")
        return cls(**values | {"bad": values.get("bad") or []})


def save_state(
    path: Path,
    settings: dict[str, Any],
    learner: "Learner",
    state: TrainingState,
    history: list[EpochRecord],
) -> None:
    """Write the state of a training.

    Raises:
        StorageError: it cannot be written; the one before is unchanged.
    """
    import torch

    content = io.BytesIO()
    document = {
        "settings": settings,
        "at": state.as_document(),
        "history": [epoch.model_dump(mode="json") for epoch in history],
    }
    tensors = {
        "document": json.dumps(document),
        "network": learner.network.state_dict(),
        "average": learner.average.state_dict() if learner.average else {},
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
    }
    torch.save(tensors, content)
    write_atomically(path, content.getvalue())


def load_state(
    path: Path, settings: dict[str, Any], learner: "Learner"
) -> tuple[TrainingState, list[EpochRecord]]:
    """Put a saved state into the learner.

    Returns:
        How far the training was, and the epochs that it had finished.

    Raises:
        ModelError: the file is no such state.
        OptionError: it is of a training with other settings; says which differ.
    """
    with reading(path, "Start again without --resume") as (saved, document):
        check_same(path, document["settings"], json.loads(json.dumps(settings)))
        learner.network.load_state_dict(saved["network"])
        if learner.average is not None:
            learner.average.load_state_dict(saved["average"])
        learner.optimizer.load_state_dict(saved["optimizer"])
        learner.scaler.load_state_dict(saved["scaler"])
        state = TrainingState.from_document(document["at"])
        history = [EpochRecord.model_validate(epoch) for epoch in document["history"]]
    return state, history


@contextmanager
def reading(path: Path, fix: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the tensors of a saved state and its JSON document; no code in the file runs.

    Args:
        path: the file.
        fix: what the user can do where the file is no state of a training.

    Raises:
        ModelError: the file is no state, or lacks what the caller looks up in it.
    """
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        yield saved, json.loads(saved["document"])
    except MobilenetError:
        raise
    except Exception as error:  # zip, pickle and torch raise whatever they stumble over
        raise ModelError(
            f"{path} is not the state of a training ({' '.join(str(error).split())[:150]})", fix
        ) from error


def check_same(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to go on with other settings.

    Raises:
        OptionError: names every setting that differs.
    """
    differing = sorted(flat(saved).items() ^ flat(wanted).items())
    names = list(dict.fromkeys(name for name, _ in differing))
    if names:
        before, now = flat(saved), flat(wanted)
        shown = "; ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in names)
        raise OptionError(
            f"{path} is of another training: {shown}",
            "Give the same options as then, or start again without --resume",
        )


def flat(settings: dict[str, Any]) -> dict[str, str]:
    """Return nested settings under dotted names, as text."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": text for inner, text in flat(value).items()}
        else:
            found[name] = json.dumps(value)
    return found
