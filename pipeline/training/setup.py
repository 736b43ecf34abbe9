"""What a training works on: images, network, optimizer, and what goes with them."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data import imagenet
from mobilenet_cli.data.crop import Cut
from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.training_batches import Squares, class_indices, steps_of
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts, versions
from mobilenet_cli.pipeline.errors import DataError, ModelError, OptionError
from mobilenet_cli.pipeline.progress import Progress
from mobilenet_cli.pipeline.runtime.machine import available_memory
from mobilenet_cli.pipeline.training.augmentation import cut_of
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.distillation import Teacher, open_teacher
from mobilenet_cli.pipeline.training.distributed import Team
from mobilenet_cli.pipeline.training.qat import Grids, quantized_start

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.classifier_torch import Classifier

SQUARES_BYTES = 2 << 30  # for images that are cut already, of all processes together


@dataclass(frozen=True)
class Job:
    """What one training works on, besides its settings.

    Attributes:
        training: the images, ``labels`` the index of each one's class, ``cut`` makes squares,
            ``squares`` are those that were made.
        held: out for evaluation.
        classes: of the model.
        steps: of a whole epoch; ``total`` of the training.
        device: where the network is.
        out: the checkpoint to write.
        team: the processes that train together.
        teacher: whose opinion is part of the loss, if any.
        grids: through which the network is computed, if any.
    """

    training: Dataset
    labels: NDArray[np.int64]
    cut: Cut
    squares: Squares
    held: Dataset
    classes: tuple[str, ...]
    steps: int
    total: int
    device: "torch.device"
    out: Path
    team: Team
    teacher: Teacher | None
    grids: Grids | None

    @property
    def state(self) -> Path:
        """The file that an interrupted training leaves."""
        return self.out.with_name("training.pt")

    @property
    def best(self) -> Path:
        """The best epoch's weights."""
        return self.out.with_name("best.safetensors")

    @property
    def epochs(self) -> int:
        """How many there are; the last may be a part of one."""
        return -(-self.total // self.steps)

    def steps_in(self, epoch: int) -> int:
        """Of an epoch, from 0."""
        return min(self.steps, self.total - epoch * self.steps)

    @cached_property
    def share(self) -> Dataset:
        """The held-out images that this process evaluates: each image is one process's."""
        mine = self.held.samples[self.team.rank :: self.team.world]
        return replace(self.held, samples=mine)

    def computed(self, network: "Classifier") -> "torch.nn.Module":
        """The network as it is computed: itself, or through grids."""
        if self.grids is None:
            return network
        from mobilenet_cli.pipeline.training.fake_quantize import FakeQuantized

        return FakeQuantized(network, self.grids)

    def written(self, network: "Classifier") -> "Classifier":
        """The network as it is written: itself, or with its weights on their grids."""
        if self.grids is None:
            return network
        from mobilenet_cli.pipeline.training.fake_quantize import FakeQuantized, settled

        return settled(FakeQuantized(network, self.grids))


def prepare(config: TrainConfig, out: Path, team: Team, progress: Progress) -> Job:
    """Open the images and see that they can be trained on.

    Raises:
        DataError: they cannot, or there are fewer than two classes.
        ModelError: the weights to start from, or the teacher, cannot be used.
        OptionError: an option does not fit the images or the machine.
    """
    import torch

    torch.set_num_threads(team.cpus)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and (config.precision == "fp16" or config.sync_norms):
        what = "--sync-norms" if config.sync_norms else "--precision fp16"
        raise OptionError(f"{what} needs a GPU, and torch finds none", "Leave it out, or use bf16")
    training, held = (open_dataset(config.data, split) for split in ("train", "val"))
    classes = class_list(config.data, training, held)
    device = torch.device("cuda", team.local) if on_gpu else torch.device("cpu")
    steps = steps_of(len(training.samples), config.plan.batch)
    source = config.source
    if config.qat and source is not None and source.facts.classes != classes:
        raise ModelError(
            f"{source.path} was not trained on the {len(classes)} classes of '{config.data}'",
            "Fine-tune it without --qat first",
        )
    teacher = (
        open_teacher(config.teaching, config.input, classes, device) if config.teaching else None
    )
    grids = None
    if config.qat and source is not None:
        grids = quantized_start(source, config.data, config.quantization, progress)
    return Job(
        training,
        class_indices(training, classes),
        cut_of(config.plan, config.input),
        squares_of(config, team),
        held,
        classes,
        steps,
        max(1, round(config.plan.epochs * steps)),
        device,
        out,
        team,
        teacher,
        grids,
    )


def squares_of(config: TrainConfig, team: Team) -> Squares:
    """As many squares as may stay in memory, where a later epoch would cut the same again."""
    if config.plan.area < 1 or config.plan.epochs <= 1:
        return Squares(0)
    memory = min(SQUARES_BYTES, available_memory() // 4) // team.here
    return Squares(memory // (3 * config.side**2))


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
        grids=job.grids.coded if job.grids else (),
    )


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
