"""What torch compiles goes into a folder that is removed."""

import os
from pathlib import Path

import pytest

from mobilenet_cli.pipeline.runtime.torch_kernels import FOLDER, kernel_folder


def test_the_folder_is_gone_in_the_end(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with kernel_folder(wanted=True):
        (Path(os.environ[FOLDER]) / "kernel.so").write_bytes(b"")
        assert list(tmp_path.iterdir()) == [Path(os.environ[FOLDER])]
    assert FOLDER not in os.environ
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_folder_of_the_user_stays(tmp_path, monkeypatch, wanted):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with kernel_folder(wanted=wanted):
        assert os.environ[FOLDER] == str(tmp_path)
    assert tmp_path.is_dir()
