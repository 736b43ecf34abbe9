"""Calls that people get wrong: each ends with status 2 in one sentence that names the cure."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobilenet_cli.cli import app

CALLS = {
    "train --data gone": r"'gone' does not exist\. Give the path of a folder",
    "train --data htps://x.org/a.tar": r"Perhaps https://x\.org/a\.tar is meant",
    "train --data one": "only 1 class. .*put each class's images in a folder of its own",
    "train --data photos/cat": "put each class|Put the images of each class into a folder",
    "train --data ''": "The value of --data is empty. Leave it out, or give it a value",
    "train --run=": "The value of --run is empty",
    "deploy --out ''": "The value of --out is empty",
    "serve '' --port 0": "An argument is empty",
    "train --epochs 0": "Pass --epochs 1 or more",
    "train --epochs many": "Passes over the images",
    "train --width 0": r"Pass --width with a value such as 1\.0",
    "train --resolution 16": "Use at least 32",
    "train --recipe fine": "Use one of quick, finetune",
    "train --recipe finetune": "Pass --init with a checkpoint",
    "train --set lr=1": "Write learning_rate=1",
    "train --lr 1": "--set learning_rate=",
    "train --batch-size 8": "--set batch=",
    "train photos": "Perhaps --data photos is meant",
    "train --init weights.h5": r"mobilenet-cli import weights\.h5",
    "train --init runs/tiny/model.safetensors --width 1": "Leave --width out",
    "train --qat": "Pass --init",
    "train --precision int8": "Use one of fp32",
    "train --resume --run new": "Start it without --resume",
    "import gone.h5": "Check the path",
    "import https://x.org/w.h5": r"https://x\.org/w\.h5 is an address, .*Download it",
    "import photo.png": "photo.png is an? ",
    "import weights.h5 --resolution 0": "no image has a side of 0 pixels",
    "import": "Weights of Keras, torch, TensorFlow",
    "export model.onnx": r"Perhaps --checkpoint model\.onnx is meant",
    "export --run nowhere": "no run 'nowhere' under runs/. Choose one of tiny",
    "export --checkpoint runs/tiny/fp32.onnx": "Pass a model.safetensors",
    "export --opset ten": "ONNX operator set to write",
    "simplify runs/tiny/model.safetensors": "mobilenet-cli export",
    "simplify --run tiny --width 1": "Leave --width out",
    "quantize --run tiny": "mobilenet-cli simplify --run tiny",
    "quantize runs/tiny/fp32.onnx": "Fold it first with 'mobilenet-cli simplify'",
    "quantize --calibrator max": "Use one of minmax",
    "quantize --target neon": "Use auto or one of avx2",
    "quantize --max-drop=-1": "Use 0 or more",
    "convert": "Pass --fp16",
    "evaluate runs/tiny/fp32.onnx --data photos": "--map FILE",
    "evaluate runs/tiny/fp32.onnx --data photos/cat": "Put the images of each class into a folder",
    "evaluate runs/tiny/fp32.onnx --provider CUDA": "CUDAExecutionProvider",
    "evaluate weights.h5": r"mobilenet-cli import weights\.h5",
    "bench runs/tiny/fp32.onnx --threads many": "Write it like --threads 1,all",
    "bench runs/tiny/fp32.onnx --batch 0": "Pass --batch 1 or more",
    "bench runs/tiny/fp32.onnx --seconds 0": "Pass --seconds 5",
    "bench runs/tiny/fp32.onnx --max-slowdown 0.1": r"--max-slowdown 10%",
    "bench runs/tiny/fp32.onnx --baseline photo.png": r"Pass the bench\.json of a run",
    "report --run nowhere": "Choose one of tiny",
    "report --compare tiny": "Name two runs or more",
    "report tiny": "--run A for one report",
    "predict": "A model file, or none for the run's; then images",
    "predict runs/tiny/fp32.onnx gone.png": "gone.png does not exist. Check the path",
    "predict photo.png runs/tiny/fp32.onnx": "Name one model, before the images",
    "predict runs/tiny photo.png": "is the folder of a run.* Pass --run tiny to take its model",
    "evaluate runs/tiny": "is a folder, not a model file. Name a model file in it",
    "report --run ../tiny": "'../tiny' is not the name of a folder directly under runs/",
    "predict photo.png --top 0": "Number of most probable classes",
    "predict photo.png --run tiny --width 1": "Leave --width out",
    "inspect gone.onnx": "Check the path",
    "inspect photo.png": "predict",
    "deploy runs/tiny/fp32.onnx --target neon": "Use amx, vnni",
    "deploy runs/tiny/fp32.onnx --top 99": "has 10 classes, not 99. Pass a smaller --top",
    "eval": "Did you mean 'evaluate'",
    "trian": "Did you mean 'train'",
    "doctor now": "Leave it out",
}


@pytest.fixture(scope="module")
def place(tiny: Path, tmp_path_factory: pytest.TempPathFactory, encoded: Callable[..., bytes]):
    """A folder with one run, photos in class folders, one image, and weights of Keras."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(tiny, folder / "runs" / "tiny")
    (folder / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    (folder / "photo.png").write_bytes(encoded())
    for name in ("photos/cat", "photos/dog", "one/cat"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            (folder / name / f"{index}.png").write_bytes(encoded(seed=index))
    return folder


@pytest.mark.parametrize("command", ["evaluate", "convert --fp16", "predict photo.jpg"])
def test_a_provider_is_refused_before_a_model_is_taken(command: str, place: Path, monkeypatch):
    monkeypatch.chdir(place)
    result = CliRunner().invoke(app, [*command.split(), "--provider", "CUDA"])
    assert result.exit_code == 2
    assert "CUDA is not in the installed ONNX Runtime" in result.stderr
    assert "taking" not in result.stderr


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_ends_in_a_sentence_with_its_cure(call: str, place: Path, monkeypatch):
    monkeypatch.chdir(place)
    environment = {"COLUMNS": "1000", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*shlex.split(call), "--json"], env=environment)
    assert result.exit_code == 2, result.output
    assert re.search(CALLS[call], result.stderr), result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("taking ")]
    if not lines[0].startswith("Usage: "):
        (sentence,) = lines
        assert re.fullmatch(r"\w+: [^\n]+\.", sentence)
    assert (place / "runs").exists()
    assert [path.name for path in (place / "runs").iterdir()] == ["tiny"]
    document = json.loads(result.stdout)
    if isinstance(document, list):  # an image each, also those that cannot be read
        assert document[0]["error"]
        return
    named = call.split()[0]
    assert document["command"] == ("" if named in ("eval", "trian") else named)
    assert document["error"]
    assert document["fix"]
