"""A run that an earlier version of the program made opens in this one.

The folder ``golden/old_run`` holds its JSON files as that version wrote them, by hand shortened;
where a hash belongs they name the file, for the models are made here.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.reporting.collect import collect
from mobilenet_cli.reports.records.latency import BenchResult

OLD = Path(__file__).parents[2] / "golden" / "old_run"
NEW_FIELDS = {"noisy", "batch_norms_fused", "frozen_statistics"}


@pytest.fixture
def old_run(chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Lay out the old files beside four models, in ``runs/old``."""
    monkeypatch.chdir(tmp_path)
    run = Run(Path("runs/old"))
    run.folder.mkdir(parents=True)
    models = [a.path for a in (chain.checkpoint, chain.fp32, chain.folded, chain.int8)]
    for file in OLD.iterdir():
        text = file.read_text()
        for model in models:
            text = text.replace(f"sha256 of {model.name}", sha256_file(model))
        (run.folder / file.name).write_text(text)
    for model in models:
        shutil.copy(model, run.folder)
    return run


def cli(*words: str) -> Any:
    """Run a command with ``--json`` and return its document."""
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_flags_of_old_rows_come_from_what_they_were_written_into(old_run: Run) -> None:
    assert not NEW_FIELDS & set(json.loads(old_run.bench.read_bytes())["results"][0])
    bench = collect(old_run)[0].bench
    assert bench is not None
    flags = [(r.noisy, r.batch_norms_fused, r.frozen_statistics) for r in bench.results]
    assert flags == [
        (False, False, False),  # torch, forward
        (False, False, True),  # torch, forward and backward
        (False, False, False),  # fp32.onnx without fusion
        (False, True, False),  # folded.onnx
        (True, True, False),  # int8.onnx
    ]


def test_a_flag_that_is_written_is_believed(old_run: Run) -> None:
    row = json.loads(old_run.bench.read_bytes())["results"][4]
    assert BenchResult.model_validate(row).noisy
    assert not BenchResult.model_validate(row | {"noisy": False}).noisy


def test_old_records_of_stages_are_typed(old_run: Run) -> None:
    record, _ = collect(old_run)
    assert [artifact.of_another_version for artifact in record.artifacts] == [False] * 4
    assert any("1 unreadable calibration image left out: " in text for text in record.warnings)
    assert [part.file for part in record.missing] == ["evaluate.json"]  # has two of four


def test_an_unknown_record_is_named_and_the_rest_is_shown(old_run: Run) -> None:
    path = old_run.int8.with_name("int8.onnx.json")
    document = json.loads(path.read_bytes())
    document["record"] = {"images": 2, "invented": True}
    path.write_text(json.dumps(document))
    record, _ = collect(old_run)
    assert "int8.onnx: another version wrote what quantize noted" in record.warnings[0]
    assert len(record.artifacts) == 4


def test_every_command_goes_on_with_an_old_run(old_run: Run) -> None:
    assert Path(cli("report", "--run", "old")["report"]["html"]).is_file()
    shutil.copytree(old_run.folder, "runs/copy")
    assert [pair["stage"] for pair in cli("report", "--compare", "old", "copy")["pairs"]] == [
        "checkpoint",
        "export",
        "simplify",
        "quantize",
    ]
    assert len(cli("report", "--history")["runs"]) == 2
    assert cli("quantize", "--run", "old", "--calib-count", "4")["images"] == 4
    onnx = [f"runs/old/{name}.onnx" for name in ("fp32", "int8")]
    measured = cli("bench", *onnx, "--seconds", "0.05", "--threads", "1")["results"]
    assert all(row.keys() >= NEW_FIELDS for row in measured)
