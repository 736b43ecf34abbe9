"""Training that is interrupted, in whatever way, ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import (
    CheckError,
    DataError,
    ModelError,
    OptionError,
    StorageError,
)
from mobilenet_cli.pipeline.training import train as stage
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.optimizer import rate_factor
from mobilenet_cli.pipeline.training.recipes import RECIPES
from mobilenet_cli.pipeline.training.step import update_ema
from mobilenet_cli.pipeline.training.train import best_epoch, train
from mobilenet_cli.reports.records.training import EpochRecord
from mobilenet_cli.reports.terminal import train_text

PROGRAM = "from mobilenet_cli.cli import main; main()"
SMALL = {"width": 0.25, "resolution": 32}


def obey_signals() -> None:
    """Undo what a parent in the background, or nohup, may have set for its children."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def config(class_folders: Callable[..., Path]) -> TrainConfig:
    """Two epochs of several steps, with everything random and a moving average."""
    folder = class_folders({"cat": 16, "dog": 16})
    mixed = ("area=0.3", "magnitude=5", "mixup=0.2", "cutmix=1", "erase=0.5")
    changes = ("batch=4", "views=2", "ema=0.9", "label_smoothing=0.1", *mixed)
    return TrainConfig(data=str(folder), epochs=2, changes=changes, **SMALL)


def after(steps: int) -> Callable[[], bool]:
    """Asked once a step, says yes from the step of this number on."""
    asked: list[int] = []
    return lambda: len(asked) >= steps or bool(asked.append(1))


def log_of(checkpoint: Path) -> list[dict[str, object]]:
    lines = checkpoint.with_name("train.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    for epoch in epochs:
        del epoch["waiting"]  # a time
    return epochs


def test_interrupted_again_and_again_it_ends_the_same(config: TrainConfig, tmp_path: Path):
    whole = train(config, tmp_path / "whole" / "model.safetensors")
    out = tmp_path / "cut" / "model.safetensors"
    for steps in (0, 2, 3, 1):
        with pytest.raises(KeyboardInterrupt):
            train(config, out, stop=after(steps))
        assert not out.exists()
    made = train(replace(config, resume=True), out)
    assert made.sha256 == whole.sha256
    assert log_of(out) == log_of(whole.path)
    assert len(log_of(out)) == 2
    assert not out.with_name("training.pt").exists()


def test_killed_it_goes_on_from_the_last_state(config: TrainConfig, tmp_path: Path, monkeypatch):
    """A state every step, and a kill that gives no warning."""
    whole = train(config, tmp_path / "whole" / "model.safetensors")
    monkeypatch.setattr(stage, "SAVE_SECONDS", -1.0)
    take_step, taken = stage.take_step, []

    def killed(*arguments):
        taken.append(1)
        if len(taken) == 8:
            raise RuntimeError("killed")
        return take_step(*arguments)

    monkeypatch.setattr(stage, "take_step", killed)
    out = tmp_path / "cut" / "model.safetensors"
    with pytest.raises(RuntimeError, match="killed"):
        train(config, out)
    assert train(config, out).sha256 == whole.sha256
    assert len(taken) == 1 + 2 * (whole.record.images // 4)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_the_state(
    class_folders, tmp_path: Path, monkeypatch, number: int, status: int
):
    class_folders({"cat": 16, "dog": 16})
    monkeypatch.chdir(tmp_path)
    command = ["train", "--data", "images", "--width", "0.25", "--resolution", "32", "--run", "x"]
    command += ["--set", "batch=4", "--epochs"]
    run = tmp_path / "runs" / "x"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command, "5000"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=obey_signals,
    )
    while not (run / "train.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert "train --resume --run x" in said
    assert "Traceback" not in said
    assert (run / "training.pt").exists()
    other = CliRunner().invoke(app, [*command, "3", "--resume"])
    assert other.exit_code == 2
    assert "epochs was 5000, now 3" in other.stderr


def test_a_training_with_other_settings_is_not_resumed(config: TrainConfig, tmp_path: Path):
    out = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, out, stop=after(1))
    other = replace(config, seed=1, resume=True)
    with pytest.raises(OptionError, match="seed was 0, now 1"):
        train(other, out)
    assert out.with_name("training.pt").exists()
    made = train(replace(other, resume=False, epochs=1), out)  # that starts anew
    assert made.facts.config["seed"] == 1


def test_nothing_to_resume(config: TrainConfig, tmp_path: Path):
    with pytest.raises(OptionError, match="no interrupted training"):
        train(replace(config, resume=True), tmp_path / "model.safetensors")


def test_a_complete_training_is_resumed_in_no_time(
    config: TrainConfig, tmp_path: Path, monkeypatch
):
    made = train(config, tmp_path / "model.safetensors")
    monkeypatch.setattr(stage.Trainer, "run_epoch", None)  # never reached
    assert train(replace(config, resume=True), made.path).sha256 == made.sha256


def test_a_damaged_state(config: TrainConfig, tmp_path: Path):
    out = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, out, stop=after(1))
    state = out.with_name("training.pt")
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"training\.pt is not the state of a training"):
        train(config, out)


def test_a_full_disk_while_saving_keeps_the_state_before(
    config: TrainConfig, tmp_path: Path, monkeypatch
):
    out = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, out, stop=after(1))
    before = out.with_name("training.pt").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mobilenet_cli.pipeline.artifacts.files.os.fsync", full)
    monkeypatch.setattr(stage, "check_writable", lambda _: None)
    with pytest.raises(StorageError, match="No space left on device"):
        train(config, out, stop=after(1))
    assert out.with_name("training.pt").read_bytes() == before


def test_a_loss_that_is_not_finite_says_what_is_left(config: TrainConfig, tmp_path, monkeypatch):
    out = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, out, stop=after(2))
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *_, **__: nan)
    with pytest.raises(CheckError, match=r"in step 4 of epoch 1; .*training\.pt is from before"):
        train(config, out)


def test_unreadable_held_out_images_are_named_and_end_nothing(class_folders, tmp_path: Path):
    root = class_folders({"cat": 8, "dog": 8}, "pets/train").parent
    class_folders({"cat": 3, "dog": 3}, "pets/val")
    bad = root / "val" / "cat" / "000.png"
    bad.write_bytes(bad.read_bytes()[:40])
    config = TrainConfig(data=str(root), epochs=1, changes=("batch=4",), **SMALL)
    made = train(config, tmp_path / "model.safetensors")
    assert any("cat/000.png" in name for name in made.record.bad_images)
    assert made.record.top1 in [pytest.approx(100 * right / 5) for right in range(6)]
    for image in (root / "val").rglob("*.png"):
        image.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the held-out images"):
        train(config, tmp_path / "other" / "model.safetensors")


def test_unreadable_images_are_named_and_replaced(config: TrainConfig, tmp_path: Path):
    bad = Path(config.data) / "cat" / "000.png"
    bad.write_bytes(bad.read_bytes()[:40])
    other = Path(config.data) / "dog" / "001.png"
    other.write_bytes(b"no image")
    made = train(config, tmp_path / "model.safetensors")
    named = {Path(key).name for key in made.record.bad_images}
    assert named <= {"000.png", "001.png"}
    assert named


@pytest.mark.parametrize("stopped_in_the_last_epoch", [False, True])
def test_the_best_epoch_is_exported(
    config: TrainConfig, tmp_path: Path, monkeypatch, stopped_in_the_last_epoch: bool
):
    tops, judged = iter([(5, 5, 8.0, 8), (3, 5, 4.0, 8)]), []

    def count(network, *_):
        judged.append({name: value.clone() for name, value in network.state_dict().items()})
        return next(tops)

    monkeypatch.setattr(stage, "count_correct", count)
    out, told = tmp_path / "model.safetensors", []
    if stopped_in_the_last_epoch:
        with pytest.raises(KeyboardInterrupt):
            train(config, out, stop=after(8))
    made = train(config, out, tell=told.append)
    written = load_network(load_artifact(out)).state_dict()
    assert all(torch.equal(written[name], value) for name, value in judged[0].items())
    assert not torch.equal(judged[0]["classifier.weight"], judged[1]["classifier.weight"])
    record = made.record
    assert (record.kept_epoch, record.top1, record.last_top1) == (1, 62.5, 37.5)
    assert "(epoch 1, the best, is kept; the last epoch had 37.50 %)" in train_text(out, record)
    assert not list(tmp_path.glob("best*"))
    epochs = [2] if stopped_in_the_last_epoch else [1, 2]
    assert [said.epoch for said in told[1:]] == epochs


@pytest.mark.parametrize(
    ("tops", "losses", "best"),
    [
        ((10, 40, 20), (1, 1, 1), 2),
        ((75, 62.5, 62.5), (1.4, 0.9, 0.8), 3),  # one image of eight is no difference
        ((75, 62.5, 50), (1.4, 1.5, 0.1), 1),
        ((50, 62.5, 75), (0.1, 0.2, 0.3), 3),  # two images are
        ((50, 50), (1, 1), 2),
        ((50, 50, 50), (None, 1, None), 2),
    ],
)
def test_the_best_epoch(tops, losses, best):
    history = [
        EpochRecord.model_construct(epoch=n + 1, top1=top1, validation_loss=loss)
        for n, (top1, loss) in enumerate(zip(tops, losses, strict=True))
    ]
    assert best_epoch(history, 12.5) == best


def test_the_average_follows_the_weights_and_statistics():
    torch.manual_seed(0)
    average, network = (MobileNetV1(ModelSpec(width=0.25, classes=2)) for _ in range(2))
    network.layers[0].bn.running_mean.fill_(1.0)
    before = average.layers[3].conv.weight.clone()
    update_ema(average, network, 0.75)
    expected = 0.75 * before + 0.25 * network.layers[3].conv.weight
    assert torch.allclose(average.layers[3].conv.weight, expected)
    assert torch.allclose(average.layers[0].bn.running_mean, torch.tensor(0.25))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_a_real_step(config: TrainConfig, tmp_path: Path, recipe: str):
    init = (
        train(config, tmp_path / "init" / "model.safetensors").path
        if RECIPES[recipe].pretrained
        else None
    )
    own = TrainConfig(
        data=config.data,
        recipe=recipe,
        epochs=1,
        changes=("batch=8",),
        init=str(init) if init else None,
        qat=recipe == "qat",
        **SMALL,
    )
    made = train(own, tmp_path / "model.safetensors")
    assert made.record.epochs == 1
    assert made.facts.config["recipe"]["name"] == recipe


def test_bf16_is_another_training(config: TrainConfig, tmp_path: Path):
    whole = train(replace(config, epochs=1), tmp_path / "a" / "model.safetensors")
    low = train(replace(config, epochs=1, precision="bf16"), tmp_path / "b" / "model.safetensors")
    assert low.sha256 != whole.sha256
    assert low.facts.config["precision"] == "bf16"


def test_learning_rates():
    steps = 10
    cosine = replace(RECIPES["sgd"], epochs=10, warmup=2.0)
    rates = [rate_factor(cosine, step, steps) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 21)
    assert max(rates) == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    paper = [rate_factor(RECIPES["paper"], step, steps) for step in (0, 299, 300, 600, 899)]
    assert paper == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_recipes_are_listed():
    result = CliRunner().invoke(app, ["train", "--list-recipes"])
    assert result.exit_code == 0
    for name, recipe in RECIPES.items():
        assert f"{name}: " in result.stdout
        assert recipe.expected in result.stdout
