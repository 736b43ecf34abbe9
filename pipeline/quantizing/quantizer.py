"""One float model is quantized as often as asked, with any of its layers left in float."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.join_groups import join_groups
from mobilenet_cli.calibration.graph.parse import Network, parse
from mobilenet_cli.calibration.graph.widen_channels import widen_channels
from mobilenet_cli.calibration.integer_network import RECONSTRUCTION_IMAGES, Quantized, build
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.files import foreign
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError, counted
from mobilenet_cli.pipeline.progress import Progress
from mobilenet_cli.pipeline.quantizing.calibration_images import Calibration, choose_images
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import (
    SIMULATED,
    StepProof,
    calibration_runtime,
    layer_meter,
)
from mobilenet_cli.pipeline.runtime.proving.integer_kernels import detect_target
from mobilenet_cli.pipeline.runtime.proving.prove import ROUNDING
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.quantization import LayerRecord

Outputs = list[NDArray[np.float32]]  # of all images, output by output


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model has a file, and what was measured of each of its layers.

    Attributes:
        network: the float network that it stands for.
        layers: the measurements of each step, in the order of computation.
        content: the ONNX file.
        integers: the grids and integer parameters that are in it.
        proofs: what kernels elsewhere must make of each step; empty unless it is for those.
    """

    network: Network
    layers: tuple[LayerRecord, ...]
    content: bytes
    integers: Quantized
    proofs: tuple[StepProof, ...] = ()


@dataclass(frozen=True)
class Quantizer:
    """A quantizer holds what all quantizations of one model have in common.

    Attributes:
        source: the float model.
        model: its graph, with as many channels, also in a group, as the target's kernels like.
        config: the settings, with a target that is not ``auto``.
        calibration: the images to calibrate on.
        progress: is told how far a quantization is.
    """

    source: Artifact
    model: onnx.ModelProto
    config: QuantizeConfig
    calibration: Calibration
    progress: Progress

    @classmethod
    def prepare(cls, source: Artifact, config: QuantizeConfig, progress: Progress) -> "Quantizer":
        """Read the model, then choose the images.

        Raises:
            ModelError: the model is quantized already, not folded, or has nothing to quantize.
            DataError: the calibration images cannot be used.
            OptionError: an option contradicts the grids that the model was trained on.
        """
        model = load_onnx(source.path)
        with foreign(source.path, "a network to quantize"):
            try:
                network = parse(model)  # before any image is read
            except ModelError as error:
                raise ModelError(
                    f"{source.path} cannot be quantized, since {error.what}", error.fix
                ) from error
        if source.facts.task == "classification" and len(network.outputs) != 1:
            raise ModelError(
                f"{source.path} has {len(network.outputs)} outputs",
                "Only classifiers with one output, and detectors made by this tool, can be "
                "quantized",
            )
        config = config.resolved()
        chooses = config.max_drop is not None or config.tune or config.keep_float
        if source.facts.grids and (config.calibrator != "minmax" or chooses):
            raise OptionError(
                f"{source.path} was trained on its grids",
                "Leave --calibrator, --max-drop, --tune and --keep-float out",
            )
        if config.kernels.direct:
            model = join_groups(widen_channels(network))
            network = parse(model)
        if unknown := [name for name in config.keep_float if name not in network.linears]:
            raise OptionError(
                f"{source.path} has no layer {unknown[0]} to keep in float",
                f"Its layers are {', '.join(network.linears)}",
            )
        calibration = choose_images(source, config.calib_dir, config.calib_count, config.seed)
        return cls(source, model, config, calibration, progress)

    @property
    def facts(self) -> Facts:
        """Return the facts of the quantized model."""
        made = self.source.derived("quantize", self.config, "numpy", "onnx", "onnxruntime")
        kept = {name: made.config[name] for name in self.config.recorded}
        return made.model_copy(update={"config": kept})

    def make(
        self, kept: tuple[str, ...] = (), calibration: Calibration | None = None
    ) -> QuantizedModel:
        """Quantize the model.

        Args:
            kept: the layers that stay in float, by the tensors they make.
            calibration: the images to calibrate on instead of all.

        Raises:
            CheckError: the kernels of this machine do not compute what the simulation says.
            DataError: a tensor is NaN or infinite on the images.

        A step without weights whose integer kernel computes something else, such as an average
        that counts the border differently, stays in float as well: no target mends that.
        """
        images, kernels = calibration or self.calibration, self.config.kernels
        network = parse(self.model, frozenset((*self.config.keep_float, *kept)))
        layers: list[LayerRecord] = []
        elsewhere: list[StepProof] | None = [] if self.config.cross and kernels.cpu else None
        watch = partial(layer_meter, network, images, layers, elsewhere)
        runtime = calibration_runtime(images, self.progress, watch)
        trained = self.source.facts.grids
        quantized = build(network, images, kernels, self.config.calibrator, trained, runtime)
        if wrong := wrong_without_weights(network, layers):
            return self.make((*kept, *wrong), calibration)
        check_kernels(layers, self.config)
        content = with_facts(quantized.write(kernels), self.facts)
        return QuantizedModel(network, tuple(layers), content, quantized, tuple(elsewhere or ()))

    def outputs(
        self, made: QuantizedModel, calibration: Calibration | None = None
    ) -> tuple[Outputs, Outputs, Outputs]:
        """Compute the outputs on calibration images: logits [images, classes], or boxes and scores.

        Returns:
            Those of the float model, of the quantized one in simulation, and of the quantized one
            on the integer kernels.
        """
        sessions = (
            open_session(self.source.path),
            open_session(made.content, SIMULATED),
            open_session(made.content),
        )
        name = sessions[0].get_inputs()[0].name
        rows: list[list[Outputs]] = [[], [], []]
        detects = self.source.facts.task == "detection"
        for batch in (calibration or self.calibration).first_batches(RECONSTRUCTION_IMAGES):
            for row, session in zip(rows, sessions, strict=True):
                made_here = session.run(None, {name: batch})
                row.append(made_here if detects else [made_here[0].reshape(len(batch), -1)])
        expected, simulated, found = (
            [np.concatenate(output) for output in zip(*row, strict=True)] for row in rows
        )
        return expected, simulated, found


def wrong_without_weights(network: Network, layers: Sequence[LayerRecord]) -> tuple[str, ...]:
    """Name the steps without weights that the integer kernels do not compute as defined."""
    steps = {s.output for s in network.steps if s.kind != "linear" and not s.apart}
    return tuple(x.name for x in layers if x.name in steps and (x.kernel_error or 0) > ROUNDING)


def check_kernels(layers: Sequence[LayerRecord], config: QuantizeConfig) -> None:
    """Refuse a model that this machine's kernels do not compute as its definition says.

    Raises:
        CheckError: names the layers, unless the model is for another machine.
    """
    wrong = [layer for layer in layers if (layer.kernel_error or 0) > ROUNDING]
    if wrong and not config.cross:
        named = ", ".join(f"{layer.name} ({layer.kernel_error:g} codes)" for layer in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckError(
            f"the integer kernels of this machine saturate in {counted(len(wrong), 'layer')} of "
            f"a model for {config.target}: {named}{more}",
            f"Use --target {detect_target()} for this machine, or --cross if the model is for "
            "another one, and evaluate it there",
        )
