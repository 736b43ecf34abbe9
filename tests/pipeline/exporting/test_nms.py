"""Boxes that the graph chooses are those of the reference, whatever the numbers are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.models.boxes import AnchorMap, BoxSpec
from mobilenet_cli.models.detections import NmsConfig, choose, detect, overlaps
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError
from mobilenet_cli.pipeline.exporting import nms
from mobilenet_cli.pipeline.exporting.nms import (
    NmsExportConfig,
    append_nms,
    detections_of,
    export_nms,
)
from mobilenet_cli.pipeline.runtime.session import open_session

ANCHORS = 12


def spec_of(classes: int, scores: str = "sigmoid") -> BoxSpec:
    """Anchors that all are the whole image, so that raw outputs can be any box."""
    sizes = tuple((1.0, 1.0) for _ in range(ANCHORS))
    maps = (AnchorMap(side=1, step=1.0, sizes=sizes),)
    first = 0 if scores == "sigmoid" else 1
    columns = tuple(range(first, first + classes))
    return BoxSpec(anchors=maps, center_variance=1, size_variance=1, scores=scores, columns=columns)


def raw_model(spec: BoxSpec, opset: int = 18) -> onnx.ModelProto:
    """A detector whose outputs are its inputs, behind an image that nobody looks at."""
    width = 4 + len(spec.columns) + (spec.scores == "softmax")
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", ANCHORS, width])
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", ANCHORS, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", ANCHORS, width - 4]),
    ]
    parts = onnx.numpy_helper.from_array(np.array([4, width - 4]), "parts")
    node = helper.make_node("Split", ["input", "parts"], ["boxes", "scores"], axis=2)
    graph = helper.make_graph([node], "g", [image], outputs, [parts])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def hostile_boxes(rng: np.random.Generator, images: int) -> np.ndarray:
    """Boxes on a coarse grid: many equal, touching, without area; some that are no numbers."""
    corners = rng.integers(0, 5, (images, ANCHORS, 2, 2)) / 4
    low, high = corners.min(2), corners.max(2)
    raw = np.concatenate([(low + high) / 2 - 0.5, np.log(np.maximum(high - low, 1e-30))], axis=2)
    raw[rng.random(raw.shape[:2]) < 0.03] = np.nan
    raw[rng.random(raw.shape) < 0.01] = np.nan
    raw[rng.random(raw.shape) < 0.01] = np.inf
    raw[rng.random(raw.shape) < 0.01] = -np.inf
    return raw.astype(np.float32)


@pytest.mark.parametrize(
    ("classes", "scores", "config"),
    [
        (1, "sigmoid", NmsConfig(min_score=0.5)),
        (2, "sigmoid", NmsConfig(min_score=0.1, max_overlap=0.4, max_detections=5)),
        (2, "softmax", NmsConfig(min_score=0.1, max_overlap=0.4, max_detections=5)),
    ],
)
@pytest.mark.parametrize("total", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_graph_is_the_reference(total, classes, scores, config) -> None:
    """Probabilities have many ties, at the threshold, too; shares of a sum are hardly equal."""
    spec, rng = spec_of(classes, scores), np.random.default_rng(0)
    model = append_nms(raw_model(spec), spec, config, side=32)
    onnx.checker.check_model(model, full_check=True)
    session = open_session(model.SerializeToString())
    cases = total // 2 if scores == "sigmoid" else total // 20
    boxes = hostile_boxes(rng, cases)
    shape = (cases, ANCHORS, classes + (scores == "softmax"))
    ties = rng.integers(-2, 3, shape) / 2
    logits = (ties if scores == "sigmoid" else rng.normal(0, 2, shape)).astype(np.float32)
    for place in range(0, cases, 100):
        part = slice(place, place + 100)
        joined = np.concatenate([boxes[part], logits[part]], axis=2)
        found = detections_of(session.run(None, {"input": joined}))
        for own_boxes, own_logits, got in zip(boxes[part], logits[part], found, strict=True):
            wanted = detect(own_boxes, own_logits, spec, (32, 32), config)
            np.testing.assert_array_equal(got.classes, wanted.classes)
            np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-6)
            np.testing.assert_allclose(got.boxes, wanted.boxes, atol=1e-4)


def slow_choice(boxes: np.ndarray, scores: np.ndarray, config: NmsConfig) -> list[tuple]:
    """Choose boxes one by one, in float64, as the paper's words have it."""

    def area(b: np.ndarray) -> float:
        return max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1])

    kept: list[tuple] = []
    for label in range(scores.shape[1]):
        own: list[int] = []
        for index in sorted(range(len(boxes)), key=lambda i: (-scores[i, label], i)):
            if scores[index, label] <= config.min_score or not np.isfinite(boxes[index]).all():
                continue
            for other in own:
                a, b = boxes[index].astype(float), boxes[other].astype(float)
                common = area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
                union = area(a) + area(b) - common
                if area(a) and area(b) and common / union > config.max_overlap:
                    break
            else:
                own.append(index)
        kept += [(-scores[i, label], label, i) for i in own[: config.max_detections]]
    return sorted(kept)[: config.max_detections]


@pytest.mark.parametrize("seed", range(30))
def test_the_reference_is_what_the_words_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 1, (25, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 0.5, (25, 2))], axis=1).astype(np.float32)
    boxes[3], boxes[4, 2:] = np.nan, boxes[4, :2]
    scores = (rng.integers(0, 8, (25, 2)) / 8).astype(np.float32)
    config = NmsConfig(min_score=0.2, max_overlap=0.3, max_detections=9)
    found = choose(boxes, scores, config)
    wanted = slow_choice(boxes, scores, config)
    assert found.classes.tolist() == [label for _, label, _ in wanted]
    np.testing.assert_array_equal(found.boxes, boxes[[i for *_, i in wanted]])


def test_overlaps_of_any_corners() -> None:
    box = np.array([0, 0, 2, 2], np.float32)
    others = [(1, 1, 3, 3), (3, 3, 1, 1), (2, 0, 4, 2), (0, 0, 0, 2), (0, 0, 2, 2)]
    np.testing.assert_allclose(overlaps(box, np.array(others, np.float32)), [1 / 7, 1 / 7, 0, 0, 1])


@pytest.mark.parametrize(
    "wrong", [{"min_score": 1.0}, {"min_score": -0.1}, {"max_overlap": 0.0}, {"max_detections": 0}]
)
def test_settings_have_domains(wrong) -> None:
    with pytest.raises(OptionError):
        NmsConfig(**wrong)


@pytest.fixture(scope="module")
def final(detector, tmp_path_factory):
    config = NmsExportConfig(min_score=0.3, data="digits")
    return export_nms(detector.int8, config, tmp_path_factory.mktemp("final") / "boxes.onnx")


def test_an_int8_detector_gets_final_boxes(detector, final) -> None:
    assert final.record.boxes_checked > 10
    facts = load_artifact(final.path).facts
    assert (facts.stage, facts.parent) == ("nms", detector.int8.sha256)
    session = open_session(final.path)
    assert [o.name for o in session.get_outputs()] == ["boxes", "scores", "classes", "count"]
    samples = open_dataset("digits", "val").samples[:5]
    (batch,) = batches(samples, facts.input, 5)
    own = detections_of(session.run(None, {"input": batch.images}))  # sizes may be left out
    raw = open_session(detector.int8.path).run(None, {"input": batch.images})
    config = NmsConfig(min_score=0.3)
    for boxes, logits, got in zip(*raw, own, strict=True):
        wanted = detect(boxes, logits, facts.boxes, (64, 64), config)
        np.testing.assert_array_equal(got.classes, wanted.classes)
        np.testing.assert_allclose(got.boxes, wanted.boxes, atol=1e-3)


@pytest.mark.parametrize(
    ("constant", "value", "problem"),
    [
        ("center_variance", np.float32(0.2), "of the image's side away"),
        ("max_overlap", np.array([0.9], np.float32), "where the reference chooses"),
    ],
)
def test_a_graph_that_differs_is_refused(
    detector, monkeypatch, tmp_path, constant, value, problem
) -> None:
    def changed(*arguments):
        model = append_nms(*arguments)
        for tensor in model.graph.initializer:
            if tensor.name == f"nms_{constant}":
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return model

    monkeypatch.setattr(nms, "append_nms", changed)
    with pytest.raises(CheckError, match=problem):
        export_nms(detector.fp32, NmsExportConfig(0.3, data="digits"), tmp_path / "boxes.onnx")
    assert not (tmp_path / "boxes.onnx").exists()


def test_what_cannot_get_boxes_is_told(detector, final, chain, tmp_path) -> None:
    out = tmp_path / "x.onnx"
    with pytest.raises(ModelError, match="is a classifier, which has no boxes"):
        export_nms(chain.fp32, NmsExportConfig(), out)
    with pytest.raises(ModelError, match="is a checkpoint"):
        export_nms(detector.checkpoint, NmsExportConfig(), out)
    with pytest.raises(ModelError, match="has the outputs boxes, scores, classes, count instead"):
        export_nms(final, NmsExportConfig(), out)
    spec = spec_of(1)
    with pytest.raises(OptionError, match="operator set is older than 13"):
        append_nms(raw_model(spec, opset=11), spec, NmsConfig(), 32)


def test_the_command(detector, tmp_path) -> None:
    arguments = ["export", "--nms", "--checkpoint", str(detector.folded.path)]
    arguments += ["--out", str(tmp_path / "boxes.onnx"), "--min-score", "0.2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "boxes above 0.2" in result.stdout
