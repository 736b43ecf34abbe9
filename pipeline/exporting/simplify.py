"""Fold BatchNormalization into convolutions with onnxsim, and prove that nothing else changed.

Three proofs, since the simplifier gives none: no BatchNormalization is left of N > 0; every
folded kernel equals a folding in float64, channel by channel; the logits of real images are equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from mobilenet_cli.pipeline.artifacts.artifact import Artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.files import foreign
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.artifacts.sidecar import refuse_overwrite
from mobilenet_cli.pipeline.errors import CheckError, ModelError
from mobilenet_cli.pipeline.exporting.affine_norms import affine_norms_as_layers
from mobilenet_cli.pipeline.runtime.proving.parity import compare, within_float32_rounding
from mobilenet_cli.pipeline.runtime.proving.probe_images import probe_images
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.pipeline.runtime.tensor_values import EXACT, tensor_values
from mobilenet_cli.reports.records.conversion import SimplifyRecord

WEIGHT_TOLERANCE = 1e-6  # relative: a few units in the last place of float32


# What to do with a model that has no BatchNormalization, by the stage that made it.
SIMPLIFIED = {
    "quantize": "It is the int8 model, whose BatchNormalizations are folded already",
    "convert": "Its BatchNormalizations are folded already; 'mobilenet-cli bench' measures it",
}


@dataclass(frozen=True)
class SimplifyConfig:
    """These are the settings of ``simplify``.

    Attributes:
        data: images on which input and output are compared; None takes the training data.
        images: how many of them.
    """

    data: str | None = None
    images: int = 16


@dataclass(frozen=True)
class Folded:
    """This is a convolution with its batch normalization folded in, in float64.

    Attributes:
        name: of the normalization's output.
        position: of the convolution among all of the graph's convolutions.
        weight: [out, in / groups, kernel, kernel].
        bias: [out].
        bias_terms: [out], the magnitude of the bias's summands: rounding is relative to these.
    """

    name: str
    position: int
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    bias_terms: NDArray[np.float64]


def simplify(exported: Artifact, config: SimplifyConfig, out: Path) -> Artifact[SimplifyRecord]:
    """Write ``out``: the same function without BatchNormalization.

    Raises:
        ModelError: the input has no BatchNormalization to fold.
        CheckError: one of the three proofs fails; nothing is written.
        DataError: the comparison images cannot be read.
    """
    refuse_overwrite(out, [exported.path])
    before = load_onnx(exported.path)
    if not count(before, "BatchNormalization"):
        raise ModelError(
            f"{exported.path} has no BatchNormalization to fold",
            SIMPLIFIED.get(
                exported.facts.stage, f"Go on with 'mobilenet-cli quantize {exported.path}'"
            ),
        )
    with foreign(exported.path, "a graph to simplify"):
        prepared = affine_norms_as_layers(before)
        after, _ = onnxsim.simplify(prepared, check_n=0)  # verified below, on real images
    left = count(after, "BatchNormalization")
    if left:
        raise CheckError(
            f"the simplifier left {left} of {count(before, 'BatchNormalization')} "
            "BatchNormalization nodes in place",
            "Install the onnxsim version of constraints.txt; nothing was written",
        )
    channels, weight_error = check_folding(prepared, after)
    images, images_from = probe_images(exported.facts, config.data, config.images)
    facts = exported.derived("simplify", config, "onnx", "onnxsim", "onnxruntime")
    record = SimplifyRecord(
        batch_norms_before=count(before, "BatchNormalization"),
        batch_norms_after=left,
        nodes_before=len(before.graph.node),
        nodes_after=len(after.graph.node),
        channels_checked=channels,
        max_weight_error=weight_error,
        max_abs_error=check_equal(before, after, images),
        images=len(images),
        images_from=images_from,
    )
    return save_artifact(out, with_facts(after, facts), facts, record)


def count(model: onnx.ModelProto, operator: str) -> int:
    """Return the number of nodes of one type."""
    return sum(node.op_type == operator for node in model.graph.node)


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return convolutions in the order of computation, which folding keeps."""
    return [node for node in model.graph.node if node.op_type == "Conv"]


def fold_float64(model: onnx.ModelProto) -> Iterator[Folded]:
    """Fold every Conv + BatchNormalization pair of the graph in float64.

    With scale ``s = gamma / sqrt(variance + epsilon)``, per output channel: ``W' = s W`` and
    ``b' = s (b - mean) + beta`` (Jacob et al., arXiv:1712.05877, section 3.2).
    """
    tensors = {t.name: to_array(t).astype(np.float64) for t in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    positions = {conv.output[0]: i for i, conv in enumerate(convolutions(model))}
    for norm in model.graph.node:
        if norm.op_type != "BatchNormalization":
            continue
        conv = makers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv":
            raise ModelError(
                f"BatchNormalization '{norm.name}' does not follow a convolution",
                "Only networks of convolutions followed by BatchNormalization can be simplified",
            )
        read = [tensors[n] for n in (*conv.input[1:], *norm.input[1:5]) if n in tensors]
        whole = len(read) == len(conv.input) + 3
        if not whole or any(vector.shape != read[0].shape[:1] for vector in read[1:]):
            raise ModelError(
                f"BatchNormalization '{norm.name}' and the convolution before it do not have "
                "constants of one size",
                "Export the model again",
            )
        weight, *biases, gamma, beta, mean, variance = read
        bias = biases[0] if biases else np.zeros(len(weight))
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        yield Folded(
            norm.output[0],
            positions[conv.output[0]],
            weight * scale[:, None, None, None],
            scale * (bias - mean) + beta,
            np.abs(scale * bias) + np.abs(scale * mean) + np.abs(beta),
        )


def check_folding(before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[int, float]:
    """Compare every folded channel with float64; return how many, and the largest error.

    Raises:
        CheckError: a kernel is missing, or a channel is off by more than ``WEIGHT_TOLERANCE`` of
            its largest weight (a bias: of the magnitude of its summands).
    """
    tensors = {t.name: to_array(t) for t in after.graph.initializer}
    convs = convolutions(after)
    if len(convs) != len(convolutions(before)):
        raise CheckError(
            f"the simplified graph has {len(convs)} convolutions of {len(convolutions(before))}",
            "Export the model again with this tool",
        )
    channels, worst = 0, 0.0
    for expected in fold_float64(before):
        conv = convs[expected.position]
        wanted = [expected.weight.shape, expected.bias.shape]
        if [tensors[n].shape for n in conv.input[1:] if n in tensors] != wanted:
            raise CheckError(
                f"the simplified graph has no folded convolution that makes '{expected.name}'",
                "Export the model again with this tool",
            )
        axes = (1, 2, 3)
        weight_off = np.abs(tensors[conv.input[1]] - expected.weight).max(axes)
        weight_off /= np.maximum(np.abs(expected.weight).max(axes), np.finfo(np.float32).tiny)
        bias_off = np.abs(tensors[conv.input[2]] - expected.bias)
        bias_off /= np.maximum(expected.bias_terms, np.finfo(np.float32).tiny)
        off = np.maximum(weight_off, bias_off)
        if not off.max() <= WEIGHT_TOLERANCE:
            raise CheckError(
                f"channel {int(off.argmax())} of '{expected.name}' was folded wrongly: "
                f"off by {off.max():.2g} of its size",
                "Install the onnxsim version of constraints.txt",
            )
        channels += len(off)
        worst = max(worst, float(off.max()))
    return channels, worst


def check_equal(
    before: onnx.ModelProto, after: onnx.ModelProto, images: NDArray[np.float32]
) -> float:
    """Measure the largest difference of an output on the images.

    Raises:
        CheckError: it is beyond float32 rounding; says where the graphs part.
    """
    outputs = (
        open_session(m.SerializeToString(), EXACT).run(None, {m.graph.input[0].name: images})
        for m in (before, after)
    )
    worst = 0.0
    for output, expected, found in zip(before.graph.output, *outputs, strict=True):
        error = compare(expected, found).max_abs_error
        if not within_float32_rounding(error, expected):
            raise CheckError(
                f"the simplified model's {output.name} are up to {error:.2g} away from its "
                f"input's; {first_difference(before, after, images)}",
                "Nothing was written; install the onnxsim version of constraints.txt",
            )
        worst = max(worst, error)
    return worst


def first_difference(
    before: onnx.ModelProto, after: onnx.ModelProto, images: NDArray[np.float32]
) -> str:
    """Say where two graphs part: the first tensor that both have, in the order of computation."""
    common = {name for node in after.graph.node for name in node.output}
    # A folded convolution keeps its tensor's name and makes what the normalization made.
    norms = [node for node in before.graph.node if node.op_type == "BatchNormalization"]
    common -= {node.input[0] for node in norms}
    names = [name for node in before.graph.node for name in node.output if name in common]
    expected, found = (tensor_values(model, names, images) for model in (before, after))
    for name, a, b in zip(names, expected, found, strict=True):
        if a.shape != b.shape:
            return f"they part at '{name}', which has another shape"
        off = float(np.abs(a - b).max())
        if not within_float32_rounding(off, a):
            return f"they part at '{name}', which differs by {off:.2g}"
    return "no tensor that both have differs"
