"""Options that people know from other programs lead to the ones of this program."""

from typing import Any

from typer._click.exceptions import NoSuchOption  # typer does not export its errors
from typer.core import TyperCommand

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


class Guided(TyperCommand):
    """A guided command answers an unknown option with the one that was probably meant.

    Its help does not call flags values: ``--json``, not ``--json <bool>``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an option that means one of this command's leads there."""
        try:
            return super().parse_args(ctx, args)
        except NoSuchOption as error:
            meant = MEANT.get(error.option_name)
            if meant and any(meant.split()[0] in parameter.opts for parameter in self.params):
                error.possibilities = [meant]
            raise
