"""A checkpoint becomes ONNX with its BatchNorms intact, proven equal to torch.

The exporter's own optimizer would fold every BatchNormalization, and ``simplify`` would then have
nothing to prove; without it the graph is full of casts that keep the simplifier and ONNX Runtime
from fusing anything. So constants are folded here and nothing else.
"""

import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilenet_cli.models.architecture import Task
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.artifacts.sidecar import refuse_overwrite
from mobilenet_cli.pipeline.errors import CheckError, OptionError
from mobilenet_cli.pipeline.runtime.proving.parity import compare, within_float32_rounding
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.conversion import ExportRecord

if TYPE_CHECKING:
    import onnx
    import onnx_ir

    from mobilenet_cli.models.classifier_torch import Classifier
    from mobilenet_cli.models.detector_torch import Detector

    Network = Classifier | Detector

BATCHES = (1, 2, 7)
CLEAN_OPERATORS = frozenset(
    {"Pad", "Conv", "BatchNormalization", "Clip", "Relu", "Add", "AveragePool", "Reshape", "Gemm"}
)
DEFAULT = 18  # operator set
OUTPUTS: dict[Task, list[str]] = {"classification": ["logits"], "detection": ["boxes", "scores"]}
OF_DETECTORS = frozenset({"Transpose", "Concat", "Resize"})


@dataclass(frozen=True)
class ExportConfig:
    """These are the settings of ``export``.

    Attributes:
        opset: of the default ONNX domain; 18 is read by every current runtime.
    """

    opset: int = DEFAULT

    def __post_init__(self) -> None:
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if not 1 <= self.opset <= newest:
            raise OptionError(
                f"ONNX has no operator set {self.opset}", f"Pass --opset {DEFAULT}, up to {newest}"
            )


def export(checkpoint: Artifact, config: ExportConfig, out: Path) -> Artifact[ExportRecord]:
    """Write ``out``, an ONNX file with input ``input`` [batch, 3, R, R] and output ``logits``.

    A detector has the raw outputs ``boxes`` [batch, A, 4] and ``scores`` [batch, A, C].

    Raises:
        ModelError: the checkpoint cannot be used.
        OptionError: torch cannot write it in this operator set.
        CheckError: the graph is not clean, not equal to torch, or lost a tensor on the way.
        StorageError: ``out`` cannot be written.
    """
    network = load_network(checkpoint)
    refuse_overwrite(out, [checkpoint.path])
    task, resolution = checkpoint.facts.task, checkpoint.facts.input.resolution
    model = _convert(network, resolution, config.opset, OUTPUTS[task])
    clean = CLEAN_OPERATORS | (OF_DETECTORS if task == "detection" else frozenset())
    operators = Counter(node.op_type for node in model.graph.node)
    if unexpected := sorted(operators.keys() - clean):
        raise CheckError(
            f"the exported graph contains {', '.join(unexpected)}",
            "Install the torch and onnxscript versions of constraints.txt",
        )
    _check_weights(network, model)
    facts = checkpoint.derived("export", config, "torch", "onnx", "onnxscript", "onnxruntime")
    content = with_facts(model, facts)
    record = ExportRecord(
        opset=config.opset,
        operators=dict(operators),
        batch_norms=operators["BatchNormalization"],
        max_abs_error=_largest_error(network, content, resolution),
        batches_checked=BATCHES,
    )
    return save_artifact(out, content, facts, record)


def _convert(
    network: "Network", resolution: int, opset: int, outputs: list[str]
) -> "onnx.ModelProto":
    import onnx_ir
    import onnxscript.optimizer
    import torch
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    # Two images: a batch of one would let the tracer take the dimension for a constant.
    images = torch.zeros(2, 3, resolution, resolution)
    # torch logs that torchvision's operators cannot be exported; none is used here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript.version_converter").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # torch's tracer uses interfaces that torch itself deprecates; not ours to mend.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            optimize=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["input"],
            output_names=outputs,
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise CheckError("torch exported nothing", "Report this with your torch version")
    graph: onnx_ir.Model = program.model
    # What it cannot convert it leaves as it was, and says so in the log alone.
    if graph.opset_imports[""] != opset:
        raise OptionError(
            f"torch cannot write this network in operator set {opset}",
            f"Pass --opset {DEFAULT}, which every current runtime reads",
        )
    onnxscript.optimizer.fold_constants(graph)
    onnxscript.optimizer.remove_unused_nodes(graph)
    # Pads and shapes become initializers, so that nodes are operators and nothing else.
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    _strip_trace(graph)
    return onnx_ir.to_proto(graph)


def _strip_trace(graph: "onnx_ir.Model") -> None:
    """Remove the tracer's notes, which hold the source paths of the machine that exported."""
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
    values = [*graph.graph.inputs, *graph.graph.initializers.values()]
    for node in graph.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()


def _check_weights(network: "Network", model: "onnx.ModelProto") -> None:
    """Check that every tensor of the network is in the graph under its own name, bit for bit."""
    import onnx

    exported = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in exported or not np.array_equal(exported[name], tensor.numpy()):
            raise CheckError(
                f"the exported graph does not hold the checkpoint's '{name}' unchanged",
                "Install the torch and onnxscript versions of constraints.txt",
            )


def _largest_error(network: "Network", content: bytes, resolution: int) -> float:
    """Run both at every batch size on seeded noise; refuse a difference beyond rounding."""
    import torch

    session = open_session(content)
    generator = np.random.default_rng(0)
    worst = 0.0
    for batch in BATCHES:
        images = generator.uniform(-1, 1, (batch, 3, resolution, resolution)).astype(np.float32)
        with torch.inference_mode():
            made = network(torch.from_numpy(images))
        expected = [made] if isinstance(made, torch.Tensor) else made
        found = session.run(None, {"input": images})
        for of_torch, output, ours in zip(expected, session.get_outputs(), found, strict=True):
            error = compare(of_torch.numpy(), ours).max_abs_error
            if not within_float32_rounding(error, of_torch.numpy()):
                raise CheckError(
                    f"at batch {batch} the exported model's {output.name} are up to {error:.2g} "
                    "away from torch's",
                    "Install the torch and onnxruntime versions of constraints.txt",
                )
            worst = max(worst, error)
    return worst
