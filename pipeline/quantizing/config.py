"""Training through grids shares the settings of ``quantize``."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from mobilenet_cli.calibration.kernels import TARGETS, Target
from mobilenet_cli.calibration.ranges.calibrators import CALIBRATORS
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.runtime.proving.integer_kernels import detect_target


@dataclass(frozen=True)
class QuantizeConfig:
    """These are the settings of ``quantize``.

    Attributes:
        calib_dir: calibration images, as ``open_dataset`` takes them; None takes the training
            images of the data the model was trained on.
        calib_count: how many to use.
        calibrator: a key of ``CALIBRATORS``.
        target: a key of ``TARGETS``, or ``auto`` for the machine this runs on.
        weights: how weights are stored, signed; not a choice, but files say it.
        format: how integers are written, as QDQ, which every runtime reads; likewise.
        cross: the model is for another machine, so this one's kernels prove nothing.
        max_drop: keep the fewest layers in float by which top-1 drops no more than so many points.
        data: labelled images that this is measured on; None takes the model's evaluation images.
        seed: of the choice of images.
        tune: find by measuring which layers are faster in float here, and keep them in float.
        keep_float: layers that stay in float, by the tensors they make; as ``tune`` records them.
    """

    calib_dir: str | None = None
    calib_count: int = 256
    calibrator: str = "minmax"
    target: str = "auto"
    weights: Literal["s8"] = field(default="s8", init=False)
    format: Literal["qdq"] = field(default="qdq", init=False)
    cross: bool = False
    max_drop: float | None = None
    data: str | None = None
    seed: int = 0
    tune: bool = False
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise OptionError(
                f"unknown calibrator '{self.calibrator}'",
                f"Use one of {', '.join(CALIBRATORS)}",
            )
        if self.target not in (*TARGETS, "auto"):
            raise OptionError(
                f"unknown target '{self.target}'", f"Use auto or one of {', '.join(TARGETS)}"
            )
        if self.tune and self.keep_float:
            raise OptionError(
                "--tune chooses the layers that stay in float", "Leave --keep-float or --tune out"
            )
        elsewhere = self.cross or (self.target != "auto" and not TARGETS[self.target].cpu)
        if self.tune and elsewhere:
            raise OptionError(
                "--tune measures on this machine, and this model is for another",
                "Tune it there, and give the layers in its record to --keep-float",
            )
        if self.max_drop is None:
            if self.data is not None:
                raise OptionError(
                    "--data is what --max-drop is measured on",
                    "Pass --max-drop, too, or --calib-dir for images to calibrate on",
                )
            return
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise OptionError(
                f"--max-drop {self.max_drop:g} is no number of points", "Use 0 or more, such as 0.3"
            )
        if elsewhere:
            raise OptionError(
                "--max-drop is measured on this machine, and this model is for another",
                "Leave one of the two out",
            )

    @property
    def recorded(self) -> dict[str, Any]:
        """Return the settings that are kept in the file: what tuning chose, not that it did.

        Files made before there were layers to choose have no list of them.
        """
        values = asdict(self)
        del values["tune"]
        if not self.keep_float:
            del values["keep_float"]
        return values

    @property
    def kernels(self) -> Target:
        """Return what the model is made for; the target is no longer ``auto``."""
        return TARGETS[self.target]

    def resolved(self) -> "QuantizeConfig":
        """Replace ``auto`` by this machine's target: that is what the facts keep."""
        target = detect_target() if self.target == "auto" else self.target
        return replace(self, target=target, cross=self.cross or not TARGETS[target].cpu)
