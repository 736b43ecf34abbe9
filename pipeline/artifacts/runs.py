"""A run is a folder under ``runs/`` with fixed file names; this file knows them."""

from dataclasses import dataclass
from pathlib import Path

from mobilenet_cli.models.spec import check_width
from mobilenet_cli.pipeline.artifacts.sidecar import read_sidecar
from mobilenet_cli.pipeline.errors import ModelError

RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """The files of one run."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name, as given to ``--run``."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """What train or import made."""
        return self.folder / "model.safetensors"

    @property
    def start(self) -> Path:
        """The first model of the run: a checkpoint, or an imported ONNX file."""
        return next(iter(self.artifacts()), self.checkpoint)

    @property
    def fp32(self) -> Path:
        """What export made."""
        return self.folder / "fp32.onnx"

    @property
    def folded(self) -> Path:
        """What simplify made."""
        return self.folder / "folded.onnx"

    @property
    def int8(self) -> Path:
        """What quantize made."""
        return self.folder / "int8.onnx"

    @property
    def fp16(self) -> Path:
        """What convert made, where a GPU is to run it."""
        return self.folder / "fp16.onnx"

    @property
    def evaluation(self) -> Path:
        """Accuracy records."""
        return self.folder / "evaluate.json"

    @property
    def predictions(self) -> Path:
        """What each artifact said about each image of the evaluation."""
        return self.folder / "predictions.json"

    @property
    def bench(self) -> Path:
        """The latency record."""
        return self.folder / "bench.json"

    @property
    def training(self) -> Path:
        """One JSON object an epoch, from train."""
        return self.folder / "train.jsonl"

    def artifacts(self) -> tuple[Path, ...]:
        """The model files that exist, in the order in which the chain makes them."""
        files = (self.checkpoint, self.fp32, self.folded, self.int8, self.fp16)
        return tuple(path for path in files if path.is_file())


def find_run(name: str | None, needs: str, width: float | None = None) -> Run:
    """The named run, or the newest one that has the file ``needs`` and matches ``width``.

    Args:
        name: a folder under ``runs/``; None chooses.
        needs: an attribute of Run, such as ``folded``.
        width: only consider runs of this width multiplier.

    Raises:
        ModelError: there is no such run, or it lacks the file.
        OptionError: the width is not a positive number.
    """
    if width is not None:
        check_width(width)
    if name is not None:
        run = Run(RUNS / name)
        path: Path = getattr(run, needs)
        if not path.is_file():
            raise ModelError(f"run '{name}' has no {path.name}", _stage_hint(needs))
        found = recorded_width(path)
        if width is not None and found is not None and found != width:
            raise ModelError(
                f"run '{name}' has width {found:g}, not {width:g}",
                "Leave --width out, or choose another --run",
            )
        return run
    runs = [Run(folder) for folder in RUNS.glob("*") if getattr(Run(folder), needs).is_file()]
    if width is not None:
        runs = [run for run in runs if recorded_width(getattr(run, needs)) == width]
    if not runs:
        which = f"no run of width {width:g}" if width is not None else "no run"
        file = getattr(Run(Path()), needs).name
        raise ModelError(f"{which} under {RUNS}/ has a {file}", _stage_hint(needs))
    return max(runs, key=lambda run: getattr(run, needs).stat().st_mtime)


def run_of(model: Path) -> Run | None:
    """The run in whose folder a model file lies."""
    folder = model.resolve().parent
    return Run(model.parent) if folder.parent == RUNS.resolve() else None


def recorded_width(path: Path) -> float | None:
    """The width multiplier in a model file's sidecar."""
    sidecar = read_sidecar(path)
    return sidecar.facts.model.width if sidecar and sidecar.facts.model else None


def _stage_hint(needs: str) -> str:
    stages = {
        "checkpoint": "train' or 'mobilenet-cli import",
        "start": "train' or 'mobilenet-cli import",
        "fp32": "export",
        "folded": "simplify",
        "int8": "quantize",
        "fp16": "convert --fp16",
        "evaluation": "evaluate",
        "bench": "bench",
    }
    return f"Make it first with 'mobilenet-cli {stages[needs]}'"
