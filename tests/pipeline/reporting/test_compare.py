"""Runs are compared on the same images and the same hardware only."""

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig, bench
from mobilenet_cli.pipeline.benchmarking.inputs import open_model
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate_and_keep
from mobilenet_cli.pipeline.reporting.collect import collect
from mobilenet_cli.pipeline.reporting.compare import compare_runs, history, predictions_of
from mobilenet_cli.reports.compare import compare_latency
from mobilenet_cli.reports.records.accuracy import AnswersRecord
from mobilenet_cli.reports.records.detection import BoxesRecord
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.terminal import tables_text


@pytest.fixture(scope="module")
def measured(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest real run with its ONNX model evaluated and benchmarked."""
    run = Run(tmp_path_factory.mktemp("measured") / "one")
    shutil.copytree(tiny, run.folder)
    evaluate_and_keep(load_artifact(run.fp32), EvaluateConfig(data="digits"), run)
    record = bench([open_model(run.fp32)], BenchConfig(threads=(1,), seconds=0.1, data="noise"))
    run.bench.write_text(record.model_dump_json())
    return run.folder


@pytest.fixture
def runs(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """Two copies of it, ``one`` and ``two``."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(measured, Path("runs") / name)
    return Run(Path("runs/one")), Run(Path("runs/two"))


def edit(path: Path, **update: object) -> None:
    """Change the first record of a JSON list, or the record itself."""
    document = json.loads(path.read_bytes())
    (document[0] if isinstance(document, list) else document).update(update)
    path.write_text(json.dumps(document))


def test_the_same_model_does_not_differ(runs: tuple[Run, Run]) -> None:
    pair = next(pair for pair in compare_runs(runs).pairs if pair.stage == "export")
    assert pair.accuracy is not None
    assert (pair.accuracy.only_base, pair.accuracy.only_other) == (0, 0)
    assert pair.accuracy.images == 359
    assert pair.accuracy.p_value == 1.0
    assert pair.speedup is not None
    assert pair.speedup.value == 1.0
    assert pair.speedup.low is not None
    assert pair.speedup.low <= 1.0


def test_answers_that_changed_are_counted(runs: tuple[Run, Run]) -> None:
    predictions = json.loads(runs[1].predictions.read_bytes())
    right = [i for i, rank in enumerate(predictions[0]["ranks"]) if rank == 0]
    for i in right[:10]:
        predictions[0]["ranks"][i] = 1
    runs[1].predictions.write_text(json.dumps(predictions))
    pair = next(pair for pair in compare_runs(runs).pairs if pair.stage == "export")
    assert pair.accuracy is not None
    assert (pair.accuracy.only_base, pair.accuracy.only_other) == (10, 0)
    assert pair.accuracy.difference.value == pytest.approx(-100 * 10 / 359)
    assert pair.accuracy.p_value == pytest.approx(2 / 1024)
    assert "-2.79" in tables_text(compare_runs(runs), as_markdown=True)


def test_latency_of_another_machine_is_not_compared(runs: tuple[Run, Run]) -> None:
    document = json.loads(runs[1].bench.read_bytes())
    document["machine"]["cpu"] = "Another CPU"
    runs[1].bench.write_text(json.dumps(document))
    pair = next(pair for pair in compare_runs(runs).pairs if pair.stage == "export")
    assert pair.speedup is None
    assert pair.latency_note.startswith("measured on different machines (cpu: ")
    assert "Another CPU" in tables_text(compare_runs(runs), as_markdown=True)


def test_latency_needs_the_same_setting(runs: tuple[Run, Run]) -> None:
    one = BenchRecord.model_validate_json(runs[0].bench.read_bytes())
    row = one.results[0]
    other = one.model_copy(update={"results": (row.model_copy(update={"threads": 64}),)})
    assert compare_latency(one, other, row.sha256, row.sha256) == (
        None,
        "not benchmarked with the same provider, threads and batch",
    )
    assert compare_latency(one, None, row.sha256, row.sha256)[1] == "not benchmarked in both runs"


def test_runs_on_different_data_say_so(runs: tuple[Run, Run]) -> None:
    edit(runs[1].predictions, data="elsewhere", data_fingerprint="0")
    pair = next(pair for pair in compare_runs(runs).pairs if pair.stage == "export")
    assert pair.accuracy is None
    assert pair.accuracy_note.startswith("evaluated on different images: digits")
    assert pair.accuracy_note.endswith("and elsewhere")


def test_missing_predictions_name_the_command(runs: tuple[Run, Run]) -> None:
    runs[1].predictions.unlink()
    pair = next(pair for pair in compare_runs(runs).pairs if pair.stage == "export")
    assert pair.accuracy_note == (
        "two/fp32.onnx has no predictions: run 'mobilenet-cli evaluate --run two'"
    )


def test_a_detectors_boxes_are_no_predictions(runs: tuple[Run, Run]) -> None:
    run, (predictions,) = collect(runs[0], layers=False)
    common = predictions.model_dump(include=set(AnswersRecord.model_fields))
    boxes = BoxesRecord(**common, min_score=0.5, images=())
    assert predictions_of((run, [boxes]), predictions.sha256) is None
    assert predictions_of((run, [predictions, boxes]), predictions.sha256) is predictions


def test_two_runs_are_needed(runs: tuple[Run, Run]) -> None:
    for few in ((), runs[:1], (runs[0], runs[0])):
        with pytest.raises(OptionError, match="nothing to compare"):
            compare_runs(few)
    with pytest.raises(ModelError, match="there is no run"):
        compare_runs((runs[0], Run(Path("runs/three"))))


def test_history_is_in_order_of_time_and_lists_what_is_broken(runs: tuple[Run, Run]) -> None:
    for path in (*runs[0].artifacts(), *runs[1].artifacts()):
        os.utime(path, (2_000_000_000, 2_000_000_000))
    for path in runs[1].artifacts():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    broken = Path("runs/broken")
    broken.mkdir()
    (broken / "fp32.onnx").write_bytes(b"no model")
    os.utime(broken / "fp32.onnx", (1_500_000_000, 1_500_000_000))
    record = history(Path("runs"))
    assert [run.run for run in record.runs] == ["two", "broken", "one"]
    assert record.runs[0].made == "2001-09-09T01:46:40+00:00"
    assert "has no model" in record.runs[1].broken
    page = tables_text(record, as_markdown=True)
    assert "has no model" in page
    assert "Their known settings are the same" in page
    wider = record.runs[0].model_copy(update={"width": 9.0})
    changed = record.model_copy(update={"runs": (wider, *record.runs[1:])})
    assert "They differ in width (9, " in tables_text(changed, as_markdown=True)


def test_history_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no run"):
        history(tmp_path)


@pytest.mark.usefixtures("runs")
def test_commands() -> None:
    def cli(*words: str) -> dict[str, object]:
        result = CliRunner().invoke(app, ["report", *words, "--json"])
        assert result.exit_code == 0, result.stderr
        document: dict[str, object] = json.loads(result.stdout)
        return document

    assert cli("--compare", "one", "two")["pairs"]
    assert len(cli("--history")["runs"]) == 2  # type: ignore[arg-type]  # a list
    for wrong in (["one"], ["--compare"], ["--compare", "one", "--run", "two"]):
        result = CliRunner().invoke(app, ["report", *wrong])
        assert result.exit_code == 2
    assert "| two |" in CliRunner().invoke(app, ["report", "--compare", "one", "two"]).stdout
