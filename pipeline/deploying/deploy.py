"""A model file becomes a package: inputs of bytes, variants for CPUs, and programs that use it.

Every variant takes decoded images, and is proven against ``predict`` on real ones before anything
is kept.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mobilenet_cli.data.dataset import printable
from mobilenet_cli.models.detections import NmsConfig, shown_boxes
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.files import (
    PACKAGE_LABELS,
    PACKAGE_MANIFEST,
    PACKAGE_PROBE,
    is_package,
    sha256_file,
    write_atomically,
    write_record,
)
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.deploying.answering import answering_of
from mobilenet_cli.pipeline.deploying.card import card
from mobilenet_cli.pipeline.deploying.jpeg import jpeg_files
from mobilenet_cli.pipeline.deploying.package import Package
from mobilenet_cli.pipeline.deploying.probe import probe_pixels
from mobilenet_cli.pipeline.deploying.programs import programs, triton
from mobilenet_cli.pipeline.deploying.variants import (
    FLOAT,
    LITERT,
    LITERT_FILE,
    MACHINES,
    OF_BOXES,
    Trials,
    computes,
    write_litert_variant,
    write_variant,
)
from mobilenet_cli.pipeline.errors import ModelError, OptionError, StorageError, counted
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.proving.probe_images import decoded_images
from mobilenet_cli.reports.records.conversion import NmsRecord
from mobilenet_cli.reports.records.deployment import PackageRecord, Probe, VariantRecord


@dataclass(frozen=True)
class DeployConfig:
    """These are the settings of ``deploy``.

    Attributes:
        data: images on which the package is compared with ``predict``; None takes those the model
            was trained on.
        targets: kernels to quantize for, besides those of the model given; ``litert`` writes the
            integers of the fastest one for LiteRT.
        top: how many of the most probable classes the models give; None for probabilities alone.
        min_score: a detector's boxes are above this probability; None takes ``SHOWN``.
        jpeg: also write models that take JPEG files.
        images: how many images to compare on.
    """

    data: str | None = None
    targets: tuple[str, ...] = ()
    top: int | None = None
    min_score: float | None = None
    jpeg: bool = False
    images: int = 64

    def __post_init__(self) -> None:
        known = (*MACHINES, LITERT)
        if unknown := [name for name in self.targets if name not in known]:
            raise OptionError(
                f"no variant can be made for '{unknown[0]}'", f"Use {', '.join(known)}"
            )

    def refuse_for(self, source: Artifact) -> None:
        """Refuse settings that the model's task has no use for.

        Raises:
            OptionError: one of them is given.
        """
        detects = source.facts.task == "detection"
        if detects and self.top is not None:
            raise OptionError(
                f"{source.path} is a detector, whose package gives boxes", "Leave --top out"
            )
        if detects and LITERT in self.targets:
            raise OptionError(
                f"{source.path} is a detector, and files for LiteRT are made of classifiers alone",
                f"Leave --target {LITERT} out",
            )
        if self.top is not None and self.top > len(source.facts.classes):
            raise OptionError(
                f"{source.path} has {counted(len(source.facts.classes), 'class', 'classes')}, not "
                f"{self.top}",
                "Pass a smaller --top",
            )
        if not detects and self.min_score is not None:
            raise OptionError(
                f"{source.path} is a classifier, which finds no boxes", "Leave --min-score out"
            )


def deploy(
    source: Artifact, config: DeployConfig, out: Path, progress: Progress = silent
) -> Package:
    """Write the folder ``out``: a package with the model, its float parent, and more targets.

    Raises:
        ModelError: the model is a checkpoint, or does not name its classes.
        OptionError: a setting is for models of the other task.
        DataError: the images cannot be used.
        CheckError: a variant does not answer like ``predict``; nothing is written.
        StorageError: ``out`` cannot be written, or has something else in it.
    """
    facts = source.facts
    _check_source(source)
    config.refuse_for(source)
    if out.exists() and not is_package(out) and (out.is_file() or any(out.iterdir())):
        raise StorageError(f"{out} exists and is no package", "Choose another --out")
    nms = shown_boxes(facts.boxes, config.min_score)
    answering = answering_of(facts, nms, config.top)
    trials = _trials(source, config)
    with tempfile.TemporaryDirectory() as folder:
        sources = _sources(source, config, Path(folder), progress)
        order = [target for target in MACHINES if target in sources]
        variants: list[VariantRecord] = []
        files: dict[str, bytes] = {}
        boxes = 0
        for done, target in enumerate(order):
            progress(done, len(order), f"proving {target}")
            made = sources[target].derived("deploy", config, "numpy", "onnx", "onnxruntime")
            variant, content, checked = write_variant(
                target, sources[target], made, answering, trials
            )
            variants.append(variant)
            files |= content
            boxes += checked
        litert = None
        if LITERT in config.targets:
            made = sources[order[0]].derived("deploy", config, "numpy", "onnx")
            arguments = (order[0], sources[order[0]], made, answering, trials)
            litert, files[LITERT_FILE] = write_litert_variant(*arguments)
    files[PACKAGE_LABELS] = labels_text(facts.labels).encode()
    files[PACKAGE_PROBE] = trials.probe.tobytes()
    files |= programs(facts.task) | triton(variants, files, facts)
    manifest = PackageRecord(
        name=printable(source.path.resolve().parent.name),
        parent=source.sha256,
        images=len(trials.images),
        images_from=trials.images_from,
        bad_images=trials.bad,
        jpegs=len(trials.jpegs),
        files={},
        probe=Probe(file=PACKAGE_PROBE, shape=trials.probe.shape),
        variants=tuple(variants),
        litert=litert,
        nms=_nms_record(nms, boxes, trials) if facts.boxes else None,
    )
    files["README.md"] = card(manifest, facts).encode()
    return _write_package(out, manifest, files)


def _write_package(out: Path, manifest: PackageRecord, files: Mapping[str, bytes]) -> Package:
    """Write the files, and then the manifest, which names them with their hashes."""
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    manifest = manifest.model_copy(update={"files": hashes})
    is_new = not out.exists()
    try:
        for file, content in files.items():
            write_atomically(out / file, content)
        # The manifest comes last: until it is there, an old one does not fit the files.
        write_record(out / PACKAGE_MANIFEST, manifest, indent=1)
    except BaseException:
        if is_new:  # what is left would be no package, over which the next start does not write
            shutil.rmtree(out, ignore_errors=True)
        raise
    return Package(out, manifest)


def _check_source(source: Artifact) -> None:
    if source.is_checkpoint or not source.facts.classes:
        raise ModelError(
            f"{source.path} is not an ONNX model that names its classes",
            "Deploy a run's int8.onnx or folded.onnx",
        )
    if fixed := load_onnx(source.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        raise ModelError(
            f"the batch size of {source.path} is fixed at {fixed}",
            "Import the file with 'mobilenet-cli import', which frees it",
        )


def _nms_record(nms: NmsConfig, boxes: int, trials: Trials) -> NmsRecord:
    return NmsRecord(
        **asdict(nms),
        boxes_checked=boxes,
        images=len(trials.images[:OF_BOXES]),
        images_from=trials.images_from,
    )


def _trials(source: Artifact, config: DeployConfig) -> Trials:
    """Return images of any size, and the probe."""
    data = config.data or source.facts.data
    if data is None:
        raise OptionError(
            f"{source.path} does not say what it was trained on", "Pass --data with some images"
        )
    facts = source.facts
    jpegs = jpeg_files(facts, data, config.images) if config.jpeg else ()
    images, bad = decoded_images(facts, data, config.images)
    return Trials(images, data, bad, probe_pixels(facts.input.resolution), jpegs)


def _sources(
    source: Artifact, config: DeployConfig, folder: Path, progress: Progress
) -> dict[str, Artifact]:
    """Return a model with float input for each target; those that are missing are quantized."""
    given = str(source.facts.config.get("target", FLOAT))
    found = {given: source}
    if given != FLOAT:
        beside = [p for p in source.path.parent.glob("*.onnx") if p != source.path]
        for path in beside:
            if sha256_file(path) == source.facts.parent:
                found[FLOAT] = load_artifact(path)
    recorded = {k: v for k, v in source.facts.config.items() if given != FLOAT}
    for target in config.targets:
        if target in found or target == LITERT:
            continue
        if FLOAT not in found:
            raise ModelError(
                f"the float model that {source.path} was made from is not beside it",
                f"Deploy that model, or leave --target {target} out",
            )
        keys = ("calib_dir", "calib_count", "calibrator", "seed")
        settings: dict[str, Any] = {key: recorded[key] for key in keys if key in recorded}
        settings.setdefault("calib_dir", config.data)
        quantizing = QuantizeConfig(**settings, target=target)
        quantizing = replace(quantizing, cross=not computes(target))
        found[target] = quantize(found[FLOAT], quantizing, folder / f"{target}.onnx", progress)
    return found


def labels_text(names: Sequence[str]) -> str:
    """Write a name a line; one that is itself of several lines would shift all that follow it."""
    return "".join(" ".join(name.splitlines()) + "\n" for name in names)
