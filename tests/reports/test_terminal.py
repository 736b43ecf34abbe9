"""Sentences for people: true, with their plurals, and with the command that comes next."""

from pathlib import Path

import pytest

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.importing.import_weights import run_name
from mobilenet_cli.reports import terminal
from mobilenet_cli.reports.records.accuracy import EvaluationRecord, Interval, Metric
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.conversion import (
    ConvertRecord,
    ExportRecord,
    ImportRecord,
    SimplifyRecord,
)
from mobilenet_cli.reports.records.deployment import InputProof, PackageRecord, VariantRecord
from mobilenet_cli.reports.records.prediction import PredictRecord
from mobilenet_cli.reports.records.quantization import FloatLayer, QuantizeRecord
from mobilenet_cli.reports.records.training import EpochRecord, TrainingStart, TrainRecord
from mobilenet_cli.reports.summary import kept, speed
from mobilenet_cli.reports.terminal import train_notes, train_text, training_text

JOB = PredictRecord(
    out="o",
    model="m",
    sha256="0",
    parts=1,
    rows=1,
    errors=0,
    images=1,
    images_per_second=2.0,
    seconds=0.5,
    decoding_share=0.5,
)
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


def test_one_row_is_no_rows():
    assert terminal.job_text(Path("o"), JOB).startswith("o: 1 row in 1 part, 0 without an answer; ")
    many = JOB.model_copy(update={"rows": 2000, "parts": 2, "images": 2000})
    assert terminal.job_text(Path("o"), many).startswith("o: 2,000 rows in 2 parts, ")


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
        "the best, is kept; the last epoch had 23.15 %), 96 images/s; curves in runs/a/curves.png"
    )
    one = TRAINED.model_copy(update={"epochs": 1, "kept_epoch": 1})
    assert "after 1 epoch, " in train_text(file, one)
    part = TRAINED.model_copy(update={"epochs": 1.5, "kept_epoch": 2})
    assert "after 1.5 epochs, " in train_text(file, part)
    kept = TRAINED.model_copy(update={"start_top1": 25.0, "kept_epoch": 0})
    assert "nothing better" in train_notes(kept)[0]


FILE = Path("runs/a/x.onnx")
METRIC = Metric(value=50.0, low=9.45, high=90.55)


def made(kind: type[Record], **values: object) -> Record:
    """Return a record that has no other fields than these: a sentence that needs more fails."""
    return kind.model_construct(**values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            terminal.export_text(FILE, made(ExportRecord, batch_norms=1, max_abs_error=2e-5)),
            "1 BatchNorm kept, largest difference to torch 2.0e-05",
        ),
        (
            terminal.simplify_text(
                FILE,
                made(
                    SimplifyRecord,
                    batch_norms_before=27,
                    batch_norms_after=0,
                    channels_checked=2736,
                    max_abs_error=2e-5,
                    images=1,
                    images_from="digits",
                ),
            ),
            "BatchNorms 27 -> 0, 2,736 channels checked, largest logit difference 2.0e-05 on "
            "1 image (digits)",
        ),
        (
            terminal.convert_text(
                FILE,
                made(
                    ConvertRecord,
                    sqnr_db=60.0,
                    images=16,
                    images_from="digits",
                    provider="P",
                    agreement=1.0,
                ),
            ),
            "60.0 dB from float32 on 16 images (digits, P), same top-1 on 100.0 %",
        ),
        (
            terminal.quantize_text(
                FILE,
                made(
                    QuantizeRecord,
                    kernel_sqnr_db=None,
                    target="avx2",
                    images=1,
                    agreement=1.0,
                    sqnr_db=20.0,
                ),
            ),
            "int8 for avx2, 1 calibration image, 100.0 % agreement and 20.0 dB SQNR with float in "
            "simulation, not proven on this machine",
        ),
        (
            terminal.import_text(
                Path("runs/r/folded.onnx"), made(ImportRecord, parameters=1, outputs=1), 32, None
            ),
            "resolution 32, 1 parameter, 1 class; next: mobilenet-cli quantize --run r "
            "--calib-dir FOLDER",
        ),
        (
            terminal.import_text(
                Path("runs/r/fp32.onnx"), made(ImportRecord, parameters=5, outputs=2), 32, None
            ),
            "resolution 32, 5 parameters, 2 classes; next: mobilenet-cli simplify --run r",
        ),
        (
            terminal.evaluation_text(
                made(
                    EvaluationRecord,
                    model="m",
                    top1=METRIC,
                    top5=METRIC,
                    images=1,
                    data="d (all)",
                    images_per_second=9.0,
                )
            ),
            "top-1 50.00 % [9.45, 90.55], top-5 50.00 % [9.45, 90.55] on 1 image of d (all), "
            "9 images/s",
        ),
        (
            terminal.deploy_text(
                Path("p"),
                made(
                    PackageRecord,
                    images=1,
                    variants=[
                        made(
                            VariantRecord,
                            kernels=True,
                            image=made(
                                InputProof, model="i.onnx", agreement=1.0, max_difference=0.01
                            ),
                            pixels=made(InputProof, agreement=1.0, max_difference=0.0),
                        )
                    ],
                ),
            ),
            "same class as predict on 100.0 % of 1 image, probabilities up to 0.01 apart; given "
            "predict's pixels, 100.0 % and 0",
        ),
    ],
)
def test_stages_say_what_they_proved(text: str, expected: str):
    assert text.partition(": ")[2] == expected


def test_what_float_layers_cost_has_the_sign_of_a_change():
    record = made(
        QuantizeRecord,
        bad_images=("a.png",),
        leakage=("b.png",),
        leakage_checked="digits (val)",
        float_layers=("conv",),
        kept_float=(FloatLayer(name="conv", drop=-0.25, p50_ms=1.0, slowdown=1.1),),
        drop=0.5,
        drop_images=1,
        drop_data="d",
        max_drop=0.5,
    )
    assert terminal.quantize_notes(record) == [
        "left out, cannot be read: a.png",
        "warning: b.png is also in the evaluation set digits (val)",
        "kept in float: conv",
        "with conv in float: top-1 changes by +0.25 points, 1.00 ms, 1.10 of the integer model's "
        "time",
        "top-1 changes by -0.50 points on 1 image of d; a loss of 0.5 was allowed",
    ]


def test_left_out_images_are_all_named_or_said_to_be_examples():
    one, many = (
        terminal.evaluation_notes(made(EvaluationRecord, bad_images=tuple("abcdefghijkl"[:count])))
        for count in (1, 12)
    )
    assert one == ["left out, cannot be read: 1 image: a"]
    assert many == ["left out, cannot be read: 12 images, such as a, b, c, d, e, f, g, h, i, j"]
    assert terminal.evaluation_notes(made(EvaluationRecord, bad_images=())) == []


def test_what_was_done_already_is_said():
    assert terminal.chain_notes([], None) == []
    current, kept = terminal.chain_notes(["train", "export"], "previous.safetensors")
    assert current == "up to date: train, export"
    assert "kept as previous.safetensors" in kept


def test_names_of_others_do_not_steer_the_terminal():
    assert terminal.printable("a\x1b[2Jb\u202e\ud800") == r"a\x1b[2Jb\u202e\ud800"


def test_facts_say_which_epoch_is_kept():
    assert kept(TRAINED) == ", of which epoch 2 was the best and is kept"
    assert kept(TRAINED.model_copy(update={"kept_epoch": 3})) == ""
    assert kept(TRAINED.model_copy(update={"kept_epoch": None})) == ""
    none = ", none of them better than {}, which is kept"
    probe = TRAINED.model_copy(update={"kept_epoch": 0})
    assert kept(probe) == none.format("a new classifier alone")
    started = probe.model_copy(update={"start_top1": 99.0})
    assert kept(started) == none.format("what they started from")


def test_small_ratios_show_their_digits():
    assert speed(Interval(value=0.0084, low=0.0023, high=22.3)) == (
        False,
        "no difference in speed was found (95 %: 0.0023 to 22.30)",
    )
    assert speed(Interval(value=0.0074, low=0.0025, high=0.036))[1].startswith(
        "slower than fp32, at 0.0074× its speed (95 %: 0.0025 to 0.036)"
    )


def test_a_name_with_a_line_end_is_one_line():
    assert terminal.prediction_text("a\n  99.00%  cat.png", [("dog", 0.5)]) == (
        "a\\n  99.00%  cat.png\n   50.00%  dog"
    )
