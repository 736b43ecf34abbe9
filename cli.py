"""The command line: the only place that prints, prompts or exits. One command is one stage call.

Stages are imported inside the commands: torch and ONNX Runtime take seconds, ``--help`` must not.
"""

import contextlib
import functools
import importlib.metadata
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console

from mobilenet_cli.pipeline.errors import MobilenetError, mendable
from mobilenet_cli.pipeline.progress import bar, fetch_addresses
from mobilenet_cli.pipeline.runtime import stopping
from mobilenet_cli.reports.meant import Guided, GuidedGroup, UsageError
from mobilenet_cli.reports.options import OPTIONS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mobilenet_cli.pipeline.artifacts.artifact import Artifact

CPU = "CPUExecutionProvider"  # as in runtime/session.py, which takes longer to import than --help
STOPPED, MENDABLE, GATE, BUG = 130, 2, 1, 70  # exit statuses; 70 is EX_SOFTWARE of sysexits.h


class Commands(GuidedGroup):
    """The commands answer with ``--json`` in JSON even to what they do not understand."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is named."""
        given = (*ctx._protected_args, *ctx.args)
        try:
            return super().invoke(ctx)
        except UsageError as error:
            if "--json" in given:
                name = error.ctx.info_name if error.ctx is not None and error.ctx.parent else ""
                cure = f"See mobilenet-cli {name} --help".replace("  ", " ")
                found = {"command": name, "error": error.format_message(), "fix": cure}
                print(as_json_text(found))
            raise


app = typer.Typer(
    name="mobilenet-cli",
    cls=Commands,
    help="Take MobileNets from images to a deployed int8 model, and prove every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True)
console.on_broken_pipe = stopping.leave_quietly  # type: ignore[method-assign]  # rich exits with 1
# Help that is not read to its end, as by head, is no failure either.
Console.on_broken_pipe = lambda _: stopping.leave_quietly(0)  # type: ignore[method-assign,assignment]
# Shows a bar with rate and time left on a terminal; a stage calls what this yields.
progress_bar = functools.partial(bar, console)
fetch = functools.partial(fetch_addresses, progress_bar)  # before a stage opens what lies there
P = ParamSpec("P")

# -- what the commands share -----------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """What a command has found.

    Attributes:
        document: the result as JSON.
        text: the result for people; empty where the command has printed it already.
        status: the exit status.
        wrote: the files that were written, named on standard error.
        notes: what else the user must know, said on standard error.
    """

    document: Any
    text: str = ""
    status: int = 0
    wrote: Sequence[Path] = ()
    notes: Sequence[str] = ()


def command(name: str) -> Callable[[Callable[P, Output]], Callable[P, Output]]:
    """Register a command with its options from ``OPTIONS``, and with ``--json`` and ``--debug``.

    Its result is printed here, and its errors become a sentence and an exit status: 2 for what the
    user can mend, 130 for Ctrl-C; anything else is a bug and shows a traceback.
    """

    def register(function: Callable[P, Output]) -> Callable[P, Output]:
        streams = "as_json" in inspect.signature(function).parameters  # it prints as it goes

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            debug = kwargs.pop("debug")
            as_json = bool(kwargs["as_json"] if streams else kwargs.pop("as_json"))
            try:
                stopping.refuse_removed_folder()
                with stopping.stoppable():
                    show(function(*args, **kwargs), as_json)
            except BrokenPipeError:
                stopping.leave_quietly()
            except KeyboardInterrupt as stopped:
                say(f"{name}: {str(stopped) or 'interrupted; earlier files are unchanged'}")
                raise typer.Exit(getattr(stopped, "status", STOPPED)) from None
            except (MobilenetError, OSError, ModuleNotFoundError) as error:
                known = mendable(error)
                if known is None:
                    raise
                if debug:
                    traceback.print_exc()
                complain(name, known, as_json)
                raise typer.Exit(MENDABLE) from None

        described = with_options(function)
        guarded.__signature__ = described  # type: ignore[attr-defined]  # functions do accept it
        guarded.__annotations__ = {n: p.annotation for n, p in described.parameters.items()}
        app.command(name, cls=Guided)(guarded)
        return function

    return register


def with_options(function: Callable[..., Output]) -> inspect.Signature:
    """Return the signature from which typer reads a command's options."""
    own = inspect.signature(function)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = dict(own.parameters)
    for name in ("as_json", "debug"):
        parameters.setdefault(name, inspect.Parameter(name, kind, default=False, annotation=bool))
    for name, found in parameters.items():
        parameters[name] = found.replace(annotation=Annotated[found.annotation, OPTIONS[name]])
    return own.replace(parameters=list(parameters.values()))


def complain(name: str, error: MobilenetError, as_json: bool) -> None:
    """Tell the user what is wrong and what to do; with ``--json`` as a document as well."""
    with contextlib.suppress(OSError):  # of a full disk the exit status is left
        say(f"{name}: {error}", "bold red")
    if as_json:
        document = {"command": name, "error": error.what, "fix": error.fix}
        with contextlib.suppress(OSError):  # standard error has the sentence
            print(as_json_text(document), flush=True)


def as_json_text(document: Any) -> str:
    """Write a document as JSON, with nothing in it that is no Unicode."""
    from mobilenet_cli.reports.records.base import printable_values

    return json.dumps(printable_values(document), indent=2)


def say(message: str, style: str = "") -> None:
    """Tell the user something; standard output stays free for results."""
    from mobilenet_cli.reports.terminal import printable

    console.print(printable(message), style=style, markup=False, highlight=False, soft_wrap=True)


def told(text: Callable[[Any], str]) -> Callable[[Any], None]:
    """Return what says a record's text to the user."""
    return lambda record: say(text(record))


def show(output: Output, as_json: bool) -> None:
    """Print a command's result, and leave with its status."""
    from mobilenet_cli.reports.terminal import printable

    for note in output.notes:
        say(note)
    if as_json:
        print(as_json_text(output.document), flush=True)  # a closed pipe is noticed here
    elif output.text:
        print(printable(output.text), flush=True)
    if output.wrote:
        say(f"wrote {', '.join(map(str, output.wrote))}")
    if output.status:
        raise typer.Exit(output.status)


# The types of options that may be left out.
Text = str | None
Float = float | None
File = Path | None
Texts = list[str] | None
Files = list[Path] | None


def source_of(model: File, run: Text, width: Float, needs: str, provider: str = CPU) -> "Artifact":
    """Load the model file given, or else the run's, and say which was taken."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.artifacts.runs import find_model
    from mobilenet_cli.pipeline.deploying.package import model_in
    from mobilenet_cli.pipeline.runtime.session import check_provider

    if model is None:
        check_provider(provider)  # before it is said what is taken; torch may have its own
    return load_artifact(model_in(find_model(model, run, needs, width, say), provider))


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        print(f"mobilenet-cli {importlib.metadata.version('mobilenet-cli')}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take MobileNets from images to a deployed int8 model, and prove every step."""


# -- the commands, in the order of the chain -------------------------------------------------------


@command("train")
def train_command(
    data: str = "digits",
    task: str = "classify",
    architecture: Text = None,
    multiplier: Float = None,
    resolution: int | None = None,
    recipe: Text = None,
    list_recipes: bool = False,
    changes: Texts = None,
    init: File = None,
    epochs: Float = None,
    seed: int = 0,
    precision: str = "fp32",
    tensorboard: bool = False,
    qat: bool = False,
    target: str = "auto",
    teacher: File = None,
    compiled: bool = False,
    sync_norms: bool = False,
    resume: bool = False,
    new_run: Text = None,
) -> Output:
    """Train a network on images or on the built-in digits, from nothing or from a checkpoint."""
    from mobilenet_cli.pipeline.training.recipes import RECIPES
    from mobilenet_cli.reports import terminal

    if list_recipes:
        recipes = {name: asdict(row) for name, row in RECIPES.items()}
        return Output(recipes, terminal.recipes_text(recipes))

    from mobilenet_cli.pipeline.artifacts.runs import run_named
    from mobilenet_cli.pipeline.training.config import TrainConfig, named_model
    from mobilenet_cli.pipeline.training.running.interruption import interruption
    from mobilenet_cli.pipeline.training.setup import resolve
    from mobilenet_cli.pipeline.training.train import train

    config = TrainConfig(
        *(data, multiplier, resolution, recipe, epochs, seed, str(init) if init else None),
        changes=tuple(changes or ()),
        precision=precision,
        tensorboard=tensorboard,
        qat=qat,
        target=target,
        teacher=str(teacher) if teacher else None,
        compiled=compiled,
        sync_norms=sync_norms,
        resume=resume,
        model=named_model(task, architecture),
    )
    target_run = run_named(new_run or resolve(config).run_name)
    fetch(data)
    with progress_bar("training", "images") as progress, interruption(target_run.name) as stop:
        tell = told(terminal.training_text)
        made = train(config, target_run.checkpoint, progress, stop, tell)
    if int(os.environ.get("RANK", "0")):
        raise typer.Exit  # of several processes the first one speaks
    known = {"run": target_run.name, "checkpoint": str(made.path)}
    text, notes = terminal.train_text(made.path, made.record), terminal.train_notes(made.record)
    return Output(known | made.record.model_dump(mode="json"), text, notes=notes)


@command("import")
def import_command(
    weights: str,
    width_check: Float = None,
    resolution: int | None = None,
    classes: File = None,
    activation: Text = None,
    revision: Text = None,
    normalization: Text = None,
    new_run: Text = None,
) -> Output:
    """Turn weights of Keras, Hugging Face, timm, torch or TensorFlow into a checkpoint."""
    from mobilenet_cli.pipeline.importing.import_model import import_model
    from mobilenet_cli.pipeline.importing.import_weights import ImportConfig
    from mobilenet_cli.reports import terminal

    config = ImportConfig(width_check, resolution, classes, activation, revision)  # type: ignore[arg-type]  # it checks
    made, name = import_model(weights, config, normalization, new_run)
    record, spec, side = made.record, made.facts.model, made.facts.input.resolution
    known = {"run": name, "checkpoint": str(made.path), "classes": record.outputs}
    known |= {"resolution": side} | ({"width": spec.width} if spec else {})
    text = terminal.import_text(made.path, record, side, spec.width if spec else None)
    return Output(record.model_dump(mode="json") | known, text, notes=record.notes)


@command("export")
def export_command(
    checkpoint: File = None,
    opset: int = 18,
    nms: bool = False,
    min_score: Float = None,
    run: Text = None,
    width: Float = None,
    out: File = None,
) -> Output:
    """Write the checkpoint as ONNX with its BatchNorms, proven equal to torch at batch 1, 2, 7."""
    from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
    from mobilenet_cli.pipeline.exporting.nms import export_nms, settings
    from mobilenet_cli.reports.terminal import export_text, nms_text

    boxes = settings(min_score, nms)
    if nms:
        source = source_of(checkpoint, run, width, "deployed")
        final = export_nms(source, boxes, out or source.path.with_name("boxes.onnx"))
        return Output(final.as_document(), nms_text(final.path, final.record))
    source = source_of(checkpoint, run, width, "checkpoint")
    with console.status("exporting"):
        made = export(source, ExportConfig(opset=opset), out or source.path.with_name("fp32.onnx"))
    return Output(made.as_document(), export_text(made.path, made.record))


@command("simplify")
def simplify_command(
    model: File = None, images: Text = None, run: Text = None, width: Float = None, out: File = None
) -> Output:
    """Fold BatchNorm into the convolutions, proven equal on images and channel by channel."""
    from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
    from mobilenet_cli.reports.terminal import simplify_text

    source = source_of(model, run, width, "fp32")
    with console.status("simplifying"):
        made = simplify(source, SimplifyConfig(images), out or source.path.with_name("folded.onnx"))
    return Output(made.as_document(), simplify_text(made.path, made.record))


@command("quantize")
def quantize_command(
    model: File = None,
    calib_dir: Text = None,
    calib_count: int = 256,
    calibrator: str = "minmax",
    target: str = "auto",
    cross: bool = False,
    max_drop: Float = None,
    labelled: Text = None,
    seed: int = 0,
    tune: bool = False,
    keep_float: Texts = None,
    run: Text = None,
    width: Float = None,
    out: File = None,
) -> Output:
    """Make the int8 model: calibrate, round, correct biases, and prove it on the real kernels."""
    from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
    from mobilenet_cli.pipeline.quantizing.quantize import quantize
    from mobilenet_cli.reports import terminal

    choices = (max_drop, labelled, seed, tune, tuple(keep_float or ()))
    config = QuantizeConfig(calib_dir, calib_count, calibrator, target, cross, *choices)
    source = source_of(model, run, width, "folded")
    fetch(calib_dir, labelled)
    with progress_bar("quantizing", "images") as progress:
        made = quantize(source, config, out or source.path.with_name("int8.onnx"), progress)
    notes = terminal.quantize_notes(made.record)
    return Output(made.as_document(), terminal.quantize_text(made.path, made.record), notes=notes)


@command("prove")
def prove_command(kit: Path) -> Output:
    """Tell by a proof kit whether this machine's kernels are right; the exit status is 1 if not."""
    from mobilenet_cli.pipeline.quantizing.kit import prove_kit
    from mobilenet_cli.reports.terminal import proof_text

    record = prove_kit(kit)
    return Output(record.model_dump(mode="json"), proof_text(record), 0 if record.right else GATE)


@command("convert")
def convert_command(
    model: File = None,
    fp16: bool = False,
    images: Text = None,
    provider: str = CPU,
    run: Text = None,
    width: Float = None,
    out: File = None,
) -> Output:
    """Write the model in another precision for GPUs, proven close on images."""
    from mobilenet_cli.pipeline.errors import OptionError
    from mobilenet_cli.pipeline.exporting.convert import ConvertConfig, convert_fp16
    from mobilenet_cli.reports.terminal import convert_text

    if not fp16:
        raise OptionError("no precision to convert to was named", "Pass --fp16")
    source = source_of(model, run, width, "folded", provider)
    config = ConvertConfig(data=images, provider=provider)
    with console.status("converting"):
        made = convert_fp16(source, config, out or source.path.with_name("fp16.onnx"))
    return Output(made.as_document(), convert_text(made.path, made.record))


@command("deploy")
def deploy_command(
    model: File = None,
    images: Text = None,
    targets: Texts = None,
    top: int | None = None,
    min_score: Float = None,
    jpeg: bool = False,
    run: Text = None,
    width: Float = None,
    out: File = None,
) -> Output:
    """Make a folder that programs in any language can use, and prove that it answers as predict."""
    from mobilenet_cli.pipeline.deploying.deploy import DeployConfig, deploy
    from mobilenet_cli.reports.terminal import deploy_text, left_out

    source = source_of(model, run, width, "deployed")
    config = DeployConfig(images, tuple(targets or ()), top, min_score, jpeg)
    fetch(images)
    with progress_bar("deploying", "") as progress:
        made = deploy(source, config, out or source.path.with_name("package"), progress)
    notes = left_out(made.manifest.bad_images)
    return Output(made.as_document(), deploy_text(made.folder, made.manifest), notes=notes)


@command("serve")
def serve_command(
    package: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_batch: int = 4,
    max_wait_ms: float = 0.0,
    max_queue: int = 128,
    max_body_mb: int = 32,
    max_pixels: int = 89_478_485,
    token_file: File = None,
    provider: str = CPU,
    as_json: bool = False,
) -> Output:
    """Serve a package over HTTP, until a signal stops the server."""
    from mobilenet_cli.pipeline.deploying.serving.config import ServeConfig
    from mobilenet_cli.pipeline.deploying.serving.serve import open_server
    from mobilenet_cli.reports.terminal import serve_text

    limits = (max_batch, max_wait_ms, max_queue, max_body_mb, max_pixels)
    record, run = open_server(package, ServeConfig(host, port, *limits, token_file, provider))
    run(lambda: show(Output(record.model_dump(mode="json"), serve_text(record)), as_json))
    raise typer.Exit


@command("evaluate")
def evaluate_command(
    models: Files = None,
    labelled: Text = None,
    provider: str = CPU,
    strict: bool = False,
    class_map: File = None,
    cluster: Text = None,
    run: Text = None,
    width: Float = None,
    as_json: bool = False,
) -> Output:
    """Measure top-1 and top-5, or a detector's average precision, with 95 % intervals."""
    from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
    from mobilenet_cli.pipeline.artifacts.runs import run_named, runnable_models
    from mobilenet_cli.pipeline.deploying.package import model_in
    from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
    from mobilenet_cli.pipeline.evaluating.evaluate_model import evaluate_model
    from mobilenet_cli.pipeline.runtime.session import check_provider
    from mobilenet_cli.reports import terminal

    if not models:
        check_provider(provider)
    home = run_named(run) if run else None
    config = EvaluateConfig(labelled, provider, strict, class_map=class_map, cluster=cluster)
    fetch(labelled)
    documents = []
    for path in runnable_models(models, run, width, say):
        with progress_bar(f"evaluating {path.name}", "images") as progress:
            record = evaluate_model(load_artifact(model_in(path, provider)), config, home, progress)
        documents.append(record.as_document())
        for note in terminal.evaluation_notes(record):
            say(note)
        if not as_json:
            print(terminal.printable(terminal.evaluation_text(record)))
    return Output(documents)


@command("bench")
def bench_command(
    models: Files = None,
    provider: str = CPU,
    threads: str = "all",
    batch: str = "1",
    seconds: float = 5.0,
    bench_data: Text = None,
    provider_options: Texts = None,
    engines: Text = None,
    allow_fallback: bool = False,
    compile_rows: bool = False,
    baseline: File = None,
    max_slowdown: Text = None,
    scenario: Text = None,
    accuracy: bool = False,
    server_qps: Float = None,
    run: Text = None,
    width: Float = None,
    out: File = None,
    markdown: bool = False,
) -> Output:
    """Measure latency, throughput, cold start and memory of every artifact, interleaved."""
    from mobilenet_cli.pipeline.artifacts.runs import refuse_two_choices, runnable_models
    from mobilenet_cli.pipeline.benchmarking import options
    from mobilenet_cli.pipeline.benchmarking.baseline import load_baseline, slowdowns
    from mobilenet_cli.pipeline.benchmarking.bench import bench
    from mobilenet_cli.pipeline.benchmarking.inputs import open_model
    from mobilenet_cli.pipeline.benchmarking.mlperf import run_scenarios
    from mobilenet_cli.pipeline.benchmarking.rows import worth_running_on
    from mobilenet_cli.pipeline.deploying.package import model_in
    from mobilenet_cli.reports import latency_tables, terminal

    allowed = options.slowdown_of(max_slowdown, baseline)
    before = load_baseline(baseline) if baseline else None
    config = options.bench_config(
        *(provider, threads, batch, seconds, provider_options or [], engines),
        *(allow_fallback, bench_data, compile_rows, scenario, accuracy, server_qps),
    )
    refuse_two_choices(models, run, width)
    paths = models or worth_running_on(provider, runnable_models(None, run, width, say), say)
    fetch(bench_data)
    if scenario:
        with progress_bar(scenario, "models") as progress:
            files = [model_in(path, provider) for path in paths]
            report = run_scenarios(files, scenario, accuracy, server_qps, config, progress)
        return kept(report, latency_tables.loadgen_markdown(report), out)
    with progress_bar("bench", "%") as progress:
        record = bench([open_model(model_in(path, provider)) for path in paths], config, progress)
    target = out or (None if models else paths[0].with_name("bench.json"))
    output = kept(record, terminal.tables_text(record, markdown), target)
    worse = slowdowns(record, before, allowed) if before else []
    notes = [f"slower than {baseline}: {row}" for row in worse]
    return Output(output.document, output.text, GATE if worse else 0, output.wrote, notes)


def kept(record: "BaseModel", text: str, target: Path | None) -> Output:
    """Write a record to a file, if there is one to write to."""
    from mobilenet_cli.pipeline.artifacts.files import write_record

    if target is not None:
        write_record(target, record)
    return Output(record.model_dump(mode="json"), text, wrote=[target] if target else ())


@command("report")
def report_command(
    runs: Texts = None,
    run: Text = None,
    width: Float = None,
    compare: bool = False,
    all_runs: bool = False,
    into: File = None,
    markdown: bool = False,
) -> Output:
    """Write what is known about a run: a web page, Markdown, JSON and a model card."""
    from mobilenet_cli.pipeline.artifacts.runs import RUNS, find_run, run_named
    from mobilenet_cli.pipeline.errors import OptionError
    from mobilenet_cli.pipeline.reporting import compare as comparing
    from mobilenet_cli.pipeline.reporting.report import embed_into, report
    from mobilenet_cli.reports import terminal

    if compare and not all_runs and not run:
        both = comparing.compare_runs([run_named(name) for name in runs or []])
        paths = comparing.write(both, RUNS)
        return reported(both.model_dump(mode="json"), terminal.tables_text(both, markdown), paths)
    if runs or compare:
        raise OptionError(
            "runs are named with --compare alone", "Pass --compare A B, or --run A for one report"
        )
    if all_runs:
        past = comparing.history(RUNS)
        paths = comparing.write(past, RUNS)
        return reported(past.model_dump(mode="json"), terminal.tables_text(past, markdown), paths)
    record, paths = report(run_named(run) if run else find_run(None, "start", width))
    if into is not None:
        embed_into(into, record)
    return reported({"run": record.run.run}, terminal.report_text(record), paths)


def reported(found: dict[str, Any], text: str, paths: Mapping[str, Path]) -> Output:
    """Name the files of a report by their formats."""
    written = {form: str(path) for form, path in paths.items()}
    return Output(found | {"report": written}, text, wrote=list(paths.values()))


@command("run")
def run_command(
    data: str = "digits",
    task: str = "classify",
    architecture: Text = None,
    multiplier: Float = None,
    resolution: int | None = None,
    recipe: Text = None,
    changes: Texts = None,
    init: File = None,
    epochs: Float = None,
    seed: int = 0,
    calib_dir: Text = None,
    calib_count: int = 256,
    calibrator: str = "minmax",
    target: str = "auto",
    provider: str = CPU,
    threads: str = "all",
    batch: str = "1",
    seconds: float = 5.0,
    new_run: Text = None,
) -> Output:
    """Take images through the whole chain to the report, skipping what is up to date."""
    from mobilenet_cli.pipeline.artifacts.runs import run_named
    from mobilenet_cli.pipeline.benchmarking.options import bench_config
    from mobilenet_cli.pipeline.chain import ChainConfig, run_chain
    from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
    from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
    from mobilenet_cli.pipeline.training.config import TrainConfig, named_model
    from mobilenet_cli.pipeline.training.setup import resolve
    from mobilenet_cli.reports import terminal

    training = TrainConfig(
        *(data, multiplier, resolution, recipe, epochs, seed, str(init) if init else None),
        changes=tuple(changes or ()),
        model=named_model(task, architecture),
    )
    config = ChainConfig(
        train=training,
        quantize=QuantizeConfig(calib_dir, calib_count, calibrator, target, seed=seed),
        evaluate=EvaluateConfig(provider=provider),
        bench=bench_config(provider, threads, batch, seconds),
    )
    target_run = run_named(new_run or resolve(training).run_name)
    fetch(data, calib_dir)
    result = run_chain(target_run, config, progress_bar, told(terminal.training_text))
    for note in terminal.chain_notes(result.skipped, result.replaced):
        say(note)
    return reported(result.as_document(), terminal.report_text(result.report), result.report_paths)


@command("predict")
def predict_command(
    sources: list[str],
    top: int | None = None,
    provider: str = CPU,
    folder: File = None,
    embeddings: bool = False,
    logits: bool = False,
    scaled: bool = False,
    draw: File = None,
    min_score: Float = None,
    json_lines: bool = False,
    cluster: Text = None,
    run: Text = None,
    width: Float = None,
    as_json: bool = False,
) -> Output:
    """Name the classes of images, or find boxes in them; answers to very many go to files."""
    from mobilenet_cli.pipeline.evaluating.predicting import predict as classes
    from mobilenet_cli.pipeline.evaluating.predicting import predict_boxes as boxes
    from mobilenet_cli.pipeline.evaluating.predicting.job import config_of, predict_into
    from mobilenet_cli.reports import terminal

    model, images = classes.tell_model(sources)
    chosen = (top, provider, embeddings, logits, scaled, folder, draw, min_score)
    config = config_of(*chosen, cluster, json_lines, as_json)
    artifact = source_of(model, run, width, "deployed", provider)
    boxes.refuse_for_task(artifact, top, draw, min_score)
    if folder is not None:
        with progress_bar("predicting", "images") as progress:
            record = predict_into(folder, artifact, images, config, progress, cluster)
        text, status = terminal.job_text(folder, record), MENDABLE if record.errors else 0
        return Output(record.model_dump(mode="json"), text, status, notes=record.failed)
    documents, bad = [], 0
    samples = classes.open_images(images, sys.stdin.buffer)
    answers: Iterable[classes.Prediction | boxes.BoxPrediction] = (
        classes.predict(artifact, samples, config.top, provider)
        if artifact.facts.task == "classification"
        else boxes.predict_boxes(artifact, samples, min_score, provider, draw)
    )
    for prediction in answers:
        if prediction.error:
            bad += 1
            say(f"predict: {prediction.error}")
        if json_lines:
            print(json.dumps(prediction.as_document()), flush=True)
        elif as_json:
            documents.append(prediction.as_document())
        elif not prediction.error:
            print(terminal.printable(terminal.prediction_text(prediction.image, prediction.rows)))
    return Output(documents if not json_lines else None, status=MENDABLE if bad else 0)


@command("inspect")
def inspect_command(file: Path) -> Output:
    """Show what a model file holds, what it says about itself and what it was made from."""
    from mobilenet_cli.pipeline.reporting.inspecting.inspect_file import inspect_file
    from mobilenet_cli.reports.terminal import inspect_text

    record = inspect_file(file)
    return Output(record.model_dump(mode="json"), inspect_text(record))


@command("doctor")
def doctor_command() -> Output:
    """Look for what keeps commands from working, or makes them slow; exit with 1 on a problem."""
    from mobilenet_cli.pipeline.runtime.doctor import doctor
    from mobilenet_cli.reports.terminal import doctor_text

    record = doctor()
    problem = any(finding.status == "problem" for finding in record.findings)
    return Output(record.model_dump(mode="json"), doctor_text(record), GATE if problem else 0)


def main() -> None:
    """Run the program; a bug shows its traceback and exits with 70, which no gate does."""
    stopping.open_streams()
    try:
        app()
    except Exception:
        traceback.print_exc()
        sys.exit(BUG)
