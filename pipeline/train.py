"""Images to a checkpoint: a seeded, reproducible training loop that can be interrupted."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.crop import Cut
from mobilenet_cli.data.dataset import Dataset, Sample
from mobilenet_cli.data.datasets import open_dataset
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.training import (
    Share,
    TrainBatch,
    class_indices,
    steps_of,
    training_batches,
)
from mobilenet_cli.models.mobilenet_v1 import multiply_adds, parameters
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifact import (
    Artifact,
    Facts,
    check_writable,
    is_current,
    load_artifact,
    save_artifact,
    sidecar_path,
    versions,
    write_atomically,
)
from mobilenet_cli.pipeline.checkpoint import checkpoint_bytes, load_network
from mobilenet_cli.pipeline.errors import CheckError, DataError, OptionError, StorageError
from mobilenet_cli.pipeline.machine import usable_cpus
from mobilenet_cli.pipeline.optimizer import make_optimizer, rate_factor, set_rates
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.team import Team, joined
from mobilenet_cli.pipeline.tensorboard import Board, board
from mobilenet_cli.pipeline.train_config import UPRIGHT, TrainConfig, class_list, names_of
from mobilenet_cli.pipeline.train_images import augmented, cut_of
from mobilenet_cli.pipeline.train_state import Learner, Progressed, load_state, save_state
from mobilenet_cli.reports.records import EpochRecord, TrainRecord

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.network import MobileNetV1

SAVE_SECONDS = 300.0  # between two states of a training that is under way


@dataclass(frozen=True)
class Job:
    """What one training works on, besides its settings.

    Attributes:
        training: the images, ``labels`` the index of each one's class, ``cut`` makes squares.
        held: out for evaluation.
        classes: of the model.
        steps: of an epoch.
        device: where the network is.
        state: the file that an interrupted training leaves.
        team: the processes that train together.
    """

    training: Dataset
    labels: NDArray[np.int64]
    cut: Cut
    held: Dataset
    classes: tuple[str, ...]
    steps: int
    device: "torch.device"
    state: Path
    team: Team

    @property
    def share(self) -> Dataset:
        """The held-out images that this process evaluates: each image is one process's."""
        mine = self.held.samples[self.team.rank :: self.team.world]
        return replace(self.held, samples=mine)


def train(
    config: TrainConfig,
    out: Path,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Artifact:
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
        job = prepare(config, out, team)
        learner = make_learner(config, job)
        at, history = where_to_begin(config, out, job, learner)
        team.wait()
        if at is not None:
            folder, wanted = out.with_name("tensorboard"), config.tensorboard and team.leads
            with board(folder, at.epoch * job.steps + at.step, wanted) as shown:
                work(config, job, learner, at, history, out, progress, stop, shown)
        team.wait()  # until the file is there
    return load_artifact(out)


def work(
    config: TrainConfig,
    job: Job,
    learner: Learner,
    at: Progressed,
    history: list[EpochRecord],
    out: Path,
    progress: Progress,
    stop: Callable[[], bool],
    shown: Board,
) -> None:
    """Train from where ``at`` is to the end, and write what is to be kept."""
    for epoch in range(at.epoch, config.plan.epochs):
        run_epoch(config, job, learner, at, history, progress, stop, shown)
        history.append(epoch_record(config, job, learner, at))
        if job.team.leads:
            _write_log(out, history)
            shown.add(at.epoch * job.steps + at.step, scalars(config, job, at, history[-1]))
            keep_best(config, job, learner, history, out)
        at = Progressed(epoch + 1, seconds=at.seconds, waited=at.waited, bad=at.bad)
    if job.team.leads:
        finish(config, job, learner, at, history, out)
        job.state.unlink(missing_ok=True)


def prepare(config: TrainConfig, out: Path, team: Team) -> Job:
    """Open the images and see that they can be trained on."""
    import torch

    torch.set_num_threads(max(1, usable_cpus() // team.here))
    training, held = (open_dataset(config.data, split) for split in ("train", "val"))
    classes = class_list(config.data, training, held)
    return Job(
        training,
        class_indices(training, classes),
        cut_of(config.plan, config.input, mirror=config.data not in UPRIGHT),
        held,
        classes,
        steps_of(len(training.samples), config.plan.batch),
        torch.device("cuda", team.local) if torch.cuda.is_available() else torch.device("cpu"),
        out.with_name("training.pt"),
        team,
    )


def make_learner(config: TrainConfig, job: Job) -> Learner:
    """The network to start from, and its optimizer."""
    import torch

    torch.manual_seed(config.seed)
    network = _network(config.model(len(job.classes)), job.device, config.source, job.classes)
    average = copy.deepcopy(network).eval() if config.plan.ema else None
    optimizer = make_optimizer(network, config.plan)
    return Learner(network, job.team.wrap(network), average, optimizer)


def where_to_begin(
    config: TrainConfig, out: Path, job: Job, learner: Learner
) -> tuple[Progressed | None, list[EpochRecord]]:
    """From a state with the same settings, or from the start; None where training is complete."""
    if job.state.is_file():
        try:
            at, history = load_state(job.state, config.recorded, learner)
            return (at if job.team.leads else at.without_sums()), history
        except OptionError:
            if config.resume:
                raise
    elif config.resume and is_current(out, "train", config.parent, config.recorded):
        return None, []
    elif config.resume:
        raise OptionError(
            f"there is no interrupted training in {out.parent}", "Start it without --resume"
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
    recipe, total = config.plan, config.plan.epochs * job.steps * config.plan.batch
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
        seed=config.seed,
        epoch=at.epoch,
        first_step=at.step,
        share=Share(job.team.rank, job.team.world),
        workers=max(1, usable_cpus() // job.team.here),
        on_bad=on_bad,
    )
    saved = began = time.monotonic()
    for batch, waited in timed(source):
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


def take_step(
    config: TrainConfig, job: Job, learner: Learner, at: Progressed, batch: TrainBatch
) -> tuple[float, int]:
    """One step of the optimizer: the mean loss, and how many images were right.

    Raises:
        CheckError: the loss is not finite.
    """
    import torch

    recipe = config.plan
    number = at.epoch * job.steps + batch.step
    set_rates(learner.optimizer, rate_factor(recipe, number, job.steps))
    draw = (config.seed, at.epoch, batch.step, job.team.rank)
    images, targets = augmented(batch, recipe, config.input, len(job.classes), job.device, draw)
    low = torch.autocast(job.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    with low:
        logits = learner.trained(images)
    loss = torch.nn.functional.cross_entropy(
        logits.float(), targets, label_smoothing=recipe.label_smoothing
    )
    value = float(loss.detach())
    if not math.isfinite(value):
        kept = f"; {job.state} is from before" if job.state.is_file() else ""
        raise CheckError(
            f"the loss became {value} in step {batch.step + 1} of epoch {at.epoch + 1}{kept}",
            "No checkpoint was written; lower the learning rate, or check the images",
        )
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no stub for it
    learner.optimizer.step()
    if learner.average is not None:
        follow(learner.average, learner.network, min(recipe.ema, (1 + number) / (10 + number)))
    return value, int((logits.argmax(1) == targets.argmax(1)).sum())


def follow(average: "MobileNetV1", network: "MobileNetV1", decay: float) -> None:
    """Move the average towards the network: ``a = decay a + (1 - decay) w``, statistics too."""
    import torch

    pairs = [
        (kept, new)
        for kept, new in zip(
            average.state_dict().values(), network.state_dict().values(), strict=True
        )
        if kept.is_floating_point()
    ]
    with torch.no_grad():
        torch._foreach_lerp_([a for a, _ in pairs], [w for _, w in pairs], 1 - decay)


def epoch_record(config: TrainConfig, job: Job, learner: Learner, at: Progressed) -> EpochRecord:
    """The epoch that has just ended, held-out images included."""
    job.team.agree(learner.kept)
    counts = _evaluate(learner.kept, job.share, job.classes, config.input, job.device)
    top1, top5 = job.team.sums(*counts)
    return EpochRecord(
        epoch=at.epoch + 1,
        loss=at.loss_sum / at.seen,
        train_top1=100 * at.hits / at.seen,
        top1=100 * top1 / len(job.held.samples),
        top5=100 * top5 / len(job.held.samples),
        learning_rate=max(float(group["lr"]) for group in learner.optimizer.param_groups),
        waiting=at.waited / max(at.seconds, 1e-9),
    )


def facts_of(config: TrainConfig, job: Job) -> Facts:
    """What the checkpoint says of itself."""
    return Facts(
        stage="train",
        parent=config.parent,
        config=config.recorded,
        versions=versions("torch", "numpy", "pillow", "simplejpeg", "scikit-learn"),
        model=config.model(len(job.classes)),
        input=config.input,
        classes=job.classes,
        names=names_of(job.classes, config.source),
        data=config.data,
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
    config: TrainConfig, job: Job, learner: Learner, history: list[EpochRecord], out: Path
) -> None:
    """Keep the best epoch's weights beside those of the last one, unless that is the best."""
    best = out.with_name("best.safetensors")
    last = history[-1]
    if last.top1 < max(epoch.top1 for epoch in history):
        return
    if last.epoch == config.plan.epochs:
        best.unlink(missing_ok=True)
    else:
        write_atomically(best, checkpoint_bytes(learner.kept, facts_of(config, job)))


def finish(
    config: TrainConfig,
    job: Job,
    learner: Learner,
    at: Progressed,
    history: list[EpochRecord],
    out: Path,
) -> Artifact:
    """Write the checkpoint, its record and the curves."""
    import torch

    facts = facts_of(config, job)
    assert facts.model is not None  # set above
    epochs = config.plan.epochs
    record = TrainRecord(
        epochs=epochs,
        images=len(job.training.samples),
        top1=history[-1].top1,
        top5=history[-1].top5,
        seconds=at.seconds,
        images_per_second=epochs * job.steps * config.plan.batch / at.seconds,
        parameters=parameters(facts.model),
        multiply_adds=multiply_adds(facts.model, config.side),
        device=str(job.device),
        threads=torch.get_num_threads(),
        waiting=at.waited / at.seconds,
        bad_images=(*(error.what for error in job.training.lost), *(at.bad or ())),
    )
    _write_curves(out, history)
    return save_artifact(out, checkpoint_bytes(learner.kept, facts), facts, record)


def _network(
    spec: ModelSpec, device: "torch.device", source: Artifact | None, classes: tuple[str, ...]
) -> "MobileNetV1":
    """A network to start from: random, or that of ``source``, with a new classifier if need be.

    Random kernels are those of He et al., arXiv:1502.01852, for ReLU; fan-out per group.
    """
    import torch
    from torch import nn

    from mobilenet_cli.models.network import MobileNetV1

    network = MobileNetV1(spec)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    nn.init.normal_(network.classifier.weight, 0.0, 0.01)
    nn.init.zeros_(network.classifier.bias)
    if source is not None:
        known = load_network(source)
        network.layers.load_state_dict(known.layers.state_dict())
        if source.facts.classes == classes:
            network.classifier.load_state_dict(known.classifier.state_dict())
    # Measured on two cores at 32 pixels, batch 64: 83 ms a step on this layout, 120 ms without.
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stub of Module.to lacks memory_format


def _evaluate(
    network: "MobileNetV1",
    held: Dataset,
    classes: tuple[str, ...],
    spec: InputSpec,
    device: "torch.device",
) -> tuple[int, int]:
    """Numbers of held-out images whose class is first, and among the first five."""
    import torch

    network.eval()
    index = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([index[str(s.label)] for s in held.samples])
    top1 = top5 = 0
    with torch.inference_mode():
        for batch in batches(held.samples, spec, 64):
            logits = network(torch.from_numpy(batch.images).to(device)).cpu()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hit = best == labels[list(batch.indices)][:, None]
            top1 += int(hit[:, 0].sum())
            top5 += int(hit.any(1).sum())
    return top1, top5


def _write_log(out: Path, history: list[EpochRecord]) -> None:
    lines = "".join(json.dumps(epoch.model_dump(mode="json")) + "\n" for epoch in history)
    write_atomically(out.with_name("train.jsonl"), lines.encode())


def _write_curves(out: Path, history: list[EpochRecord]) -> None:
    """Loss and accuracy per epoch as ``curves.png``."""
    import io

    from matplotlib.figure import Figure

    epochs = [epoch.epoch for epoch in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [e.loss for e in history], marker=".")
    loss.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy", ylim=(0, None))
    accuracy.plot(epochs, [e.train_top1 for e in history], marker=".", label="training, augmented")
    accuracy.plot(epochs, [e.top1 for e in history], marker=".", label="held out")
    accuracy.set(title="Top-1 accuracy", xlabel="epoch", ylabel="%", ylim=(None, 100.5))
    accuracy.legend()
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    write_atomically(out.with_name("curves.png"), picture.getvalue())
