"""Weights of another program, or an ONNX classifier, become the first file of a run."""

import contextlib
from pathlib import Path

from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.files import is_checkpoint
from mobilenet_cli.pipeline.artifacts.onnx_graph import has_operator
from mobilenet_cli.pipeline.artifacts.runs import refuse_two_networks, run_named
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.importing.import_onnx import needs_folding, read_onnx
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    run_name,
    write_checkpoint,
)
from mobilenet_cli.reports.records.conversion import ImportRecord


def import_model(
    source: str, config: ImportConfig, normalization: str | None, run: str | None
) -> tuple[Artifact[ImportRecord], str]:
    """Import weights as a checkpoint, or an ONNX classifier as fp32.onnx or folded.onnx.

    Args:
        source: a file, a folder, or an id on the Hugging Face hub.
        config: the settings.
        normalization: how an ONNX classifier wants its pixels normalized.
        run: the run to make; None names it by the network, or by the ONNX file.

    Returns:
        The file, and the name of its run.

    Raises:
        ModelError: the source cannot be had, read or recognized, or this tool made it.
        OptionError: an option contradicts the source, or one is needed.
        StorageError: the run holds a file of other origin.
    """
    _refuse_own(Path(source))
    if source.endswith(".onnx"):
        _refuse(
            "an .onnx file",
            width=config.width,
            activation=config.activation,
            revision=config.revision,
        )
        imported = read_onnx(Path(source), config, normalization)
        target = run_named(run or Path(source).stem)
        out = target.fp32 if needs_folding(imported.content) else target.folded
    else:
        _refuse("anything but an .onnx file", normalization=normalization)
        imported = read_source(source, config)
        target = run_named(run or run_name(imported.facts))
        out = target.checkpoint
    refuse_two_networks(target, out)
    return write_checkpoint(imported, out), target.name


def _refuse(what: str, **options: object) -> None:
    """Refuse options that would be ignored."""
    for name, value in options.items():
        if value is not None:
            raise OptionError(f"--{name} says nothing about {what}", "Leave it out")


def _refuse_own(path: Path) -> None:
    """Refuse a file that this tool made: it needs no import, and would lose its facts."""
    if path.is_dir():  # as the Hugging Face hub has weights, and a run of ours, too
        path /= "model.safetensors"
    if not path.is_file() or not (path.suffix == ".onnx" or is_checkpoint(path)):
        return
    with contextlib.suppress(ModelError):  # somebody else's, which is what is imported
        stage = load_artifact(path).facts.stage
        if is_checkpoint(path):
            use = f"export --checkpoint {path}"
        elif has_operator(path, "BatchNormalization"):
            use = f"simplify {path}"
        else:
            use = f"{'evaluate' if stage in ('quantize', 'convert') else 'quantize'} {path}"
        raise OptionError(
            f"{path} was made by this tool, so it needs no import",
            f"Use it as it is, as in 'mobilenet-cli {use}'",
        )
