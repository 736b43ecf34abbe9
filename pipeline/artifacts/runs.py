"""A run is a folder under ``runs/`` with fixed file names; this file knows them."""

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobilenet_cli.models.spec import check_width
from mobilenet_cli.pipeline.artifacts.sidecar import read_sidecar
from mobilenet_cli.pipeline.errors import ModelError, OptionError, StorageError

RUNS = Path("runs")
LONGEST_NAME = 255  # bytes, of most file systems
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
BEGINNINGS = ("checkpoint", "fp32")  # what an imported ONNX file may not have
IMPORT = "mobilenet-cli import WEIGHTS"  # what else begins a run
NO_RUN_YET = f"Make one with 'mobilenet-cli train' or '{IMPORT}'"
AFTER_IMPORT = {"fp32.onnx": "simplify", "folded.onnx": "quantize"}


class RunFile:
    """This is a file that a run may have, under a name that is always the same."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "Run", _: type) -> Path:
        """Return where the file is, in the run's folder."""
        return run.folder / self.name


@dataclass(frozen=True)
class Run:
    """A run is a folder with the files that the stages make.

    Attributes:
        folder: the folder, usually under ``runs/``.
    """

    folder: Path

    checkpoint = RunFile("model.safetensors")
    fp32 = RunFile("fp32.onnx")
    folded = RunFile("folded.onnx")
    int8 = RunFile("int8.onnx")
    fp16 = RunFile("fp16.onnx")
    evaluation = RunFile("evaluate.json")
    predictions = RunFile("predictions.json")
    boxes = RunFile("boxes.json")
    detection = RunFile("detection.json")
    many_predictions = RunFile("predictions")  # a folder
    bench = RunFile("bench.json")
    training = RunFile("train.jsonl")

    @property
    def name(self) -> str:
        """Return the folder's name, as given to ``--run``."""
        return self.folder.name

    @property
    def start(self) -> Path:
        """Return the first model of the run: a checkpoint, or an imported ONNX file."""
        return next(iter(self.artifacts()), self.checkpoint)

    @property
    def deployed(self) -> Path:
        """Return the model that a CPU is to run: the int8 one, or else the latest before it."""
        models = [path for path in self.artifacts() if path != self.fp16]
        return models[-1] if models else self.int8

    def path(self, part: str) -> Path:
        """Return where a part of the run is; ``part`` is an attribute such as ``folded``."""
        found: Path = getattr(self, part)
        return found

    def artifacts(self) -> tuple[Path, ...]:
        """List the model files that exist, in the order in which the chain makes them."""
        files = (self.checkpoint, self.fp32, self.folded, self.int8, self.fp16)
        return tuple(path for path in files if path.is_file())


def refuse_two_networks(run: Run, first: Path) -> None:
    """Refuse to begin a run with a file, where the run holds files of another network already.

    Where that file itself is there, they may have been made from it.

    Args:
        run: the run.
        first: what the stage is about to write.

    Raises:
        StorageError: there are other model files, and ``first`` is not there.
    """
    others = [path for path in run.artifacts() if path != first]
    if others and not first.exists():
        raise StorageError(
            f"{run.folder} holds {others[0].name} already, and its files would be of two networks",
            "Choose another --run",
        )


def run_named(name: str) -> Run:
    """Return the run of that name, whether it exists or not.

    Args:
        name: a folder under ``runs/``, by its name or as shells complete it, ``runs/NAME/``.

    Raises:
        OptionError: it would be a folder elsewhere, or is no name that can be shown and kept.
    """
    if len(os.fsencode(name)) > LONGEST_NAME or CONTROL.search(name):
        raise OptionError(
            "the name of the run is too long, or has characters that cannot be shown",
            f"Pass --run with a name of one line and at most {LONGEST_NAME} bytes",
        )
    path = Path(name)
    folder = path if path.parent == RUNS else RUNS / path
    if folder.parent != RUNS or not path.name or path.name == "..":
        raise OptionError(
            f"'{name}' is not the name of a folder directly under {RUNS}/",
            "Pass --run with a name without slashes",
        )
    return Run(folder)


def find_run(name: str | None, needs: str, width: float | None = None) -> Run:
    """Return the named run, or the newest one that has the file ``needs`` and matches ``width``.

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
        run = run_named(name)
        path = run.path(needs)
        if not run.folder.is_dir():
            raise no_such_run(name)
        if not path.is_file():
            raise ModelError(f"run '{name}' has no {path.name}", _stage_hint(needs, run))
        found = recorded_width(path)
        if width is not None and found is not None and found != width:
            raise ModelError(
                f"run '{name}' has width {found:g}, not {width:g}",
                "Leave --width out, or choose another --run",
            )
        return run
    runs = [Run(folder) for folder in RUNS.glob("*") if Run(folder).path(needs).is_file()]
    if width is not None:
        runs = [run for run in runs if recorded_width(run.path(needs)) == width]
    if not runs:
        which = f"no run of width {width:g}" if width is not None else "no run"
        file = Run(Path()).path(needs).name
        raise ModelError(f"{which} under {RUNS}/ holds {file}", _stage_hint(needs))
    return max(runs, key=lambda run: run.path(needs).stat().st_mtime)


def find_model(
    model: Path | None,
    run: str | None,
    needs: str,
    width: float | None,
    tell: Callable[[str], None],
) -> Path:
    """Return the model file given, or else that of a run.

    Args:
        model: the file, if it is given.
        run: the run; None takes the newest that has the file.
        needs: an attribute of Run, such as ``folded``.
        width: only consider runs of this width multiplier.
        tell: is told what was taken.

    Raises:
        ModelError: there is no such run, or it lacks the file.
        OptionError: a file is given and a run besides.
    """
    if model is not None:
        refuse_two_choices([model], run, width)
        return model
    found = find_run(run, needs, width).path(needs)
    tell(f"taking {found}")
    return found


def refuse_two_choices(models: list[Path] | None, run: str | None, width: float | None) -> None:
    """Refuse options that choose a run where files are given, which would make nothing of them.

    Raises:
        OptionError: there are both, and a file is not of that run.
    """
    for model in models or ():
        if run is not None and model.resolve().parent != run_named(run).folder.resolve():
            raise OptionError(
                f"both the file {model} and --run {run} say which model to take",
                "Pass one of the two",
            )
        if width is not None:
            raise OptionError(
                f"--width chooses among runs, and the file {model} is given", "Leave --width out"
            )


def no_such_run(name: str) -> ModelError:
    """Return the error that names the runs there are."""
    known = ", ".join(sorted(r.name for r in RUNS.glob("*") if r.is_dir()))
    return ModelError(
        f"there is no run '{name}' under {RUNS}/",
        f"Choose one of {known}" if known else NO_RUN_YET,
    )


def runnable_models(
    models: list[Path] | None, run: str | None, width: float | None, tell: Callable[[str], None]
) -> list[Path]:
    """Return the model files given, or else all of a run's, without a checkpoint if torch lacks.

    Args:
        models: the files, if they are given.
        run: the run; None takes the newest.
        width: only consider runs of this width multiplier.
        tell: is told what was taken, and what was left out.

    Raises:
        ModelError: there is no such run.
        OptionError: files are given, and a width besides.
    """
    if models:
        refuse_two_choices(models, None, width)
        return models
    found = find_run(run, "start", width)
    taken = list(found.artifacts())
    if found.checkpoint in taken and importlib.util.find_spec("torch") is None:
        taken.remove(found.checkpoint)
        tell(f"leaving out {found.checkpoint}: torch is not installed")
    tell(f"taking {', '.join(map(str, taken))}")
    return taken


def run_of(model: Path) -> Run | None:
    """Return the run in whose folder a model file lies, if any."""
    folder = model.resolve().parent
    return Run(model.parent) if folder.parent == RUNS.resolve() else None


def recorded_width(path: Path) -> float | None:
    """Return the width multiplier in a model file's sidecar, if it says one."""
    sidecar = read_sidecar(path)
    return sidecar.facts.model.width if sidecar and sidecar.facts.model else None


def _stage_hint(needs: str, run: Run | None = None) -> str:
    first = next(iter(run.artifacts()), None) if run else None
    if run and first and needs in BEGINNINGS and first.name in AFTER_IMPORT:
        return (
            f"It was imported as {first.name}, which needs none: go on with "
            f"'mobilenet-cli {AFTER_IMPORT[first.name]} --run {run.name}'"
        )
    stages = {
        "checkpoint": f"train' or '{IMPORT}",
        "start": f"train' or '{IMPORT}",
        "deployed": "run",
        "fp32": "export",
        "folded": "simplify",
        "int8": "quantize",
        "fp16": "convert --fp16",
        "evaluation": "evaluate",
        "bench": "bench",
    }
    return (
        f"Make it first with 'mobilenet-cli {stages[needs]}{f' --run {run.name}' if run else ''}'"
    )
