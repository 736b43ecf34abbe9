"""Weights in several files are read whole, or refused by the name of the file that is missing."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import read_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tensors in two files with their list, as transformers writes large models."""
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    rest = {"b": np.zeros(3, np.float32), "c": np.ones(1, np.float32)}
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    return tmp_path


@pytest.mark.parametrize(
    "named", ["", "model.safetensors.index.json", "model-00002-of-00002.safetensors"]
)
def test_all_of_them_are_read(folder: Path, named: str):
    assert set(read_weights(folder / named).tensors) == {"a", "b", "c"}


@pytest.mark.parametrize("gone", [1, 2])
def test_the_one_that_is_missing_is_named(folder: Path, gone: int):
    (folder / f"model-0000{gone}-of-00002.safetensors").unlink()
    said = rf"lacks model-0000{gone}-of-00002.safetensors, of the 2 files in which the weights lie"
    with pytest.raises(ModelError, match=said):
        read_weights(folder)


def test_a_pipe_that_might_never_end_is_none_of_them(folder: Path):
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(ModelError, match=f"lacks {shard.name}"):
        read_weights(folder)


def test_they_may_count_from_zero(folder: Path):
    for number in (1, 2):
        shard = folder / f"model-0000{number}-of-00002.safetensors"
        shard.rename(folder / f"model-0000{number - 1}-of-00002.safetensors")
    assert set(read_weights(folder).tensors) == {"a", "b", "c"}
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-00001-of-00002.safetensors, of the 2"):
        read_weights(folder)


@pytest.mark.parametrize("kept", [(), (0,), (1,)])
def test_a_checkpoint_without_all_of_its_data(tmp_path: Path, kept: tuple[int, ...]):
    """TensorFlow is not asked, so it need not be installed."""
    (tmp_path / "model.ckpt.index").write_bytes(b"index")
    for number in kept:
        (tmp_path / f"model.ckpt.data-0000{number}-of-00002").write_bytes(b"data")
    missing = 1 if kept == (0,) else 0
    with pytest.raises(ModelError, match=rf"lacks model.ckpt.data-0000{missing}-of-0000"):
        read_weights(tmp_path)
