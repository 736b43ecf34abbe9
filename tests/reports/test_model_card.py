"""The lines of Python on a model card do what the program does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.evaluating.predict import open_sources, predict
from mobilenet_cli.pipeline.reporting.collect import artifact_record
from mobilenet_cli.reports.model_card import preparation, python


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
    _, samples = open_sources([str(photo)], sys.stdin.buffer)
    (found,) = predict(load_artifact(chain.int8.path), samples, 5, "CPUExecutionProvider")
    assert run.stdout.splitlines() == [f"{g.probability:.1%} {g.name}" for g in found.guesses]


def test_input_and_output_are_described(chain: Any) -> None:
    text = preparation(artifact_record(chain.int8.path))
    assert "Input `input`: float32, [N, 3, 32, 32]" in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
