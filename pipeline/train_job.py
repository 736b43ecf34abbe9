"""What a training works on: images, network, optimizer, and what goes with them."""

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.crop import Cut
from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.datasets import open_dataset
from mobilenet_cli.data.training import Squares, class_indices, steps_of
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifact import Artifact, Facts, versions
from mobilenet_cli.pipeline.checkpoint import load_network
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.machine import available_memory
from mobilenet_cli.pipeline.optimizer import make_optimizer
from mobilenet_cli.pipeline.progress import Progress
from mobilenet_cli.pipeline.qat import Grids, quantized_start
from mobilenet_cli.pipeline.teacher import Teacher, open_teacher
from mobilenet_cli.pipeline.team import Team
from mobilenet_cli.pipeline.train_config import TrainConfig, class_list, names_of
from mobilenet_cli.pipeline.train_images import cut_of
from mobilenet_cli.pipeline.train_state import Learner

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.network import MobileNetV1

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

    def computed(self, network: "MobileNetV1") -> "torch.nn.Module":
        """The network as it is computed: itself, or through grids."""
        if self.grids is None:
            return network
        from mobilenet_cli.pipeline.fake_quantize import FakeQuantized

        return FakeQuantized(network, self.grids)

    def written(self, network: "MobileNetV1") -> "MobileNetV1":
        """The network as it is written: itself, or with its weights on their grids."""
        if self.grids is None:
            return network
        from mobilenet_cli.pipeline.fake_quantize import FakeQuantized, settled

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


def make_learner(config: TrainConfig, job: Job) -> Learner:
    """The network to start from, and its optimizer."""
    import torch

    torch.manual_seed(config.seed)
    network = starting_network(config.model(len(job.classes)), config.source, job.classes)
    if job.grids is not None:
        from mobilenet_cli.pipeline.fake_quantize import fold_into

        fold_into(network, job.grids)
    if config.sync_norms and job.team.world > 1:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch's own
    # Measured on two cores at 32 pixels, batch 64: 83 ms a step on this layout, 120 ms without.
    network = network.to(job.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub of Module.to lacks memory_format
    average = copy.deepcopy(network).eval() if config.plan.ema else None
    trained = job.team.wrap(job.computed(network))
    return Learner(
        network,
        torch.compile(trained) if config.compiled else trained,  # type: ignore[arg-type]  # it is a module
        average,
        make_optimizer(network, config.plan),
        torch.amp.GradScaler(job.device.type, enabled=config.precision == "fp16"),
    )


def starting_network(
    spec: ModelSpec, source: Artifact | None, classes: tuple[str, ...]
) -> "MobileNetV1":
    """A network to start from: random, or that of ``source``, with a new classifier if need be.

    Random kernels are those of He et al., arXiv:1502.01852, for ReLU; fan-out per group.
    """
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
    return network


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
