"""Commands stop with a sentence on SIGTERM and SIGHUP, and silently where no reader is left."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import pytest

from mobilenet_cli.pipeline.errors import Interrupted
from mobilenet_cli.pipeline.runtime import stopping
from mobilenet_cli.pipeline.runtime.stopping import CLOSED_PIPE, stoppable

PROGRAM = "from mobilenet_cli.cli import main; main()"
COMMANDS = {
    "quantize": ["quantize", "--run", "x", "--calib-count", "1400", "--calibrator", "entropy"],
    "bench": ["bench", "--run", "x", "--seconds", "500"],
    "evaluate": ["evaluate", "--run", "x"],
    "run": ["run", "--width", "0.25", "--epochs", "1000", "--run", "y"],
}


def obey_signals() -> None:
    """Undo what the parent of the tests may ignore, such as under nohup."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def caught_signals(pid: int) -> int:
    """The signals for which a process has a handler, as bits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("SigCgt:")), 16)


@pytest.fixture
def default_signals():
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("default_signals")
def test_a_signal_ends_what_is_under_way(number):
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as stopped, stoppable():
        signal.raise_signal(number)
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.usefixtures("default_signals")
def test_a_library_that_swallows_everything_does_not_keep_a_signal_from_ending_it(monkeypatch):
    monkeypatch.setattr(stopping, "AGAIN", 0.05)
    alarm = signal.getsignal(signal.SIGALRM)

    def swallow():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGHUP)
        time.sleep(30)

    with pytest.raises(Interrupted, match="stopped by SIGHUP"), stoppable():
        swallow()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == alarm


@pytest.mark.usefixtures("default_signals")
def test_a_native_library_is_loaded_to_its_end_before_a_signal_ends_it(monkeypatch):
    """The exception would become another one in it, such as ``initialization failed``."""
    loaded = []

    def exec_module(_, module):
        signal.raise_signal(signal.SIGHUP)
        time.sleep(0.1)
        loaded.append(module.__name__)

    exec_module.__code__ = exec_module.__code__.replace(
        co_qualname=ExtensionFileLoader.exec_module.__qualname__
    )
    monkeypatch.setattr(stopping, "AGAIN", 0.02)
    monkeypatch.setattr(ExtensionFileLoader, "exec_module", exec_module)
    monkeypatch.delitem(sys.modules, "_multiprocessing", raising=False)
    with pytest.raises(Interrupted, match="stopped by SIGHUP"), stoppable():
        importlib.import_module("_multiprocessing")
    assert loaded == ["_multiprocessing"]


@pytest.mark.usefixtures("default_signals")
def test_what_cleans_up_after_a_signal_has_the_time_it_takes(monkeypatch):
    monkeypatch.setattr(stopping, "AGAIN", 0.02)
    cleaned = []

    def clean_up_slowly():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            time.sleep(0.1)
            cleaned.append(True)

    with pytest.raises(Interrupted), stoppable():
        clean_up_slowly()
    assert cleaned


@pytest.mark.usefixtures("default_signals")
def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stoppable():
        signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_stop_and_leave_nothing(chain, tmp_path, name):
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    for path in chain.folded.path.parent.iterdir():
        if path.is_file() and path.name != "int8.onnx" * (name == "quantize"):
            (folder / path.name).write_bytes(path.read_bytes())
    before = {path: path.read_bytes() for path in folder.iterdir()}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *COMMANDS[name]],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=obey_signals,
    )
    hangup = 1 << (signal.SIGHUP - 1)
    while not hangup & caught_signals(process.pid):  # until the command has taken it over
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)  # anywhere in it
    process.send_signal(signal.SIGHUP)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGHUP
    assert "stopped" in said
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not list(temporary.iterdir())


def test_a_closed_pipe_is_no_error(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "train", "--list-recipes"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == CLOSED_PIPE
    assert said == ""
