"""One step of training takes images and changes weights."""

import contextlib
import math
from typing import TYPE_CHECKING

from mobilenet_cli.data.training_batches import TrainBatch
from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.training.augmentation import augmented
from mobilenet_cli.pipeline.training.distillation import distillation_loss
from mobilenet_cli.pipeline.training.learner import Learner
from mobilenet_cli.pipeline.training.optimizer import rate_factor, set_rates
from mobilenet_cli.pipeline.training.setup import TrainingSetup

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.classifier_torch import Classifier


def take_step(
    setup: TrainingSetup, learner: Learner, epoch: int, batch: TrainBatch
) -> tuple[float, int]:
    """Take one step of the optimizer.

    Returns:
        The mean loss of the batch, and the number of its images whose class was first.

    Raises:
        CheckError: the loss is not finite.
        OptionError: the batch has fewer images than parts.
    """
    recipe = setup.recipe
    number = epoch * setup.steps + batch.step
    set_rates(learner.optimizer, rate_factor(recipe, number, setup.steps))
    draw = (setup.config.seed, epoch, batch.step, setup.group.rank)
    images, targets = augmented(
        batch, recipe, setup.training.input, len(setup.classes), setup.device, draw
    )
    learner.optimizer.zero_grad(set_to_none=True)
    parts = list(
        zip(images.chunk(recipe.accumulate), targets.chunk(recipe.accumulate), strict=True)
    )
    value, correct = 0.0, 0
    for index, (some, wanted) in enumerate(parts):
        fraction = len(some) / len(images)
        with setup.group.no_sync(learner.trained, index + 1 < len(parts)):
            logits, loss = loss_of(setup, learner, some, wanted)
            learner.scaler.scale(loss * fraction).backward()  # type: ignore[no-untyped-call]  # torch's own
        value += fraction * float(loss.detach())
        correct += int((logits.argmax(1) == wanted.argmax(1)).sum())
    if not math.isfinite(value):
        kept = f"; {setup.state_file} is from before" if setup.state_file.is_file() else ""
        raise CheckError(
            f"the loss became {value} in step {batch.step + 1} of epoch {epoch + 1}{kept}",
            "No checkpoint was written; lower the learning rate, or check the images",
        )
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.average is not None:
        update_ema(learner.average, learner.network, min(recipe.ema, (1 + number) / (10 + number)))
    return value, correct


def loss_of(
    setup: TrainingSetup, learner: Learner, images: "torch.Tensor", targets: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Compute the loss of images [n, 3, R, R] with targets [n, classes].

    Returns:
        The logits [n, classes], and the mean loss with the teacher's part in it.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    recipe, types = setup.recipe, {"bf16": torch.bfloat16, "fp16": torch.float16}
    low = types.get(setup.config.precision)
    lower = torch.autocast(setup.device.type, low) if low else contextlib.nullcontext()
    with lower:
        logits = learner.trained(images)
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    if setup.teacher is not None:
        with torch.no_grad():
            taught = setup.teacher.logits(images)
        distilled = distillation_loss(logits, taught, recipe.temperature)
        loss = (1 - recipe.teacher_share) * loss + recipe.teacher_share * distilled
    return logits, loss


def update_ema(average: "Classifier", network: "Classifier", decay: float) -> None:
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
