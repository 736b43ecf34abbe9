"""A quantized model is proven to be integer, and to compute on this machine what it says."""

import math
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from mobilenet_cli.calibration.graph.parse import GraphStep, Network
from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.integer_network import AsCoded, CalibrationImages, Runtime
from mobilenet_cli.calibration.tensor_statistics import exposing, run_exposed
from mobilenet_cli.calibration.weights.reconstruct import Watch
from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.progress import Progress
from mobilenet_cli.pipeline.runtime.proving.parity import sqnr_db
from mobilenet_cli.pipeline.runtime.proving.prove import codes_apart
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.quantization import LayerRecord

SIMULATED = SessionConfig(integer_kernels=False)
KIT_IMAGES = 2  # that travel to other machines
# On which each layer is compared with the float network and with the kernels, unless fewer large
# ones are run at once.
PROBE_IMAGES = 4


def calibration_runtime(
    images: CalibrationImages,
    progress: Progress,
    watch: Callable[[dict[str, Grid], AsCoded], Watch] | None = None,
) -> Runtime:
    """Let ONNX Runtime compute models for calibration, with progress over three passes."""

    def passed(passes: float, note: str) -> None:
        progress(int(passes * len(images)), 3 * len(images), note)

    return Runtime(open_session, lambda model: open_session(model, SIMULATED), passed, watch)


def running_operators(content: bytes) -> Counter[str]:
    """Count the nodes, by type, of the graph that ONNX Runtime really runs for a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(content, SessionConfig(optimized_path=path))
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def runs_in_integers(step: GraphStep, model: bytes, grids: dict[str, Grid]) -> bool:
    """Tell whether a step goes from codes to codes, and ONNX Runtime has a kernel that does."""
    if not {*step.inputs, *step.outputs} <= grids.keys():
        return False
    return not running_operators(model).keys() & {"QuantizeLinear", "DequantizeLinear"}


def joins_outputs(step: GraphStep, network: Network) -> bool:
    """Tell whether a step only puts a detector's heads together, each from codes of its own."""
    return step.node.op_type == "Concat" and step.output in network.outputs


def check_integer(network: Network, operators: Counter[str]) -> None:
    """Refuse a graph in which something that should be integer runs in float.

    Raises:
        CheckError: says what does.
    """
    kept = [s for s in network.steps if s.kind == "float"]
    allowed = Counter(s.node.op_type for s in kept)
    # Logits stay float, and so does an activation that makes them.
    floats = [s for s in network.steps if s.output in network.outputs and s.node.op_type == "Gemm"]
    for step in {step.output: step for step in (*kept, *floats)}.values():
        if step.low == 0.0:  # with an activation behind it
            allowed["Clip" if math.isfinite(step.high) else "Relu"] += 1
    allowed["Clip"] += sum(len(s.inputs) for s in kept if s.apart)  # as ``write_qdq`` parts them
    for operator in ("Conv", "Gemm", "MatMul", "Clip", "Relu"):
        found = operators[operator] + operators[f"Fused{operator}"]
        if found > allowed[operator]:
            raise CheckError(
                f"{found} {operator} of the quantized model run in float",
                "Install the onnxruntime version of constraints.txt; nothing was written",
            )
    made = {name for step in kept for name in step.outputs}
    ends = [name for name in network.outputs if name not in made]  # they come from codes
    back = len(ends) + sum(len(step.inputs) for step in kept)
    forth = 1 + sum(len(step.outputs) for step in kept)
    if operators["QuantizeLinear"] > forth or operators["DequantizeLinear"] > back:
        raise CheckError(
            "the quantized model goes back to float between layers: "
            f"{operators['QuantizeLinear']} QuantizeLinear and "
            f"{operators['DequantizeLinear']} DequantizeLinear are left",
            "Install the onnxruntime version of constraints.txt; nothing was written",
        )


@dataclass(frozen=True)
class StepProof:
    """A proof of a step says what the step must make of given inputs, on any kernels.

    Attributes:
        step: the step.
        model: the step as an ONNX model, from codes to codes.
        inputs: its inputs on a few images, by name.
        simulated: what the simulation made of them, [images, ...].
    """

    step: GraphStep
    model: bytes
    inputs: dict[str, NDArray[Any]]
    simulated: NDArray[Any]

    def of_images(self, most: int, images: int) -> "StepProof":
        """Copy the proof with at most so many of its images."""

        def first(values: NDArray[Any]) -> NDArray[Any]:
            return values[: len(values) * min(most, images) // images].copy()

        inputs = {name: first(values) for name, values in self.inputs.items()}
        return replace(self, inputs=inputs, simulated=first(self.simulated))

    def kernel_error(self) -> float:
        """Measure how far this machine's kernels are from the simulation, as ``codes_apart``."""
        return codes_apart(self.simulated, open_session(self.model).run(None, self.inputs)[0])


def layer_meter(
    network: Network,
    images: CalibrationImages,
    layers: list[LayerRecord],
    elsewhere: list[StepProof] | None,
    grids: dict[str, Grid],
    as_coded: AsCoded,
) -> Watch:
    """Make a watcher that measures each step on a few images and appends the result to ``layers``.

    It compares the step's codes with the float network's tensor, and with what the integer
    kernels make of the same inputs. Where ``elsewhere`` is a list, the proofs for other kernels go
    there; steps without weights are tried here all the same, for what they compute wrongly is no
    matter of the CPU.
    """
    few_images = next(images.first_batches(PROBE_IMAGES))
    session = exposing(network, [step.output for step in network.steps], open_session)

    def measure(
        step: GraphStep, model: bytes, read: dict[str, NDArray[Any]], made: NDArray[Any]
    ) -> None:
        reference = run_exposed(session, network, [step.output], few_images)[step.output]
        few = {n: v[: len(reference) * len(v) // len(made)] for n, v in read.items()}
        codes = made[: len(reference)]
        proof = StepProof(step, model, few, codes)
        if elsewhere is not None:
            elsewhere.append(proof.of_images(KIT_IMAGES, len(few_images)))
        here = elsewhere is None or step.kind != "linear"
        grid = grids.get(step.output)
        layers.append(
            LayerRecord(
                name=step.output,
                operator=step.node.op_type,
                sqnr_db=sqnr_db(as_coded(step.output, reference), grid.dequantize(codes))
                if grid
                else sqnr_db(reference, codes),
                scale=grid.scale if grid else None,
                kernel_error=proof.kernel_error() if here else None,
                integer=step.kind != "float" or runs_in_integers(step, model, grids),
            )
        )

    return measure
