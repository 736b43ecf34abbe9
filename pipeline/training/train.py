"""Images to a checkpoint: a seeded, reproducible training loop that can be interrupted."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.training_batches import Share, TrainBatch, training_batches
from mobilenet_cli.models import MODELS
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_with_record, save_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes, load_network
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.files import check_writable, write_atomically
from mobilenet_cli.pipeline.artifacts.sidecar import is_current, sidecar_path
from mobilenet_cli.pipeline.errors import DataError, OptionError, StorageError
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.training.config import UPRIGHT, TrainConfig
from mobilenet_cli.pipeline.training.distributed import joined
from mobilenet_cli.pipeline.training.learner import Learner, make_learner
from mobilenet_cli.pipeline.training.log import write_curves, write_log
from mobilenet_cli.pipeline.training.setup import Job, facts_of, prepare
from mobilenet_cli.pipeline.training.state import Progressed, load_state, save_state
from mobilenet_cli.pipeline.training.step import take_step
from mobilenet_cli.pipeline.training.tensorboard import Board, board
from mobilenet_cli.pipeline.training.validation import count_right
from mobilenet_cli.reports.records.training import EpochRecord, TrainRecord

SAVE_SECONDS = 300.0  # between two states of a training that is under way


def train(
    config: TrainConfig,
    out: Path,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Artifact[TrainRecord]:
    """Train a network and write its checkpoint to ``out``, with a log and curves beside it.

    On a CPU the same configuration gives the same file, bit for bit, on the same machine with the
    same number of threads, interrupted or not: every few minutes, and when ``stop`` says so, the
    state is written beside ``out``, and a later call with the same settings goes on from there.

    Args:
        config: see ``TrainConfig``.
        out: the checkpoint to write; ``best.safetensors`` beside it where an earlier epoch was
            better.
        progress: is told how many images are done.
        stop: asked after every step.

    Raises:
        DataError: the images cannot be used, or there are fewer than two classes.
        CheckError: the loss became NaN.
        ModelError: the weights to start from cannot be used.
        OptionError: there is nothing to resume, or only a training with other settings.
        StorageError: ``out`` cannot be written, or holds the weights to start from.
        KeyboardInterrupt: ``stop`` said so; the state is written.
    """
    source = config.source
    if source is not None and out.resolve() == source.path.resolve():
        raise StorageError(f"{out} holds the weights to start from", "Choose another --run")
    if out.exists() and not sidecar_path(out).exists():
        raise StorageError(f"{out} exists and was not made by this tool", "Choose another --run")
    with joined() as team:
        if team.leads:
            check_writable(out)
        job = prepare(config, out, team, progress)
        learner = make_learner(config, job)
        at, history = where_to_begin(config, job, learner)
        team.wait()
        if at is not None:
            folder, wanted = out.with_name("tensorboard"), config.tensorboard and team.leads
            with board(folder, at.epoch * job.steps + at.step, wanted) as shown:
                work(config, job, learner, at, history, progress, stop, shown)
        team.wait()  # until the file is there
    return load_with_record(out, TrainRecord)


def work(
    config: TrainConfig,
    job: Job,
    learner: Learner,
    at: Progressed,
    history: list[EpochRecord],
    progress: Progress,
    stop: Callable[[], bool],
    shown: Board,
) -> None:
    """Train from where ``at`` is to the end, and write what is to be kept."""
    if config.qat and at.start is None:
        at.start = held_out_top(config, job, learner, at, progress)
    for epoch in range(at.epoch, job.epochs):
        run_epoch(config, job, learner, at, history, progress, stop, shown)
        history.append(epoch_record(config, job, learner, at, progress))
        if job.team.leads:
            write_log(job.out, history)
            shown.add(at.epoch * job.steps + at.step, scalars(config, job, at, history[-1]))
            keep_best(config, job, learner, at, history)
        at = replace(at.without_sums(), epoch=epoch + 1, step=0)
    if job.team.leads:
        finish(config, job, learner, at, history)
        job.state.unlink(missing_ok=True)


def where_to_begin(
    config: TrainConfig, job: Job, learner: Learner
) -> tuple[Progressed | None, list[EpochRecord]]:
    """From a state with the same settings, or from the start; None where training is complete."""
    if job.state.is_file():
        try:
            at, history = load_state(job.state, config.recorded, learner)
            return (at if job.team.leads else at.without_sums()), history
        except OptionError:
            if config.resume:
                raise
    elif config.resume and is_current(job.out, "train", config.parent, config.recorded):
        return None, []
    elif config.resume:
        raise OptionError(
            f"there is no interrupted training in {job.out.parent}", "Start it without --resume"
        )
    return Progressed(bad=[]), []


def run_epoch(
    config: TrainConfig,
    job: Job,
    learner: Learner,
    at: Progressed,
    history: list[EpochRecord],
    progress: Progress,
    stop: Callable[[], bool],
    shown: Board,
) -> None:
    """Take the steps of one epoch that are left, moving ``at`` along.

    Raises:
        CheckError: the loss became NaN.
        KeyboardInterrupt: ``stop`` said so; the state is written.
    """
    recipe, total = config.plan, job.total * config.plan.batch
    learner.network.train(not recipe.freeze_norms)  # BatchNorm is all that mode changes
    bad = at.bad if at.bad is not None else []

    def on_bad(sample: Sample, _: DataError) -> None:
        if sample.key not in bad:
            bad.append(sample.key)

    source = training_batches(
        job.training.samples,
        job.labels,
        job.cut,
        recipe.batch,
        mirror=config.data not in UPRIGHT,
        views=recipe.views,
        squares=job.squares,
        seed=config.seed,
        epoch=at.epoch,
        first_step=at.step,
        share=Share(job.team.rank, job.team.world),
        workers=job.team.cpus,
        on_bad=on_bad,
    )
    saved = began = time.monotonic()
    left = job.steps_in(at.epoch) - at.step
    for batch, waited in timed(islice(source, left)):
        loss, hits = take_step(config, job, learner, at, batch)
        shown.add_loss(at.epoch * job.steps + batch.step, loss)
        at.loss_sum += loss * len(batch.labels)
        at.hits += hits
        at.seen += len(batch.labels)
        at.waited += waited
        at.step = batch.step + 1
        now = time.monotonic()
        at.seconds, began = at.seconds + now - began, now
        done = (at.epoch * job.steps + at.step) * recipe.batch
        progress(done, total, told(at, learner))
        asked = job.team.any(stop())
        if asked or job.team.any(now - saved > SAVE_SECONDS):
            save(config, job, learner, at, history)
            saved = time.monotonic()
            if asked:
                raise KeyboardInterrupt
    at.loss_sum, right, seen = job.team.sums(at.loss_sum, at.hits, at.seen)
    at.hits, at.seen = int(right), int(seen)


def save(
    config: TrainConfig, job: Job, learner: Learner, at: Progressed, history: list[EpochRecord]
) -> None:
    """Write the state, with the sums of all processes; rank 0's network is everybody's."""
    loss_sum, hits, seen = job.team.sums(at.loss_sum, at.hits, at.seen)
    if job.team.leads:
        whole = replace(at, loss_sum=loss_sum, hits=int(hits), seen=int(seen))
        save_state(job.state, config.recorded, learner, whole, history)
    job.team.wait()


def timed(source: Iterator[TrainBatch]) -> Iterator[tuple[TrainBatch, float]]:
    """Batches, each with the seconds that were waited for it."""
    while True:
        start = time.monotonic()
        batch = next(source, None)
        if batch is None:
            return
        yield batch, time.monotonic() - start


def told(at: Progressed, learner: Learner) -> str:
    """What a person watches."""
    rate = max(group["lr"] for group in learner.optimizer.param_groups)
    return (
        f"loss {at.loss_sum / at.seen:.3f}, top-1 {100 * at.hits / at.seen:.1f} %, "
        f"lr {rate:.1e}, {100 * at.waited / max(at.seconds, 1e-9):.0f} % waiting for data"
    )


def held_out_top(
    config: TrainConfig, job: Job, learner: Learner, at: Progressed, progress: Progress
) -> tuple[float, float]:
    """Top-1 and top-5 of the held-out images, in percent."""
    done, images = (at.epoch * job.steps + at.step) * config.plan.batch, len(job.share.samples)

    def tick(seen: int) -> None:
        progress(done, job.total * config.plan.batch, f"held-out images: {seen} of {images}")

    job.team.agree(learner.kept)
    kept = job.computed(learner.kept)
    counts = count_right(kept, job.share, job.classes, config.input, job.device, tick)
    top1, top5 = job.team.sums(*counts)
    return 100 * top1 / len(job.held.samples), 100 * top5 / len(job.held.samples)


def epoch_record(
    config: TrainConfig, job: Job, learner: Learner, at: Progressed, progress: Progress
) -> EpochRecord:
    """The epoch that has just ended, held-out images included."""
    top1, top5 = held_out_top(config, job, learner, at, progress)
    return EpochRecord(
        epoch=at.epoch + 1,
        loss=at.loss_sum / at.seen,
        train_top1=100 * at.hits / at.seen,
        top1=top1,
        top5=top5,
        learning_rate=max(float(group["lr"]) for group in learner.optimizer.param_groups),
        waiting=at.waited / max(at.seconds, 1e-9),
    )


def scalars(config: TrainConfig, job: Job, at: Progressed, epoch: EpochRecord) -> dict[str, float]:
    """What TensorBoard shows of an epoch; the rate is that of the training so far."""
    images = (at.epoch * job.steps + at.step) * config.plan.batch
    return {
        "loss/epoch": epoch.loss,
        "top1/training": epoch.train_top1,
        "top1/held_out": epoch.top1,
        "top5/held_out": epoch.top5,
        "learning_rate": epoch.learning_rate,
        "images_per_second": images / max(at.seconds, 1e-9),
        "waiting": at.waited / max(at.seconds, 1e-9),
    }


def keep_best(
    config: TrainConfig, job: Job, learner: Learner, at: Progressed, history: list[EpochRecord]
) -> None:
    """Keep the best epoch's weights beside those of the last one, unless that is the best."""
    last = history[-1]
    if last.epoch != best_epoch(at, history):
        return
    if last.epoch == job.epochs:
        job.best.unlink(missing_ok=True)
    else:
        content = checkpoint_bytes(job.written(learner.kept), facts_of(config, job))
        write_atomically(job.best, content)


def best_epoch(at: Progressed, history: list[EpochRecord]) -> int:
    """From 1, the later one of equals; 0 where none is as good as the start."""
    tops = [at.start[0] if at.start else -1.0, *(epoch.top1 for epoch in history)]
    return max(range(len(tops)), key=lambda epoch: (tops[epoch], epoch))


def begun_with(config: TrainConfig, facts: Facts) -> tuple[bytes, Facts]:
    """The checkpoint that ``--qat`` started from, and its facts.

    Its weights are on no grid yet, so that ``quantize`` makes of it what it made of it before.
    """
    assert config.source is not None  # --qat has one
    facts = facts.model_copy(update={"grids": ()})
    return checkpoint_bytes(load_network(config.source), facts), facts


def finish(
    config: TrainConfig,
    job: Job,
    learner: Learner,
    at: Progressed,
    history: list[EpochRecord],
) -> Artifact[TrainRecord]:
    """Write the checkpoint, its record and the curves.

    The last epoch's weights are kept; with ``--qat``, whose promise is not to lose anything, the
    best epoch's, or those that it started from.
    """
    import torch

    facts, spec = facts_of(config, job), config.model(len(job.classes))
    content = checkpoint_bytes(job.written(learner.kept), facts)
    kept, top = len(history), (history[-1].top1, history[-1].top5)
    if at.start is not None and (best := best_epoch(at, history)) != kept:
        kept = best
        if best:
            content, top = job.best.read_bytes(), (history[best - 1].top1, history[best - 1].top5)
        else:
            (content, facts), top = begun_with(config, facts), at.start
            job.best.unlink(missing_ok=True)  # an earlier training's
    replaced = keep_replaced(config, job.out)
    record = TrainRecord(
        epochs=config.plan.epochs,
        images=len(job.training.samples),
        top1=top[0],
        top5=top[1],
        start_top1=at.start[0] if at.start else None,
        kept_epoch=kept,
        seconds=at.seconds,
        images_per_second=job.total * config.plan.batch / at.seconds,
        parameters=MODELS[spec.architecture].parameters(spec),
        multiply_adds=MODELS[spec.architecture].multiply_adds(spec, config.side),
        device=str(job.device),
        threads=torch.get_num_threads(),
        waiting=at.waited / at.seconds,
        bad_images=(*(error.what for error in job.training.lost), *(at.bad or ())),
        replaced=replaced.name if replaced else None,
    )
    write_curves(job.out, history)
    return save_artifact(job.out, content, facts, record)


def keep_replaced(config: TrainConfig, out: Path) -> Path | None:
    """Keep a checkpoint that came of other settings, or from elsewhere, beside what replaces it.

    One of them: a second replacement is the end of the first one's.
    """
    if not out.exists() or is_current(out, "train", config.parent, config.recorded):
        return None
    kept = out.with_name("previous.safetensors")
    write_atomically(sidecar_path(kept), sidecar_path(out).read_bytes())
    write_atomically(kept, out.read_bytes())
    return kept
