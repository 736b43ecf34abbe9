"""Folded ONNX becomes half precision here, for GPUs that compute it at least twice as fast.

Input and output stay float32, so every command takes the file like any other. On a CPU without
half-precision kernels ONNX Runtime casts back and forth: correct, and slower than float32.
"""

from dataclasses import dataclass
from pathlib import Path

from mobilenet_cli.pipeline.artifacts.artifact import Artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.files import foreign
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.artifacts.sidecar import refuse_overwrite
from mobilenet_cli.pipeline.errors import CheckError, ModelError
from mobilenet_cli.pipeline.runtime.proving.parity import compare_outputs
from mobilenet_cli.pipeline.runtime.proving.probe_images import probe_images
from mobilenet_cli.pipeline.runtime.session import CPU, SessionConfig, open_session
from mobilenet_cli.reports.records.conversion import ConvertRecord

MIN_SQNR_DB = 40.0  # half precision has 11 bits; 27 layers of rounding leave some 50 dB


@dataclass(frozen=True)
class ConvertConfig:
    """These are the settings of ``convert``.

    Attributes:
        data: images on which input and output are compared; None takes the training data.
        images: how many of them.
        provider: execution provider of the comparison: a GPU's computes in half precision, the
            CPU's only rounds weights and activations to it.
    """

    data: str | None = None
    images: int = 16
    provider: str = CPU


def convert_fp16(source: Artifact, config: ConvertConfig, out: Path) -> Artifact[ConvertRecord]:
    """Write ``out``: weights and activations in half precision.

    Raises:
        ModelError: the model is quantized, or in half precision already.
        CheckError: the logits are too far from the input's; nothing is written.
        ProviderError: the provider of the comparison cannot run here.
        StorageError: ``out`` cannot be written.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    refuse_overwrite(out, [source.path])
    before = load_onnx(source.path)
    weights = {tensor.data_type for tensor in before.graph.initializer}
    if weights & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}:
        raise ModelError(
            f"{source.path} does not hold float32 weights alone", "Convert the run's folded.onnx"
        )
    with foreign(source.path, "a graph to convert"):
        after = convert_float_to_float16(load_onnx(source.path), keep_io_types=True)
        OnnxModel(after).topological_sort()  # the converter puts its Casts last
    images, images_from = probe_images(source.facts, config.data, config.images)
    name = before.graph.input[0].name
    session = SessionConfig(provider=config.provider)
    expected, found = (
        open_session(content, session).run(None, {name: images})
        for content in (source.path, after.SerializeToString())
    )
    parity = compare_outputs(expected, found, source.facts.boxes)
    if not parity.sqnr_db >= MIN_SQNR_DB:
        raise CheckError(
            f"the half-precision model's logits are {parity.sqnr_db:.1f} dB from float32's, "
            f"of {MIN_SQNR_DB:.0f} at least (largest difference {parity.max_abs_error:.2g})",
            "Nothing was written; a value beyond 65504 or weights of very different size in one "
            "layer cause this: keep float32",
        )
    facts = source.derived("convert", config, "onnx", "onnxruntime", "onnxruntime-gpu")
    record = ConvertRecord(
        max_abs_error=parity.max_abs_error,
        sqnr_db=parity.sqnr_db,
        agreement=parity.agreement,
        images=len(images),
        images_from=images_from,
        provider=config.provider,
    )
    return save_artifact(out, with_facts(after, facts), facts, record)
