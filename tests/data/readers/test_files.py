"""Files of labels and lists may be anything that a path can name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilenet_cli.data.boxes.open_boxes import open_boxes
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.parts import cut
from mobilenet_cli.data.readers.files import read_text
from mobilenet_cli.pipeline.artifacts.sidecar import read_sidecar, sidecar_path
from mobilenet_cli.pipeline.benchmarking.baseline import load_baseline
from mobilenet_cli.pipeline.deploying.serving.config import ServeConfig
from mobilenet_cli.pipeline.errors import DataError, OptionError, StorageError
from mobilenet_cli.pipeline.evaluating.predicting.manifest import check_folder


@pytest.fixture(params=["pipe", "folder", "device", "broken link", "link to itself"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Make what is no file; reading a pipe without a writer, or /dev/zero, never ends."""
    path = tmp_path / "special.json"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "broken link":
            path.symlink_to(tmp_path / "nothing")
        case _:
            path.symlink_to(path)
    return path


def test_what_is_no_file_is_refused_wherever_text_is_read(special: Path, tmp_path: Path) -> None:
    words = "is no file but|does not exist|cannot be read"
    with pytest.raises(DataError, match=words):
        read_text(special)
    with pytest.raises(DataError, match=words):
        list(cut([f"@{special}"]))
    with pytest.raises(DataError, match=words):
        ServeConfig(token_file=special).token()
    with pytest.raises(OptionError, match="is not a record"):
        load_baseline(special)
    with pytest.raises(DataError, match="has no labels with boxes"):
        open_boxes(str(tmp_path), "all")
    special.rename(sidecar_path(tmp_path / "model.onnx"))
    assert read_sidecar(tmp_path / "model.onnx") is None


def test_a_job_beside_a_pipe_in_place_of_its_record_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "_job.json")
    with pytest.raises(StorageError, match="is no record of a job"):
        check_folder(tmp_path, None)  # type: ignore[arg-type]  # it is not looked at


@pytest.mark.parametrize("name", ["/dev/stdin", "-"])
def test_what_a_shell_pipes_is_read(name: str) -> None:
    program = (
        "from mobilenet_cli.data.parts import cut\n"
        f"print([part.names for part in cut(['@{name}'])])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], input=b"a.jpg\nb c.jpg\n", capture_output=True, check=True
    )
    assert found.stdout.decode().strip() == r"[b'a.jpg\x00b c.jpg']"


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("s3://bucket/{00..12}.tar", "Download it, or name it by https://"),
        ("file:///data/a.jpg", "Name the path alone, /data/a.jpg"),
        ("htps://example.org/a.tar", "Perhaps https://example.org/a.tar is meant"),
    ],
)
def test_addresses_of_other_protocols(source: str, fix: str) -> None:
    for use in (lambda: list(cut([source])), lambda: open_dataset(source, "all")):
        with pytest.raises(DataError, match="is no address that can be fetched") as refused:
            use()
        assert refused.value.fix == fix


def test_a_path_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run:").mkdir()
    (tmp_path / "run:" / "a.jpg").touch()
    names = ["run:/a.jpg", "run:/missing.jpg", "C:/missing.jpg"]
    assert [part.names for part in cut(names)] == ["\0".join(names).encode()]
