"""Folders, files and runs may have names that are no UTF-8, as old discs and cameras leave them."""

import json
import os

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.import_weights import ImportConfig, read_source

LATIN = os.fsdecode(b"caf\xe9")
SHOWN = r"caf\xe9"


def called(*words: object) -> str:
    """Call the program, and return its standard output, which must be UTF-8."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (words, result.stderr, result.exception)
    return result.stdout.encode().decode()


def test_the_chain_and_its_files(class_folders, tmp_path, monkeypatch):
    data = class_folders({LATIN: 6, "tea": 6}, LATIN)
    monkeypatch.chdir(tmp_path)
    options = ["--width", "0.0625", "--resolution", "32", "--epochs", "1", "--run", LATIN]
    assert json.loads(called("train", "--data", data, *options, "--json"))["run"] == SHOWN
    for stage in ("export", "simplify"):
        called(stage, "--run", LATIN)
    called("quantize", "--run", LATIN, "--calib-count", "4")
    called("evaluate", "--run", LATIN)
    assert json.loads(called("report", "--run", LATIN, "--json"))["run"] == SHOWN
    folder = tmp_path / "runs" / LATIN
    assert json.loads(called("inspect", folder / "model.safetensors", "--json"))
    called("deploy", folder / "int8.onnx", "--out", folder / "package")
    answers = json.loads(called("predict", folder / "package", data, "--json"))
    assert {answer["predictions"][0]["class"] for answer in answers} <= {SHOWN, "tea"}


def test_parquet(encoded, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    with (tmp_path / f"{LATIN}.parquet").open("wb") as file:
        pq.write_table(pa.table({"image": [encoded()] * 2, "label": ["a", "b"]}), file)
    samples = open_dataset(str(tmp_path / f"{LATIN}.parquet"), "all").samples
    assert [(sample.label, sample.read()) for sample in samples] == [
        ("a", encoded()),
        ("b", encoded()),
    ]


@pytest.mark.parametrize("form", ["pth", "safetensors", "h5"])
def test_weights(tmp_path, form):
    """They are opened, and only then refused for what is in them."""
    path = tmp_path / f"{LATIN}.{form}"
    tensors = {"weight": np.zeros(3, np.float32)}
    if form == "pth":
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    elif form == "safetensors":
        path.write_bytes(save(tensors))
    else:
        with h5py.File(path, "w") as file:
            file.update(tensors)
    with pytest.raises(ModelError, match="in no known layout"):
        read_source(str(path), ImportConfig())
