"""The programs of a package, as people run them: without anything of this project."""

import base64
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.evaluating.predicting.predict import open_images, predict

IMAGES = 6


@pytest.fixture(scope="module")
def folder(package, tmp_path_factory) -> Path:
    """A package that other files may be added to."""
    return Path(shutil.copytree(package.folder, tmp_path_factory.mktemp("p") / "package"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """A few digits as PNG files."""
    place = tmp_path_factory.mktemp("photos")
    for index, sample in enumerate(open_dataset("digits", "val").samples[:IMAGES]):
        (place / f"{index}.png").write_bytes(sample.read())
    return sorted(place.iterdir())


@pytest.fixture(scope="module")
def packages(folder) -> Path:
    """The npm packages of MOBILENET_CLI_NODE_MODULES, linked into the package."""
    modules = os.environ.get("MOBILENET_CLI_NODE_MODULES")
    if modules is None:
        pytest.skip("MOBILENET_CLI_NODE_MODULES names no node_modules folder (make node)")
    (folder / "node_modules").symlink_to(modules)
    return folder


def expected(folder: Path, variant: str, photos: list[Path]) -> list[list[tuple[str, float]]]:
    """What predict says about the photographs with one variant."""
    artifact = load_artifact(folder / variant / "pixels.onnx")
    samples = open_images(list(map(str, photos)), sys.stdin.buffer)
    return [[(g.name, g.probability) for g in p.guesses] for p in predict(artifact, samples)]


def assert_agree(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted) == IMAGES
    for ours, theirs in zip(wanted, found, strict=True):
        shares = dict(map(tuple, theirs))
        assert len(shares) == 5
        np.testing.assert_allclose(shares[ours[0][0]], ours[0][1], atol=0.02)


def run(command: list[object], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


def assert_told(result: subprocess.CompletedProcess[str], folder: Path, photos: list[Path]) -> None:
    assert result.returncode == 0, result.stderr
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["image"] for line in told] == list(map(str, photos))
    assert_agree([line["classes"] for line in told], expected(folder, told[0]["variant"], photos))


def test_python(folder, photos):
    result = run([sys.executable, "-P", folder / "classify.py", *photos])
    assert_told(result, folder, photos)
    text = (folder / "classify.py").read_text()
    assert "mobilenet" not in text
    result = run([sys.executable, folder / "classify.py", folder / "labels.txt", *photos])
    assert (result.returncode, len(result.stdout.splitlines())) == (1, len(photos))
    assert "labels.txt cannot be read: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("labels.txt", "is not the file that was proven"),
        ("manifest.json", "The manifest is of version 2, not 1"),
    ],
)
def test_python_refuses_a_changed_package(folder, photos, tmp_path, name, words):
    copied = Path(shutil.copytree(folder, tmp_path / "package", symlinks=True))
    text = (copied / name).read_text()
    changed = text.replace('"schema_version": 1', '"schema_version": 2', 1)
    (copied / name).write_text(changed if changed != text else text + "more\n")
    result = run([sys.executable, copied / "classify.py", photos[0]])
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_node(packages, photos):
    if shutil.which("node") is None:
        pytest.skip("there is no node (apt-get install nodejs npm)")
    result = run(["node", packages / "classify.mjs", *photos])
    assert_told(result, packages, photos)
    result = run(["node", packages / "classify.mjs", packages / "labels.txt"])
    assert result.returncode == 2
    assert result.stderr.startswith("classify: ")


@pytest.fixture
def page(packages) -> Iterator[Any]:
    """The page in Chromium, from a static file server."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium (apt-get install chromium)")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=packages)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
        asked: list[str] = []
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        opened.wait_for_function("document.getElementById('status').textContent == 'Ready.'")
        yield opened
        assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in asked)
        browser.close()
    server.shutdown()
    server.server_close()


def test_page(page, packages, photos):
    show = "async data => show(await (await fetch('data:image/png;base64,' + data)).blob())"
    found = [page.evaluate(show, base64.b64encode(p.read_bytes()).decode()) for p in photos]
    page.set_input_files("#file", photos[0])
    page.wait_for_function("document.querySelectorAll('li meter').length == 5")
    told = re.fullmatch(r"\d+ ms, (\w+)", page.inner_text("#status"))
    assert told
    assert_agree(found, expected(packages, told[1], photos))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_input_files("#file", packages / "labels.txt")
    page.wait_for_function("document.getElementById('status').textContent.startsWith('This')")


def test_triton_repository_is_one(folder):
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed"
    )
    from google.protobuf import text_format

    place = folder / "triton" / "classifier"
    config = text_format.Parse((place / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == place.name
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    from mobilenet_cli.pipeline.runtime.session import open_session

    session = open_session(place / "1" / "model.onnx")
    given, made = session.get_inputs()[0], session.get_outputs()[0]
    assert (given.name, given.shape[1:]) == (config.input[0].name, list(config.input[0].dims))
    assert schema.DataType.Name(config.input[0].data_type) == "TYPE_UINT8"
    assert (made.name, made.shape[1:]) == (config.output[0].name, list(config.output[0].dims))
    labels = (place / config.output[0].label_filename).read_text().splitlines()
    assert len(labels) == config.output[0].dims[0]


def test_dockerfile_serves_as_nobody_with_a_health_check(folder):
    text = (folder / "Dockerfile").read_text()
    stages = text.split("\nFROM ")
    assert re.search(r"^USER (?!root)\w+$", stages[-1], re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*CMD \[", stages[-1], re.MULTILINE)
    assert ":latest" not in text
    for line in re.findall(r"^(?:CMD|HEALTHCHECK.* CMD) (\[.*\])$", text, re.MULTILINE):
        json.loads(line)  # as the exec form is
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (folder / source).exists()


@pytest.mark.parametrize("name", ["classify.py", "classify.mjs", "package.mjs", "index.html"])
def test_a_program_is_short(folder, name):
    assert len((folder / name).read_text().splitlines()) < 80
