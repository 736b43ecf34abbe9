"""A detector gets decoding and non-maximum suppression behind its raw outputs, as ONNX operators.

The graph then does what ``models.detections`` does, which is proven on images. Outputs are those
that other programs' detectors have: ``boxes`` [batch, M, 4] (left, top, right, bottom), ``scores``
[batch, M], ``classes`` [batch, M] and ``count`` [batch], the most probable box first; behind the
last box of an image, scores and boxes are 0 and classes -1. The input ``sizes`` [batch, 2], width
and height of each image in pixels, may be left out: boxes are then in pixels of the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mobilenet_cli.calibration.graph.write_qdq import Writer
from mobilenet_cli.models.boxes import KEPT_RAW, LARGEST_EXPONENT, BoxSpec
from mobilenet_cli.models.detections import MAX_DETECTIONS, SHOWN, Detections, NmsConfig, choose
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.artifacts.sidecar import refuse_overwrite
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError
from mobilenet_cli.pipeline.runtime.proving.probe_images import probe_images
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.conversion import NmsRecord

RAW = ("boxes", "scores")
OUTPUTS = ("boxes", "scores", "classes", "count")
SIZES = "sizes"
DECODED = ("nms_corners", "nms_scores")
LEAST = "nms_min_score"  # the constant
BATCHES = (1, 3)
PROBE_SIZES = np.array([[640, 480], [333, 500], [64, 64]], np.float32)  # that images may have
MIN_OPSET = 13  # from which on the operators take what they are given here
# Of a probability and of a box's side as a share of the image's: exp differs by a few roundings.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class NmsExportConfig:
    """These are the settings of ``export --nms``.

    Attributes:
        min_score: a box is kept if its probability is above this.
        max_overlap: of two boxes that overlap by more, one is dropped; None takes what the detector
            was made for.
        max_detections: boxes of an image.
        data: images on which the graph is compared with the reference; None takes the training
            data, and seeded noise where that is not known.
        images: how many of them.
    """

    min_score: float = SHOWN
    max_overlap: float | None = None
    max_detections: int = MAX_DETECTIONS
    data: str | None = None
    images: int = 16


def settings(min_score: float | None, nms: bool = True) -> NmsExportConfig:
    """Return the settings of ``export --nms`` for a least probability; None takes 0.5.

    Raises:
        OptionError: there is a probability, and no boxes are to be chosen.
    """
    if min_score is not None and not nms:
        raise OptionError("--min-score is for --nms", "Pass --nms, too, or leave it out")
    return NmsExportConfig(min_score=SHOWN if min_score is None else min_score)


def export_nms(source: Artifact, config: NmsExportConfig, out: Path) -> Artifact[NmsRecord]:
    """Write ``out``: the same detector with final boxes for outputs.

    Raises:
        ModelError: the model is no detector, or has final boxes already.
        CheckError: the graph's boxes are not those of the reference; nothing is written.
        DataError: the comparison images cannot be read.
        StorageError: ``out`` cannot be written.
    """
    refuse_overwrite(out, [source.path])
    spec, side = source.facts.boxes, source.facts.input.resolution
    if spec is None:
        raise ModelError(
            f"{source.path} is a classifier, which has no boxes",
            "Leave --nms out, or name a detector",
        )
    if source.is_checkpoint:
        raise ModelError(
            f"{source.path} is a checkpoint", "Export it first, and name one of its .onnx files"
        )
    nms = NmsConfig(
        min_score=config.min_score,
        max_overlap=config.max_overlap or spec.max_overlap,
        max_detections=config.max_detections,
    )
    before = load_onnx(source.path)
    after = append_nms(before, spec, nms, side)
    images, images_from = probe_images(source.facts, config.data, config.images)
    boxes = check_boxes(before, spec, nms, side, images)
    facts = source.derived("nms", config, "onnx", "onnxruntime")
    record = NmsRecord(
        min_score=nms.min_score,
        max_overlap=nms.max_overlap,
        max_detections=nms.max_detections,
        boxes_checked=boxes,
        images=len(images),
        images_from=images_from,
    )
    return save_artifact(out, with_facts(after, facts), facts, record)


def append_nms(
    model: onnx.ModelProto, spec: BoxSpec, config: NmsConfig, side: int, keep_raw: bool = False
) -> onnx.ModelProto:
    """Return a model whose outputs are final boxes.

    Args:
        model: a detector with raw outputs ``boxes`` and ``scores``.
        spec: what they mean.
        config: which boxes to keep.
        side: of the input in pixels.
        keep_raw: the raw outputs follow the final ones, as ``KEPT_RAW``.

    Raises:
        ModelError: it has other outputs.
        OptionError: its operator set is too old.
    """
    if tuple(value.name for value in model.graph.output) != RAW:
        raise ModelError(
            f"the model has the outputs {', '.join(o.name for o in model.graph.output)} instead of "
            f"raw {' and '.join(RAW)}",
            "Name the model as export, simplify or quantize has made it",
        )
    if next((o.version for o in model.opset_import if o.domain == ""), 0) < MIN_OPSET:
        raise OptionError(
            f"the operator set is older than {MIN_OPSET}",
            f"Export with --opset {MIN_OPSET} or more",
        )
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, writer = made.graph, Writer()
    renamed = dict(zip(RAW, KEPT_RAW, strict=True))
    for node in graph.node:  # the raw outputs give their names to the final ones
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    _write_corners(writer, spec)
    _write_scores(writer, spec)
    _write_choice(writer, spec, config)
    del graph.output[:], graph.value_info[:]
    graph.node.extend(writer.nodes)
    default = np.full((1, 2), side, np.float32)
    writer.constant(SIZES, default)
    graph.initializer.extend(writer.constants.values())
    graph.input.append(helper.make_tensor_value_info(SIZES, TensorProto.FLOAT, ["images", 2]))
    kept = min(config.max_detections, spec.count * len(spec.columns))
    shapes: dict[str, tuple[int, Sequence[int | str]]] = {
        "boxes": (TensorProto.FLOAT, ["batch", kept, 4]),
        "scores": (TensorProto.FLOAT, ["batch", kept]),
        "classes": (TensorProto.INT64, ["batch", kept]),
        "count": (TensorProto.INT64, ["batch"]),
    }
    for name, (kind, shape) in shapes.items():
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    if keep_raw:
        graph.output.extend(model.graph.output)
        graph.output[-2].name, graph.output[-1].name = KEPT_RAW
    return made


def _write_corners(writer: Writer, spec: BoxSpec) -> None:
    """Write ``nms_corners`` [N, A, 4] in pixels and ``nms_broken`` [N, 1, A], as ``decode``."""
    anchors = spec.anchor_boxes()
    centers = writer.constant("nms_centers", anchors[:, :2])
    sides = writer.constant("nms_sides", anchors[:, 2:])
    numbers = {
        "center_variance": spec.center_variance,
        "size_variance": spec.size_variance,
        "largest": LARGEST_EXPONENT,
        "two": 2.0,
        "zero": 0.0,
        "one": 1.0,
    }
    number = {k: writer.constant(f"nms_{k}", np.float32(v)) for k, v in numbers.items()}
    halves = writer.constant("nms_halves", np.array([2, 2]))
    writer.nodes.append(
        helper.make_node("Split", ["raw_boxes", halves], ["nms_txy", "nms_twh"], axis=2)
    )
    writer.node("Mul", ["nms_txy", number["center_variance"]], "nms_moved")
    writer.node("Mul", ["nms_moved", sides], "nms_shift")
    writer.node("Add", [centers, "nms_shift"], "nms_center")
    writer.node("Mul", ["nms_twh", number["size_variance"]], "nms_grown")
    writer.node("Min", ["nms_grown", number["largest"]], "nms_bounded")
    writer.node("Exp", ["nms_bounded"], "nms_factor")
    writer.node("Mul", [sides, "nms_factor"], "nms_size")
    writer.node("Div", ["nms_size", number["two"]], "nms_half")
    writer.node("Sub", ["nms_center", "nms_half"], "nms_low")
    writer.node("Add", ["nms_center", "nms_half"], "nms_high")
    writer.node("Concat", ["nms_low", "nms_high"], "nms_outside", axis=2)
    writer.node("Clip", ["nms_outside", number["zero"], number["one"]], "nms_inside")
    writer.node("Concat", [SIZES, SIZES], "nms_scale", axis=1)
    one_axis = writer.constant("nms_axis_1", np.array([1]))
    writer.node("Unsqueeze", ["nms_scale", one_axis], "nms_scales")
    writer.node("Mul", ["nms_inside", "nms_scales"], "nms_corners")
    writer.node("IsNaN", ["nms_outside"], "nms_nan")  # Clip may hide it
    writer.node("Cast", ["nms_nan"], "nms_nans", to=TensorProto.FLOAT)
    last = writer.constant("nms_last", np.array([2]))
    writer.node("ReduceSum", ["nms_nans", last], "nms_any", keepdims=0)
    writer.node("Cast", ["nms_any"], "nms_lost", to=TensorProto.BOOL)
    writer.node("Unsqueeze", ["nms_lost", one_axis], "nms_broken")


def _write_scores(writer: Writer, spec: BoxSpec) -> None:
    """Write ``nms_scores`` [N, classes, A]: probabilities, and -1 of a box that is no number."""
    columns = writer.constant("nms_columns", np.array(spec.columns, np.int64))
    if spec.scores == "sigmoid":
        writer.node("Gather", ["raw_scores", columns], "nms_logits", axis=2)
        writer.node("Sigmoid", ["nms_logits"], "nms_shares")
    else:
        writer.node("Softmax", ["raw_scores"], "nms_all", axis=2)
        writer.node("Gather", ["nms_all", columns], "nms_shares", axis=2)
    writer.node("Transpose", ["nms_shares"], "nms_by_class", perm=[0, 2, 1])
    none = writer.constant("nms_none", np.float32(-1))
    writer.node("Where", ["nms_broken", none, "nms_by_class"], "nms_scores")


def _write_choice(writer: Writer, spec: BoxSpec, config: NmsConfig) -> None:
    """Write the outputs: what is left of each class, then the most probable of all classes."""
    count = spec.count
    kept = min(config.max_detections, count * len(spec.columns))
    settings = [
        writer.constant("nms_limit", np.array([config.max_detections], np.int64)),
        writer.constant("nms_max_overlap", np.array([config.max_overlap], np.float32)),
        writer.constant(LEAST, np.array([config.min_score], np.float32)),
    ]
    writer.node("NonMaxSuppression", ["nms_corners", "nms_scores", *settings], "nms_selected")
    writer.node("GatherND", ["nms_scores", "nms_selected"], "nms_selected_scores")
    minus = writer.constant("nms_minus", np.float32(-1))
    writer.node("Shape", ["nms_scores"], "nms_shape")
    writer.node("Expand", [minus, "nms_shape"], "nms_nothing")
    writer.node("ScatterND", ["nms_nothing", "nms_selected", "nms_selected_scores"], "nms_left")
    flat = writer.constant("nms_flat", np.array([0, -1]))
    writer.node("Reshape", ["nms_left", flat], "nms_row")
    how_many = writer.constant("nms_kept", np.array([kept]))
    writer.nodes.append(
        helper.make_node("TopK", ["nms_row", how_many], ["nms_best", "nms_places"], axis=1)
    )
    anchors = writer.constant("nms_anchors", np.int64(count))
    writer.node("Div", ["nms_places", anchors], "nms_classes")
    writer.node("Mod", ["nms_places", anchors], "nms_of_anchor")
    last = writer.constant("nms_axis_2", np.array([2]))
    writer.node("Unsqueeze", ["nms_of_anchor", last], "nms_indices")
    writer.node("GatherND", ["nms_corners", "nms_indices"], "nms_boxes", batch_dims=1)
    writer.node("Greater", ["nms_best", minus], "nms_real")
    writer.node("Where", ["nms_real", "nms_best", "nms_zero"], "scores")
    writer.node("Unsqueeze", ["nms_real", last], "nms_real_boxes")
    writer.node("Where", ["nms_real_boxes", "nms_boxes", "nms_zero"], "boxes")
    no_class = writer.constant("nms_no_class", np.int64(-1))
    writer.node("Where", ["nms_real", "nms_classes", no_class], "classes")
    writer.node("Cast", ["nms_real"], "nms_each", to=TensorProto.INT64)
    along = writer.constant("nms_along", np.array([1]))
    writer.node("ReduceSum", ["nms_each", along], "count", keepdims=0)


def detections_of(outputs: Sequence[NDArray[np.generic]]) -> list[Detections]:
    """Return each image's boxes from a graph's outputs, in the order of ``OUTPUTS``."""
    boxes, scores, classes, counts = outputs
    return [
        Detections(b[:n].astype(np.float32), s[:n].astype(np.float32), c[:n].astype(np.int64))
        for b, s, c, n in zip(boxes, scores, classes, counts.astype(np.int64), strict=True)
    ]


def check_boxes(
    before: onnx.ModelProto,
    spec: BoxSpec,
    config: NmsConfig,
    side: int,
    images: NDArray[np.float32],
) -> int:
    """Prove what ``append_nms`` writes, at several batch sizes.

    Decoded boxes and probabilities are those of the reference up to rounding; the boxes that are
    chosen of these are exactly those that the reference chooses. That is tried with all boxes, too,
    since an image may have none above the probability.

    Returns:
        The number of chosen boxes that were compared.

    Raises:
        CheckError: they differ.
    """
    compared = 0
    raw = open_session(before.SerializeToString())
    name = before.graph.input[0].name
    for tried in (config, replace(config, min_score=0.0)):
        after = append_nms(before, spec, tried, side)
        after.graph.output.extend(onnx.ValueInfoProto(name=n) for n in DECODED)
        final = open_session(after.SerializeToString())
        place, turn = 0, 0
        while place < len(images):
            batch = images[place : place + BATCHES[turn % len(BATCHES)]]
            place, turn = place + len(batch), turn + 1
            own = np.resize(PROBE_SIZES, (len(batch), 2))
            made = final.run(None, {name: batch, SIZES: own})
            compared += check_answers(made, raw.run(None, {name: batch}), own, spec, tried)
    return compared


def check_answers(
    made: Sequence[NDArray[Any]],
    raw: Sequence[NDArray[np.float32]],
    sizes: NDArray[np.float32],
    spec: BoxSpec,
    config: NmsConfig,
) -> int:
    """Compare what a graph made of a batch with what the reference makes of the raw outputs.

    Args:
        made: ``OUTPUTS`` and ``DECODED``.
        raw: boxes [N, A, 4] and scores [N, A, C].
        sizes: width and height [N, 2] of each image.
        spec: what they mean.
        config: which boxes are chosen.

    Returns:
        The number of chosen boxes.

    Raises:
        CheckError: they differ.
    """
    *outputs, corners, scores = made
    _check_decoded(raw, corners, scores, sizes, spec)
    found = detections_of(outputs)
    for boxes, probabilities, got in zip(corners, scores, found, strict=True):
        wanted = choose(boxes, probabilities.T, config)
        same = all(
            np.array_equal(getattr(wanted, part.name), getattr(got, part.name))
            for part in fields(Detections)
        )
        if not same:
            raise CheckError(
                f"the graph chooses {len(got)} boxes of an image where the reference chooses "
                f"{len(wanted)}, or others",
                "Install the onnxruntime version of constraints.txt; nothing was written",
            )
    return sum(map(len, found))


def _check_decoded(
    raw: Sequence[NDArray[np.float32]],
    corners: NDArray[np.float32],
    scores: NDArray[np.float32],
    sizes: NDArray[np.float32],
    spec: BoxSpec,
) -> None:
    """Compare boxes [N, A, 4] and probabilities [N, classes, A] with the reference's.

    Raises:
        CheckError: they differ by more than rounding.
    """
    wanted = np.clip(spec.decode(raw[0]), 0, 1)
    off = np.abs(corners / np.tile(sizes, 2)[:, None] - wanted).max()
    unlike = np.abs(scores.transpose(0, 2, 1) - spec.probabilities(raw[1])).max()
    if not max(off, unlike) <= TOLERANCE:
        raise CheckError(
            f"the graph's boxes are up to {off:.2g} of the image's side away from the reference's, "
            f"and its probabilities up to {unlike:.2g}",
            "Install the onnxruntime version of constraints.txt; nothing was written",
        )
