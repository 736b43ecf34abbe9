"""Sentences for people: true, with their plurals, and with the command that comes next."""

from pathlib import Path

import pytest

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.importing.import_weights import run_name
from mobilenet_cli.reports.records.training import EpochRecord, TrainingStart, TrainRecord
from mobilenet_cli.reports.terminal import train_notes, train_text, training_text

START = TrainingStart(
    network="MobileNet v1, width 1, 224×224 pixels",
    architecture="mobilenet_v1",
    data="my photos",
    classes=4,
    images=32,
    held_out=8,
    epochs=30,
    init=None,
    photos=True,
)
TRAINED = TrainRecord(
    epochs=3,
    images=32,
    top1=25.0,
    top5=100.0,
    kept_epoch=2,
    last_top1=23.15,
    seconds=1.0,
    images_per_second=96.4,
    parameters=1,
    multiply_adds=1,
    device="cpu",
    threads=1,
)


def test_a_training_says_what_it_starts_with_and_how_to_start_from_weights():
    first, why, *commands = training_text(START).splitlines()
    assert first == (
        "training MobileNet v1, width 1, 224×224 pixels, from random weights on my photos: "
        "4 classes, 32 images, 8 more held out, 30 epochs"
    )
    assert "knows photos already" in why
    run = run_name(Facts(stage="import", model=ModelSpec(), input=InputSpec(), classes=()))
    assert commands == [
        "  mobilenet-cli import google/mobilenet_v1_1.0_224",
        f"  mobilenet-cli train --data 'my photos' --init runs/{run}/model.safetensors",
    ]


@pytest.mark.parametrize(
    "change", [{"init": "x.safetensors"}, {"photos": False}, {"images": 10**6}]
)
def test_weights_are_suggested_where_they_help_alone(change: dict[str, object]):
    said = training_text(START.model_copy(update=change))
    assert "import" not in said
    assert ("from the weights of x.safetensors" in said) == ("init" in change)


def test_the_weights_that_are_suggested_are_of_the_network():
    said = training_text(START.model_copy(update={"architecture": "mobilenet_v2"}))
    assert "import WEIGHTS" in said
    assert "mobilenet_v1" not in said


def test_an_epoch_calls_training_accuracy_so():
    epoch = EpochRecord(
        epoch=1, loss=2.3, train_top1=50.0, top1=25.0, top5=100.0, learning_rate=1e-3
    )
    assert training_text(epoch) == (
        "epoch 1: top-1 25.00 % of the held-out images; training: loss 2.300, top-1 50.00 %"
    )


def test_a_training_says_which_epoch_is_kept():
    file = Path("runs/a/model.safetensors")
    assert train_text(file, TRAINED) == (
        "runs/a/model.safetensors: top-1 25.00 % of the held-out images after 3 epochs (epoch 2, "
        "the best, is kept; the last had 23.15 %), 96 images/s; curves in runs/a/curves.png"
    )
    one = TRAINED.model_copy(update={"epochs": 1, "kept_epoch": 1})
    assert "after 1 epoch, " in train_text(file, one)
    part = TRAINED.model_copy(update={"epochs": 1.5, "kept_epoch": 2})
    assert "after 1.5 epochs, " in train_text(file, part)
    kept = TRAINED.model_copy(update={"start_top1": 25.0, "kept_epoch": 0})
    assert "nothing better" in train_notes(kept)[0]
