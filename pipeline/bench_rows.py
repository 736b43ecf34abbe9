"""The rows of a benchmark: which artifacts, in which settings, on which images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.mobilenet_v1 import feature_sizes
from mobilenet_cli.pipeline.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.bench_child import Direction
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.machine import available_memory, usable_cpus
from mobilenet_cli.pipeline.probe import probe_images
from mobilenet_cli.pipeline.session import PROVIDERS, SessionConfig
from mobilenet_cli.reports.latency import FROZEN, NO_FUSION

MAX_IMAGES = 64  # different ones in a batch


@dataclass(frozen=True)
class Row:
    """One line of the result: an artifact in one setting.

    Attributes:
        artifact: the model file.
        session: provider, threads and options; torch takes threads and device from it.
        batch: images per run.
        variant: what to call the setting; empty for the plain one.
        direction: ``forward-backward`` is torch's alone.
        on_device: input and output stay in the device's memory (IO binding).
        compiled: run by ``torch.compile``.
    """

    artifact: Artifact
    session: SessionConfig
    batch: int
    variant: str = ""
    direction: Direction = "forward"
    on_device: bool = False
    compiled: bool = False

    @property
    def is_checkpoint(self) -> bool:
        """Does torch run it?"""
        return self.artifact.path.suffix == ".safetensors"

    @property
    def label(self) -> str:
        """What to call the row in a message."""
        extra = f"{self.variant} {self.direction if self.is_checkpoint else ''}"
        return f"{self.artifact.path.name} {extra.strip()}".strip()


def rows_of(artifact: Artifact, session: SessionConfig, batch: int, compiled: bool) -> list[Row]:
    """The settings in which one artifact is measured."""
    plain = Row(artifact, session, batch)
    return list(_torch_rows(plain, compiled) if plain.is_checkpoint else _onnx_rows(plain))


def _onnx_rows(plain: Row) -> Iterator[Row]:
    if plain.session.switched_on("enable_cuda_graph", default=False):
        # A captured graph reads and writes fixed addresses, so there are no host rows.
        yield replace(plain, variant="device-bound, CUDA graph", on_device=True)
        return
    yield plain
    if has_batch_norms(plain.artifact.path):
        unfused = replace(plain.session, disabled_optimizers=("ConvBNFusion",))
        yield replace(plain, session=unfused, variant=NO_FUSION)
    provider = PROVIDERS.get(plain.session.provider)
    if provider and provider.device:
        yield replace(plain, variant="device-bound", on_device=True)


def _torch_rows(plain: Row, compiled: bool) -> Iterator[Row]:
    # Batch statistics need more than one value a channel; without, the running ones are used.
    values = plain.batch * feature_sizes(plain.artifact.facts.input.resolution)[-1] ** 2
    frozen = FROZEN if values == 1 else plain.variant
    eager = [plain, replace(plain, direction="forward-backward", variant=frozen)]
    yield from eager
    if compiled:
        yield from (replace(row, variant="compiled", compiled=True) for row in eager)


def has_batch_norms(path: Path) -> bool:
    """Are there BatchNormalization nodes in the graph as written?"""
    from mobilenet_cli.pipeline.onnx_file import load_onnx

    return any(node.op_type == "BatchNormalization" for node in load_onnx(path).graph.node)


def parse_batches(text: str) -> tuple[int, ...]:
    """``1,8,32`` as batch sizes.

    Raises:
        OptionError: something else than whole numbers separated by commas.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"'{text}' is not a list of batch sizes", "Write it like --batch 1,8,32"
        ) from error


def parse_threads(text: str) -> tuple[int, ...]:
    """``1,all`` as thread counts, each once; ``all`` is every CPU this process may use.

    Raises:
        OptionError: something else than whole numbers or ``all``, separated by commas.
    """
    try:
        counts = [usable_cpus() if p.strip() == "all" else int(p) for p in text.split(",")]
    except ValueError as error:
        raise OptionError(
            f"'{text}' is not a list of thread counts", "Write it like --threads 1,all"
        ) from error
    return tuple(dict.fromkeys(counts))


def parse_options(pairs: list[str]) -> dict[str, str]:
    """``use_tf32=0`` and the like as a provider's options.

    Raises:
        OptionError: a pair without a key or ``=``.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise OptionError(
                f"'{pair}' is not a provider option", "Write it like --provider-option use_tf32=0"
            )
        options[key] = value
    return options


def input_images(row: Row, data: str | None) -> tuple[NDArray[np.float32], str]:
    """The input [batch, 3, R, R] of a row, and where it comes from.

    Real images of ``data`` or of the set the model was trained on, repeated where the batch is
    larger than ``MAX_IMAGES``; seeded noise where neither is known or ``data`` is ``noise``. The
    latency of these networks does not depend on the values: no kernel branches on them.
    """
    facts, batch = row.artifact.facts, row.batch
    if not row.is_checkpoint:
        check_input(row.artifact.path, facts.input, batch)
    needed = batch * 3 * facts.input.resolution**2 * np.dtype(np.float32).itemsize
    if needed > available_memory():
        raise OptionError(
            f"a batch of {batch} images does not fit in memory ({needed / 2**30:.0f} GiB of input)",
            "Pass a smaller --batch",
        )
    if data == "noise":
        facts, data = facts.model_copy(update={"data": None}), None
    images, source = probe_images(facts, data, min(batch, MAX_IMAGES))
    return images[np.arange(batch) % len(images)], source


def check_input(path: Path, spec: InputSpec, batch: int) -> None:
    """Raise unless the model takes a batch of images of the spec's resolution."""
    shape = input_shape(path)
    if shape[0] not in (None, batch):
        raise OptionError(
            f"{path} takes batches of {shape[0]} only, not {batch}", f"Pass --batch {shape[0]}"
        )
    if any(side not in (None, spec.resolution) for side in shape[2:]):
        raise ModelError(
            f"{path} takes images of {shape[2]}x{shape[3]}, but says its resolution is "
            f"{spec.resolution}",
            "Export the model again",
        )


def input_shape(path: Path) -> tuple[int | None, ...]:
    """The model's input shape [N, 3, H, W]; None where a dimension is free.

    Raises:
        ModelError: not exactly one input, or not a batch of float32 RGB images.
    """
    import onnx

    from mobilenet_cli.pipeline.onnx_file import load_onnx

    graph = load_onnx(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.type.tensor_type for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs instead of one", "Use an image model")
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else None for dim in inputs[0].shape.dim
    )
    if len(shape) != 4 or shape[1] not in (None, 3):
        dims = "x".join("?" if size is None else str(size) for size in shape)
        raise ModelError(
            f"the input of {path} is {dims}, not a batch of images (Nx3xHxW)",
            "Export the model with a batch dimension in front and channels before rows",
        )
    if inputs[0].elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(
            f"the input of {path} is {onnx.TensorProto.DataType.Name(inputs[0].elem_type)}, "
            "not float32",
            "Export the model with a float32 input",
        )
    return shape


def open_model(path: Path) -> Artifact:
    """Load any model file; a foreign one is measured at the resolution its graph names, or 224."""
    foreign = None
    if path.suffix != ".safetensors" and path.is_file():
        side = input_shape(path)[2] or InputSpec().resolution
        foreign = InputSpec(resolution=side, resize=side)
    return load_artifact(path, foreign)
