"""A variant of a package is written for a family of kernels, and answers like ``predict``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from mobilenet_cli.calibration.kernels import TARGETS
from mobilenet_cli.data.preprocess import InputSpec, normalize, square_of_bytes
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, record_beside
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.deploying.answering import Answering, Answers, Boxes
from mobilenet_cli.pipeline.deploying.image import MIN_OPSET, take_image
from mobilenet_cli.pipeline.deploying.jpeg import take_jpeg
from mobilenet_cli.pipeline.deploying.pixels import take_pixels
from mobilenet_cli.pipeline.deploying.probe import RAW_TOLERANCE, TOLERANCE, answers_of, distance
from mobilenet_cli.pipeline.errors import CheckError, ModelError
from mobilenet_cli.pipeline.runtime.proving.integer_kernels import pairs_saturate
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.deployment import InputProof, LiteRtRecord, VariantRecord
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
OF_BOXES = 16  # images in which all boxes are compared with the reference's, one by one
# Pixels reach the network as the same numbers; float32 may be summed in another order.
PIXELS_TOLERANCE = 1e-4
# Resampling differs from Pillow's by one level in a thousandth of the pixels, which may decide
# between classes that are equally probable.
IMAGE_AGREEMENT = 0.97


@dataclass(frozen=True)
class Trials:
    """These are the inputs on which every variant is tried.

    Attributes:
        images: decoded ones of any size [rows, columns, 3], and ``images_from`` their source.
        bad: why others cannot be read.
        probe: pixels [n, R, R, 3], which travel with the package.
        jpegs: files for models that take these, and their pixels; empty where none is to be
            written.
    """

    images: Sequence[NDArray[np.uint8]]
    images_from: str
    bad: tuple[str, ...]
    probe: NDArray[np.uint8]
    jpegs: tuple[tuple[bytes, NDArray[np.uint8]], ...] = ()

    def of_jpegs(self) -> "Trials":
        """Return the trials with the images in the JPEG files alone."""
        return replace(self, images=[pixels for _, pixels in self.jpegs])

    def squares(self, spec: InputSpec) -> list[NDArray[np.uint8]]:
        """Return the images [1, R, R, 3] as ``predict`` resizes and cuts them."""
        return [square_of_bytes(Image.fromarray(image), spec)[None] for image in self.images]


def computes(target: str) -> bool:
    """Tell whether this machine's kernels compute what a model for the target says."""
    return target == FLOAT or TARGETS[target].pairs_saturate or not pairs_saturate()


def write_variant(
    target: str, source: Artifact, facts: Facts, answering: Answering, trials: Trials
) -> tuple[VariantRecord, dict[str, bytes], int]:
    """Write and prove one variant.

    Args:
        target: the kernels that it is for.
        source: the model for them, with float input.
        facts: what the variant's files say of themselves.
        answering: what is put behind the model, and how its answers are compared.
        trials: the images and pixels on which it is tried.

    Returns:
        What was proved, its files by their names, and how many boxes were compared.

    Raises:
        CheckError: it does not answer like ``predict``.
    """
    spec, model = source.facts.input, load_onnx(source.path)
    taking = take_pixels(answering.behind(model), spec)
    content = {"pixels": taking, "image": take_image(_with_resize(taking), spec)}
    files = {}
    for name, graph in content.items():
        onnx.checker.check_model(graph, full_check=True)
        files[name] = with_facts(graph, facts)
    kernels = computes(target)
    running = SessionConfig(threads=1, integer_kernels=kernels)
    expected = _predict(source, model, trials, answering, running)
    inputs = {"pixels": trials.squares(spec), "image": trials.images}
    proofs, boxes = {}, 0
    for name, graph in content.items():
        found = _run(files[name], answering, inputs[name], running)
        proofs[name] = _proof(f"{target}/{name}.onnx", files[name], answering, expected, found)
        if isinstance(answering, Boxes):
            boxes += answering.check_chosen(graph, inputs[name][:OF_BOXES], running)
    if trials.jpegs:
        graph = take_jpeg(content["image"])
        onnx.checker.check_model(graph, full_check=True)
        files["jpeg"] = with_facts(graph, facts)
        encoded = [np.frombuffer(file, np.uint8) for file, _ in trials.jpegs]
        expected = _predict(source, model, trials.of_jpegs(), answering, running)
        found = _run(files["jpeg"], answering, encoded, replace(running, extensions=True))
        proofs["jpeg"] = _proof(f"{target}/jpeg.onnx", files["jpeg"], answering, expected, found)
    check(target, proofs)
    simulated = replace(running, integer_kernels=False)
    answers = answers_of(_run(files["pixels"], answering, [trials.probe], simulated), facts.boxes)
    tolerance = RAW_TOLERANCE if facts.boxes else TOLERANCE
    if kernels:
        apart = distance(answers, _run(files["pixels"], answering, [trials.probe], running))
        tolerance = max(tolerance, 2 * apart)
    quantized = record_beside(source, QuantizeRecord) if target != FLOAT else None
    variant = VariantRecord(
        target=target,
        machines=MACHINES[target],
        pixels=proofs["pixels"],
        image=proofs["image"],
        jpeg=proofs.get("jpeg"),
        sqnr_db=quantized.sqnr_db if quantized else None,
        agreement=quantized.agreement if quantized else None,
        kernels=kernels,
        answers=answers,
        tolerance=tolerance,
    )
    return variant, {proofs[name].model: files[name] for name in files}, boxes


def write_litert_variant(
    target: str, source: Artifact, facts: Facts, answering: Answering, trials: Trials
) -> tuple[LiteRtRecord, bytes]:
    """Write and prove the LiteRT file, given what ``write_variant`` is given.

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
    model = load_onnx(source.path)
    content, layers = write_litert(
        model, source.facts.input, **{METADATA_KEY: facts.model_dump_json()}
    )
    running = SessionConfig(threads=1, integer_kernels=computes(target))
    expected = _predict(source, model, trials, answering, running)
    found = run_litert(content, trials.squares(facts.input))
    proof = _proof(LITERT_FILE, content, answering, expected, found)
    record = LiteRtRecord(**dict(proof), target=target, layers=layers)
    if not record.agreement >= IMAGE_AGREEMENT:
        raise CheckError(
            f"the LiteRT file does not answer like predict (same class on "
            f"{100 * record.agreement:.1f} %, probabilities up to {record.max_difference:.2g} "
            "apart)",
            "Leave --target litert out; nothing was written",
        )
    return record, content


def _proof(
    name: str, content: bytes, answering: Answering, expected: Answers, found: Answers
) -> InputProof:
    """Compare the answers of a file of the package with those of ``predict``."""
    agreement, difference = answering.compare(expected, found)
    return InputProof(model=name, size=len(content), agreement=agreement, max_difference=difference)


def check(target: str, proofs: dict[str, InputProof]) -> None:
    """Refuse a variant that does not answer like ``predict``.

    Raises:
        CheckError: says which input, and how far off it is.
    """
    wrong = [name for name, proof in proofs.items() if not proof.agreement >= IMAGE_AGREEMENT]
    if not proofs["pixels"].max_difference <= PIXELS_TOLERANCE:
        wrong.insert(0, "pixels")
    if wrong:
        told = ", ".join(
            f"{name}: the same class or box in {100 * proof.agreement:.1f} %, probabilities up to "
            f"{proof.max_difference:.2g} apart"
            for name, proof in proofs.items()
        )
        raise CheckError(
            f"the {target} variant does not answer like predict ({told})",
            "Leave --jpeg out, whose decoder is not predict's; nothing was written"
            if wrong == ["jpeg"]
            else "Install the onnxruntime version of constraints.txt; nothing was written",
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
