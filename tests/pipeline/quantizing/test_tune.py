"""What a tuning chose is recorded, makes the same file again, and keeps within the limits."""

from dataclasses import replace

import pytest

from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.progress import silent
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.quantizing.quantizer import Quantizer
from mobilenet_cli.pipeline.quantizing.tune import candidate
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports import terminal
from mobilenet_cli.reports.records.quantization import (
    QuantizeRecord,
    SpeedRecord,
    TunedLayers,
    TuningRecord,
)
from mobilenet_cli.reports.summary import slower_sentence

FEW = QuantizeConfig(calib_count=8)


@pytest.fixture(scope="module", autouse=True)
def _short_comparisons():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilenet_cli.pipeline.quantizing.tune.TRIAL_NS", 1_000_000)
        patch.setattr("mobilenet_cli.pipeline.quantizing.tune.CONFIRM_NS", 20_000_000)
        patch.setattr("mobilenet_cli.pipeline.quantizing.speed.SPEED_NS", 20_000_000)
        yield


def linear_layers(model):
    return [step.output for step in parse(load_onnx(model.path)).steps if step.kind == "linear"]


def test_what_was_chosen_makes_the_same_file_within_the_limit(chain, tmp_path):
    limits = replace(FEW, max_drop=20.0)
    tuned = quantize(chain.folded, replace(limits, tune=True), tmp_path / "tuned.onnx")
    tuning, layers = tuned.record.tuning, linear_layers(chain.folded)
    names = tuple(name for choice in tuning.kept for name in choice.names)
    assert tuned.record.drop <= 20
    assert tuning.tried >= len(layers)
    assert tuple(name for name in layers if name in names) == names  # in the order of computation
    assert set(names) <= set(tuned.record.float_layers)
    assert all(choice.high < 1 for choice in tuning.kept)
    assert tuning.high < 1 or not names
    again = quantize(chain.folded, replace(limits, keep_float=names), tmp_path / "again.onnx")
    assert again.sha256 == tuned.sha256
    assert "tune" not in again.facts.config
    assert again.facts.config.get("keep_float", []) == list(names)


def test_layers_that_are_named_stay_in_float(chain, tmp_path):
    first = tuple(linear_layers(chain.folded)[:2])
    made = quantize(chain.folded, replace(FEW, keep_float=first), tmp_path / "int8.onnx")
    assert set(first) <= set(made.record.float_layers)
    assert made.record.operators["QLinearConv"] == chain.int8.record.operators["QLinearConv"] - 2
    assert made.facts.config["keep_float"] == list(first)
    speed = made.record.speed
    assert speed.low <= speed.ratio <= speed.high
    plain = Quantizer.prepare(chain.folded, FEW, silent)
    for kept in ((), first):  # what is timed has the layers that would be shipped
        timed = load_onnx_bytes(candidate(plain, plain.make().integers, kept), tmp_path)
        wanted = made if kept else chain.int8
        assert operators(timed) == operators(load_onnx(wanted.path))


def load_onnx_bytes(content, folder):
    (folder / "candidate.onnx").write_bytes(content)
    open_session(content)
    return load_onnx(folder / "candidate.onnx")


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tune": True, "keep_float": ("x",)}, "Leave --keep-float or --tune out"),
        ({"tune": True, "cross": True}, "--tune measures on this machine"),
        ({"tune": True, "target": "tensorrt"}, "give the layers in its record to --keep-float"),
    ],
)
def test_contradictions(settings, sentence):
    with pytest.raises(OptionError, match=sentence):
        QuantizeConfig(**settings)


def test_a_layer_that_does_not_exist(chain, tmp_path):
    with pytest.raises(OptionError, match=r"folded.onnx has no layer nosuch to keep in float"):
        quantize(chain.folded, replace(FEW, keep_float=("nosuch",)), tmp_path / "int8.onnx")


def test_a_file_that_is_slower_than_the_float_one_says_so():
    speed = SpeedRecord(float_ms=1.5, int8_ms=1.8, ratio=1.2, low=1.1, high=1.3)
    layers = TunedLayers(names=("a",), ratio=0.9, low=0.8, high=0.95)
    tuning = TuningRecord(tried=5, kept=(layers,), ratio=0.9, low=0.8, high=0.95, seconds=1.0)
    record = QuantizeRecord.model_construct(
        bad_images=(), leakage=(), leakage_checked=None, float_layers=(), speed=speed, tuning=tuning
    )
    tuned, slower = terminal.quantize_notes(record)
    assert tuned == (
        "tuned: of 5 choices, 1 kept, and the network takes 0.900 (0.800 to 0.950) of its time in "
        "integers alone"
    )
    assert slower == f"warning: {slower_sentence(speed)}"
    assert "takes 1.20 (1.10 to 1.30) of its 1.5 ms" in slower
    level = speed.model_copy(update={"low": 0.99})
    notes = terminal.quantize_notes(record.model_copy(update={"speed": level}))
    assert notes == [tuned]  # within the noise
