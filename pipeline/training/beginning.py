"""A training begins anew or goes on, and destroys nothing that it did not make."""

from pathlib import Path

from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.artifacts.runs import Run, refuse_two_networks
from mobilenet_cli.pipeline.artifacts.sidecar import is_current, sidecar_path
from mobilenet_cli.pipeline.errors import OptionError, StorageError
from mobilenet_cli.pipeline.training.learner import Learner
from mobilenet_cli.pipeline.training.setup import ResolvedTraining, TrainingSetup
from mobilenet_cli.pipeline.training.state import TrainingState, load_state
from mobilenet_cli.reports.records.training import EpochRecord


def check_out(training: ResolvedTraining, out: Path) -> None:
    """Refuse to write a checkpoint where it would destroy something, or belong to other files.

    Raises:
        StorageError: it would.
    """
    source, run = training.source, Run(out.parent)
    if source is not None and out.resolve() == source.path.resolve():
        raise StorageError(f"{out} holds the weights to start from", "Choose another --run")
    if out.exists() and not sidecar_path(out).exists():
        raise StorageError(f"{out} exists and was not made by this tool", "Choose another --run")
    refuse_two_networks(run, out)


def where_to_begin(
    setup: TrainingSetup, learner: Learner
) -> tuple[TrainingState, list[EpochRecord]] | None:
    """Find out how far the training is, and put a saved state into the learner.

    Returns:
        The state and the finished epochs, of a saved training with the same settings or of a new
        one; None where training is complete.

    Raises:
        OptionError: there is nothing to resume, or only a training with other settings.
    """
    training, resume = setup.training, setup.config.resume
    if setup.state_file.is_file():
        try:
            state, history = load_state(setup.state_file, training.recorded, learner)
            return (state if setup.group.is_main else state.without_sums()), history
        except OptionError:
            if resume:
                raise
    elif resume and is_current(setup.out, "train", training.parent, training.recorded):
        return None
    elif resume:
        raise OptionError(
            f"there is no interrupted training in {setup.out.parent}", "Start it without --resume"
        )
    return TrainingState(), []


def keep_replaced(setup: TrainingSetup) -> Path | None:
    """Keep a checkpoint that came of other settings, or from elsewhere, beside what replaces it.

    One of them is kept: a second replacement is the end of the first one's.

    Returns:
        The file that it is kept in; None where there was none.
    """
    out, training = setup.out, setup.training
    if not out.exists() or is_current(out, "train", training.parent, training.recorded):
        return None
    kept = out.with_name("previous.safetensors")
    write_atomically(sidecar_path(kept), sidecar_path(out).read_bytes())
    write_atomically(kept, out.read_bytes())
    return kept
