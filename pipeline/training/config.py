"""Settings of ``train`` are values with domains; no file is opened here."""

from dataclasses import dataclass, replace
from functools import cached_property

from mobilenet_cli.models import MODELS
from mobilenet_cli.models.architecture import Task
from mobilenet_cli.pipeline.errors import OptionError, need
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.training.recipes import RECIPES, Recipe, changed

# Digits were drawn on 8x8 pixels; 32 is the smallest map that five halvings allow.
RESOLUTIONS = {"digits": 32, "shapes": 96}
DETECTOR_RESOLUTION = 300  # as SSD was published
DETECTOR = "ssd_mobilenet_v1"  # unless another is named
PRECISIONS = ("fp32", "bf16", "fp16")
UPRIGHT = {"digits"}  # data sets whose images belong to other classes when they are mirrored


@dataclass(frozen=True)
class TrainConfig:
    """These are the settings of ``train``.

    Attributes:
        data: the data set, as ``open_dataset`` takes it.
        width: the width multiplier; None takes 1.0, or that of ``init``.
        resolution: the side of the input in pixels; None takes that of ``init``, or else 32 for
            digits and 224 otherwise.
        recipe: a key of ``RECIPES``; None takes ``finetune`` with ``init`` and ``quick`` without.
        epochs: the number of epochs, instead of the recipe's.
        seed: the seed of all random numbers: weights, order, augmentation.
        init: a checkpoint to start from. Its classifier is kept where the classes are the same
            and replaced where they are not.
        changes: other values of the recipe, as ``name=value``.
        precision: ``fp32``, or ``bf16`` or, on a GPU, ``fp16`` for automatic mixed precision.
        qat: True trains through the grids of ``quantize``; training starts from ``init``, which
            stays as it is but for its weights.
        target: the target of ``quantize``, with ``qat``.
        teacher: a model, ONNX or a checkpoint, whose logits are part of the loss.
        compiled: True trains through ``torch.compile``.
        sync_norms: True takes BatchNorm statistics over the images of all processes, on GPUs.
        tensorboard: True writes curves for TensorBoard too, into ``tensorboard/`` beside the
            checkpoint.
        resume: True insists that there is an interrupted training with these settings.
        model: the architecture, a key of ``MODELS``; None takes that of ``init``, or else
            MobileNet v1.

    Raises:
        OptionError: a value is outside its domain, or two settings contradict each other.
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
    model: str | None = None

    def __post_init__(self) -> None:
        if self.tensorboard:
            need("tensorboardX", "--tensorboard takes tensorboardX")
        if self.model not in (None, *MODELS):
            raise OptionError(f"unknown model '{self.model}'", f"Use one of {', '.join(MODELS)}")
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
        if self.detects and (self.qat or self.teacher is not None):
            raise OptionError(
                f"--{'qat' if self.qat else 'teacher'} is for classifiers", "Leave it out"
            )
        self._check_qat()
        if self.chosen_recipe.pretrained and self.init is None:
            raise OptionError(
                f"recipe '{self.recipe}' needs weights to start from",
                "Pass --init with a checkpoint, which 'mobilenet-cli import' makes",
            )

    def _check_qat(self) -> None:
        QuantizeConfig(target=self.target)  # which knows the targets
        if not self.qat and self.target != "auto":
            raise OptionError("--target is for --qat", "Leave it out; 'quantize' takes it too")
        if self.qat and self.init is None:
            raise OptionError(
                "--qat goes on from a trained network", "Pass --init with its checkpoint"
            )
        if self.qat and self.precision == "fp16":
            raise OptionError(
                "--qat needs the range of float32 or bfloat16", "Use --precision bf16"
            )

    @property
    def detects(self) -> bool:
        """Tell whether a detector is named."""
        return self.model is not None and MODELS[self.model].task == "detection"

    @property
    def recipe_name(self) -> str:
        """Return the name of the recipe that is used."""
        if self.recipe is not None:
            return self.recipe
        if self.detects:
            return "detect"
        return "qat" if self.qat else "quick" if self.init is None else "finetune"

    @cached_property
    def chosen_recipe(self) -> Recipe:
        """Return the recipe with all changes; ``qat`` never moves the statistics of BatchNorms.

        Raises:
            OptionError: a change names no value of a recipe, or one outside its domain.
        """
        epochs = [f"epochs={self.epochs}"] if self.epochs else []
        recipe = changed(RECIPES[self.recipe_name], [*self.changes, *epochs])
        return replace(recipe, freeze_norms=1) if self.qat else recipe


def named_model(task: str, model: str | None) -> str | None:
    """Return the architecture for a task: the one that is named, or the task's usual one.

    Raises:
        OptionError: there is no such task, or the architecture is for another.
    """
    known: dict[str, Task] = {"classify": "classification", "detect": "detection"}
    if task not in known:
        raise OptionError(f"unknown task '{task}'", f"Use one of {', '.join(known)}")
    if model is None or model not in MODELS:
        return DETECTOR if model is None and task == "detect" else model
    if task == "detect" and MODELS[model].task != "detection":
        raise OptionError(
            f"'{model}' is no detector",
            f"Use one of {', '.join(n for n, a in MODELS.items() if a.task == 'detection')}",
        )
    return model
