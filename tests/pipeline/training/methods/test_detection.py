"""A detector is trained: what its anchors should find, its loss, and the loop around them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from mobilenet_cli.data.boxes.open_boxes import has_boxes, held_out_boxes, open_boxes
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import DataError, OptionError
from mobilenet_cli.pipeline.training.config import DETECTOR, TrainConfig, named_model
from mobilenet_cli.pipeline.training.learner import starting_network
from mobilenet_cli.pipeline.training.methods.detection import check_objects
from mobilenet_cli.pipeline.training.methods.multibox import (
    NEGATIVES,
    NEITHER,
    match,
    matched_share,
    multibox_loss,
    pairwise_overlaps,
)
from mobilenet_cli.pipeline.training.setup import resolve
from mobilenet_cli.pipeline.training.train import train

SPEC = BoxSpec(anchors=MODELS[DETECTOR].anchors(64), columns=(1, 2))
NOT_IGNORED = np.zeros(2, bool)


def test_each_object_has_its_best_anchor_and_all_that_overlap_it_enough() -> None:
    corners = np.array([[0.1, 0.1, 0.5, 0.45], [0.9, 0.9, 0.93, 0.92]], np.float32)
    target = match(SPEC, corners, np.array([1, 0]), NOT_IGNORED)
    overlap = pairwise_overlaps(SPEC.anchor_corners(), corners)
    own = overlap.argmax(0)
    assert target[own[0], 0] == 2
    assert target[own[1], 0] == 1  # though it overlaps no anchor by half
    assert overlap[own[1], 1] < 0.5
    expected = (overlap[:, 0] >= 0.5).sum()
    assert (target[:, 0] == 2).sum() == max(1, expected)
    decoded = SPEC.decode(target[:, 1:])[target[:, 0] == 2]
    np.testing.assert_allclose(decoded, corners[:1].repeat(len(decoded), 0), atol=1e-5)


def test_ignored_objects_count_neither_way_and_empty_images_are_background() -> None:
    corners = np.array([[0.1, 0.1, 0.5, 0.45], [0.5, 0.5, 1, 1]], np.float32)
    target = match(SPEC, corners, np.array([1, 0]), np.array([True, False]))
    assert (target[:, 0] == NEITHER).any()
    assert not (target[:, 0] == 2).any()
    empty = match(SPEC, corners[:0], np.array([], np.int64), np.array([], bool))
    assert not empty.any()


def test_the_loss_is_that_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, SPEC.count, 3, generator=generator)
    boxes = torch.randn(3, SPEC.count, 4, generator=generator)
    corners = np.array([[0.1, 0.1, 0.5, 0.45], [0.5, 0.5, 1, 1]], np.float32)
    first = match(SPEC, corners, np.array([1, 0]), NOT_IGNORED)
    second = match(SPEC, corners, np.array([1, 0]), np.array([True, False]))
    targets = torch.from_numpy(np.stack([first, second, np.zeros_like(first)]))
    total, count = 0.0, 0
    for own_boxes, own_scores, target in zip(boxes, scores, targets, strict=True):
        classes = target[:, 0].long()
        positive = classes > 0
        entropy = F.cross_entropy(own_scores, classes.clamp(min=0), reduction="none")
        negatives = entropy[classes == 0].sort(descending=True).values
        taken = max(NEGATIVES * int(positive.sum()), 6)
        total += float(entropy[positive].sum() + negatives[:taken].sum())
        total += float(F.smooth_l1_loss(own_boxes[positive], target[positive, 1:], reduction="sum"))
        count += int(positive.sum())
    assert float(multibox_loss(boxes, scores, targets)) == pytest.approx(total / count, rel=1e-5)
    right = F.one_hot(targets[..., 0].long().clamp(min=0), 3).float()
    assert matched_share(right, targets) == 1.0
    assert matched_share(1 - right, targets) == 0.0
    assert float(multibox_loss(targets[..., 1:], 50 * right, targets)) == pytest.approx(0, abs=1e-6)


def test_shapes_are_images_with_boxes() -> None:
    assert has_boxes("shapes")
    train_set, val = open_boxes("shapes", "train"), held_out_boxes("shapes", None)
    assert (len(train_set.images), len(val.images)) == (200, 50)
    assert (train_set.remarks, train_set.lost) == ((), ())
    assert {int(label) for image in train_set.images for label in image.boxes.classes} == {0, 1, 2}
    image = train_set.images[0]
    assert image.sample.read() == image.sample.read()


def small(**more: object) -> TrainConfig:
    """Three steps on shapes, of the smallest detector."""
    settings = {"data": "shapes", "width": 0.1, "resolution": 64, "epochs": 0.25, "model": DETECTOR}
    return TrainConfig(**(settings | more))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(small(), tmp_path_factory.mktemp("detector") / "model.safetensors")


def test_a_trained_detector_says_what_it_is(trained) -> None:
    facts = load_artifact(trained.path).facts
    assert facts.task == "detection"
    assert facts.classes == ("disc", "square", "triangle")
    assert facts.model.classes == 4  # with background
    assert facts.boxes.columns == (1, 2, 3)
    assert facts.input.convention == "stretch"
    assert facts.config["model"] == DETECTOR
    assert facts.config["recipe"]["name"] == "detect"
    assert trained.record.detects
    with torch.inference_mode():
        boxes, _ = load_network(trained)(torch.zeros(1, 3, 64, 64))
    assert boxes.shape == (1, facts.boxes.count, 4)


def test_interrupted_and_resumed_it_is_the_same_file(trained, tmp_path) -> None:
    out, asked = tmp_path / "model.safetensors", iter([False, True])
    with pytest.raises(KeyboardInterrupt):
        train(small(), out, stop=lambda: next(asked))
    assert train(replace(small(), resume=True), out).sha256 == trained.sha256


def test_a_detector_starts_from_a_classifier_or_a_detector(trained, tiny) -> None:
    classifier = load_artifact(tiny / "model.safetensors")
    begun = resolve(small(width=None, init=str(classifier.path)))
    assert begun.network.architecture == DETECTOR
    assert begun.network.width == 0.25
    network = starting_network(replace(begun.network, classes=4), classifier, trained.facts.classes)
    known = load_network(classifier).layers.state_dict()
    assert all(torch.equal(network.layers.state_dict()[name], known[name]) for name in known)
    again = resolve(small(width=None, model=None, init=str(trained.path)))
    assert again.config.recipe_name == "detect"
    same = starting_network(trained.facts.model, trained, trained.facts.classes).state_dict()
    assert all(torch.equal(same[n], t) for n, t in load_network(trained).state_dict().items())
    other = starting_network(trained.facts.model, trained, ("cat", "cow", "dog")).state_dict()
    assert not torch.equal(other["heads.0.scores.weight"], same["heads.0.scores.weight"])
    assert torch.equal(other["extras.0.reduce.conv.weight"], same["extras.0.reduce.conv.weight"])


def test_what_a_detector_cannot_be_trained_with(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--teacher is for classifiers"):
        small(teacher="x.onnx")
    with pytest.raises(OptionError, match="cuts parts out of images"):
        train(small(recipe="paper"), tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="does not exist"):
        train(small(data=str(tmp_path / "none")), tmp_path / "model.safetensors")


def test_a_set_without_objects_is_not_trained_on(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").touch()
    (tmp_path / "classes.txt").write_text("cat")
    with pytest.raises(DataError, match=r"\(all\) has no object in its 1 image"):
        check_objects(open_boxes(str(tmp_path), "all"))


def test_the_task_names_the_architecture() -> None:
    assert named_model("classify", None) is None
    assert named_model("detect", None) == DETECTOR
    assert named_model("detect", "ssdlite_mobilenet_v1") == "ssdlite_mobilenet_v1"
    with pytest.raises(OptionError, match="'mobilenet_v2' is no detector"):
        named_model("detect", "mobilenet_v2")
    with pytest.raises(OptionError, match="unknown task 'segment'"):
        named_model("segment", None)
    assert ModelSpec(architecture=DETECTOR).architecture in MODELS


def test_without_pycocotools_it_does_not_even_begin(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    config = TrainConfig(data="shapes", model=DETECTOR, width=0.0625, resolution=64)
    with pytest.raises(OptionError, match=r"pip install .mobilenet-cli\[detect\]"):
        train(config, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
