"""A model file becomes a package: inputs of bytes, variants for CPUs, and programs that use it.

Every variant takes decoded images, and is proven against ``predict`` on real ones before anything
is kept.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.calibration.kernels import TARGETS
from mobilenet_cli.data.dataset import printable
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.preprocess import InputSpec, normalize, square_of_bytes
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.detections import NmsConfig
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY
from mobilenet_cli.pipeline.artifacts.files import (
    PACKAGE_MANIFEST,
    is_package,
    sha256_file,
    write_atomically,
)
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.artifacts.sidecar import read_sidecar
from mobilenet_cli.pipeline.deploying.answering import Answering, Boxes, answering_of
from mobilenet_cli.pipeline.deploying.card import card
from mobilenet_cli.pipeline.deploying.image import MIN_OPSET, take_image
from mobilenet_cli.pipeline.deploying.package import Package
from mobilenet_cli.pipeline.deploying.pixels import take_pixels
from mobilenet_cli.pipeline.deploying.probe import (
    RAW_TOLERANCE,
    TOLERANCE,
    answers_of,
    distance,
    probe_pixels,
)
from mobilenet_cli.pipeline.deploying.programs import programs, triton
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError, StorageError
from mobilenet_cli.pipeline.exporting.nms import MIN_SCORE
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.integer_kernels import pairs_saturate
from mobilenet_cli.pipeline.runtime.probe_images import spread_samples
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.conversion import NmsRecord
from mobilenet_cli.reports.records.deployment import (
    InputProof,
    LiteRtRecord,
    PackageRecord,
    Probe,
    VariantRecord,
)
from mobilenet_cli.reports.records.quantization import QuantizeRecord

X86 = ("x86_64", "AMD64")
# By target, the fastest first: the CPU architectures that have such kernels, empty for all. Of
# browsers (wasm32) the probe tells which instructions their kernels have.
MACHINES: dict[str, tuple[str, ...]] = {
    "amx": X86,
    "vnni": (*X86, "wasm32"),
    "arm64": ("aarch64", "arm64"),
    "avx512": X86,
    "avx2": (),
    "fp32": (),
}
FLOAT = "fp32"
LITERT, LITERT_FILE = "litert", "model.tflite"
PROBE = "probe.bin"
LABELS = "labels.txt"
OF_BOXES = 16  # images in which all boxes are compared with the reference's, one by one
# Pixels reach the network as the same numbers; float32 may be summed in another order.
PIXELS_TOLERANCE = 1e-4
# Resampling differs from Pillow's by one level in a thousandth of the pixels, which may decide
# between classes that are equally probable.
IMAGE_AGREEMENT = 0.97


@dataclass(frozen=True)
class DeployConfig:
    """These are the settings of ``deploy``.

    Attributes:
        data: images on which the package is compared with ``predict``; None takes those the model
            was trained on.
        images: how many of them.
        targets: kernels to quantize for, besides those of the model given; ``litert`` writes the
            integers of the fastest one for LiteRT.
        top: how many of the most probable classes the models give; None for probabilities alone.
        min_score: a detector's boxes are above this probability; None takes ``MIN_SCORE``.
    """

    data: str | None = None
    images: int = 64
    targets: tuple[str, ...] = ()
    top: int | None = None
    min_score: float | None = None

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
        if not detects and self.min_score is not None:
            raise OptionError(
                f"{source.path} is a classifier, which finds no boxes", "Leave --min-score out"
            )

    def nms(self, spec: BoxSpec | None) -> NmsConfig:
        """Return how boxes are chosen of what a detector with this spec gives."""
        least = MIN_SCORE if self.min_score is None else self.min_score
        return NmsConfig(min_score=least, max_overlap=spec.max_overlap if spec else 0.5)


@dataclass(frozen=True)
class Trials:
    """These are the inputs on which every variant is tried.

    Attributes:
        images: decoded ones of any size [rows, columns, 3], and ``images_from`` their source.
        probe: pixels [n, R, R, 3], which travel with the package.
    """

    images: Sequence[NDArray[np.uint8]]
    images_from: str
    probe: NDArray[np.uint8]

    def squares(self, spec: InputSpec) -> list[NDArray[np.uint8]]:
        """Return the images [1, R, R, 3] as ``predict`` resizes and cuts them."""
        return [square_of_bytes(Image.fromarray(image), spec)[None] for image in self.images]


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
    if source.is_checkpoint or not facts.classes:
        raise ModelError(
            f"{source.path} is not an ONNX model that names its classes",
            "Deploy a run's int8.onnx or folded.onnx",
        )
    config.refuse_for(source)
    if out.exists() and not is_package(out) and (out.is_file() or any(out.iterdir())):
        raise StorageError(f"{out} exists and is no package", "Choose another --out")
    if fixed := load_onnx(source.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        raise ModelError(
            f"the batch size of {source.path} is fixed at {fixed}",
            "Import the file with 'mobilenet-cli import', which frees it",
        )
    nms = config.nms(facts.boxes)
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
            arguments = (target, sources[target], config, answering, trials)
            variant, content, checked = _variant(*arguments)
            variants.append(variant)
            files |= content
            boxes += checked
        litert = None
        if LITERT in config.targets:
            arguments = (order[0], sources[order[0]], config, answering, trials)
            litert, files[LITERT_FILE] = _litert(*arguments)
    names = facts.names or facts.classes
    files[LABELS] = ("\n".join(names) + "\n").encode()
    files[PROBE] = trials.probe.tobytes()
    files |= programs(facts.task) | triton(variants, files, facts)
    manifest = PackageRecord(
        name=printable(source.path.resolve().parent.name),
        parent=source.sha256,
        images=len(trials.images),
        images_from=trials.images_from,
        files={},
        probe=Probe(file=PROBE, shape=trials.probe.shape),
        variants=tuple(variants),
        litert=litert,
        nms=_nms_record(nms, boxes, trials) if facts.boxes else None,
    )
    files["README.md"] = card(manifest, facts).encode()
    hashes = {file: hashlib.sha256(made).hexdigest() for file, made in files.items()}
    manifest = manifest.model_copy(update={"files": hashes})
    for file, written in files.items():
        write_atomically(out / file, written)
    # The manifest comes last: until it is there, an old one does not fit the files.
    write_atomically(out / PACKAGE_MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
    return Package(out, manifest)


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
    samples = spread_samples(source.facts, data, config.images)
    images = [np.asarray(decode(sample.read(), sample.key)) for sample in samples]
    return Trials(images, data, probe_pixels(source.facts.input.resolution))


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
        quantizing = replace(quantizing, cross=not _computes(target))
        found[target] = quantize(found[FLOAT], quantizing, folder / f"{target}.onnx", progress)
    return found


def _computes(target: str) -> bool:
    """Tell whether this machine's kernels compute what a model for the target says."""
    return target == FLOAT or TARGETS[target].pairs_saturate or not pairs_saturate()


def _variant(
    target: str,
    source: Artifact,
    config: DeployConfig,
    answering: Answering,
    trials: Trials,
) -> tuple[VariantRecord, dict[str, bytes], int]:
    """Write and prove one variant.

    Returns:
        What was proved, its files by their names, and how many boxes were compared.

    Raises:
        CheckError: it does not answer like ``predict``.
    """
    facts, spec = (
        source.derived("deploy", config, "numpy", "onnx", "onnxruntime"),
        source.facts.input,
    )
    model = load_onnx(source.path)
    taking = take_pixels(answering.behind(model), spec)
    content = {"pixels": taking, "image": take_image(_with_resize(taking), spec)}
    files = {}
    for name, graph in content.items():
        onnx.checker.check_model(graph, full_check=True)
        files[name] = with_facts(graph, facts)
    kernels = _computes(target)
    running = SessionConfig(threads=1, integer_kernels=kernels)
    expected = _predict(source, model, trials, answering, running)
    inputs = {"pixels": trials.squares(spec), "image": trials.images}
    proofs, boxes = {}, 0
    for name, graph in content.items():
        found = _run(files[name], answering, inputs[name], running)
        agreement, difference = answering.compare(expected, found)
        proofs[name] = InputProof(
            model=f"{target}/{name}.onnx",
            size=len(files[name]),
            agreement=agreement,
            max_difference=difference,
        )
        if isinstance(answering, Boxes):
            boxes += answering.check_chosen(graph, inputs[name][:OF_BOXES], running)
    check(target, proofs)
    simulated = replace(running, integer_kernels=False)
    answers = answers_of(_run(files["pixels"], answering, [trials.probe], simulated), facts.boxes)
    tolerance = RAW_TOLERANCE if facts.boxes else TOLERANCE
    if kernels:
        apart = distance(answers, _run(files["pixels"], answering, [trials.probe], running))
        tolerance = max(tolerance, 2 * apart)
    sidecar = read_sidecar(source.path)
    quantized = (
        QuantizeRecord.model_validate(sidecar.record) if sidecar and target != FLOAT else None
    )
    variant = VariantRecord(
        target=target,
        machines=MACHINES[target],
        pixels=proofs["pixels"],
        image=proofs["image"],
        sqnr_db=quantized.sqnr_db if quantized else None,
        agreement=quantized.agreement if quantized else None,
        kernels=kernels,
        answers=answers,
        tolerance=tolerance,
    )
    return variant, {proofs[name].model: files[name] for name in files}, boxes


def _litert(
    target: str, source: Artifact, config: DeployConfig, answering: Answering, trials: Trials
) -> tuple[LiteRtRecord, bytes]:
    """Write and prove the LiteRT file.

    Returns:
        What was proved, and the file.

    Raises:
        ModelError: the model is not integer, or has something that is not written for LiteRT.
        CheckError: the file does not answer like ``predict``.
    """
    from mobilenet_cli.pipeline.deploying.litert import run_litert, write_litert

    if target == FLOAT:
        raise ModelError(
            f"a LiteRT file is made of an integer model, and {source.path} is float",
            "Deploy int8.onnx, or add --target vnni",
        )
    facts, model = source.derived("deploy", config, "numpy", "onnx"), load_onnx(source.path)
    content, layers = write_litert(
        model, source.facts.input, **{METADATA_KEY: facts.model_dump_json()}
    )
    running = SessionConfig(threads=1, integer_kernels=_computes(target))
    expected = _predict(source, model, trials, answering, running)
    agreement, difference = answering.compare(
        expected, run_litert(content, trials.squares(facts.input))
    )
    record = LiteRtRecord(
        model=LITERT_FILE,
        size=len(content),
        agreement=agreement,
        max_difference=difference,
        target=target,
        layers=layers,
    )
    if not record.agreement >= IMAGE_AGREEMENT:
        raise CheckError(
            f"the LiteRT file does not answer like predict (same class on "
            f"{100 * record.agreement:.1f} %, probabilities up to {record.max_difference:.2g} "
            "apart)",
            "Leave --target litert out; nothing was written",
        )
    return record, content


def check(target: str, proofs: dict[str, InputProof]) -> None:
    """Refuse a variant that does not answer like ``predict``.

    Raises:
        CheckError: says which input, and how far off it is.
    """
    pixels, image = proofs["pixels"], proofs["image"]
    if not pixels.max_difference <= PIXELS_TOLERANCE or not image.agreement >= IMAGE_AGREEMENT:
        told = ", ".join(
            f"{name}: the same class or box in {100 * proof.agreement:.1f} %, probabilities up to "
            f"{proof.max_difference:.2g} apart"
            for name, proof in proofs.items()
        )
        raise CheckError(
            f"the {target} variant does not answer like predict ({told})",
            "Install the onnxruntime version of constraints.txt; nothing was written",
        )


def _with_resize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in an operator set whose Resize has ``antialias``."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= MIN_OPSET:
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:  # the converter's exceptions share no base class
        raise ModelError(
            f"the model is in operator set {opset}, and cannot be written in {MIN_OPSET}",
            f"Export it with operator set {MIN_OPSET}",
        ) from error
    return converted


def _predict(
    source: Artifact,
    model: onnx.ModelProto,
    trials: Trials,
    answering: Answering,
    running: SessionConfig,
) -> NDArray[np.float32]:
    """Return the answers [images, ...] that ``predict`` gives."""
    session, spec, name = (
        open_session(source.path, running),
        source.facts.input,
        model.graph.input[0].name,
    )
    inputs = [normalize(square[0], spec)[None] for square in trials.squares(spec)]
    made = [session.run(None, {name: values}) for values in inputs]
    return np.concatenate([answering.of_model(model, outputs) for outputs in made])


def _run(
    content: bytes,
    answering: Answering,
    inputs: Sequence[NDArray[np.uint8]],
    running: SessionConfig,
) -> NDArray[np.float32]:
    """Return the answers [n, ...] of a deployed model."""
    session = open_session(content, running)
    name = session.get_inputs()[0].name
    made = [session.run(answering.outputs, {name: values}) for values in inputs]
    return np.concatenate([np.concatenate(outputs, axis=-1) for outputs in made])
