"""Images to a checkpoint: a seeded, reproducible training loop in PyTorch."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data import imagenet
from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.datasets import open_dataset
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.mobilenet_v1 import check_resolution, multiply_adds, parameters
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifact import (
    Artifact,
    Facts,
    check_writable,
    load_artifact,
    save_artifact,
    sidecar_path,
    versions,
    write_atomically,
)
from mobilenet_cli.pipeline.checkpoint import checkpoint_bytes, load_network
from mobilenet_cli.pipeline.errors import CheckError, DataError, OptionError, StorageError
from mobilenet_cli.pipeline.machine import usable_cpus
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.recipes import RECIPES, Recipe, changed
from mobilenet_cli.reports.records import EpochRecord, TrainRecord

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.network import MobileNetV1

# Prepared images of the training set are kept in memory up to this size, as bytes.
CACHE_BYTES = 1_000_000_000
# Digits were drawn on 8x8 pixels; 32 is the smallest map that five halvings allow.
RESOLUTIONS = {"digits": 32}
UPRIGHT = {"digits"}  # mirrored, these are other classes


@dataclass(frozen=True)
class TrainConfig:
    """Settings of ``train``.

    Attributes:
        data: as ``open_dataset`` takes it.
        width: width multiplier; None takes 1.0, or that of ``init``.
        resolution: side of the input in pixels; None takes that of ``init``, or else 32 for digits
            and 224 otherwise.
        recipe: a key of ``RECIPES``; None takes ``finetune`` with ``init`` and ``quick`` without.
        epochs: instead of the recipe's number.
        seed: of weights, order and augmentation.
        init: a checkpoint to start from. Its classifier is kept where the classes are the same
            and replaced where they are not.
        changes: other values of the recipe, as ``name=value``.

    Raises:
        OptionError: a value is outside its domain, or ``init`` and the recipe do not fit.
        ModelError: ``init`` cannot be used.
    """

    data: str = "digits"
    width: float | None = None
    resolution: int | None = None
    recipe: str | None = None
    epochs: int | None = None
    seed: int = 0
    init: str | None = None
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.recipe_name not in RECIPES:
            raise OptionError(f"unknown recipe '{self.recipe}'", f"Use one of {', '.join(RECIPES)}")
        if self.epochs is not None and self.epochs < 1:
            raise OptionError(f"cannot train for {self.epochs} epochs", "Pass --epochs 1 or more")
        if self.plan.pretrained and self.init is None:
            raise OptionError(
                f"recipe '{self.recipe}' needs weights to start from",
                "Pass --init with a checkpoint, which 'mobilenet-cli import' makes",
            )
        check_resolution(self.side)
        given = self.source
        found = given.facts.model if given else None
        if given and found and self.width not in (None, found.width):
            raise OptionError(
                f"{given.path} has width {found.width:g}, not {self.width:g}",
                "Leave --width out, or start from other weights",
            )

    @cached_property
    def source(self) -> Artifact | None:
        """The checkpoint to start from."""
        return None if self.init is None else load_artifact(Path(self.init))

    @property
    def parent(self) -> str | None:
        """SHA-256 of the checkpoint to start from."""
        return self.source.sha256 if self.source else None

    @property
    def recipe_name(self) -> str:
        """The recipe that is used."""
        return self.recipe or ("quick" if self.init is None else "finetune")

    @property
    def plan(self) -> Recipe:
        """The recipe with all that was changed."""
        changes = [*self.changes, *([f"epochs={self.epochs}"] if self.epochs else [])]
        return changed(RECIPES[self.recipe_name], changes)

    @property
    def recorded(self) -> dict[str, Any]:
        """What the checkpoint's facts say about how it was made."""
        values = asdict(self) | {"width": self.model(1).width, "changes": list(self.changes)}
        return values | {"recipe": asdict(self.plan) | {"name": self.recipe_name}}

    @property
    def side(self) -> int:
        """The resolution that is used."""
        if self.resolution is not None:
            return self.resolution
        return (
            self.source.facts.input.resolution if self.source else RESOLUTIONS.get(self.data, 224)
        )

    @property
    def input(self) -> InputSpec:
        """Images are cut from a frame an eighth larger, as is usual, except where all counts.

        Channels and normalization are those to which the first layer's weights belong.
        """
        resize = self.side if self.data in UPRIGHT else round(self.side * 8 / 7)
        known = self.source.facts.input if self.source else InputSpec()
        return replace(known, resolution=self.side, resize=resize)

    def model(self, classes: int) -> ModelSpec:
        """The network that is trained."""
        known = self.source.facts.model if self.source else None
        width = 1.0 if self.width is None else self.width
        return replace(known or ModelSpec(width=width), classes=classes)

    @property
    def run_name(self) -> str:
        """The run that training goes to unless told otherwise, such as ``digits-1-32``."""
        return f"{Path(self.data).resolve().name}-{self.model(1).width:g}-{self.side}"


def train(config: TrainConfig, out: Path, progress: Progress = silent) -> Artifact:
    """Train a network and write its checkpoint to ``out``, with a log and curves beside it.

    On a CPU the same configuration gives the same file, bit for bit, on the same machine.

    Raises:
        DataError: the images cannot be used, or there are fewer than two classes.
        CheckError: the loss became NaN.
        ModelError: the weights to start from cannot be used.
        StorageError: ``out`` cannot be written, or holds the weights to start from.
    """
    import torch

    recipe, source = config.plan, config.source
    epochs = recipe.epochs
    if source is not None and out.resolve() == source.path.resolve():
        raise StorageError(f"{out} holds the weights to start from", "Choose another --run")
    if out.exists() and not sidecar_path(out).exists():
        raise StorageError(f"{out} exists and was not made by this tool", "Choose another --run")
    check_writable(out)
    training, held = (open_dataset(config.data, split) for split in ("train", "val"))
    classes = class_list(config.data, training, held)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(usable_cpus())
    torch.manual_seed(config.seed)
    spec = config.model(len(classes))
    network = _network(spec, device, source, classes)
    generator = torch.Generator().manual_seed(config.seed)
    started = time.monotonic()
    steps = math.ceil(len(training.samples) / recipe.batch)
    optimizer, schedule = _optimizer(network, recipe, epochs * steps, steps)
    images = _Images(training, classes, config.input, recipe.batch)
    history: list[EpochRecord] = []
    correct: tuple[int, int] = (0, 0)
    for epoch in range(1, epochs + 1):
        network.train()
        loss_sum, hits, seen = 0.0, 0, 0
        for pixels, labels in images.epoch(generator):
            batch = _augment(_to_tensor(pixels, config.input, device), config, recipe, generator)
            target = torch.from_numpy(labels).to(device)
            logits = network(batch)
            loss = torch.nn.functional.cross_entropy(
                logits, target, label_smoothing=recipe.label_smoothing
            )
            value = float(loss.detach())
            if not math.isfinite(value):
                raise CheckError(
                    f"the loss became {value} in step {seen // recipe.batch + 1} of epoch {epoch}",
                    "Nothing was written; lower the learning rate, or check the images",
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no stub for it
            optimizer.step()
            schedule.step()
            loss_sum += value * len(labels)
            hits += int((logits.argmax(1) == target).sum())
            seen += len(labels)
            done = (epoch - 1) * len(training.samples) + seen
            progress(done, epochs * len(training.samples), f"loss {loss_sum / seen:.3f}")
        correct = _evaluate(network, held, classes, config.input, device)
        history.append(
            EpochRecord(
                epoch=epoch,
                loss=loss_sum / seen,
                train_top1=100 * hits / seen,
                top1=100 * correct[0] / len(held.samples),
                top5=100 * correct[1] / len(held.samples),
                learning_rate=max(float(rate) for rate in schedule.get_last_lr()),
            )
        )
        _write_log(out, history)
    seconds = time.monotonic() - started
    facts = Facts(
        stage="train",
        parent=config.parent,
        config=config.recorded,
        versions=versions("torch", "numpy", "pillow", "scikit-learn"),
        model=spec,
        input=config.input,
        classes=classes,
        names=names_of(classes, source),
        data=config.data,
    )
    record = TrainRecord(
        epochs=epochs,
        images=len(training.samples),
        top1=history[-1].top1,
        top5=history[-1].top5,
        seconds=seconds,
        images_per_second=epochs * len(training.samples) / seconds,
        parameters=parameters(spec),
        multiply_adds=multiply_adds(spec, config.side),
        device=str(device),
    )
    _write_curves(out, history)
    return save_artifact(out, checkpoint_bytes(network, facts), facts, record)


def class_list(data: str, training: Dataset, held: Dataset) -> tuple[str, ...]:
    """The classes of the model's outputs: those of the training images.

    A part of ImageNet whose held-out images have classes that its training images lack gets all
    1000 of ImageNet, by the usual labels.

    Raises:
        DataError: there are fewer than two, or held-out images of classes without training images.
    """
    if len(training.classes) < 2:
        raise DataError(
            f"'{data}' has only {len(training.classes)} class",
            "A classifier needs at least two; put each class's images in a folder of its own",
        )
    unknown = set(held.classes) - set(training.classes)
    if not unknown:
        return training.classes
    if unknown | set(training.classes) <= set(imagenet.synsets()):
        return imagenet.synsets()
    raise DataError(
        f"{len(unknown)} classes of the held-out images of '{data}' have no training images, such "
        f"as '{min(unknown)}'",
        "Give each folder under val/ one of the same name under train/",
    )


def names_of(classes: tuple[str, ...], source: Artifact | None) -> tuple[str, ...]:
    """Names for people, where they are known."""
    if classes == imagenet.synsets():
        return imagenet.names()
    return source.facts.names if source and source.facts.classes == classes else ()


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


def _optimizer(
    network: "MobileNetV1", recipe: Recipe, total: int, steps_per_epoch: int
) -> "tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]":
    import torch

    members: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        dense = parameter.ndim == 2 or (parameter.ndim == 4 and parameter.shape[1] > 1)
        rate = recipe.learning_rate * (recipe.body_rate if name.startswith("layers.") else 1.0)
        members.setdefault((rate, recipe.weight_decay if dense else 0.0), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": found, "lr": rate, "weight_decay": decay}
        for (rate, decay), found in members.items()
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        weight_decay=0.0,
        fused=True,  # one kernel for 137 small tensors: a sixth of the step at 32 pixels
    )
    warmup = min(recipe.warmup * steps_per_epoch, total / 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Images:
    """The training images as uint8, kept in memory if they fit and decoded again if not."""

    def __init__(
        self, dataset: Dataset, classes: tuple[str, ...], spec: InputSpec, batch: int
    ) -> None:
        self.dataset, self.size = dataset, batch
        self.spec = replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        index = {name: i for i, name in enumerate(classes)}
        self.labels = np.array([index[str(s.label)] for s in dataset.samples], dtype=np.int64)
        self.cache: dict[int, NDArray[np.uint8]] | None = (
            {} if len(dataset.samples) * 3 * spec.resolution**2 <= CACHE_BYTES else None
        )

    def epoch(
        self, generator: "torch.Generator"
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Batches (pixels [n, 3, R, R], labels [n]) in a new order."""
        import torch

        order = torch.randperm(len(self.labels), generator=generator).tolist()
        # BatchNorm needs two images; a last batch of one is left to the next epoch's order.
        for start in range(0, len(order) - 1, self.size):
            chosen = order[start : start + self.size]
            yield self._pixels(chosen), self.labels[chosen]

    def _pixels(self, chosen: list[int]) -> NDArray[np.uint8]:
        cache = self.cache if self.cache is not None else {}
        missing = [i for i in chosen if i not in cache]
        samples = [self.dataset.samples[i] for i in missing]
        for batch in batches(samples, self.spec, self.size):
            pixels = np.rint(batch.images * 255).astype(np.uint8)  # a quarter of the memory
            cache.update(zip((missing[i] for i in batch.indices), pixels, strict=True))
        return np.stack([cache[i] for i in chosen])


def _to_tensor(
    pixels: NDArray[np.uint8], spec: InputSpec, device: "torch.device"
) -> "torch.Tensor":
    """Normalized images [n, 3, R, R] of bytes: ``(value / 255 - mean) / std``."""
    import torch

    std, mean = (torch.tensor(v, device=device)[:, None, None] for v in (spec.std, spec.mean))
    tensor = torch.from_numpy(pixels).to(device).float().div_(255 * std).sub_(mean / std)
    return tensor.contiguous(memory_format=torch.channels_last)


def _augment(
    images: "torch.Tensor", config: TrainConfig, recipe: Recipe, generator: "torch.Generator"
) -> "torch.Tensor":
    """Random rotation, zoom, shift and, where classes allow, reflection of each image [n, ...]."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    count = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * limit

    angle = uniform(math.radians(recipe.rotation))
    scale = 1 + uniform(recipe.zoom)
    flip = torch.ones(count)
    if config.data not in UPRIGHT:
        flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift_x, shift_y = uniform(2 * recipe.shift), uniform(2 * recipe.shift)
    rows = [torch.stack([cos * flip, -sin, shift_x], 1), torch.stack([sin * flip, cos, shift_y], 1)]
    theta = torch.stack(rows, 1).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


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
