"""Options and commands that people know from other programs lead to the ones of this program."""

import re
from typing import Any

# typer does not export its errors
from typer._click.exceptions import BadParameter, NoSuchOption
from typer._click.exceptions import UsageError as UsageError
from typer.core import TyperCommand, TyperGroup

SET = "--set {}="
MEANT = {
    "--lr": SET.format("learning_rate"),
    "--learning-rate": SET.format("learning_rate"),
    "--weight-decay": SET.format("weight_decay"),
    "--wd": SET.format("weight_decay"),
    "--optimizer": SET.format("optimizer"),
    "--warmup": SET.format("warmup"),
    "--label-smoothing": SET.format("label_smoothing"),
    "--mixup": SET.format("mixup"),
    "--batch": SET.format("batch"),
    "--batch-size": SET.format("batch"),
    "--bs": SET.format("batch"),
    "--workers": "--threads",
    "--num-workers": "--threads",
    "--device": "--provider",
    "--gpu": "--provider CUDAExecutionProvider",
    "--pretrained": "--init",
    "--weights": "--init",
    "--checkpoint": "--init",
    "--resume-from": "--resume",
    "--size": "--resolution",
    "--imgsz": "--resolution",
    "--image-size": "--resolution",
    "--alpha": "--width",
    "--dataset": "--data",
    "--calibration-data": "--calib-dir",
    "--output": "--out",
    "-o": "--out",
    "--name": "--run",
}
MEANT_COMMANDS = {
    "fit": "train",
    "finetune": "train --init",
    "fine-tune": "train --init",
    "load": "import",
    "onnx": "export",
    "fold": "simplify",
    "fuse": "simplify",
    "calibrate": "quantize",
    "ptq": "quantize",
    "qat": "train --qat",
    "fp16": "convert --fp16",
    "verify": "prove",
    "proof": "prove",
    "eval": "evaluate",
    "val": "evaluate",
    "validate": "evaluate",
    "test": "evaluate",
    "infer": "predict",
    "inference": "predict",
    "classify": "predict",
    "speed": "bench",
    "profile": "bench",
    "compare": "report --compare",
    "history": "report --history",
    "package": "deploy",
    "server": "serve",
    "listen": "serve",
    "info": "inspect",
    "show": "inspect",
    "check": "doctor",
    "all": "run",
    "chain": "run",
    "pipeline": "run",
}
# The option that a word without one is probably the value of, by command.
LOOSE = {"train": "--data", "run": "--data", "export": "--checkpoint", "report": "--run"}


def without_type(parameters: list[Any]) -> list[Any]:
    """Let the help call a flag ``--json``, not ``--json <bool>``."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def guide(error: UsageError, command: str, known: set[str]) -> None:
    """Add to a usage error what was probably meant, or what the parameter is.

    Args:
        error: the error, which is changed.
        command: the command's name.
        known: the options of the command.
    """
    if isinstance(error, NoSuchOption):
        meant = MEANT.get(error.option_name)
        if meant and meant.split()[0] in known:
            error.possibilities = [meant]
    elif isinstance(error, BadParameter):
        described = getattr(error.param, "help", None)
        parts = [error.message.rstrip("."), described.rstrip(".") if described else ""]
        error.message = "".join(f"{part}. " for part in parts if part).strip()
    elif (
        extra := re.search(r"unexpected extra argument[^ ]* \((.*)\)", error.message)
    ) is not None:
        option = LOOSE.get(command)
        cure = f"Perhaps {option} {extra[1]} is meant" if option else "Leave it out"
        error.message = f"{error.message}. {cure}."


def refuse_empty(args: list[str], ctx: Any) -> None:
    """Refuse what a script makes of a variable that is not set, as in ``--data "$DATA"``.

    Raises:
        UsageError: an argument or the value of an option is empty.
    """
    for before, word in zip(["", *args], args, strict=False):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            name = before if not word else option
            what = f"The value of {name}" if name.startswith("--") else "An argument"
            raise UsageError(f"{what} is empty. Leave it out, or give it a value.", ctx)


class Guided(TyperCommand):
    """A guided command answers what it does not understand with what was probably meant."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, of which flags have no type."""
        return without_type(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an error says what was probably meant."""
        try:
            refuse_empty(args, ctx)
            return super().parse_args(ctx, args)
        except UsageError as error:
            guide(error, str(self.name), {name for p in self.params for name in p.opts})
            raise


class GuidedGroup(TyperGroup):
    """A guided group knows what its commands are called elsewhere."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, of which flags have no type."""
        return without_type(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; an error says which was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            if meant := MEANT_COMMANDS.get(args[0].lower()):
                error.message = f"No such command '{args[0]}'. Did you mean '{meant}'?"
            raise
