"""A detector's package is served like a classifier's, and answers with the boxes of predict."""

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.boxes.shapes import open_shapes
from mobilenet_cli.pipeline.deploying.deploy import DeployConfig, deploy
from mobilenet_cli.pipeline.deploying.package import Package
from tests.running_server import FORM, Server, form, start

for extra in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
    pytest.importorskip(extra, reason=f"{extra} is not installed (extra serve)")

LEAST = 0.3


@pytest.fixture(scope="module")
def package(detector, tmp_path_factory) -> Package:
    config = DeployConfig("shapes", images=4, min_score=LEAST)
    return deploy(detector.int8, config, tmp_path_factory.mktemp("served") / "package")


@pytest.fixture(scope="module")
def server(package, tmp_path_factory) -> Iterator[Server]:
    running = start(package.folder, tmp_path_factory.mktemp("serve") / "log")
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Rendered scenes, of other shapes than the model's input."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(120, 90), (64, 200)]):
        with Image.open(io.BytesIO(open_shapes("val").images[number].sample.read())) as scene:
            scene.resize(size).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_boxes_are_those_of_predict(server, package, photos):
    model = package.folder / package.pick().pixels.model
    arguments = ["predict", str(model), *map(str, photos), "--json", "--min-score", str(LEAST)]
    wanted = [found["boxes"] for found in json.loads(CliRunner().invoke(app, arguments).stdout)]
    assert all(len(boxes) > 5 for boxes in wanted)
    files = [(photo.name, photo.read_bytes()) for photo in photos]
    status, answers, _ = server.ask("/detect", form(files), Content_Type=FORM)
    assert status == 200
    assert [answer["image"] for answer in answers] == ["0.png", "1.png"]
    for answer, boxes in zip(answers, wanted, strict=True):
        assert [(b["class"], b["name"]) for b in answer["boxes"]] == [
            (b["class"], b["name"]) for b in boxes
        ]
        for ours, theirs in zip(answer["boxes"], boxes, strict=True):
            assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)
            np.testing.assert_allclose(ours["box"], theirs["box"], atol=0.02)
    _, answer, _ = server.ask("/detect", photos[0].read_bytes())
    assert answer["boxes"] == answers[0]["boxes"]


def test_the_protocol_gives_final_boxes_in_pixels_of_the_input(server, photos):
    status, described, _ = server.ask("/v2/models/detector")
    assert status == 200
    assert [tensor["name"] for tensor in described["outputs"]] == [
        "boxes",
        "scores",
        "classes",
        "count",
    ]
    (_, side, _, _) = described["inputs"][0]["shape"]
    with Image.open(photos[0]) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    given = {"name": "pixels", "shape": [1, side, side, 3], "datatype": "UINT8"}
    body = {"inputs": [given | {"data": pixels.reshape(-1).tolist()}]}
    status, answer, _ = server.ask("/v2/models/detector/infer", json.dumps(body).encode())
    assert status == 200
    found = {o["name"]: np.reshape(o["data"], o["shape"]) for o in answer["outputs"]}
    _, told, _ = server.ask("/detect", photos[0].read_bytes())
    count = int(found["count"][0])
    assert count == len(told["boxes"])
    scale = np.array([120, 90, 120, 90]) / side
    np.testing.assert_allclose(
        found["boxes"][0, :count] * scale, [box["box"] for box in told["boxes"]], atol=0.02
    )
    for name in ("boxes", "scores"):
        wanted = {"outputs": [{"name": name, "parameters": {"classification": 1}}]}
        status, answer, _ = server.ask(
            "/v2/models/detector/infer", json.dumps(body | wanted).encode()
        )
        assert (status, "has no value for each class" in answer["error"]) == (400, True)


def test_what_a_detector_does_not_answer_is_said(server):
    status, answer, _ = server.ask("/classify", b"")
    assert (status, "Ask for /detect" in answer["error"]) == (404, True)
    for top in ("3", "%C2%B2"):
        status, answer, _ = server.ask(f"/detect?top={top}", b"")
        assert (status, "this is a detector" in answer["error"]) == (400, True)
    status, answer, _ = server.ask("/detect", b"no image")
    assert (status, "is not an image" in answer["error"]) == (400, True)
    status, answer, _ = server.ask("/v2/models/classifier")
    assert (status, "Ask for 'detector'" in answer["error"]) == (404, True)
    _, metrics, _ = server.ask("/metrics")
    assert b'path="/detect",status="400"' in metrics
