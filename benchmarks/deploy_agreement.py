"""Do all programs of a package name the same classes? Each pair is compared on the same images.

    python benchmarks/deploy_agreement.py MODEL PACKAGE IMAGES [--node-modules FOLDER] [--count N]

MODEL is the float-input model that the package was made from, as ``predict`` runs it. The programs
run as people run them: ``classify.py``, and, with a ``node_modules`` folder of onnxruntime-node,
onnxruntime-web and sharp, ``classify.mjs`` and ``index.html`` in Chromium; ``model.tflite`` in the
interpreter of ai-edge-litert; ``serve`` by HTTP. Of each pair the table says on how many images
both name the same class first, and the largest difference of a probability of a class that both
have among their first five.
"""

import argparse
import base64
import functools
import http.client
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.preprocess import square_of_bytes
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.evaluating.predicting.predict import open_images, predict

Answers = list[dict[str, float]]  # of each image the first five classes with their probabilities
PATHS = 200  # images a command line
SHOW = "async data => show(await (await fetch('data:image/jpeg;base64,' + data)).blob())"


def by_predict(model: Path, images: Sequence[Path]) -> Answers:
    """Answer as ``predict`` does."""
    samples = open_images(list(map(str, images)), sys.stdin.buffer)
    found = predict(load_artifact(model), samples)
    return [{guess.name: guess.probability for guess in answer.guesses} for answer in found]


def by_program(command: Sequence[object], images: Sequence[Path]) -> tuple[Answers, str]:
    """Answer by a program that prints a line for each image; returns its variant, too."""
    lines: list[Any] = []
    for start in range(0, len(images), PATHS):
        part = [*command, *images[start : start + PATHS]]
        done = subprocess.run(  # noqa: S603  # of the package
            list(map(str, part)), capture_output=True, text=True, check=True
        )
        lines += map(json.loads, done.stdout.splitlines())
    return [dict(line["classes"]) for line in lines], lines[0]["variant"]


def by_page(folder: Path, images: Sequence[Path]) -> tuple[Answers, str]:
    """Answer by the page, in Chromium."""
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.wait_for_function("document.getElementById('status').textContent == 'Ready.'")
        encoded = (base64.b64encode(image.read_bytes()).decode() for image in images)
        found = [dict(page.evaluate(SHOW, content)) for content in encoded]
        variant = re.search(r", (\w+)", page.inner_text("#status"))
        browser.close()
    server.shutdown()
    return found, variant[1] if variant else "?"


def by_litert(folder: Path, images: Sequence[Path]) -> tuple[Answers, str]:
    """Answer by the LiteRT file, given the pixels of ``predict``."""
    from mobilenet_cli.pipeline.deploying.litert import run_litert

    manifest = json.loads((folder / "manifest.json").read_text())
    target = manifest["litert"]["target"]
    spec = load_artifact(folder / target / "pixels.onnx").facts.input
    squares = [square_of_bytes(decode(p.read_bytes(), str(p)), spec)[None] for p in images]
    labels = (folder / "labels.txt").read_text().splitlines()
    rows = run_litert((folder / "model.tflite").read_bytes(), squares)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :5]
    return [
        {labels[i]: float(row[i]) for i in order} for row, order in zip(rows, best, strict=True)
    ], target


def by_server(folder: Path, images: Sequence[Path]) -> tuple[Answers, str]:
    """Answer by ``serve``."""
    command = [sys.executable, "-m", "mobilenet_cli", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(  # noqa: S603  # of ours
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        line = process.stdout.readline() if process.stdout else ""
        told = re.search(r":(\d+), on the kernels (\w+)", line)
        if told is None:
            raise SystemExit(line)
        connection = http.client.HTTPConnection("127.0.0.1", int(told[1]))
        found = []
        for image in images:
            connection.request("POST", "/classify", image.read_bytes())
            answer = json.loads(connection.getresponse().read())
            found.append({guess["name"]: guess["probability"] for guess in answer["predictions"]})
        process.terminate()
        process.communicate()
    return found, told[2]


def apart(ours: Answers, theirs: Answers) -> tuple[int, float]:
    """Return on how many images both name the same class first, and the largest difference."""
    same, most = 0, 0.0
    for mine, other in zip(ours, theirs, strict=True):
        same += next(iter(mine)) == next(iter(other))
        most = max(most, *(abs(mine[name] - other[name]) for name in mine.keys() & other.keys()))
    return same, most


def main() -> None:
    """Ask all programs, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--node-modules", type=Path)
    parser.add_argument("--count", type=int, help="the first so many images")
    arguments = parser.parse_args()
    files: Iterable[Path] = sorted(p for p in arguments.images.rglob("*") if p.is_file())
    images = list(files)[: arguments.count]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(arguments.package, Path(place) / "package"))
        programs: dict[str, Callable[[], tuple[Answers, str]]] = {
            "Python": lambda: by_program([sys.executable, "-P", folder / "classify.py"], images),
        }
        if arguments.node_modules:
            (folder / "node_modules").symlink_to(arguments.node_modules.resolve())
            programs["Node"] = lambda: by_program(["node", folder / "classify.mjs"], images)
            programs["Chromium"] = lambda: by_page(folder, images)
        if (folder / "model.tflite").exists():
            programs["LiteRT"] = lambda: by_litert(folder, images)
        programs["serve"] = lambda: by_server(folder, images)
        answers = {"predict": by_predict(arguments.model, images)}
        for name, ask in programs.items():
            answers[name], variant = ask()
            print(f"{name}: {variant}", file=sys.stderr)
    names = list(answers)
    print(f"{len(images)} images\n\n| | {' | '.join(names[1:])} |\n|{' --- |' * len(names)}")
    pairs = {pair: apart(answers[pair[0]], answers[pair[1]]) for pair in combinations(names, 2)}
    for name in names[:-1]:
        cells = (
            "{}, {:.2g}".format(*pairs[name, other]) if (name, other) in pairs else ""
            for other in names[1:]
        )
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
