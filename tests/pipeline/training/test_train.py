"""Training: reproducible, refused where it makes no sense, and never half-written."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.crop import DRAWS, CentreCrop
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.training_batches import TrainBatch
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.conv_norm_torch import window_padding
from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact, load_with_record, save_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes, load_network
from mobilenet_cli.pipeline.artifacts.files import alone_in
from mobilenet_cli.pipeline.errors import CheckError, DataError, OptionError, StorageError
from mobilenet_cli.pipeline.reporting.collect import read_epochs
from mobilenet_cli.pipeline.training import linear_probe
from mobilenet_cli.pipeline.training.augmentation import augmented
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.recipes import RECIPES
from mobilenet_cli.pipeline.training.setup import names_of, resolve, training_classes
from mobilenet_cli.pipeline.training.train import train
from mobilenet_cli.pipeline.training.validation import count_correct
from mobilenet_cli.reports.charts.training_charts import training_charts
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.training import EpochRecord, TrainingStart, TrainRecord
from mobilenet_cli.reports.terminal import train_text, training_text

SMALL = TrainConfig(width=0.25, epochs=2)
IDLE = ("learning_rate=0", "shift=0", "zoom=0", "rotation=0")


@pytest.fixture
def copy_of_trained(trained: Path, tmp_path: Path) -> Path:
    """A checkpoint whose log a test may go on with."""
    return shutil.copytree(trained.parent, tmp_path / "copy") / trained.name


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "model.safetensors"
    train(SMALL, out)
    return out


def test_two_epochs_learn_and_leave_log_and_curves(trained: Path) -> None:
    artifact = load_with_record(trained, TrainRecord)
    assert artifact.facts.classes == tuple("0123456789")
    assert artifact.facts.data == "digits"
    assert artifact.record.images == 1438
    lines = trained.with_name("train.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["loss"] for line in lines)
    assert second < 0.97 * first
    assert trained.with_name("curves.png").read_bytes().startswith(b"\x89PNG")


def test_checkpoint_gives_the_accuracy_that_was_recorded(trained: Path) -> None:
    artifact = load_with_record(trained, TrainRecord)
    held = open_dataset("digits", "val")
    top1, _, loss, _ = count_correct(
        load_network(artifact),
        held,
        artifact.facts.classes,
        artifact.facts.input,
        torch.device("cpu"),
    )
    assert 100 * top1 / len(held.samples) == artifact.record.top1
    last = json.loads(trained.with_name("train.jsonl").read_text().splitlines()[-1])
    assert loss / len(held.samples) == pytest.approx(last["validation_loss"], rel=1e-5)


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
        ({"resolution": 0}, "cannot cut 0 pixels"),
        ({"epochs": 0}, "0 epochs"),
        ({"recipe": "magic"}, "unknown recipe"),
        ({"model": "resnet"}, "unknown model 'resnet'. Use one of mobilenet_v1, mobilenet_v2"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        resolve(TrainConfig(**options))  # type: ignore[arg-type]  # wrong values are the point


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
    copy_of_trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy_of_trained.read_bytes()
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *_, **__: nan)
    with pytest.raises(CheckError, match="loss became nan in step 1 of epoch 1"):
        train(SMALL, copy_of_trained)
    assert copy_of_trained.read_bytes() == before


def test_a_weight_that_is_not_finite_keeps_the_old_checkpoint(
    copy_of_trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step's loss was of the weights before it."""
    before = copy_of_trained.read_bytes()
    monkeypatch.setattr(torch.optim.AdamW, "step", spoil_weights)
    with pytest.raises(CheckError, match="became NaN or infinite"):
        train(replace(SMALL, epochs=0.01), copy_of_trained)
    assert copy_of_trained.read_bytes() == before


def spoil_weights(optimizer: torch.optim.Optimizer, *_: object) -> None:
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].fill_(float("nan"))


def test_trains_on_a_folder_and_flips_only_there(
    class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    folder = class_folders({"cat": 6, "dog": 6})
    config = TrainConfig(data=str(folder), width=0.25, resolution=33, epochs=1)
    made = train(config, tmp_path / "model.safetensors")
    assert made.facts.classes == ("cat", "dog")
    assert made.facts.input.resolution == 33


def test_the_architecture_is_that_of_the_option_or_of_the_weights(make_checkpoint, tmp_path):
    plain, other = resolve(TrainConfig()), resolve(TrainConfig(model="mobilenet_v2", width=0.35))
    assert "model" not in plain.recorded  # as in files from when there was one architecture
    assert other.recorded["model"] == other.network.architecture == "mobilenet_v2"
    assert (plain.run_name, other.run_name) == ("digits-1-32", "digits-mobilenet_v2-0.35-32")
    weights = make_checkpoint(tmp_path / "v2.safetensors", architecture="mobilenet_v2")
    tuned = resolve(TrainConfig(init=str(weights.path)))
    assert tuned.network == replace(weights.facts.model, classes=1)
    with pytest.raises(OptionError, match=r"v2\.safetensors is a mobilenet_v2, not a mobilenet_v1"):
        resolve(TrainConfig(init=str(weights.path), model="mobilenet_v1"))


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
    v1 = MODELS[spec.architecture]
    assert round(v1.parameters(spec) / 1e6, 1) == parameters_m
    # The paper's 290 is 290.7 cut, the others are rounded.
    assert (
        abs(MODELS[spec.architecture].multiply_adds(spec, resolution) / 1e6 - multiply_adds_m)
        < 0.75
    )


@pytest.mark.parametrize("width", [0.1, 0.25, 0.33, 1.0, 1.4])
def test_computed_parameters_are_the_modules(width: float) -> None:
    spec = ModelSpec(width=width, classes=7)
    network = MobileNetV1(spec)
    counted = sum(p.numel() for p in network.parameters())
    assert MODELS[spec.architecture].parameters(spec) == counted


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


@pytest.fixture(scope="module")
def other_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real digits, of three classes under other names."""
    folder = tmp_path_factory.mktemp("digits")
    for sample in open_dataset("digits", "train").samples:
        if sample.label in ("3", "5", "8") and int(sample.key[-7:-4]) % 5 == 0:
            path = folder / f"class-{sample.label}" / Path(sample.key).name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(sample.read())
    return folder


def test_fine_tuning_that_teaches_nothing_leaves_a_new_classifier_alone(
    chain: Any, other_digits: Path, tmp_path: Path
) -> None:
    """On few images the layers as they are may be best: fine-tuning must beat what they give."""
    told: list[TrainingStart | EpochRecord] = []
    config = TrainConfig(str(other_digits), init=str(chain.checkpoint.path), epochs=1, changes=IDLE)
    made = train(config, tmp_path / "model.safetensors", tell=told.append)
    probe, epoch = [record for record in told if isinstance(record, EpochRecord)]
    assert [probe.epoch, epoch.epoch] == [0, 1]
    assert probe.top1 > 60 > epoch.top1
    assert (made.record.kept_epoch, made.record.top1) == (0, probe.top1)
    before, after = load_network(chain.checkpoint), load_network(made)
    for name, tensor in before.layers.state_dict().items():
        assert torch.equal(after.layers.state_dict()[name], tensor), name
    assert after.classifier.weight.shape == (3, 256)
    held = open_dataset(str(other_digits), "val")
    facts, cpu = made.facts, torch.device("cpu")
    top1, *_, seen = count_correct(after, held, facts.classes, facts.input, cpu)
    assert 100 * top1 / seen == probe.top1
    assert facts.parent == chain.checkpoint.sha256
    assert facts.classes == ("class-3", "class-5", "class-8")
    assert (facts.model.width, facts.input.resolution) == (0.25, 32)
    assert training_text(probe).startswith("a new classifier alone: top-1")
    assert "a new classifier alone was better and is kept" in train_text(made.path, made.record)
    loss, accuracy = training_charts(read_epochs(tmp_path / "train.jsonl"), classes=3)
    assert loss.data[0]["x"] == [0, 1]
    assert "1 epoch; the last" in accuracy.summary


def test_probe_is_for_other_classes_and_few_images(
    trained: Path, other_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epochs_of(config: TrainConfig, name: str) -> list[int]:
        train(config, tmp_path / name / "model.safetensors")
        return [int(str(e["epoch"])) for e in read_epochs(tmp_path / name / "train.jsonl")]

    assert epochs_of(TrainConfig(init=str(trained), epochs=0.02), "same") == [1]
    monkeypatch.setattr(linear_probe, "MOST_IMAGES", 10)
    assert epochs_of(TrainConfig(str(other_digits), init=str(trained), epochs=1), "many") == [1]


def test_the_same_classes_keep_their_head(trained: Path, tmp_path: Path) -> None:
    config = TrainConfig(init=str(trained), epochs=1, changes=("learning_rate=0",))
    made = train(config, tmp_path / "model.safetensors")
    before, after = load_network(load_artifact(trained)), load_network(made)
    assert torch.equal(before.classifier.weight, after.classifier.weight)


def test_layers_learn_at_rates_of_their_own(trained: Path, tmp_path: Path) -> None:
    config = TrainConfig(init=str(trained), epochs=1, changes=("layer_rate=0",))
    made = train(config, tmp_path / "model.safetensors")
    before, after = load_network(load_artifact(trained)), load_network(made)
    assert torch.equal(before.layers[5].conv.weight, after.layers[5].conv.weight)
    assert not torch.equal(before.classifier.weight, after.classifier.weight)


def test_normalization_is_that_of_the_weights_to_start_from(trained: Path, tmp_path: Path) -> None:
    artifact = load_artifact(trained)
    spec = replace(artifact.facts.input, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channels="BGR")
    facts = artifact.facts.model_copy(update={"input": spec})
    content = checkpoint_bytes(load_network(artifact), facts)
    init = save_artifact(tmp_path / "other.safetensors", content, facts, Record())
    assert resolve(TrainConfig(init=str(init.path))).input == spec
    chosen = open_dataset("digits", "val").samples[:4]
    squares = np.stack([CentreCrop(spec)(c.read(), c.key, np.zeros(DRAWS)) for c in chosen])
    batch = TrainBatch(squares, np.zeros(4, np.int64), np.arange(4), 0)
    plain = replace(RECIPES["quick"], shift=0.0, zoom=0.0, rotation=0.0)
    made, targets = augmented(batch, plain, spec, 10, torch.device("cpu"), (0, 0, 0))
    expected = next(batches(chosen, spec, 4)).images
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-5)
    assert targets[:, 0].tolist() == [1, 1, 1, 1]


def test_weights_of_another_width_are_refused(trained: Path) -> None:
    with pytest.raises(OptionError, match=r"has width 0\.25, not 1"):
        resolve(TrainConfig(init=str(trained), width=1.0))


def test_two_trainings_do_not_mix_in_one_folder(tmp_path: Path) -> None:
    config, out = TrainConfig(width=0.25, epochs=0.01), tmp_path / "run" / "model.safetensors"
    with (
        alone_in(out.parent, "trains"),
        pytest.raises(StorageError, match=r"another process trains in .*run. Wait until"),
    ):
        train(config, out)
    assert not list(out.parent.iterdir())
    train(config, out)


def test_a_training_does_not_mix_with_an_imported_network(tmp_path: Path) -> None:
    (tmp_path / "folded.onnx").write_bytes(b"imported")
    with pytest.raises(StorageError, match=r"holds folded\.onnx already, .* of two networks"):
        train(TrainConfig(width=0.25, epochs=0.01), tmp_path / "model.safetensors")


def test_fine_tuning_does_not_replace_what_it_starts_from(trained: Path) -> None:
    before = trained.read_bytes()
    with pytest.raises(StorageError, match="holds the weights to start from"):
        train(TrainConfig(init=str(trained)), trained)
    assert trained.read_bytes() == before


def test_finetune_without_weights_is_refused() -> None:
    with pytest.raises(OptionError, match="needs weights to start from"):
        TrainConfig(recipe="finetune")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("batch=1", "batch 1 makes no sense"),
        ("learning_rate=nan", "learning_rate nan"),
        ("zoom=1", "zoom 1 makes no sense"),
        ("batch=2.5", "a whole number"),
        ("batch", "a whole number"),
        ("note=hello", "changes no value"),
        ("lr=0.1", "Write learning_rate=0.1"),
        ("batch_size=8", "Write batch=8"),
        ("label_smothing=0.2", "Write label_smoothing=0.2"),
    ],
)
def test_changes_that_make_no_sense(change: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        TrainConfig(changes=(change,))


def test_changes_are_used_and_recorded(tmp_path: Path) -> None:
    config = TrainConfig(width=0.25, changes=("epochs=1", "batch=100", "learning_rate=0.001"))
    made = train(config, tmp_path / "model.safetensors")
    assert made.record.epochs == 1
    recorded = made.facts.config["recipe"]
    assert isinstance(recorded, dict)
    assert (recorded["batch"], recorded["learning_rate"]) == (100, 0.001)


def test_a_checkpoint_of_other_settings_is_kept(tmp_path: Path) -> None:
    out, kept = tmp_path / "model.safetensors", tmp_path / "previous.safetensors"
    config = TrainConfig(width=0.25, epochs=0.05)
    first = train(config, out)
    assert first.record.replaced is None
    assert train(config, out).record.replaced is None
    assert not kept.exists()
    second = train(replace(config, seed=1), out)
    assert second.record.replaced == kept.name
    assert load_artifact(kept).sha256 == first.sha256 != second.sha256
    assert load_with_record(kept, TrainRecord).record.top1 == first.record.top1


def test_every_recipe_is_listed_with_its_source() -> None:
    result = CliRunner().invoke(app, ["train", "--list-recipes", "--json"])
    listed = json.loads(result.stdout)
    assert listed.keys() == RECIPES.keys()
    assert all(row["source"] and row["note"] for row in listed.values())
    text = CliRunner().invoke(app, ["train", "--list-recipes"]).stdout
    assert all(f"{name}: {row['note']}" in text for name, row in listed.items())


def test_a_width_left_out_is_recorded_as_the_one_that_is_used(trained: Path) -> None:
    assert resolve(TrainConfig()).recorded == resolve(TrainConfig(width=1.0)).recorded
    assert resolve(TrainConfig(init=str(trained))).recorded["width"] == 0.25
    assert resolve(TrainConfig(init=str(trained))).run_name == "digits-0.25-32"


def test_imagenet_classes_that_have_held_out_images_alone(class_folders):
    root = class_folders({"n01440764": 3, "n01443537": 3}, "part/train").parent
    class_folders({"n01443537": 2, "n01484850": 2}, "part/val")
    training, held = (open_dataset(str(root), split) for split in ("train", "val"))
    classes = training_classes(str(root), training, held)
    assert len(classes) == 1000
    assert classes[2] == "n01484850"
    assert names_of(classes, None)[0] == "tench"


def test_held_out_images_of_an_unknown_class(class_folders, tmp_path):
    root = class_folders({"cat": 3, "dog": 3}, "pets/train").parent
    class_folders({"cat": 2, "hamster": 1}, "pets/val")
    with pytest.raises(
        DataError, match=r"held-out images .* have 1 class without .* such as 'hamster'"
    ):
        train(TrainConfig(data=str(root)), tmp_path / "model.safetensors")


def test_held_out_images_are_judged_by_the_models_classes(class_folders, tmp_path, monkeypatch):
    """The held-out part lacks a class, so its own ranks are not the model's."""
    root = class_folders({"a": 4, "b": 4, "c": 4}, "abc/train").parent
    class_folders({"b": 2, "c": 2}, "abc/val")
    asked = []

    def watched(network, held, classes, *others):
        asked.append((held.classes, classes))
        return count_correct(network, held, classes, *others)

    monkeypatch.setattr("mobilenet_cli.pipeline.training.train.count_correct", watched)
    config = TrainConfig(data=str(root), width=0.25, resolution=32, epochs=1)
    train(config, tmp_path / "model.safetensors")
    assert asked == [(("b", "c"), ("a", "b", "c"))]


def test_where_nothing_can_be_written_no_epoch_is_wasted(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr("mobilenet_cli.pipeline.training.setup.open_dataset", None)  # never reached
    with pytest.raises(StorageError, match="taken"):
        train(TrainConfig(), tmp_path / "taken" / "model.safetensors")


def test_freed_memory_is_kept_for_the_next_step():
    """A second step of a real network, which frees all it took, brings few page faults."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc is told to keep memory")
    program = """
import resource, torch
from mobilenet_cli.pipeline.training.running.allocator import keep_freed_memory

network = torch.nn.Sequential(*(torch.nn.Conv2d(32, 32, 1) for _ in range(4)))
images = torch.ones(16, 32, 160, 160)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(images).sum().backward()
    network.zero_grad()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
mapped = faults()
keep_freed_memory()
print(mapped, min([faults() for _ in range(6)][2:]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    mapped, kept = map(int, done.stdout.split())
    assert mapped > 5 * kept
