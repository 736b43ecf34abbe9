"""One step of training: images in, weights changed."""

import contextlib
import math
from typing import TYPE_CHECKING

from mobilenet_cli.data.training_batches import TrainBatch
from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.training.augmentation import augmented
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.distillation import distilled
from mobilenet_cli.pipeline.training.learner import Learner
from mobilenet_cli.pipeline.training.optimizer import rate_factor, set_rates
from mobilenet_cli.pipeline.training.setup import Job
from mobilenet_cli.pipeline.training.state import Progressed

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.classifier_torch import Classifier


def take_step(
    config: TrainConfig, job: Job, learner: Learner, at: Progressed, batch: TrainBatch
) -> tuple[float, int]:
    """One step of the optimizer: the mean loss, and how many images were right.

    Raises:
        CheckError: the loss is not finite.
        OptionError: the batch has fewer images than parts.
    """
    recipe = config.plan
    number = at.epoch * job.steps + batch.step
    set_rates(learner.optimizer, rate_factor(recipe, number, job.steps))
    draw = (config.seed, at.epoch, batch.step, job.team.rank)
    images, targets = augmented(batch, recipe, config.input, len(job.classes), job.device, draw)
    learner.optimizer.zero_grad(set_to_none=True)
    parts = list(
        zip(images.chunk(recipe.accumulate), targets.chunk(recipe.accumulate), strict=True)
    )
    value, hits = 0.0, 0
    for index, (some, wanted) in enumerate(parts):
        share = len(some) / len(images)
        with job.team.alone(learner.trained, index + 1 < len(parts)):
            logits, loss = loss_of(config, job, learner, some, wanted)
            learner.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]  # torch's own
        value += share * float(loss.detach())
        hits += int((logits.argmax(1) == wanted.argmax(1)).sum())
    if not math.isfinite(value):
        kept = f"; {job.state} is from before" if job.state.is_file() else ""
        raise CheckError(
            f"the loss became {value} in step {batch.step + 1} of epoch {at.epoch + 1}{kept}",
            "No checkpoint was written; lower the learning rate, or check the images",
        )
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.average is not None:
        follow(learner.average, learner.network, min(recipe.ema, (1 + number) / (10 + number)))
    return value, hits


def loss_of(
    config: TrainConfig,
    job: Job,
    learner: Learner,
    images: "torch.Tensor",
    targets: "torch.Tensor",
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Logits [n, classes], and the mean loss with the teacher's share."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    recipe, types = config.plan, {"bf16": torch.bfloat16, "fp16": torch.float16}
    low = types.get(config.precision)
    lower = torch.autocast(job.device.type, low) if low else contextlib.nullcontext()
    with lower:
        logits = learner.trained(images)
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    if job.teacher is not None:
        with torch.no_grad():
            opinion = job.teacher.opinion(images)
        taught = distilled(logits, opinion, recipe.temperature)
        loss = (1 - recipe.teacher_share) * loss + recipe.teacher_share * taught
    return logits, loss


def follow(average: "Classifier", network: "Classifier", decay: float) -> None:
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
