"""Images to a checkpoint: the settings of ``train``, and what follows from them."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.training.recipes import RECIPES, Recipe, changed
from mobilenet_cli.pipeline.training.tensorboard import check_installed

# Digits were drawn on 8x8 pixels; 32 is the smallest map that five halvings allow.
RESOLUTIONS = {"digits": 32}
PRECISIONS = ("fp32", "bf16", "fp16")
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
        precision: ``fp32``, or ``bf16`` or, on a GPU, ``fp16`` for automatic mixed precision.
        qat: learn through the grids of ``quantize``; starts from ``init``, which stays as it is
            but for its weights.
        target: of ``quantize``, with ``qat``.
        teacher: a model, ONNX or a checkpoint, whose opinion is part of the loss.
        compiled: through ``torch.compile``.
        sync_norms: BatchNorm statistics over the images of all processes; on GPUs.
        tensorboard: write curves for TensorBoard too, into ``tensorboard/`` beside the checkpoint.
        resume: there must be an interrupted training with these settings to go on with.

    Raises:
        OptionError: a value is outside its domain, or ``init`` and the recipe do not fit.
        ModelError: ``init`` cannot be used.
    """

    data: str = "digits"
    width: float | None = None
    resolution: int | None = None
    recipe: str | None = None
    epochs: float | None = None
    seed: int = 0
    init: str | None = None
    changes: tuple[str, ...] = ()
    precision: str = "fp32"
    qat: bool = False
    target: str = "auto"
    teacher: str | None = None
    compiled: bool = False
    sync_norms: bool = False
    tensorboard: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.tensorboard:
            check_installed()
        if self.recipe_name not in RECIPES:
            raise OptionError(f"unknown recipe '{self.recipe}'", f"Use one of {', '.join(RECIPES)}")
        if self.precision not in PRECISIONS:
            raise OptionError(
                f"unknown precision '{self.precision}'", f"Use one of {', '.join(PRECISIONS)}"
            )
        if self.epochs is not None and not 0 < self.epochs < float("inf"):
            raise OptionError(
                f"cannot train for {self.epochs:g} epochs", "Pass --epochs 1 or more, or 0.1"
            )
        self._check_qat()
        if self.plan.pretrained and self.init is None:
            raise OptionError(
                f"recipe '{self.recipe}' needs weights to start from",
                "Pass --init with a checkpoint, which 'mobilenet-cli import' makes",
            )
        MODELS[self.model(1).architecture].check_resolution(self.side)
        given = self.source
        found = given.facts.model if given else None
        if given and found and self.width not in (None, found.width):
            raise OptionError(
                f"{given.path} has width {found.width:g}, not {self.width:g}",
                "Leave --width out, or start from other weights",
            )

    def _check_qat(self) -> None:
        """Quantization-aware training goes on with one network as it is."""
        if not self.qat:
            if self.target != "auto":
                raise OptionError("--target is for --qat", "Leave it out; 'quantize' takes it too")
            return
        if self.source is None:
            raise OptionError(
                "--qat goes on from a trained network", "Pass --init with its checkpoint"
            )
        if self.resolution not in (None, self.source.facts.input.resolution):
            raise OptionError(
                f"{self.init} is for {self.source.facts.input.resolution} pixels",
                "Leave --resolution out, or train without --qat first",
            )
        if self.precision == "fp16":
            raise OptionError(
                "--qat needs the range of float32 or bfloat16", "Use --precision bf16"
            )
        self.quantization  # noqa: B018 - which checks the target

    @property
    def quantization(self) -> QuantizeConfig:
        """How ``quantize`` would be called for the result."""
        return QuantizeConfig(target=self.target).resolved()

    @cached_property
    def source(self) -> Artifact | None:
        """The checkpoint to start from."""
        return None if self.init is None else load_artifact(Path(self.init))

    @cached_property
    def teaching(self) -> Artifact | None:
        """The model whose opinion counts."""
        return None if self.teacher is None else load_artifact(Path(self.teacher))

    @property
    def parent(self) -> str | None:
        """SHA-256 of the checkpoint to start from."""
        return self.source.sha256 if self.source else None

    @property
    def recipe_name(self) -> str:
        """The recipe that is used."""
        if self.recipe is not None:
            return self.recipe
        return "qat" if self.qat else "quick" if self.init is None else "finetune"

    @cached_property
    def plan(self) -> Recipe:
        """The recipe with all that was changed."""
        changes = [*self.changes, *([f"epochs={self.epochs}"] if self.epochs else [])]
        changes += ["freeze_norms=1"] if self.qat else []
        return changed(RECIPES[self.recipe_name], changes)

    @property
    def recorded(self) -> dict[str, Any]:
        """What the checkpoint's facts say about how it was made."""
        values = asdict(self) | {"width": self.model(1).width, "changes": list(self.changes)}
        del values["resume"], values["tensorboard"]  # they make no difference to the result
        values["target"] = self.quantization.target if self.qat else None
        if self.teaching is not None:
            values["teacher_sha256"] = self.teaching.sha256
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
        """Images are cut from a larger frame, as the recipe says, except where all counts.

        Channels and normalization are those to which the first layer's weights belong.
        """
        if self.qat and self.source is not None:
            return self.source.facts.input
        resize = self.side if self.data in UPRIGHT else round(self.side / self.plan.crop)
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
