"""What a person can get wrong: a sentence, exit status 2, and nothing that was there is lost.

Images that cannot be read are the subject of test_preprocess.py and test_evaluate.py.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.pipeline.artifacts.sidecar import sidecar_path

PROGRAM = "from mobilenet_cli.cli import main; main()"
# Every command that takes a model, with what else it needs.
ON_A_MODEL = {
    "simplify": [],
    "quantize": [],
    "evaluate": [],
    "bench": [],
    "predict": ["digit.png"],
    "inspect": [],
}
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h
KIB = 1024


@pytest.fixture(autouse=True)
def home(chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded) -> Iterator[None]:
    """A working folder with a complete run; after the test the run must be as it was."""
    run = tmp_path / "runs" / "good"
    run.mkdir(parents=True)
    for artifact in (chain.checkpoint, chain.fp32, chain.folded, chain.int8):
        shutil.copy(artifact.path, run)
        shutil.copy(sidecar_path(artifact.path), run)
    (tmp_path / "digit.png").write_bytes(encoded())
    monkeypatch.chdir(tmp_path)
    before = content(run)
    yield
    run.chmod(0o755)
    assert content(run) == before


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(*arguments: object) -> str:
    """Run a command that must fail with a sentence; return the sentence."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    return sentence_of(arguments[0], result.exit_code, result.stdout, result.stderr)


def refused_in_child(*arguments: object, before: Callable[[], None]) -> str:
    """The same in a process of its own, which is limited by ``before``."""
    process = start(*arguments, "--json", preexec_fn=before)
    out, err = process.communicate()
    return sentence_of(arguments[0], process.returncode, out, err)


def sentence_of(command: object, status: int | None, out: str, err: str) -> str:
    assert status == 2, err
    document = json.loads(out)
    assert document["command"] == command
    assert document["error"]
    assert document["fix"]
    assert "Traceback" not in err
    *_, sentence = err.strip().splitlines()
    assert sentence.startswith(f"{command}: ")
    assert sentence.endswith(".")
    return sentence


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **options,
    )


@pytest.mark.parametrize("command", ON_A_MODEL)
@pytest.mark.parametrize("damage", [b"", b"not a model\n", None], ids=["empty", "text", "cut"])
def test_a_model_that_is_none(command: str, damage: bytes | None):
    cut = Path("runs/good/folded.onnx").read_bytes()[:-1000]
    Path("bad.onnx").write_bytes(cut if damage is None else damage)
    assert "bad.onnx" in refused(command, "bad.onnx", *ON_A_MODEL[command])


@pytest.mark.parametrize("command", ON_A_MODEL)
def test_a_model_that_does_not_exist(command: str):
    assert "gone.onnx" in refused(command, "gone.onnx", *ON_A_MODEL[command])


@pytest.mark.parametrize("command", ON_A_MODEL)
def test_a_model_that_reaches_outside_its_folder(command: str):
    Path("secret").write_bytes(np.zeros(1000, np.float32).tobytes())
    Path("models").mkdir()
    model = onnx.load("runs/good/folded.onnx")
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../secret")
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    Path("models/evil.onnx").write_bytes(model.SerializeToString())
    sentence = refused(command, "models/evil.onnx", *ON_A_MODEL[command])
    assert "outside its folder" in sentence
    assert "../secret" in sentence


def test_a_checkpoint_of_another_width():
    assert "width 0.25, not 0.5" in refused("export", "--run", "good", "--width", "0.5")
    assert "width 0.5" in refused("export", "--width", "0.5")


@pytest.mark.parametrize("width", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("command", ["train", "import", "export", "run"])
def test_a_width_that_is_none(command: str, width: str):
    source = ["runs/good/model.safetensors"] if command == "import" else []
    sentence = refused(command, *source, f"--width={width}")
    assert "width" in sentence
    assert "not a positive number" in sentence


@pytest.mark.parametrize("command", ["export", "simplify", "quantize", "evaluate", "bench"])
def test_a_run_that_does_not_exist(command: str):
    assert "no-such-run" in refused(command, "--run", "no-such-run")


def small_files() -> None:
    """What a full disk does to a process: no file can grow beyond 8 KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * KIB, 8 * KIB))


WRITING = {"simplify": ["--run", "good"], "bench": ["--run", "good", "--seconds", "0.1"]}


@pytest.mark.parametrize("command", WRITING)
def test_files_that_cannot_grow(command: str):
    sentence = refused_in_child(command, *WRITING[command], before=small_files)
    assert "File too large" in sentence or "cannot write" in sentence or "requested" in sentence


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where we may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={64 * KIB}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(full_disk: Path):
    sentence = refused("simplify", "--run", "good", "--out", full_disk / "folded.onnx")
    assert "No space left on device" in sentence
    assert list(full_disk.glob("*.onnx")) == []


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1, 2"])
def test_standard_streams_that_are_closed(closed: str):
    close = f"import os; [os.close(number) for number in ({closed},)]"
    program = [sys.executable, "-c", PROGRAM, "predict", "runs/good/folded.onnx", "digit.png"]
    script = f"{close}; os.execv({program[0]!r}, {program!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("" if "1" in closed else "digit.png")


def test_standard_output_that_is_full():
    with Path("/dev/full").open("w") as full:
        arguments = ["predict", "runs/good/folded.onnx", "digit.png", "--json"]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_standard_error_that_is_full():
    """A status is all that is left; 1 would be a gate's."""
    with Path("/dev/full").open("w") as full:
        arguments = [sys.executable, "-c", PROGRAM, "predict", "runs/good/folded.onnx", "none.png"]
        assert subprocess.run(arguments, stderr=full, stdout=subprocess.DEVNULL).returncode == 2


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_working_folder_that_is_gone(tmp_path: Path, command: str):
    def away() -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()

    said = refused_in_child(command, before=away)
    assert "the folder in which this command was started has been removed" in said


@pytest.mark.parametrize("name", ["a\nb", "x" * 256])
def test_names_that_no_run_can_have(name: str):
    assert "too long, or has characters that cannot be shown" in refused("report", "--run", name)


def without_privilege() -> None:
    """Make permissions hold for root as well, in the program that this process becomes."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.parametrize("command", ["train", "simplify", "evaluate"])
def test_a_run_that_is_read_only(command: str):
    Path("runs/good").chmod(0o555)
    probe = [sys.executable, "-c", "open('runs/good/probe', 'w')"]
    if subprocess.run(probe, preexec_fn=without_privilege, capture_output=True).returncode == 0:
        Path("runs/good/probe").unlink()
        pytest.skip("permissions do not hold for this user")
    options = WRITING.get(command, ["--run", "good"])
    sentence = refused_in_child(command, *options, before=without_privilege)
    assert "Permission denied" in sentence
    assert "runs/good" in sentence


def as_in_a_terminal() -> None:
    """Heed Ctrl-C, which background jobs of a shell, and so their children, are told to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("delay", [0.0, 1.5], ids=["starting", "working"])
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("quantize", ["--calib-count", "1400", "--calibrator", "entropy"]),
        ("bench", ["--seconds", "60"]),
    ],
)
def test_ctrl_c(command: str, options: list[str], delay: float):
    process = start(
        command, "--run", "good", *options, start_new_session=True, preexec_fn=as_in_a_terminal
    )
    assert process.stderr is not None
    while "taking" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children as well
    try:
        out, err = process.communicate(timeout=60)  # it must not go on for as long as it was asked
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == f"{command}: interrupted; earlier files are unchanged"
    assert "Traceback" not in err
