"""Killed without warning at any moment, training ends in the same bits; minutes, so `slow`."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobilenet_cli.pipeline.artifacts.artifact import load_artifact

pytestmark = pytest.mark.slow

# Digits with everything that a state must bring back; states many times an epoch.
SCRIPT = """
import sys
from pathlib import Path
from mobilenet_cli.pipeline.training import train as stage
from mobilenet_cli.pipeline.training.config import TrainConfig

stage.SAVE_SECONDS = 0.5
changes = ("ema=0.99", "mixup=0.2", "erase=0.3")
stage.train(TrainConfig(width=0.25, epochs=4, changes=changes), Path(sys.argv[1]))
"""


def start(out: Path) -> subprocess.Popen[bytes]:
    """A training that has written its first state, or is complete."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], stderr=subprocess.PIPE)
    while process.poll() is None and not out.with_name("training.pt").exists():
        time.sleep(0.01)
    return process


def complete(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()


def killed(out: Path, delay: float) -> bool:
    """Was the training of ``out`` killed so many seconds after its first state?"""
    process = start(out)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_killed_at_random_moments_the_weights_are_the_same_bits(tmp_path: Path, record_property):
    """`make acceptance-resume`: ten moments, of which none is during the imports."""
    process = start(tmp_path / "whole" / "model.safetensors")
    began = time.monotonic()
    complete(process)
    duration = time.monotonic() - began
    expected = load_artifact(tmp_path / "whole" / "model.safetensors").sha256
    kills = int(os.environ.get("MOBILENET_CLI_KILLS", "10"))
    moments, interrupted = random.Random(kills), 0
    for number in range(kills):
        delay, attempt = moments.uniform(0, duration), 0
        out = tmp_path / f"{number}.{attempt}" / "model.safetensors"
        while not killed(out, delay):  # complete before that: this time it was faster
            delay, attempt = delay / 2, attempt + 1
            out = tmp_path / f"{number}.{attempt}" / "model.safetensors"
        record_property(f"killed {delay:.2f} s after the first state", f"of {duration:.2f} s")
        # After the last step the state goes, once the checkpoint is there.
        assert out.with_name("training.pt").exists() or out.exists()
        interrupted += not out.exists()
        complete(start(out))
        assert load_artifact(out).sha256 == expected
        assert [path.name for path in out.parent.glob(".*")] == []
    assert interrupted > kills // 2
