"""Quantization-aware training goes on from what ``quantize`` makes of a checkpoint.

The checkpoint is exported, folded and quantized; training goes on from the integers that came out,
through the grids that were chosen. The grids stay as they are, those of activations travel with
the checkpoint and the weights are written on theirs, so that ``quantize`` uses the same. Narrow
layers keep their channels, which ``quantize`` rounds up for kernels with VNNI: copies of channels
are nothing to train.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.choose_grids import coded_tensors
from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.graph.write_qdq import QuantizedLinear
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.integer_network import build
from mobilenet_cli.calibration.kernels import Target
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.progress import Progress, silent
from mobilenet_cli.pipeline.quantizing.calibration_images import choose_images
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import calibration_runtime


@dataclass(frozen=True)
class Learnable:
    """A learnable layer is a folded layer where training starts.

    Attributes:
        weight: on its grid, float32, shaped as the layer's.
        scale: of each output channel's grid [out].
        bias: [out].
    """

    weight: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, linear: QuantizedLinear) -> "Learnable":
        """Return the real values of an integer layer."""
        scale = linear.scale.reshape(-1, *(1,) * (linear.weight.ndim - 1))
        return cls(linear.weight * scale, linear.scale, linear.bias * linear.bias_scale)


@dataclass(frozen=True)
class Grids:
    """A network is trained through these grids.

    Attributes:
        layers: of the network in order, the classifier last.
        activations: of the input, each layer's output and each residual sum in the order of
            computation, and the pooled features.
        coded: of every tensor that becomes codes, as the facts keep them.
        target: of ``quantize``.
    """

    layers: tuple[Learnable, ...]
    activations: tuple[Grid, ...]
    coded: tuple[Grid, ...]
    target: Target


def quantized_start(
    source: Artifact, data: str, settings: QuantizeConfig, progress: Progress = silent
) -> Grids:
    """Quantize a checkpoint as ``quantize`` does.

    Args:
        source: the checkpoint.
        data: the training images to calibrate on, as ``open_dataset`` takes them.
        settings: of ``quantize``: how many images, for which target.
        progress: is told how far it is.

    Raises:
        ModelError: the checkpoint cannot be used.
        DataError: the images cannot be read.
    """

    def tick(done: int, total: int, note: str = "") -> None:
        progress(done, total, f"quantizing: {note}")

    with tempfile.TemporaryDirectory() as folder:
        exported = export(source, ExportConfig(), Path(folder) / "fp32.onnx")
        folded = simplify(exported, SimplifyConfig(), Path(folder) / "folded.onnx")
        network = parse(load_onnx(folded.path))
        images = choose_images(folded, data, settings.calib_count, settings.seed)
    settings = settings.resolved()
    runtime = calibration_runtime(images, tick)
    quantized = build(network, images, settings.kernels, settings.calibrator, (), runtime)
    # A shape step only renames what another has made.
    grids, made = quantized.grids, [s for s in network.steps if s.kind != "shape"]
    return Grids(
        tuple(Learnable.of(linear) for linear in quantized.linears.values()),
        (grids[network.input], *(grids[s.output] for s in made if s.output in grids)),
        tuple(grids[name] for name in coded_tensors(network)),
        settings.kernels,
    )
