"""The command line: the only place that prints, prompts or exits. One command is one stage call."""

import contextlib
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console

from mobilenet_cli.pipeline.errors import Interrupted, MobilenetError
from mobilenet_cli.pipeline.progress import Progress

if TYPE_CHECKING:
    from mobilenet_cli.pipeline.artifacts.artifact import Artifact
    from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig
    from mobilenet_cli.pipeline.importing.import_onnx import AdoptConfig
    from mobilenet_cli.reports.records.accuracy import EvaluationRecord, Metric
    from mobilenet_cli.reports.records.training import TrainRecord

# Stages are imported inside the commands: torch and onnxruntime take seconds, --help must not.

CPU = "CPUExecutionProvider"  # as in pipeline/session.py, which takes longer to import than --help

app = typer.Typer(
    name="mobilenet-cli",
    help="Take MobileNet v1 from images to a deployed int8 model, and prove every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True)
P = ParamSpec("P")

RunName = Annotated[
    str | None,
    typer.Option("--run", help="Folder under runs/. Default: the newest run that fits."),
]
Width = Annotated[
    float | None,
    typer.Option("--width", help="Width multiplier; picks the newest run of that width."),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Where to write. Default: into the run's folder.")
]
Model = Annotated[
    Path | None, typer.Argument(help="A model file. Default: the right one of the run.")
]
Data = Annotated[
    str, typer.Option("--data", help="'digits', or images in any format evaluate takes.")
]
Multiplier = Annotated[
    float | None,
    typer.Option("--width", help="Width multiplier, any above 0. Default: 1.0, or --init's."),
]
Resolution = Annotated[
    int | None,
    typer.Option("--resolution", help="Side in pixels. Default: --init's, 224, or digits 32."),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="How to train. Default: quick; with --init, finetune."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a recipe's value: batch=32; may be repeated."),
]
Init = Annotated[
    Path | None,
    typer.Option("--init", help="Checkpoint to start from, with a new head for new classes."),
]
Epochs = Annotated[
    float | None,
    typer.Option(
        "--epochs", help="Passes over the images, such as 10 or 0.1. Default: the recipe's."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is random.")]
Provider = Annotated[
    str, typer.Option("--provider", help="Execution provider of ONNX Runtime, by its full name.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def command(name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Register a command, with ``--debug``, whose errors become a sentence and an exit status.

    2 for what the user can mend, 130 for Ctrl-C; anything else is a bug and shows a traceback.
    """

    def register(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            debug = kwargs.pop("debug")
            try:
                function(*args, **kwargs)
            except MobilenetError as error:
                if debug:
                    raise
                complain(f"{name}: {error}")
                raise typer.Exit(2) from None
            except BrokenPipeError:
                raise  # who reads our output has seen enough; typer leaves quietly
            except OSError as error:
                if debug:
                    raise
                complain(f"{name}: {error}. Check the disk's free space and the permissions.")
                raise typer.Exit(2) from None
            except Interrupted as stopped:
                say(f"{name}: {stopped}")
                raise typer.Exit(stopped.status) from None
            except KeyboardInterrupt:
                console.print(f"{name}: interrupted; earlier files are unchanged")
                raise typer.Exit(130) from None

        # typer reads options from the signature and their types from the annotations.
        own = inspect.signature(function)
        option = inspect.Parameter(
            "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug
        )
        guarded.__signature__ = own.replace(parameters=[*own.parameters.values(), option])  # type: ignore[attr-defined]  # functions do accept it
        guarded.__annotations__ = {**function.__annotations__, "debug": Debug}
        app.command(name)(guarded)
        return function

    return register


def complain(message: str) -> None:
    """Tell the human what is wrong."""
    console.print(message, style="bold red", markup=False, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Tell the human something; standard output stays free for results."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def emit(document: Any, as_json: bool, human: str | None = None) -> None:
    """Print a command's result: the JSON document, or the human's version of it."""
    if as_json:
        print(json.dumps(document, indent=2))
    elif human is not None:
        print(human)


def fetch(*sources: str | None) -> None:
    """Fetch what lies at addresses, with a bar, before a stage opens it."""
    from mobilenet_cli.data.readers.remote import is_address, local_copy

    for source in sources:
        if source is not None and is_address(source):
            with progress_bar("fetching", "files") as progress:
                local_copy(source, progress)


@contextlib.contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Progress]:
    """A bar with rate and time left on a terminal; a stage calls what this yields."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(title, total=None, note="", rate="")

        def update(done: int, total: int, note: str = "") -> None:
            speed = bars.tasks[task].speed or 0.0
            rate = f"{speed:.0f} {unit}/s" if speed else ""
            bars.update(task, completed=done, total=total, note=note, rate=rate)

        yield update


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        import importlib.metadata

        print(f"mobilenet-cli {importlib.metadata.version('mobilenet-cli')}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take MobileNet v1 from images to a deployed int8 model, and prove every step."""


def pick(model: Path | None, run: str | None, needs: str, width: float | None = None) -> Path:
    """The model file given, or else the run's, saying which was taken."""
    from mobilenet_cli.pipeline.artifacts.runs import find_run

    if model is not None:
        return model
    path: Path = getattr(find_run(run, needs, width), needs)
    say(f"taking {path}")
    return path


@command("import")
def import_command(
    weights: Annotated[
        str,
        typer.Argument(
            help="Keras .h5, safetensors or torch file, TensorFlow checkpoint or frozen graph, a "
            "folder from the Hugging Face hub, a hub id such as google/mobilenet_v1_1.0_224, or "
            "any float classifier as .onnx."
        ),
    ],
    width: Annotated[
        float | None, typer.Option("--width", help="Refuse weights of another width multiplier.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Input side in pixels. Default: the file's.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="One class identifier a line. Default: ImageNet's."),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option("--activation", help="relu or relu6, where the file does not tell."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.")
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            "--normalization",
            help="Of pixels, for an .onnx file: inception (to -1..1) or imagenet (mean and std).",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Folder under runs/. Default: by the network.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn weights of Keras, Hugging Face, timm, torch or TensorFlow into a checkpoint."""
    from mobilenet_cli.pipeline.artifacts.runs import RUNS, Run
    from mobilenet_cli.pipeline.errors import OptionError
    from mobilenet_cli.pipeline.importing.import_onnx import AdoptConfig
    from mobilenet_cli.pipeline.importing.import_weights import (
        ImportConfig,
        read_source,
        run_name,
        write_checkpoint,
    )

    if activation not in (None, "relu", "relu6"):
        raise OptionError(f"unknown activation '{activation}'", "Pass relu or relu6")
    if weights.endswith(".onnx"):
        refuse_options("an .onnx file", width=width, activation=activation, revision=revision)
        import_onnx(weights, AdoptConfig(normalization, resolution, classes), run, as_json)
        return
    refuse_options("anything but an .onnx file", normalization=normalization)
    config = ImportConfig(width, resolution, classes, activation, revision)  # type: ignore[arg-type]  # checked above
    imported = read_source(weights, config)
    target = Run(RUNS / (run or run_name(imported.facts)))
    made = write_checkpoint(imported, target.checkpoint)
    record = imported.record
    for note in record.notes:
        say(f"import: {note}")
    spec = imported.facts.model
    assert spec is not None  # an import always has one
    document = {
        **record.model_dump(mode="json"),
        "run": target.name,
        "checkpoint": str(made.path),
        "classes": record.outputs,
        "width": spec.width,
        "resolution": imported.facts.input.resolution,
    }
    emit(
        document,
        as_json,
        f"{made.path}: {record.layout} weights, width {spec.width:g}, resolution "
        f"{imported.facts.input.resolution}, {record.parameters:,} parameters, "
        f"{record.outputs} classes",
    )


def refuse_options(what: str, **options: object) -> None:
    """Options that would be ignored are errors."""
    from mobilenet_cli.pipeline.errors import OptionError

    for name, value in options.items():
        if value is not None:
            raise OptionError(f"--{name} says nothing about {what}", "Leave it out")


def import_onnx(source: str, config: "AdoptConfig", run: str | None, as_json: bool) -> None:
    """Take an ONNX classifier into a run: as fp32.onnx, or folded.onnx where nothing is to fold."""
    from mobilenet_cli.pipeline.artifacts.runs import RUNS, Run
    from mobilenet_cli.pipeline.importing.import_onnx import needs_folding, read_onnx
    from mobilenet_cli.pipeline.importing.import_weights import write_checkpoint

    imported = read_onnx(Path(source), config)
    target = Run(RUNS / (run or Path(source).stem))
    unfolded = needs_folding(imported.content)
    made = write_checkpoint(imported, target.fp32 if unfolded else target.folded)
    record = imported.record
    for note in record.notes:
        say(f"import: {note}")
    document = {
        **record.model_dump(mode="json"),
        "run": target.name,
        "checkpoint": str(made.path),
        "classes": record.outputs,
        "resolution": imported.facts.input.resolution,
    }
    step = "simplify" if unfolded else "quantize"
    emit(
        document,
        as_json,
        f"{made.path}: resolution {imported.facts.input.resolution}, {record.parameters:,} "
        f"parameters, {record.outputs} classes; next: mobilenet-cli {step} --run {target.name}",
    )


@command("train")
def train_command(
    data: Data = "digits",
    width: Multiplier = None,
    resolution: Resolution = None,
    recipe: RecipeName = None,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="Show the recipes and their values, and leave.")
    ] = False,
    changes: Changes = None,
    init: Init = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    precision: Annotated[
        str,
        typer.Option(
            "--precision", help="fp32; bf16 or, on a GPU, fp16 for automatic mixed precision."
        ),
    ] = "fp32",
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Also write curves for TensorBoard, into the run."),
    ] = False,
    qat: Annotated[
        bool,
        typer.Option("--qat", help="Learn through the grids of 'quantize', from --init's weights."),
    ] = False,
    target: Annotated[
        str, typer.Option("--target", help="With --qat: as for 'quantize'. Default: this machine.")
    ] = "auto",
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            help="A model, ONNX or a checkpoint, whose opinion is part of the loss "
            "(--set teacher_share=0.5).",
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Train through torch.compile, which takes a minute.")
    ] = False,
    sync_norms: Annotated[
        bool,
        typer.Option("--sync-norms", help="BatchNorm over the images of all processes, on GPUs."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Insist on going on with an interrupted training of the same options; "
            "without it, one is taken up where there is one.",
        ),
    ] = False,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Folder under runs/ to make. Default: from the options."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a network on images or on the built-in digits, from nothing or from a checkpoint."""
    from dataclasses import asdict

    from mobilenet_cli.pipeline.artifacts.runs import RUNS, Run
    from mobilenet_cli.pipeline.training.config import TrainConfig
    from mobilenet_cli.pipeline.training.interruption import interruption
    from mobilenet_cli.pipeline.training.recipes import RECIPES
    from mobilenet_cli.pipeline.training.setup import resolve
    from mobilenet_cli.pipeline.training.train import train

    if list_recipes:
        tables = {name: asdict(row) for name, row in RECIPES.items()}
        emit(tables, as_json, "\n\n".join(recipe_text(*item) for item in tables.items()))
        return
    config = TrainConfig(
        data=data,
        width=width,
        resolution=resolution,
        recipe=recipe,
        epochs=epochs,
        seed=seed,
        init=str(init) if init else None,
        changes=tuple(changes or ()),
        precision=precision,
        tensorboard=tensorboard,
        qat=qat,
        target=target,
        teacher=str(teacher) if teacher else None,
        compiled=compiled,
        sync_norms=sync_norms,
        resume=resume,
    )
    made_in = Run(RUNS / (run or resolve(config).run_name))
    fetch(data)
    with progress_bar("training", "images") as progress, interruption(made_in.name) as stop:
        made = train(config, made_in.checkpoint, progress, stop)
    if int(os.environ.get("RANK", "0")):
        return  # of several processes the first one speaks
    record = made.record
    for name in record.bad_images:
        say(f"left out, cannot be read: {name}")
    say_replaced(made)
    if record.start_top1 is not None:
        kept = (
            ""
            if record.kept_epoch
            else "; training found nothing better: the checkpoint was kept as it was"
        )
        say(f"quantized, before any training: top-1 {record.start_top1:.2f} %{kept}")
    emit(
        {"run": made_in.name, "checkpoint": str(made.path), **record.model_dump(mode="json")},
        as_json,
        f"{made.path}: top-1 {record.top1:.2f} % of held-out images after {record.epochs} "
        f"epochs, {record.images_per_second:.0f} images/s; curves in "
        f"{made.path.with_name('curves.png')}",
    )


def say_replaced(checkpoint: "Artifact[TrainRecord]") -> None:
    """Where the checkpoint of other settings is that was there before."""
    if name := checkpoint.record.replaced:
        kept = checkpoint.path.with_name(name)
        say(f"there was a checkpoint of other settings, which is kept as {kept}")


def recipe_text(name: str, values: dict[str, Any]) -> str:
    """A recipe as lines for people."""
    numbers = {k: v for k, v in values.items() if type(v) in (int, float)}
    settings = " ".join(f"{key}={value:g}" for key, value in numbers.items() if value)
    return (
        f"{name}: {values['note']}\n  expected: {values['expected']}\n"
        f"  from {values['source']}\n  optimizer={values['optimizer']} {settings}"
    )


@command("export")
def export_command(
    width: Width = None,
    run: RunName = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A checkpoint outside the runs.")
    ] = None,
    out: Out = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set to write.")] = 18,
    as_json: Json = False,
) -> None:
    """Write the checkpoint as ONNX with its BatchNorms, proven equal to torch at batch 1, 2, 7."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.exporting.export import ExportConfig, export

    source = load_artifact(pick(checkpoint, run, "checkpoint", width))
    with console.status("exporting"):
        made = export(source, ExportConfig(opset=opset), out or source.path.with_name("fp32.onnx"))
    emit(
        {"model": str(made.path), **made.record.model_dump(mode="json")},
        as_json,
        f"{made.path}: {made.record.batch_norms} BatchNorms kept, "
        f"largest difference to torch {made.record.max_abs_error:.1e}",
    )


@command("simplify")
def simplify_command(
    model: Model = None,
    run: RunName = None,
    width: Width = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Images for the comparison. Default: the training data."),
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fold BatchNorm into the convolutions, proven equal on images and channel by channel."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify

    source = load_artifact(pick(model, run, "fp32", width))
    with console.status("simplifying"):
        made = simplify(
            source, SimplifyConfig(data=data), out or source.path.with_name("folded.onnx")
        )
    record = made.record
    emit(
        {"model": str(made.path), **record.model_dump(mode="json")},
        as_json,
        f"{made.path}: BatchNorms {record.batch_norms_before} -> {record.batch_norms_after}, "
        f"{record.channels_checked} channels checked, largest logit difference "
        f"{record.max_abs_error:.1e} on {record.images} images ({record.images_from})",
    )


def models_of(
    models: list[Path] | None, run: str | None, width: float | None, needs: str = "start"
) -> list[Path]:
    """The model files given, or else all of the run's, saying which were taken.

    A checkpoint is left out, and said to be, where torch is not installed.
    """
    import importlib.util

    from mobilenet_cli.pipeline.artifacts.runs import find_run

    if models:
        return models
    found = find_run(run, needs, width)
    taken = found.artifacts()
    if importlib.util.find_spec("torch") is None:
        taken = tuple(path for path in taken if path != found.checkpoint)
        say(f"leaving out {found.checkpoint}: torch is not installed")
    say(f"taking {', '.join(map(str, taken))}")
    return list(taken)


def fit_for_provider(paths: list[Path], provider: str) -> list[Path]:
    """Of a run's models, those worth running on a GPU: int8 is for TensorRT, and made for it."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.runtime.session import PROVIDERS

    def fits(path: Path) -> bool:
        facts = load_artifact(path).facts
        made_for = facts.config.get("target") if facts.stage == "quantize" else None
        return made_for is None or (made_for, provider) == ("tensorrt", "TensorrtExecutionProvider")

    known = PROVIDERS.get(provider)
    if known is None or not known.device:
        return paths
    for path in paths:
        if not fits(path):
            say(f"leaving out {path}: its int8 is for CPUs; name it to measure it all the same")
    return [path for path in paths if fits(path)]


def run_loadgen(
    paths: list[Path],
    scenario: str,
    accuracy: bool,
    server_qps: float | None,
    config: "BenchConfig",
    out: Path | None,
    as_json: bool,
) -> None:
    """Run an MLPerf scenario on each ONNX file; checkpoints have none."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.artifacts.files import is_checkpoint, write_atomically
    from mobilenet_cli.pipeline.benchmarking.mlperf import LoadgenConfig, run_scenario
    from mobilenet_cli.pipeline.runtime.machine import machine
    from mobilenet_cli.reports.latency_tables import loadgen_markdown
    from mobilenet_cli.reports.records.latency import LoadgenReport

    settings = LoadgenConfig(
        scenario=scenario,
        accuracy=accuracy,
        seconds=config.seconds,
        batch=max(config.batches),
        server_qps=server_qps,
        session=config.sessions()[0],
        data=config.data,
    )
    results = []
    for path in paths:
        if is_checkpoint(path):
            say(f"leaving out {path}: LoadGen runs ONNX files")
            continue
        with console.status(f"{scenario}: {path}"):
            results.append(run_scenario(load_artifact(path), settings))
    report = LoadgenReport(machine=machine(), results=tuple(results))
    if out is not None:
        write_atomically(out, (report.model_dump_json(indent=2) + "\n").encode())
    emit(report.model_dump(mode="json"), as_json, loadgen_markdown(report))


@command("bench")
def bench_command(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="ONNX files or checkpoints. Default: all artifacts of the run."),
    ] = None,
    run: RunName = None,
    width: Width = None,
    provider: Provider = CPU,
    threads: Annotated[
        str, typer.Option("--threads", help="Threads per operator; several, as in 1,all.")
    ] = "all",
    batch: Annotated[
        str, typer.Option("--batch", help="Images per run; several, as in 1,8,32.")
    ] = "1",
    seconds: Annotated[
        float, typer.Option("--seconds", help="Most time to spend on timing one row.")
    ] = 5.0,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Input images, or 'noise'. Default: the training data."),
    ] = None,
    provider_options: Annotated[
        list[str] | None,
        typer.Option("--provider-option", help="Such as use_tf32=0; may be repeated."),
    ] = None,
    allow_fallback: Annotated[
        bool,
        typer.Option("--allow-fallback", help="Let the CPU run what the provider cannot."),
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also run checkpoints through torch.compile.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="An earlier bench.json to compare with.")
    ] = None,
    max_slowdown: Annotated[
        str, typer.Option("--max-slowdown", help="Exit with 1 when a row got slower by more.")
    ] = "5%",
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", help="MLPerf LoadGen: single-stream, offline or server."),
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="With --scenario: top-1 instead of time.")
    ] = False,
    server_qps: Annotated[
        float | None,
        typer.Option("--server-qps", help="With --scenario server: queries per second."),
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure latency, throughput, cold start and memory of every artifact, interleaved."""
    from mobilenet_cli.pipeline.artifacts.files import write_atomically
    from mobilenet_cli.pipeline.artifacts.runs import Run
    from mobilenet_cli.pipeline.benchmarking.baseline import load_baseline, slowdowns
    from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig, bench
    from mobilenet_cli.pipeline.benchmarking.inputs import open_model
    from mobilenet_cli.pipeline.benchmarking.options import (
        parse_batches,
        parse_options,
        parse_percent,
        parse_threads,
    )
    from mobilenet_cli.reports.latency_tables import bench_markdown

    allowed = parse_percent(max_slowdown)
    before = load_baseline(baseline) if baseline else None
    config = BenchConfig(
        provider=provider,
        provider_options=parse_options(provider_options or []),
        allow_fallback=allow_fallback,
        threads=parse_threads(threads),
        batches=parse_batches(batch),
        seconds=seconds,
        data=data,
        compiled=compiled,
    )
    paths = models or fit_for_provider(models_of(models, run, width), provider)
    if scenario:
        run_loadgen(paths, scenario, accuracy, server_qps, config, out, as_json)
        return
    fetch(data)
    with progress_bar("bench", "%") as progress:
        record = bench([open_model(path) for path in paths], config, progress)
    target = out or (None if models else Run(paths[0].parent).bench)
    if target is not None:
        write_atomically(target, (record.model_dump_json(indent=2) + "\n").encode())
        say(f"wrote {target}")
    emit(record.model_dump(mode="json"), as_json, bench_markdown(record))
    worse = slowdowns(record, before, allowed) if before else []
    for row in worse:
        say(f"slower than {baseline}: {row}")
    if worse:
        raise typer.Exit(1)


@command("evaluate")
def evaluate_command(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Model files. Default: all artifacts of the run."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Labelled images: a folder of class folders, or 'digits'. "
            "Default: the held-out part of the training data.",
        ),
    ] = None,
    run: RunName = None,
    width: Width = None,
    provider: Provider = CPU,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    as_json: Json = False,
) -> None:
    """Measure top-1 and top-5 accuracy, with 95 % confidence intervals."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.artifacts.runs import RUNS, Run, run_of
    from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate, evaluate_into

    target = Run(RUNS / run) if run else None
    config = EvaluateConfig(data=data, provider=provider, strict=strict)
    fetch(data)
    records = []
    for path in models_of(models, run, width):
        with progress_bar(f"evaluating {path.name}", "images") as progress:
            home = target or run_of(path)
            record = (
                evaluate_into(home, load_artifact(path), config, progress)
                if home
                else evaluate(load_artifact(path), config, progress)
            )
        records.append(record)
        if record.bad_images:
            shown = ", ".join(record.bad_images[:10])
            say(f"{len(record.bad_images)} images cannot be read and were left out: {shown}")
        if not as_json:
            print(
                f"{record.model}: top-1 {percent(record.top1)}, top-5 {percent(record.top5)} "
                f"on {record.images} images of {record.data}, "
                f"{record.images_per_second:.0f} images/s"
            )
    emit([evaluation_json(record) for record in records], as_json)


def percent(metric: "Metric") -> str:
    """A share and its confidence interval, for people."""
    return f"{metric.value:.2f} % [{metric.low:.2f}, {metric.high:.2f}]"


def evaluation_json(record: "EvaluationRecord") -> dict[str, Any]:
    """A record with top1 and top5 as plain numbers, their intervals apart."""
    document: dict[str, Any] = record.model_dump(mode="json")
    for name in ("top1", "top5"):
        metric = getattr(record, name)
        document |= {name: metric.value, f"{name}_interval": [metric.low, metric.high]}
    return document


@command("predict")
def predict_command(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders of them, or - for standard input.")
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to show.")] = 5,
    provider: Provider = CPU,
    as_json: Json = False,
) -> None:
    """Name the most probable classes of images."""
    from mobilenet_cli.data.dataset import Sample
    from mobilenet_cli.data.open_dataset import open_images
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.evaluating.predict import predict

    artifact = load_artifact(model)
    samples: list[Sample] = []
    for source in images:
        if source == "-":
            samples.append(Sample("standard input", None, sys.stdin.buffer.read))
        else:
            samples += open_images([source])
    document: list[dict[str, Any]] = []
    failed = 0
    for prediction in predict(artifact, samples, top, provider):
        if prediction.error:
            failed += 1
            say(f"predict: {prediction.error}")
            document.append({"image": prediction.image, "error": prediction.error.what})
            continue
        guesses = [
            {"class": g.identifier, "name": g.name, "probability": g.probability}
            for g in prediction.guesses
        ]
        document.append({"image": prediction.image, "predictions": guesses})
        if not as_json:
            print(prediction.image)
            for g in prediction.guesses:
                print(f"  {g.probability:7.2%}  {g.name}")
    emit(document, as_json)
    if failed:
        raise typer.Exit(2)


@command("convert")
def convert_command(
    model: Model = None,
    run: RunName = None,
    width: Width = None,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Half precision, input and output in float32.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Images for the comparison. Default: the training data."),
    ] = None,
    provider: Provider = CPU,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Write the model in another precision for GPUs, proven close on images."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.errors import OptionError
    from mobilenet_cli.pipeline.exporting.convert import ConvertConfig, convert_fp16

    if not fp16:
        raise OptionError("no precision to convert to was named", "Pass --fp16")
    source = load_artifact(pick(model, run, "folded", width))
    config = ConvertConfig(data=data, provider=provider)
    with console.status("converting"):
        made = convert_fp16(source, config, out or source.path.with_name("fp16.onnx"))
    record = made.record
    emit(
        {"model": str(made.path), **record.model_dump(mode="json")},
        as_json,
        f"{made.path}: {record.sqnr_db:.1f} dB from float32 on {record.images} images "
        f"({record.images_from}, {record.provider}), same top-1 on "
        f"{100 * record.agreement:.1f} %",
    )


@command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(help="An ONNX file, a checkpoint, or a training.pt.")],
    as_json: Json = False,
) -> None:
    """Show what a model file holds, what it says about itself and what it was made from."""
    from mobilenet_cli.pipeline.inspecting.inspect_file import inspect_file
    from mobilenet_cli.reports.terminal import inspect_text

    record = inspect_file(file)
    emit(record.model_dump(mode="json"), as_json, inspect_text(record))


@command("doctor")
def doctor_command(as_json: Json = False) -> None:
    """Look for what keeps commands from working, or makes them slow; exit 1 on a problem."""
    from mobilenet_cli.pipeline.runtime.doctor import doctor
    from mobilenet_cli.reports.terminal import doctor_text

    record = doctor()
    emit(record.model_dump(mode="json"), as_json, doctor_text(record))
    if any(finding.status == "problem" for finding in record.findings):
        raise typer.Exit(1)


@command("quantize")
def quantize_command(
    model: Model = None,
    calib_dir: Annotated[
        str | None,
        typer.Option(
            "--calib-dir", help="Images to calibrate on. Default: the model's training images."
        ),
    ] = None,
    calib_count: Annotated[
        int, typer.Option("--calib-count", help="How many images to use, of all classes alike.")
    ] = 256,
    calibrator: Annotated[
        str, typer.Option("--calibrator", help="minmax, percentile, entropy or mse.")
    ] = "minmax",
    target: Annotated[
        str,
        typer.Option("--target", help="auto (this CPU), avx2, avx512, vnni, amx, arm64, tensorrt."),
    ] = "auto",
    cross: Annotated[
        bool, typer.Option("--cross", help="For another machine: do not prove it on this one.")
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="Keep the fewest layers in float by which top-1 drops no more than so many "
            "points, such as 0.3. Quantizes again and again: minutes.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Labelled images to measure --max-drop on. Default: the model's evaluation set.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of images.")] = 0,
    run: RunName = None,
    width: Width = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Make the int8 model: calibrate, round, correct biases, and prove it on the real kernels."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
    from mobilenet_cli.pipeline.quantizing.quantize import quantize

    source = load_artifact(pick(model, run, "folded", width))
    config = QuantizeConfig(
        calib_dir=calib_dir,
        calib_count=calib_count,
        calibrator=calibrator,
        target=target,
        cross=cross,
        max_drop=max_drop,
        data=data,
        seed=seed,
    )
    fetch(calib_dir, data)
    with progress_bar("quantizing", "images") as progress:
        made = quantize(source, config, out or source.path.with_name("int8.onnx"), progress)
    record = made.record
    for name in record.bad_images:
        say(f"left out, cannot be read: {name}")
    for name in record.leakage:
        say(f"warning: {name} is also in the evaluation set {record.leakage_checked}")
    for name in record.float_layers:
        say(f"kept in float: {name}")
    for layer in record.kept_float:
        say(
            f"with {layer.name} in float: top-1 drops by {layer.drop:.2f} points, "
            f"{layer.p50_ms:.2f} ms, {layer.slowdown:.2f} of the integer model's time"
        )
    if record.drop is not None:
        say(
            f"top-1 drops by {record.drop:.2f} points on {record.drop_images} images of "
            f"{record.drop_data}; up to {record.max_drop:g} were allowed"
        )
    where = "in simulation, not proven on this machine" if cross else "on the integer kernels"
    emit(
        {"model": str(made.path), **record.model_dump(mode="json")},
        as_json,
        f"{made.path}: int8 for {record.target}, {record.images} calibration images, "
        f"{100 * record.agreement:.1f} % agreement and {record.sqnr_db:.1f} dB SQNR with "
        f"float {where}",
    )


@command("report")
def report_command(
    runs: Annotated[
        list[str] | None, typer.Argument(help="With --compare: two runs or more.")
    ] = None,
    run: RunName = None,
    width: Width = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Put runs side by side, the first against the rest.")
    ] = False,
    all_runs: Annotated[
        bool, typer.Option("--history", help="List every run under runs/, oldest first.")
    ] = False,
    into: Annotated[
        Path | None,
        typer.Option("--into", help="Also bring the marked tables of a Markdown file up to date."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what is known about a run as a page, Markdown, JSON and a model card."""
    from mobilenet_cli.pipeline.artifacts.runs import RUNS, Run, find_run
    from mobilenet_cli.pipeline.errors import OptionError
    from mobilenet_cli.pipeline.reporting.compare import (
        compare_runs,
        history,
        write_comparison,
        write_history,
    )
    from mobilenet_cli.pipeline.reporting.report import embed_into, report
    from mobilenet_cli.reports.compare import comparison_markdown, history_markdown
    from mobilenet_cli.reports.terminal import report_text

    if compare and not all_runs and not run:
        compared = compare_runs([Run(RUNS / name) for name in runs or []])
        paths = write_comparison(compared, RUNS)
        emit(
            compared.model_dump(mode="json") | {"report": as_text(paths)},
            as_json,
            comparison_markdown(compared),
        )
        say(f"wrote {', '.join(as_text(paths).values())}")
        return
    if runs or compare:
        raise OptionError(
            "runs are named with --compare alone", "Pass --compare A B, or --run A for one report"
        )
    if all_runs:
        past = history(RUNS)
        paths = write_history(past, RUNS)
        emit(
            past.model_dump(mode="json") | {"report": as_text(paths)},
            as_json,
            history_markdown(past),
        )
        say(f"wrote {', '.join(as_text(paths).values())}")
        return
    target = Run(RUNS / run) if run else find_run(None, "checkpoint", width)
    record, paths = report(target)
    if into is not None:
        embed_into(into, record)
    emit(
        {"run": target.name, "report": as_text(paths)},
        as_json,
        report_text(record),
    )
    say(f"wrote {', '.join(as_text(paths).values())}")


def as_text(paths: Mapping[str, Path]) -> dict[str, str]:
    """Paths by format, as JSON has them."""
    return {form: str(path) for form, path in paths.items()}


@command("run")
def run_command(
    data: Data = "digits",
    width: Multiplier = None,
    resolution: Resolution = None,
    recipe: RecipeName = None,
    changes: Changes = None,
    init: Init = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    calib_dir: Annotated[
        str | None,
        typer.Option("--calib-dir", help="Images to calibrate on. Default: the training images."),
    ] = None,
    calib_count: Annotated[
        int, typer.Option("--calib-count", help="How many images to calibrate on.")
    ] = 256,
    calibrator: Annotated[
        str, typer.Option("--calibrator", help="minmax, percentile, entropy or mse.")
    ] = "minmax",
    target: Annotated[
        str, typer.Option("--target", help="As for quantize; auto is this CPU.")
    ] = "auto",
    provider: Provider = CPU,
    threads: Annotated[
        str, typer.Option("--threads", help="Threads per operator; several, as in 1,all.")
    ] = "all",
    batch: Annotated[
        str, typer.Option("--batch", help="Images per benchmark run; several, as in 1,8,32.")
    ] = "1",
    seconds: Annotated[
        float, typer.Option("--seconds", help="Most time to spend on timing one row.")
    ] = 5.0,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Folder under runs/. Default: from the options."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take images through the whole chain to the report, skipping what is up to date."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_with_record
    from mobilenet_cli.pipeline.artifacts.runs import RUNS, Run
    from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig
    from mobilenet_cli.pipeline.benchmarking.options import parse_batches, parse_threads
    from mobilenet_cli.pipeline.chain import ChainConfig, run_chain
    from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
    from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
    from mobilenet_cli.pipeline.training.config import TrainConfig
    from mobilenet_cli.pipeline.training.setup import resolve
    from mobilenet_cli.reports.records.training import TrainRecord
    from mobilenet_cli.reports.terminal import report_text

    config = ChainConfig(
        train=TrainConfig(
            data=data,
            width=width,
            resolution=resolution,
            recipe=recipe,
            epochs=epochs,
            seed=seed,
            init=str(init) if init else None,
            changes=tuple(changes or ()),
        ),
        quantize=QuantizeConfig(
            calib_dir=calib_dir,
            calib_count=calib_count,
            calibrator=calibrator,
            target=target,
            seed=seed,
        ),
        evaluate=EvaluateConfig(provider=provider),
        bench=BenchConfig(
            provider=provider,
            threads=parse_threads(threads),
            batches=parse_batches(batch),
            seconds=seconds,
        ),
    )
    target_run = Run(RUNS / (run or resolve(config.train).run_name))
    fetch(data, calib_dir)
    result = run_chain(target_run, config, progress_bar)
    if result.skipped:
        say(f"up to date: {', '.join(result.skipped)}")
    if "train" not in result.skipped:
        say_replaced(load_with_record(target_run.checkpoint, TrainRecord))
    stages: dict[str, dict[str, Any]] = {
        stage: {"model": str(model.path), **model.record.model_dump(mode="json")}
        for stage, model in result.models.items()
    }
    stages["train"] |= {"run": target_run.name, "checkpoint": stages["train"].pop("model")}
    document = {
        "run": target_run.name,
        "skipped": list(result.skipped),
        **stages,
        "evaluate": [evaluation_json(record) for record in result.evaluations],
        "bench": result.bench.model_dump(mode="json"),
        "report": as_text(result.report_paths),
    }
    emit(document, as_json, report_text(result.report))
    say(f"wrote {', '.join(as_text(result.report_paths).values())}")


def main() -> None:
    """Entry point of the ``mobilenet-cli`` program."""
    sys.exit(app())
