"""Boxes of single images: printed, as JSON and drawn."""

import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.models.detections import NmsConfig
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.evaluating.detecting import open_detector
from mobilenet_cli.pipeline.evaluating.predicting.predict_boxes import (
    FoundBox,
    picture_with,
    predict_boxes,
)
from mobilenet_cli.pipeline.runtime.session import CPU


@pytest.fixture
def photos(tmp_path, encoded):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "photo.jpg").write_bytes(encoded(1, (120, 90), form="JPEG"))
    (tmp_path / "b" / "broken.png").write_bytes(b"no image")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_boxes_are_printed_and_drawn(detector, photos):
    drawn = photos / "drawn"
    options = ("--min-score", "0.05", "--draw", drawn)
    result = run(detector.int8.path, photos / "a", photos / "b", *options)
    assert result.exit_code == 2  # one cannot be read
    assert "broken.png" in result.stderr
    assert "%  disc  " in result.stdout or "%  square  " in result.stdout
    names = {path.name for path in drawn.iterdir()}
    assert names == {"photo-boxes.png", "photo-2-boxes.png"}
    with Image.open(drawn / "photo-boxes.png") as picture:
        assert picture.size == (120, 90)
        before = np.asarray(Image.open(photos / "a" / "photo.jpg"))
        assert (np.asarray(picture) != before).any()


def test_boxes_are_json_in_pixels_of_the_image(detector, photos):
    result = run(detector.fp32.path, photos / "a", "--min-score", "0.05", "--json")
    (document,) = json.loads(result.stdout)
    boxes = np.array([box["box"] for box in document["boxes"]])
    assert len(boxes)
    assert (boxes[:, 2] <= 120).all()
    assert (boxes[:, 3] <= 90).all()
    assert boxes[:, 2].max() > 90  # they are not in pixels of the square
    assert {box["class"] for box in document["boxes"]} <= {"disc", "square"}
    result = run(detector.fp32.path, photos / "a", "--min-score", "0.9", "--json")
    sure = [box["probability"] for box in json.loads(result.stdout)[0]["boxes"]]
    assert len(sure) < len(boxes)
    assert min(sure) > 0.9


def test_lost_images_and_wrong_options_are_sentences(detector, chain, photos):
    (found,) = predict_boxes(detector.fp32, [DataError("lost", "find it")])
    assert found.as_document() == {"image": "", "error": "lost"}
    assert "Leave --draw" in run(chain.fp32.path, photos / "a", "--draw", photos / "x").stderr
    assert (
        "--min-score in place of --top" in run(detector.fp32.path, photos / "a", "--top", 3).stderr
    )
    assert "cannot be chosen" in run(detector.fp32.path, photos / "a", "--min-score", 2).stderr
    for options, words in (
        (("--draw", photos / "x"), "Pass either --out or --draw"),
        (("--logits",), "is a detector, which is asked for boxes"),
    ):
        into = run(detector.fp32.path, photos / "a", "--out", photos / "parts", *options)
        assert into.exit_code == 2
        assert words in into.stderr
        assert not (photos / "parts").exists()
    none = run(detector.fp32.path, photos / "a", "--min-score", 0.9999).stdout.splitlines()
    assert none[1] == "  nothing was found"


def test_images_of_one_name_have_boxes_in_pixels_of_their_own(detector, encoded):
    """As images of two folders that are read one after the other may be called the same."""
    sizes = [(120, 90), (60, 45), (240, 180)]
    files = [encoded(1, size) for size in sizes]
    samples = [Sample("x.png", None, partial(bytes, file)) for file in files]
    with open_detector(detector.fp32, NmsConfig(min_score=0.05), CPU) as finder:
        found = [outcome.answer for outcome in finder.find(samples)]
    assert [size for _, size in found] == sizes
    for (boxes, _), (width, _) in zip(found, sizes, strict=True):
        assert boxes.boxes[:, 2].max() == pytest.approx(width, rel=0.2)


def test_a_box_is_drawn_where_it_is(encoded):
    sample = Sample("x.png", None, lambda: encoded(size=(100, 80), color=(255, 255, 255)))
    box = FoundBox("cat", "cat", 0.9, (20.0, 30.0, 60.0, 70.0))
    pixels = np.asarray(Image.open(io.BytesIO(picture_with(sample, (box,)))))
    assert tuple(pixels[50, 20]) == (0xE6, 0x9F, 0)
    assert tuple(pixels[70, 40]) == (0xE6, 0x9F, 0)
    assert tuple(pixels[50, 40]) == (255, 255, 255)
    outside = pixels[:, 90:]
    assert (outside == 255).all()
