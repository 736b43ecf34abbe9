"""MLPerf scenarios are judged by the real LoadGen."""

import json
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.benchmarking import mlperf
from mobilenet_cli.pipeline.benchmarking.mlperf import (
    SCENARIOS,
    LoadgenConfig,
    accuracy,
    parse_reasons,
    parse_summary,
    run_scenario,
)
from mobilenet_cli.pipeline.errors import CheckError, DataError, OptionError
from mobilenet_cli.pipeline.runtime.machine import machine
from mobilenet_cli.reports.latency_tables import loadgen_markdown
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.latency import LoadgenReport

SUMMARY = """\
================================================
MLPerf Results Summary
================================================
Scenario : Server
Completed samples per second    : 63.58
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
Recommendations:
 * Reduce target QPS to improve latency.
"""


@pytest.fixture
def brightness(tmp_path):
    """A model that says 1 for images brighter than grey, and two of each kind to judge."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
            helper.make_node("Unsqueeze", ["m", "one"], ["u"]),
            helper.make_node("Mul", ["u", "signs"], ["y"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 2))],
        [
            numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array([[-1, 1]], np.float32), "signs"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folder = tmp_path / "images"
    for label, shades in {"dark": (10, 20, 30, 250), "light": (200, 220)}.items():
        (folder / label).mkdir(parents=True)
        for shade in shades:
            Image.new("RGB", (40, 40), (shade,) * 3).save(folder / label / f"{shade}.png")
    facts = Facts(
        stage="simplify",
        input=InputSpec(resolution=32, resize=32),
        classes=("dark", "light"),
    )
    return save_artifact(tmp_path / "folded.onnx", with_facts(model, facts), facts, Record())


def settings(artifact, scenario, **changes):
    data = str(artifact.path.parent / "images")
    return LoadgenConfig(**{"scenario": scenario, "seconds": 0.2, "data": data, **changes})


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_real_loadgen_judges_the_run(brightness, scenario):
    pytest.importorskip("mlperf_loadgen", reason="needs the extra mlperf")
    record = run_scenario(brightness, settings(brightness, scenario, server_qps=200.0))
    assert record.summary["Scenario"] == SCENARIOS[scenario]
    assert isinstance(record.valid, bool)
    assert record.valid or record.reasons
    assert record.value > 0
    assert record.images == 6
    report = LoadgenReport.model_validate({"machine": machine(), "results": [record]})
    assert scenario in loadgen_markdown(report)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_accuracy_mode_sees_every_image_once(brightness, scenario):
    pytest.importorskip("mlperf_loadgen", reason="needs the extra mlperf")
    record = run_scenario(brightness, settings(brightness, scenario, accuracy=True, batch=4))
    # The bright image in the dark folder is the one mistake.
    assert record.images == 6
    assert record.top1 == pytest.approx(100 * 5 / 6)
    assert record.valid is None


def test_invalid_says_why(brightness):
    pytest.importorskip("mlperf_loadgen", reason="needs the extra mlperf")
    config = settings(brightness, "server", server_qps=500.0, server_latency_ms=0.001)
    record = run_scenario(brightness, config)
    assert record.valid is False
    assert any("Performance constraints satisfied" in reason for reason in record.reasons)


def test_model_that_fails_does_not_hang_loadgen(brightness, monkeypatch):
    pytest.importorskip("mlperf_loadgen", reason="needs the extra mlperf")
    monkeypatch.setattr(mlperf, "seconds_per_image", lambda *_: 0.01)

    def broken(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(mlperf.System, "classify", broken)
    with pytest.raises(CheckError, match=r"failed on an image \(out of order\)"):
        run_scenario(brightness, settings(brightness, "single-stream"))


def test_summary_is_parsed():
    summary = parse_summary(SUMMARY)
    assert summary["Result is"] == "INVALID"
    assert float(summary["Completed samples per second"]) == 63.58
    assert parse_reasons(SUMMARY) == (
        "Performance constraints satisfied : NO",
        "Reduce target QPS to improve latency.",
    )


def test_accuracy_log_is_decoded():
    answers = [{"qsl_idx": 1, "data": "02000000"}, {"qsl_idx": 0, "data": "FFFFFFFF"}]
    assert accuracy(answers, [0, 2]) == 50.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"scenario": "multi"},
        {"scenario": "server", "seconds": 0},
        {"scenario": "server", "server_qps": -1.0},
        {"scenario": "offline", "batch": 0},
        {"scenario": "server", "server_latency_ms": float("nan")},
    ],
)
def test_senseless_settings(wrong):
    with pytest.raises(OptionError):
        LoadgenConfig(**wrong)


def test_without_images_there_is_no_scenario(brightness):
    pytest.importorskip("mlperf_loadgen", reason="needs the extra mlperf")
    with pytest.raises(DataError):
        run_scenario(
            brightness, settings(brightness, "offline", data=str(brightness.path.parent / "none"))
        )


def test_without_loadgen_the_extra_is_named(brightness, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(OptionError, match=r'pip install "mobilenet-cli\[mlperf\]"'):
        run_scenario(brightness, settings(brightness, "offline"))


def test_command(brightness):
    pytest.importorskip("mlperf_loadgen", reason="needs the extra mlperf")
    arguments = ["bench", str(brightness.path), "--scenario", "offline", "--accuracy", "--json"]
    arguments += ["--data", str(brightness.path.parent / "images")]
    command = [sys.executable, "-c", "from mobilenet_cli.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["top1"] == pytest.approx(100 * 5 / 6)


def test_a_package_answers_scenarios_by_its_pixels(package):
    pytest.importorskip("mlperf_loadgen")
    model = package.folder / package.pick().pixels.model
    found = run_scenario(
        load_artifact(model), LoadgenConfig(scenario="offline", accuracy=True, batch=8)
    )
    whole = run_scenario(
        load_artifact(package.folder / "fp32" / "pixels.onnx"),
        LoadgenConfig(scenario="offline", accuracy=True, batch=8),
    )
    assert found.images == whole.images
    assert found.top1 == pytest.approx(whole.top1, abs=3)
