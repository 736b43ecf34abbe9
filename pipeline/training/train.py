"""Images become a checkpoint by a seeded, reproducible loop that can be interrupted."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.training_batches import EpochPlan, RankShard, TrainBatch, training_batches
from mobilenet_cli.models import find_architecture
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_with_record, save_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes, load_network
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.files import alone_in, check_writable, write_atomically
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.runtime.torch_kernels import kernel_folder
from mobilenet_cli.pipeline.training.beginning import check_out, keep_replaced, where_to_begin
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.learner import Learner, make_learner
from mobilenet_cli.pipeline.training.linear_probe import linear_probe, wants_probe
from mobilenet_cli.pipeline.training.running.allocator import keep_freed_memory
from mobilenet_cli.pipeline.training.running.distributed import ProcessGroup, process_group
from mobilenet_cli.pipeline.training.running.log import write_curves, write_log
from mobilenet_cli.pipeline.training.running.tensorboard import Board, board
from mobilenet_cli.pipeline.training.setup import TrainingSetup, resolve, set_up
from mobilenet_cli.pipeline.training.state import TrainingState, save_state
from mobilenet_cli.pipeline.training.step import take_step
from mobilenet_cli.pipeline.training.validation import count_correct
from mobilenet_cli.reports.records.training import EpochRecord, TrainingStart, TrainRecord

if TYPE_CHECKING:
    from mobilenet_cli.models.architecture import Network

SAVE_SECONDS = 300.0  # between two states of a training that is under way


def train(
    config: TrainConfig,
    out: Path,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[TrainingStart | EpochRecord], None] = lambda _: None,
) -> Artifact[TrainRecord]:
    """Train a network and write its checkpoint to ``out``, with a log and curves beside it.

    On a CPU the same configuration gives the same file, bit for bit, on the same machine with the
    same number of threads, interrupted or not: every few minutes, and when ``stop`` says so, the
    state is written beside ``out``, and a later call with the same settings goes on from there.

    Args:
        config: the settings.
        out: the checkpoint to write, with the weights of the epoch that was best on the held-out
            images.
        progress: is told how many images are done.
        stop: is asked after every step.
        tell: is told what the training starts with, and then each epoch's result.

    Raises:
        DataError: the images cannot be used, or there are fewer than two classes.
        CheckError: the loss or a weight became NaN or infinite.
        ModelError: the weights to start from cannot be used.
        OptionError: there is nothing to resume, or only a training with other settings.
        StorageError: ``out`` cannot be written, or holds the weights to start from.
        KeyboardInterrupt: ``stop`` said so; the state is written.
    """
    training = resolve(config)
    check_out(training, out)
    keep_freed_memory()
    with kernel_folder(config.compiled), process_group() as group:
        if group.is_main:
            check_writable(out)
        setup = set_up(training, out, group, progress)
        learner = make_learner(setup)
        begin = where_to_begin(setup, learner)
        group.barrier()
        if begin is not None:
            state, history = begin
            if group.is_main:
                tell(setup.start)
            folder, wanted = out.with_name("tensorboard"), config.tensorboard and group.is_main
            first = state.epoch * setup.steps + state.step
            with _alone(out, group), board(folder, first, wanted) as shown:
                listener = Listener(progress, stop, shown, tell)
                Trainer(setup, learner, state, history, listener).run()
        group.barrier()  # until the file is there
    return load_with_record(out, TrainRecord)


def _alone(out: Path, group: ProcessGroup) -> contextlib.AbstractContextManager[None]:
    """Keep a second training out of the folder, whose files would be a mixture of both."""
    return alone_in(out.parent, "trains") if group.is_main else contextlib.nullcontext()


@dataclass(frozen=True)
class Listener:
    """A listener follows a training, and may stop it.

    Attributes:
        progress: is told how many images are done.
        stop: is asked after every step.
        board: takes curves for TensorBoard.
        tell: is told each epoch's result.
    """

    progress: Progress
    stop: Callable[[], bool]
    board: Board
    tell: Callable[[EpochRecord], None]


@dataclass
class Trainer:
    """A trainer takes a network from a state to the end of its training.

    Attributes:
        setup: what the training works on.
        learner: the network and its optimizer.
        state: how far the training is.
        history: the finished epochs.
        listener: who follows it.
    """

    setup: TrainingSetup
    learner: Learner
    state: TrainingState
    history: list[EpochRecord]
    listener: Listener

    def run(self) -> None:
        """Train to the end, and write what is to be kept.

        Raises:
            CheckError: the loss or a weight became NaN or infinite.
            KeyboardInterrupt: the listener stopped it; the state is written.
        """
        main = self.setup.group.is_main
        if self.setup.grids is not None and self.state.start is None:
            top1, top5, _ = self.validate(self.learner.kept)
            self.state.start = top1, top5
        if not self.steps_done and wants_probe(self.setup):
            self.probe()
        for epoch in range(self.state.epoch, self.setup.epochs):
            self.run_epoch()
            self.add(self.epoch_record())
            if main:
                self.listener.board.add(self.steps_done, self.scalars())
                self.keep_best()
            self.state = replace(self.state.without_sums(), epoch=epoch + 1, step=0)
        if main:
            self.finish()
            for file in (self.setup.state_file, self.setup.best_file):
                file.unlink(missing_ok=True)

    def probe(self) -> None:
        """Fit a new classifier alone, as epoch 0, which is kept unless a later one is better."""
        from mobilenet_cli.models.classifier_torch import Classifier

        setup, network = self.setup, self.learner.network
        assert isinstance(network, Classifier)  # wants_probe asked that

        def tick(seen: int) -> None:
            note = f"a new classifier alone: {seen} of {len(setup.images.samples)} images"
            self.listener.progress(0, self.images_total, note)

        found = linear_probe(setup, network, tick, self.on_bad)
        top1, top5, loss = self.validate(found.network)
        record = EpochRecord(
            epoch=0,
            loss=found.loss,
            train_top1=found.top1,
            top1=top1,
            top5=top5,
            validation_loss=loss,
            learning_rate=0.0,
        )
        if setup.group.is_main:
            write_atomically(setup.best_file, checkpoint_bytes(found.network, setup.facts))
        self.add(record)

    def add(self, record: EpochRecord) -> None:
        """Add an epoch to the history and to the log, and tell it."""
        self.history.append(record)
        if self.setup.group.is_main:
            write_log(self.setup.out, self.history)
            self.listener.tell(record)

    @property
    def steps_done(self) -> int:
        """Return the number of steps that have been taken."""
        return self.state.epoch * self.setup.steps + self.state.step

    @property
    def images_done(self) -> int:
        """Return the number of images that have been trained on."""
        return self.steps_done * self.setup.recipe.batch

    @property
    def images_total(self) -> int:
        """Return the number of images of the whole training."""
        return self.setup.total * self.setup.recipe.batch

    def batches(self) -> Iterator[TrainBatch]:
        """Read the batches of this epoch that are left."""
        setup, state = self.setup, self.state
        plan = EpochPlan(
            samples=setup.images.samples,
            batch=setup.recipe.batch,
            seed=setup.config.seed,
            epoch=state.epoch,
            first_step=state.step,
            shard=RankShard(setup.group.rank, setup.group.world),
        )
        left = min(setup.steps, setup.total - state.epoch * setup.steps) - state.step
        return islice(training_batches(setup.images, plan, setup.group.cpus, self.on_bad), left)

    def on_bad(self, sample: Sample, _: DataError) -> None:
        """Remember an image that cannot be read; it ends nothing."""
        if sample.key not in self.state.bad:
            self.state.bad.append(sample.key)

    def run_epoch(self) -> None:
        """Take the steps of this epoch that are left."""
        setup, state, learner = self.setup, self.state, self.learner
        learner.network.train(not setup.recipe.freeze_norms)  # BatchNorm is all that mode changes
        saved = began = time.monotonic()
        for batch, waited in timed(self.batches()):
            loss, correct = take_step(setup, learner, state.epoch, batch)
            self.listener.board.add_loss(state.epoch * setup.steps + batch.step, loss)
            state.loss_sum += loss * len(batch.labels)
            state.correct += correct
            state.seen += len(batch.labels)
            state.waited += waited
            state.step = batch.step + 1
            now = time.monotonic()
            state.seconds, began = state.seconds + now - began, now
            self.listener.progress(self.images_done, self.images_total, self.progress_note())
            asked = setup.group.any_rank(self.listener.stop())
            if asked or setup.group.any_rank(now - saved > SAVE_SECONDS):
                self.save()
                saved = time.monotonic()
                if asked:
                    raise KeyboardInterrupt
        self.state = self.summed_state()

    def summed_state(self) -> TrainingState:
        """Return the state with the sums of all processes."""
        state = self.state
        loss, correct, seen = self.setup.group.all_reduce_sum(
            state.loss_sum, state.correct, state.seen
        )
        return replace(state, loss_sum=loss, correct=correct, seen=int(seen))

    def save(self) -> None:
        """Write the state; rank 0's network is everybody's."""
        state = self.summed_state()
        if self.setup.group.is_main:
            recorded = self.setup.training.recorded
            save_state(self.setup.state_file, recorded, self.learner, state, self.history)
        self.setup.group.barrier()

    def progress_note(self) -> str:
        """Return what a person watches."""
        state = self.state
        return (
            f"loss {state.loss_sum / state.seen:.3f}, "
            f"training {self.setup.measure} {100 * state.correct / state.seen:.1f} %, "
            f"lr {self.learner.learning_rate:.1e}, {100 * state.waiting:.0f} % waiting for data"
        )

    def validate(self, network: "Network") -> tuple[float, float, float | None]:
        """Evaluate a network on the held-out images that can be read.

        Returns:
            Top-1 and top-5, or a detector's AP50 and AP, in percent; and the mean loss, None where
            it is not finite.

        Raises:
            DataError: none of them can be read.
        """
        setup = self.setup
        images = len(setup.validation_shard.samples)

        def tick(seen: int) -> None:
            note = f"held-out images: {seen} of {images}"
            self.listener.progress(self.images_done, self.images_total, note)

        setup.group.broadcast_buffers(network)
        if setup.detection is not None:
            spec, device = setup.training.input, setup.device
            ap50, ap, loss = setup.detection.validate(
                network, setup.validation_shard, spec, device, tick, self.on_bad
            )
            return 100 * ap50, 100 * ap, loss if math.isfinite(loss) else None
        counts = count_correct(
            setup.computed(network),
            setup.validation_shard,
            setup.classes,
            setup.training.input,
            setup.device,
            tick,
            self.on_bad,
        )
        top1, top5, loss, total = setup.group.all_reduce_sum(*counts)
        if not total:
            raise DataError(
                f"none of the held-out images of {setup.validation.name} can be read",
                "Check that the files are images",
            )
        mean = loss / total
        return 100 * top1 / total, 100 * top5 / total, mean if math.isfinite(mean) else None

    def epoch_record(self) -> EpochRecord:
        """Evaluate the epoch that has just ended."""
        top1, top5, loss = self.validate(self.learner.kept)
        state = self.state
        return EpochRecord(
            epoch=state.epoch + 1,
            loss=state.loss_sum / state.seen,
            train_top1=100 * state.correct / state.seen,
            top1=top1,
            top5=top5,
            validation_loss=loss,
            detects=self.setup.detection is not None,
            learning_rate=self.learner.learning_rate,
            waiting=state.waiting,
        )

    def scalars(self) -> dict[str, float]:
        """Return what TensorBoard shows of the last epoch; the rate is that of the training."""
        epoch = self.history[-1]
        first, second = ("ap50", "ap") if self.setup.detection else ("top1", "top5")
        return {
            "loss/epoch": epoch.loss,
            "matched/training" if self.setup.detection else "top1/training": epoch.train_top1,
            f"{first}/held_out": epoch.top1,
            f"{second}/held_out": epoch.top5,
            "learning_rate": epoch.learning_rate,
            "images_per_second": self.images_done / max(self.state.seconds, 1e-9),
            "waiting": self.state.waiting,
        }

    def best_epoch(self) -> int:
        """Return the best epoch, from 1; 0 for a better start with ``--qat``, or a better probe."""
        start = self.state.start
        best = best_epoch(self.history, 100 / len(self.setup.validation.samples))
        return 0 if start and start[0] > self.history[best - 1].top1 else best

    def keep_best(self) -> None:
        """Write the best epoch's weights where they are not those that training ends with."""
        if self.history[-1].epoch == self.best_epoch() < self.setup.epochs:
            write_atomically(self.setup.best_file, self.content())

    def content(self) -> bytes:
        """Return the checkpoint of the network as it is."""
        return checkpoint_bytes(self.setup.written(self.learner.kept), self.setup.facts)

    def kept(self) -> tuple[int, bytes, Facts, tuple[float, float]]:
        """Choose the weights to keep: those of the best epoch, or with ``--qat`` of the start.

        Returns:
            The epoch, from 1, or 0 for the start or the probe; the checkpoint; its facts; its top-1
            and top-5.
        """
        best = self.best_epoch()
        epoch = next((epoch for epoch in self.history if epoch.epoch == best), None)
        if epoch is not None:
            last = epoch is self.history[-1]
            content = self.content() if last else self.setup.best_file.read_bytes()
            return best, content, self.setup.facts, (epoch.top1, epoch.top5)
        source, start = self.setup.training.source, self.state.start
        assert source is not None  # with --qat there are both
        assert start is not None
        # Its weights are on no grid yet, so that quantize makes of it what it made of it before.
        facts = self.setup.facts.model_copy(update={"grids": ()})
        return 0, checkpoint_bytes(load_network(source), facts), facts, start

    def finish(self) -> None:
        """Write the checkpoint, its record and the curves."""
        import torch

        setup, state = self.setup, self.state
        epoch, content, facts, (top1, top5) = self.kept()
        replaced = keep_replaced(setup)
        architecture = find_architecture(setup.spec.architecture)
        record = TrainRecord(
            epochs=setup.recipe.epochs,
            images=len(setup.images.samples),
            top1=top1,
            top5=top5,
            detects=setup.detection is not None,
            start_top1=state.start[0] if state.start else None,
            kept_epoch=epoch,
            last_top1=self.history[-1].top1,
            seconds=state.seconds,
            images_per_second=self.images_total / state.seconds,
            parameters=architecture.parameters(setup.spec),
            multiply_adds=architecture.multiply_adds(setup.spec, setup.training.input.resolution),
            device=str(setup.device),
            threads=torch.get_num_threads(),
            waiting=state.waiting,
            bad_images=(*(error.what for error in setup.lost), *state.bad),
            replaced=replaced.name if replaced else None,
        )
        write_curves(setup.out, self.history)
        save_artifact(setup.out, content, facts, record)


def best_epoch(history: Sequence[EpochRecord], image: float) -> int:
    """Return the epoch, from 1, or 0 for the probe, whose weights are worth keeping.

    It is the one of the highest top-1; one held-out image more or less makes no difference, so that
    among such equals the lowest held-out loss decides, and then the later epoch.

    Args:
        history: the epochs; at each, the choice so far is this function's of the epochs so far.
        image: top-1 of one held-out image, in percentage points.
    """
    best, highest = history[0], history[0].top1
    for epoch in history[1:]:
        highest = max(highest, epoch.top1)
        good, still = (e.top1 >= highest - 1.001 * image for e in (epoch, best))
        losses = [
            math.inf if e.validation_loss is None else e.validation_loss for e in (epoch, best)
        ]
        if good and (not still or losses[0] <= losses[1]):
            best = epoch
    return best.epoch


def timed(source: Iterator[TrainBatch]) -> Iterator[tuple[TrainBatch, float]]:
    """Yield each batch with the seconds that were waited for it."""
    while True:
        start = time.monotonic()
        batch = next(source, None)
        if batch is None:
            return
        yield batch, time.monotonic() - start
