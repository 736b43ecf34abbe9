"""A training works on settings, resolved against the files that they name, and on images."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenet_cli.data import imagenet
from mobilenet_cli.data.boxes.box_dataset import as_dataset
from mobilenet_cli.data.boxes.open_boxes import open_boxes
from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.data.training_batches import (
    CachedCrops,
    TrainingImages,
    class_indices,
    steps_per_epoch,
)
from mobilenet_cli.models import MODELS, find_architecture
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts, versions
from mobilenet_cli.pipeline.errors import DataError, ModelError, OptionError, counted
from mobilenet_cli.pipeline.evaluating.average_precision import check_pycocotools
from mobilenet_cli.pipeline.progress import Progress
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.runtime.machine import available_memory
from mobilenet_cli.pipeline.training.augmentation import crop_of
from mobilenet_cli.pipeline.training.config import (
    DETECTOR_RESOLUTION,
    RESOLUTIONS,
    UPRIGHT,
    TrainConfig,
)
from mobilenet_cli.pipeline.training.methods.detection import DetectionTask, check_objects
from mobilenet_cli.pipeline.training.methods.distillation import Teacher, open_teacher
from mobilenet_cli.pipeline.training.methods.qat import Grids, quantized_start
from mobilenet_cli.pipeline.training.recipes import Recipe
from mobilenet_cli.pipeline.training.running.distributed import ProcessGroup
from mobilenet_cli.reports.records.training import TrainingStart

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.architecture import Network

CACHE_BYTES = 2 << 30  # for crops that are kept in memory, of all processes together


@dataclass(frozen=True)
class ResolvedTraining:
    """Resolved settings include what the files that they name decide.

    Attributes:
        config: the settings as they were given.
        recipe: the recipe with all that was changed.
        source: the checkpoint to start from, if any.
        teacher: the model whose logits are part of the loss, if any.
        network: the network that is trained, as if it had one class.
        input: how an image becomes the network's input.
        quantization: how ``quantize`` would be called for the result; None without ``qat``.
    """

    config: TrainConfig
    recipe: Recipe
    source: Artifact | None
    teacher: Artifact | None
    network: ModelSpec
    input: InputSpec
    quantization: QuantizeConfig | None

    @property
    def parent(self) -> str | None:
        """Return SHA-256 of the checkpoint to start from."""
        return self.source.sha256 if self.source else None

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what the checkpoint's facts say about how it was made."""
        config = self.config
        values = asdict(config) | {"width": self.network.width, "changes": list(config.changes)}
        del values["resume"], values["tensorboard"]  # they make no difference to the result
        del values["model"]
        if self.network.architecture != ModelSpec.architecture:  # the only one for a long time
            values["model"] = self.network.architecture
        values["target"] = self.quantization.target if self.quantization else None
        if self.teacher is not None:
            values["teacher_sha256"] = self.teacher.sha256
        return values | {"recipe": asdict(self.recipe) | {"name": config.recipe_name}}

    @property
    def run_name(self) -> str:
        """Return the run that training goes to unless told otherwise, such as ``digits-1-32``."""
        name, model = Path(self.config.data).resolve().name, self.network.architecture
        if model != ModelSpec.architecture:
            name = f"{name}-{model}"
        return f"{name}-{self.network.width:g}-{self.input.resolution}"


def resolve(config: TrainConfig) -> ResolvedTraining:
    """Open the files that the settings name, and see that all fits together.

    Raises:
        OptionError: a setting contradicts the checkpoint to start from, or images would be too
            small for the network.
        ModelError: a file cannot be used.
    """
    source = None if config.init is None else load_artifact(Path(config.init))
    known = source.facts.model if source else None
    if known and config.model is None and source and source.facts.task == "detection":
        config = replace(config, model=known.architecture)
    if known and config.model and MODELS[config.model].backbone == known.architecture:
        known = replace(known, architecture=config.model)
    if source and known and config.model not in (None, known.architecture):
        raise OptionError(
            f"{source.path} is a {known.architecture}, not a {config.model}",
            "Leave --model out, or start from other weights",
        )
    if source and known and config.width not in (None, known.width):
        raise OptionError(
            f"{source.path} has width {known.width:g}, not {config.width:g}",
            "Leave --width out, or start from other weights",
        )
    if config.qat and source and config.resolution not in (None, source.facts.input.resolution):
        raise OptionError(
            f"{source.path} is for {source.facts.input.resolution} pixels",
            "Leave --resolution out, or train without --qat first",
        )
    network = known or ModelSpec(
        architecture=config.model or ModelSpec.architecture,
        width=1.0 if config.width is None else config.width,
    )
    spec = _input(config, source)
    find_architecture(network.architecture).check_resolution(spec.resolution)
    return ResolvedTraining(
        config=config,
        recipe=config.chosen_recipe,
        source=source,
        teacher=None if config.teacher is None else load_artifact(Path(config.teacher)),
        network=replace(network, classes=1),
        input=spec,
        quantization=QuantizeConfig(target=config.target).resolved() if config.qat else None,
    )


def _input(config: TrainConfig, source: Artifact | None) -> InputSpec:
    """Cut images from a larger frame, as the recipe says, except where all of an image counts.

    Channels and normalization are those to which the first layer's weights belong.
    """
    known = source.facts.input if source else None
    if known and config.qat:
        return known
    if config.detects:
        same = known is not None and known.convention == "stretch"
        usual = known.resolution if known and same else DETECTOR_RESOLUTION
        side = config.resolution or RESOLUTIONS.get(config.data, usual)
        stretched = replace(known or InputSpec(), resolution=side, resize=side)
        return replace(stretched, convention="stretch")
    usual = known.resolution if known else RESOLUTIONS.get(config.data, InputSpec().resolution)
    side = usual if config.resolution is None else config.resolution
    framed = InputSpec.cropped(side, 1.0 if config.data in UPRIGHT else config.chosen_recipe.crop)
    return replace(known or InputSpec(), resolution=side, resize=framed.resize)


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A setup is what one training works on.

    Attributes:
        training: the resolved settings.
        images: the images to train on, and what becomes of them.
        lost: the training images that the data set knows it has lost.
        validation: the images held out for evaluation.
        classes: the identifiers of the model's classes.
        steps: the number of steps in a whole epoch.
        total: the number of steps in the training.
        device: where the network is.
        out: the checkpoint to write.
        group: the processes that train together.
        teacher: the network whose logits are part of the loss, if any.
        grids: the grids through which the network is computed, if any.
        detection: what a detector learns; None for a classifier.
    """

    training: ResolvedTraining
    images: TrainingImages
    lost: tuple[DataError, ...]
    validation: Dataset
    classes: tuple[str, ...]
    steps: int
    total: int
    device: "torch.device"
    out: Path
    group: ProcessGroup
    teacher: Teacher | None
    grids: Grids | None
    detection: DetectionTask | None = None

    @property
    def config(self) -> TrainConfig:
        """Return the settings as they were given."""
        return self.training.config

    @property
    def recipe(self) -> Recipe:
        """Return the recipe that is used."""
        return self.training.recipe

    @property
    def state_file(self) -> Path:
        """Return the file that an interrupted training leaves."""
        return self.out.with_name("training.pt")

    @property
    def best_file(self) -> Path:
        """Return the file with the best epoch's weights."""
        return self.out.with_name("best.safetensors")

    @property
    def spec(self) -> ModelSpec:
        """Return the network that is trained."""
        background = int(self.detection is not None)
        return replace(self.training.network, classes=len(self.classes) + background)

    @property
    def measure(self) -> str:
        """Return what is counted as right while training."""
        return "matched anchors" if self.detection else "top-1"

    @property
    def start(self) -> TrainingStart:
        """Return what is trained, and on what."""
        spec, config = self.spec, self.config
        title = find_architecture(spec.architecture).title
        side = self.training.input.resolution
        return TrainingStart(
            network=f"{title}, width {spec.width:g}, {side}×{side} pixels",
            architecture=spec.architecture,
            data=config.data,
            classes=len(self.classes),
            images=len(self.images.samples),
            held_out=len(self.validation.samples),
            epochs=self.recipe.epochs,
            init=config.init,
            photos=config.data not in RESOLUTIONS,
        )

    @property
    def epochs(self) -> int:
        """Return the number of epochs, of which the last may be a part of one."""
        return -(-self.total // self.steps)

    @cached_property
    def validation_shard(self) -> Dataset:
        """Return the held-out images that this process evaluates: each image is one process's."""
        if self.detection is not None:  # precision over all images is no sum
            return self.validation
        mine = self.validation.samples[self.group.rank :: self.group.world]
        return replace(self.validation, samples=mine)

    @property
    def facts(self) -> Facts:
        """Return what the checkpoint says of itself."""
        training = self.training
        return Facts(
            stage="train",
            parent=training.parent,
            config=training.recorded,
            versions=versions("torch", "numpy", "pillow", "simplejpeg", "scikit-learn"),
            model=self.spec,
            input=training.input,
            classes=self.classes,
            names=names_of(self.classes, training.source),
            data=self.config.data,
            grids=self.grids.coded if self.grids else (),
            boxes=self.detection.boxes if self.detection else None,
        )

    def computed(self, network: "Network") -> "torch.nn.Module":
        """Return the network as it is computed: itself, or through grids."""
        if self.grids is None:
            return network
        from mobilenet_cli.models.classifier_torch import Classifier
        from mobilenet_cli.pipeline.training.methods.fake_quantize import FakeQuantized

        assert isinstance(network, Classifier)  # no other has grids
        return FakeQuantized(network, self.grids)

    def written(self, network: "Network") -> "Network":
        """Return the network as it is written: itself, or with its weights on their grids."""
        from mobilenet_cli.pipeline.training.methods.fake_quantize import FakeQuantized, on_grid

        computed = self.computed(network)
        return on_grid(computed) if isinstance(computed, FakeQuantized) else network


def set_up(
    training: ResolvedTraining, out: Path, group: ProcessGroup, progress: Progress
) -> TrainingSetup:
    """Open the images and see that they can be trained on.

    Raises:
        DataError: they cannot, or there are fewer than two classes.
        ModelError: the weights to start from, or the teacher, cannot be used.
        OptionError: an option does not fit the images or the machine.
    """
    import torch

    config, recipe, source = training.config, training.recipe, training.source
    torch.set_num_threads(group.cpus)
    device = device_for(config, group)
    detection = detection_of(training) if config.detects else None
    if detection is None:
        images, validation = (open_dataset(config.data, s).labelled() for s in ("train", "val"))
        classes = training_classes(config.data, images, validation)
    else:
        images, validation = as_dataset(detection.images), as_dataset(detection.validation)
        classes = images.classes
    if config.qat and source is not None and source.facts.classes != classes:
        raise ModelError(
            f"{source.path} was not trained on the {len(classes)} classes of '{config.data}'",
            "Fine-tune it without --qat first",
        )
    teacher = (
        open_teacher(training.teacher, training.input, classes, device)
        if training.teacher
        else None
    )
    grids = None
    if source is not None and training.quantization is not None:
        grids = quantized_start(source, config.data, training.quantization, progress)
    steps = steps_per_epoch(len(images.samples), recipe.batch)
    return TrainingSetup(
        training=training,
        images=TrainingImages(
            samples=images.samples,
            labels=np.zeros(len(images.samples), np.int64)
            if detection
            else class_indices(images, classes),
            crop=crop_of(recipe, training.input),
            mirror=config.data not in UPRIGHT and detection is None,
            views=recipe.views,
            cache=cache_of(training, group),
        ),
        lost=images.lost,
        validation=validation,
        classes=classes,
        steps=steps,
        total=max(1, round(recipe.epochs * steps)),
        device=device,
        out=out,
        group=group,
        teacher=teacher,
        grids=grids,
        detection=detection,
    )


def device_for(config: TrainConfig, group: ProcessGroup) -> "torch.device":
    """Return the device of this process: its own GPU, or the CPU where torch finds none.

    Raises:
        OptionError: the settings need a GPU, and there is none.
    """
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", group.local)
    if config.precision == "fp16" or config.sync_norms:
        what = "--sync-norms" if config.sync_norms else "--precision fp16"
        raise OptionError(
            f"{what} needs a GPU, and torch finds none",
            "Leave it out" + ("" if config.sync_norms else ", or use bf16"),
        )
    return torch.device("cpu")


def detection_of(training: ResolvedTraining) -> DetectionTask:
    """Open the images with boxes that a detector learns from.

    Raises:
        DataError: they cannot be used.
        OptionError: the recipe cuts parts out of images, which would leave their boxes behind; or
            pycocotools, which measures each epoch, is not installed.
    """
    check_pycocotools()
    if training.recipe.area < 1:
        raise OptionError(
            f"recipe '{training.config.recipe_name}' cuts parts out of images, and detectors see "
            "whole ones",
            "Use --recipe detect, or add --set area=1",
        )
    images, validation = (open_boxes(training.config.data, split) for split in ("train", "val"))
    check_objects(images)
    architecture = find_architecture(training.network.architecture)
    columns = tuple(range(1, len(images.classes) + 1))  # behind background
    spec = BoxSpec(anchors=architecture.anchors(training.input.resolution), columns=columns)
    return DetectionTask(spec, images, validation)


def cache_of(training: ResolvedTraining, group: ProcessGroup) -> CachedCrops:
    """Make room for as many crops as may stay in memory, where every epoch makes the same."""
    if training.recipe.area < 1 or training.recipe.epochs <= 1:
        return CachedCrops(0)
    memory = min(CACHE_BYTES, available_memory() // 4) // group.here
    return CachedCrops(memory // (3 * training.input.resolution**2))


def training_classes(data: str, training: Dataset, validation: Dataset) -> tuple[str, ...]:
    """Return the classes of the model's outputs: those of the training images.

    A part of ImageNet whose held-out images have classes that its training images lack gets all
    1000 of ImageNet, by the usual labels.

    Raises:
        DataError: there are fewer than two, or held-out images of classes without training images.
    """
    if len(training.classes) < 2:
        raise DataError(
            f"'{data}' has only {counted(len(training.classes), 'class', 'classes')}",
            "A classifier needs at least two; put each class's images in a folder of its own, and "
            "give the folder that holds these",
        )
    unknown = set(validation.classes) - set(training.classes)
    if not unknown:
        return training.classes
    if unknown | set(training.classes) <= set(imagenet.synsets()):
        return imagenet.synsets()
    raise DataError(
        f"the held-out images of '{data}' have {counted(len(unknown), 'class', 'classes')} without "
        f"training images, such as '{min(unknown)}'",
        "Give each folder under val/ one of the same name under train/",
    )


def names_of(classes: tuple[str, ...], source: Artifact | None) -> tuple[str, ...]:
    """Return what people call the classes, where that is known."""
    if classes == imagenet.synsets():
        return imagenet.names()
    return source.facts.names if source and source.facts.classes == classes else ()
