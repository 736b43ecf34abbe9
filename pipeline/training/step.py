"""One step of training takes images and changes weights."""

import contextlib
import math
from typing import TYPE_CHECKING

from mobilenet_cli.data.training_batches import TrainBatch
from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.training.augmentation import augmented
from mobilenet_cli.pipeline.training.learner import Learner
from mobilenet_cli.pipeline.training.methods.distillation import distillation_loss
from mobilenet_cli.pipeline.training.methods.multibox import matched_share, multibox_loss
from mobilenet_cli.pipeline.training.optimizer import rate_factor, set_rates
from mobilenet_cli.pipeline.training.setup import TrainingSetup

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.architecture import Network


def take_step(
    setup: TrainingSetup, learner: Learner, epoch: int, batch: TrainBatch
) -> tuple[float, float]:
    """Take one step of the optimizer.

    Returns:
        The mean loss of the batch, and the number of its images whose class was first; of a
        detector, the share of anchors on objects whose class was first, in images.

    Raises:
        CheckError: the loss is not finite.
        OptionError: the batch has fewer images than parts.
    """
    recipe = setup.recipe
    number = epoch * setup.steps + batch.step
    set_rates(learner.optimizer, rate_factor(recipe, number, setup.steps))
    draw = (setup.config.seed, epoch, batch.step, setup.group.rank)
    spec, device = setup.training.input, setup.device
    images, targets = (
        setup.detection.prepared(batch, recipe, spec, device, draw)
        if setup.detection
        else augmented(batch, recipe, spec, len(setup.classes), device, draw)
    )
    learner.optimizer.zero_grad(set_to_none=True)
    parts = list(
        zip(images.chunk(recipe.accumulate), targets.chunk(recipe.accumulate), strict=True)
    )
    value, correct = 0.0, 0.0
    for index, (some, wanted) in enumerate(parts):
        fraction = len(some) / len(images)
        with setup.group.no_sync(learner.trained, index + 1 < len(parts)):
            right, loss = loss_of(setup, learner, some, wanted)
            learner.scaler.scale(loss * fraction).backward()  # type: ignore[no-untyped-call]  # torch's own
        value += fraction * float(loss.detach())
        correct += right
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
) -> "tuple[float, torch.Tensor]":
    """Compute the loss of images [n, 3, R, R] with targets [n, classes], or a detector's [n, A, 5].

    Returns:
        What ``take_step`` counts as right, and the mean loss with the teacher's part in it.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    recipe, types = setup.recipe, {"bf16": torch.bfloat16, "fp16": torch.float16}
    low = types.get(setup.config.precision)
    lower = torch.autocast(setup.device.type, low) if low else contextlib.nullcontext()
    with lower:
        outputs = learner.trained(images)
    if setup.detection is not None:
        boxes, scores = (output.float() for output in outputs)
        share = matched_share(scores, targets)
        return share * len(images), multibox_loss(boxes, scores, targets)
    logits = outputs.float()
    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    if setup.teacher is not None:
        with torch.no_grad():
            taught = setup.teacher.logits(images)
        distilled = distillation_loss(logits, taught, recipe.temperature)
        loss = (1 - recipe.teacher_share) * loss + recipe.teacher_share * distilled
    return int((logits.argmax(1) == targets.argmax(1)).sum()), loss


def update_ema(average: "Network", network: "Network", decay: float) -> None:
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
