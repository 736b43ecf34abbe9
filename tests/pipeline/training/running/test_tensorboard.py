"""What TensorBoard would show of a training, read back from its event files."""

import importlib.util
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.pipeline.artifacts.sidecar import is_current
from mobilenet_cli.pipeline.errors import OptionError, StorageError
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.running import tensorboard
from mobilenet_cli.pipeline.training.setup import resolve
from mobilenet_cli.pipeline.training.train import Trainer, train

Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture
def config(class_folders: Callable[..., Path], monkeypatch) -> TrainConfig:
    """Three epochs of a few steps, the loss of every second one written."""
    monkeypatch.setattr(tensorboard, "EVERY", 2)
    folder = class_folders({"cat": 12, "dog": 12})
    return TrainConfig(
        data=str(folder),
        epochs=3,
        width=0.25,
        resolution=32,
        changes=("batch=4",),
        tensorboard=True,
    )


def curves(folder: Path) -> Curves:
    """Scalars by tag; a new session drops those of its steps, as TensorBoard does."""
    found: Curves = {}
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (size,) = struct.unpack_from("<Q", content, position)
            event = Event.FromString(content[position + 12 : position + 12 + size])
            position += 12 + size + 4
            if event.session_log.status == SessionLog.START:
                found = {t: [v for v in vs if v[0] < event.step] for t, vs in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def without_times(found: Curves) -> Curves:
    return {tag: v for tag, v in found.items() if tag not in ("images_per_second", "waiting")}


def after(steps: int) -> Callable[[], bool]:
    asked: list[int] = []
    return lambda: len(asked) >= steps or bool(asked.append(1))


def test_curves_are_those_of_the_log_and_weights_the_same(config: TrainConfig, tmp_path: Path):
    made = train(config, tmp_path / "a" / "model.safetensors")
    found = curves(tmp_path / "a" / "tensorboard")
    steps = made.record.images // 4
    ends = [steps, 2 * steps, 3 * steps]
    assert [step for step, _ in found["loss/step"]] == list(range(0, 3 * steps, 2))
    for tag in ("loss/epoch", "top1/training", "top1/held_out", "top5/held_out", "learning_rate"):
        assert [step for step, _ in found[tag]] == ends
    held_out = [value for _, value in found["top1/held_out"]]
    assert held_out[-1] == pytest.approx(made.record.last_top1)
    assert held_out[made.record.kept_epoch - 1] == pytest.approx(made.record.top1)
    rate = found["images_per_second"][-1][1]
    assert rate == pytest.approx(made.record.images_per_second, rel=1e-4)
    assert found["waiting"][-1][1] == pytest.approx(made.record.waiting, rel=1e-4)
    plain = train(replace(config, tensorboard=False), tmp_path / "b" / "model.safetensors")
    assert plain.sha256 == made.sha256
    assert not (tmp_path / "b" / "tensorboard").exists()
    recorded = resolve(replace(config, tensorboard=False)).recorded
    assert is_current(made.path, "train", None, recorded)
    train(replace(config, epochs=1), made.path)  # another training, other curves
    assert len(curves(tmp_path / "a" / "tensorboard")["loss/epoch"]) == 1


def test_interrupted_curves_go_on_as_if_they_had_not_been(
    config: TrainConfig, tmp_path: Path, monkeypatch
):
    """All within one second of the clock, which event files are named by."""
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    train(config, tmp_path / "whole" / "model.safetensors")
    whole = curves(tmp_path / "whole" / "tensorboard")
    out = tmp_path / "cut" / "model.safetensors"
    for steps in (2, 3, 0, 1):
        with pytest.raises(KeyboardInterrupt):
            train(config, out, stop=after(steps))
    train(replace(config, resume=True), out)
    assert without_times(curves(out.with_name("tensorboard"))) == without_times(whole)


def test_killed_after_the_last_state_no_value_counts_twice(
    config: TrainConfig, tmp_path: Path, monkeypatch
):
    """The state is that of an epoch's last step; what came after it is done again."""
    train(config, tmp_path / "whole" / "model.safetensors")
    whole = curves(tmp_path / "whole" / "tensorboard")
    out = tmp_path / "cut" / "model.safetensors"
    steps = whole["loss/epoch"][0][0]
    with pytest.raises(KeyboardInterrupt):
        train(config, out, stop=after(steps - 1))
    keep_best, kept = Trainer.keep_best, []

    def killed(trainer):
        kept.append(1)
        if len(kept) == 2:
            raise RuntimeError("killed")
        keep_best(trainer)

    monkeypatch.setattr(Trainer, "keep_best", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, out)
    assert len(curves(out.with_name("tensorboard"))["loss/epoch"]) == 2
    train(config, out)
    assert without_times(curves(out.with_name("tensorboard"))) == without_times(whole)


def test_without_the_extra(config: TrainConfig, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(OptionError, match=r"pip install \"mobilenet-cli\[tensorboard\]\""):
        replace(config)
    result = CliRunner().invoke(app, ["train", "--data", config.data, "--tensorboard"])
    assert result.exit_code == 2
    assert "mobilenet-cli[tensorboard]" in result.stderr


def test_a_file_in_the_way(config: TrainConfig, tmp_path: Path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(StorageError, match="tensorboard cannot be written"):
        train(config, tmp_path / "model.safetensors")
