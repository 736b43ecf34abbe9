"""Training: reproducible, refused where it makes no sense, and never half-written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenet_cli.data.datasets import open_dataset
from mobilenet_cli.models.mobilenet_v1 import multiply_adds, parameters
from mobilenet_cli.models.network import MobileNetV1, window_padding
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifact import load_artifact
from mobilenet_cli.pipeline.checkpoint import load_network
from mobilenet_cli.pipeline.errors import CheckError, DataError, OptionError, StorageError
from mobilenet_cli.pipeline.train import TrainConfig, _evaluate, train

SMALL = TrainConfig(width=0.25, epochs=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "model.safetensors"
    train(SMALL, out)
    return out


def test_two_epochs_learn_and_leave_log_and_curves(trained: Path) -> None:
    artifact = load_artifact(trained)
    assert artifact.facts.classes == tuple("0123456789")
    assert artifact.facts.data == "digits"
    assert artifact.record["images"] == 1438
    lines = trained.with_name("train.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["loss"] for line in lines)
    assert second < 0.97 * first
    assert trained.with_name("curves.png").read_bytes().startswith(b"\x89PNG")


def test_checkpoint_gives_the_accuracy_that_was_recorded(trained: Path) -> None:
    artifact = load_artifact(trained)
    held = open_dataset("digits", "val")
    top1, _ = _evaluate(load_network(artifact), held, artifact.facts.input, torch.device("cpu"))
    assert 100 * top1 / len(held.samples) == artifact.record["top1"]


def test_same_seed_same_file_other_seed_other_file(trained: Path, tmp_path: Path) -> None:
    again = train(SMALL, tmp_path / "again.safetensors")
    other = train(TrainConfig(width=0.25, epochs=2, seed=1), tmp_path / "other.safetensors")
    assert again.sha256 == load_artifact(trained).sha256
    assert other.sha256 != again.sha256


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf")])
def test_width_must_be_positive(width: float, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="width multiplier"):
        train(TrainConfig(width=width, epochs=1), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"resolution": 31}, "too small"),
        ({"epochs": 0}, "0 epochs"),
        ({"recipe": "magic"}, "unknown recipe"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        TrainConfig(**options)  # type: ignore[arg-type]  # wrong values are the point


def test_one_class_is_no_classifier(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    folder = class_folders({"cat": 4})
    with pytest.raises(DataError, match="only 1 class"):
        train(TrainConfig(data=str(folder), resolution=32), tmp_path / "m.safetensors")


def test_a_strangers_file_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(StorageError, match="was not made by this tool"):
        train(SMALL, out)
    assert out.read_bytes() == b"precious"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_old_checkpoint(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trained.read_bytes()
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *_, **__: nan)
    with pytest.raises(CheckError, match="loss became nan in step 1 of epoch 1"):
        train(SMALL, trained)
    assert trained.read_bytes() == before


def test_trains_on_a_folder_and_flips_only_there(
    class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    folder = class_folders({"cat": 6, "dog": 6})
    config = TrainConfig(data=str(folder), width=0.25, resolution=33, epochs=1)
    made = train(config, tmp_path / "model.safetensors")
    assert made.facts.classes == ("cat", "dog")
    assert made.facts.input.resolution == 33


# arXiv:1704.04861, tables 6 and 7: millions of parameters and multiply-adds.
@pytest.mark.parametrize(
    ("width", "resolution", "parameters_m", "multiply_adds_m"),
    [
        (1.0, 224, 4.2, 569),
        (0.75, 224, 2.6, 325),
        (0.5, 224, 1.3, 149),
        (0.25, 224, 0.5, 41),
        (1.0, 192, 4.2, 418),
        (1.0, 160, 4.2, 290),
        (1.0, 128, 4.2, 186),
    ],
)
def test_counts_are_the_papers(
    width: float, resolution: int, parameters_m: float, multiply_adds_m: int
) -> None:
    spec = ModelSpec(width=width)
    assert round(parameters(spec) / 1e6, 1) == parameters_m
    # The paper's 290 is 290.7 cut, the others are rounded.
    assert abs(multiply_adds(spec, resolution) / 1e6 - multiply_adds_m) < 0.75


@pytest.mark.parametrize("width", [0.1, 0.25, 0.33, 1.0, 1.4])
def test_computed_parameters_are_the_modules(width: float) -> None:
    spec = ModelSpec(width=width, classes=7)
    network = MobileNetV1(spec)
    assert parameters(spec) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("resolution", [32, 33, 47, 64])
def test_any_resolution_runs(padding: str, resolution: int) -> None:
    spec = ModelSpec(width=0.25, classes=3, padding=padding)  # type: ignore[arg-type]  # both are valid
    with torch.inference_mode():
        logits = MobileNetV1(spec).eval()(torch.zeros(2, 3, resolution, resolution))
    assert logits.shape == (2, 3)
    assert np.isfinite(logits.numpy()).all()


@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [(224, 2, (0, 1)), (7, 2, (1, 1)), (224, 1, (1, 1)), (33, 2, (1, 1)), (2, 2, (0, 1))],
)
def test_same_padding_is_tensorflows(size: int, stride: int, expected: tuple[int, int]) -> None:
    assert window_padding(size, 3, stride, "same") == expected
    assert window_padding(size, 3, stride, "symmetric") == (1, 1)
