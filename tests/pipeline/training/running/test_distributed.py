"""Two processes under torchrun train what one process trains."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import parse_args

from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.running.distributed import ProcessGroup
from mobilenet_cli.pipeline.training.train import train

SCRIPT = """
import json, sys
from pathlib import Path
from mobilenet_cli.pipeline.training.train import train
from mobilenet_cli.pipeline.training.config import TrainConfig

options, out, steps = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
asked = []
try:
    train(TrainConfig(**options), out, stop=lambda: len(asked) >= steps or bool(asked.append(1)))
except KeyboardInterrupt:
    pass
"""
FOREVER = 10**6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, encoded) -> Callable[..., Path]:
    """Train twelve steps on plain images with fixed statistics, in so many processes."""
    folder = tmp_path_factory.mktemp("distributed")
    for label in ("cat", "dog"):
        (folder / "images" / label).mkdir(parents=True)
        for index in range(24):
            (folder / "images" / label / f"{index:02}.png").write_bytes(encoded(seed=index))
    (folder / "script.py").write_text(SCRIPT)
    options = {
        "data": str(folder / "images"),
        "width": 0.25,
        "resolution": 32,
        "epochs": 3,
        "changes": ["batch=8", "shift=0", "zoom=0", "rotation=0", "freeze_norms=1"],
    }

    def start(name: str, processes: int, steps: int = FOREVER) -> Path:
        out = folder / name / "model.safetensors"
        if processes == 1:  # here, where torch has been imported
            return train(TrainConfig(**options), out).path
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [
                sys.executable,
                *torchrun,
                str(folder / "script.py"),
                json.dumps(options),
                str(out),
                str(steps),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return out

    return start


@pytest.fixture(scope="module")
def two(run: Callable[..., Path]) -> Path:
    """What two processes train without being stopped."""
    return run("two", 2)


def epochs_of(checkpoint: Path) -> list[dict[str, Any]]:
    log = checkpoint.with_name("train.jsonl").read_text()
    return [json.loads(line) for line in log.splitlines()]


def test_two_processes_learn_as_one_with_the_same_batch(run, two):
    one = epochs_of(run("one", 1))
    assert len(one) == 3
    for alone, together in zip(one, epochs_of(two), strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-3)
        assert together["top1"] == alone["top1"]  # each held-out image counted once


@pytest.mark.slow
def test_two_processes_resume(run, two):
    """Two starts of two processes, each of which imports torch."""
    cut = run("cut", 2, steps=5)
    assert not cut.exists()
    assert cut.with_name("training.pt").exists()
    assert sha256_file(run("cut", 2)) == sha256_file(two)
    assert [e["loss"] for e in epochs_of(cut)] == pytest.approx(
        [e["loss"] for e in epochs_of(two)], rel=1e-12
    )


def test_a_process_alone():
    group = ProcessGroup()
    assert group.is_main
    assert group.all_reduce_sum(1.5, 2) == (1.5, 2)
    assert group.any_rank(True)
    assert not group.any_rank(False)


def test_the_command_of_the_documentation_is_torchruns():
    """It reads options behind the program's name, too, and abbreviated."""
    page = (Path(__file__).parents[4] / "docs" / "training.md").read_text()
    (line,) = re.findall(r"^\$ torchrun (.*)$", page, re.MULTILINE)
    parsed = parse_args(shlex.split(line))
    assert parsed.training_script.endswith("mobilenet-cli")
    assert parsed.training_script_args[-2:] == ["--run", "big"]
