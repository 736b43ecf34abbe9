"""The lines of Python on a model card do what the program does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.evaluating.predicting.predict import open_images, predict
from mobilenet_cli.pipeline.reporting.collect import artifact_record
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.model_card import preparation, python
from mobilenet_cli.reports.records.base import Record


def test_the_lines_of_python_give_the_programs_answer(
    chain: Any, tmp_path: Path, encoded: Any
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(seed=3, size=(300, 200), form="JPEG"))
    (tmp_path / "int8.onnx").symlink_to(chain.int8.path)
    lines = python(artifact_record(chain.int8.path))
    run = subprocess.run(
        [sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    samples = open_images([str(photo)], sys.stdin.buffer)
    (found,) = predict(load_artifact(chain.int8.path), samples, 5, "CPUExecutionProvider")
    assert run.stdout.splitlines() == [f"{g.probability:.1%} {g.name}" for g in found.guesses]


@pytest.mark.parametrize(
    ("ending", "spec"),
    [
        ("Softmax", InputSpec.cropped(32, normalization="gray 0.4/0.2", gray=True)),
        ("Sigmoid", InputSpec.cropped(32, 1.0, "gray 0.4/0.2", gray=True, convention="stretch")),
    ],
)
def test_the_lines_of_python_for_gray_images_and_probabilities(
    ending: str, spec: InputSpec, small_graph: Any, tmp_path: Path, encoded: Any
) -> None:
    g = small_graph(("N", 1, 32, 32))
    g.head(g.node("Relu", g.conv("x", 1, 8)), 8, output="logits")
    g.node(ending, "logits", output="y")
    names = ("cat", "cow", "dog")
    facts = Facts(stage="import", input=spec, classes=names)
    model = save_artifact(tmp_path / "m.onnx", with_facts(g.model(), facts), facts, Record())
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(seed=3, size=(300, 200), form="JPEG"))
    record = artifact_record(model.path)
    run = subprocess.run(
        [sys.executable, "-c", python(record)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    samples = open_images([str(photo)], sys.stdin.buffer)
    (found,) = predict(model, samples, 5, "CPUExecutionProvider")
    assert run.stdout.splitlines() == [f"{g.probability:.1%} {g.name}" for g in found.guesses]
    (own,) = open_session(model.path).run(
        None, {"x": prepare(photo.read_bytes(), "photo", spec)[None]}
    )
    np.testing.assert_allclose([g.probability for g in found.guesses], sorted(own[0])[::-1], 1e-5)
    assert "[N, 1, 32, 32]" in preparation(record)
    assert "logits" not in preparation(record)


def test_input_and_output_are_described(chain: Any) -> None:
    text = preparation(artifact_record(chain.int8.path))
    assert "Input `input`: float32, [N, 3, 32, 32]" in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
