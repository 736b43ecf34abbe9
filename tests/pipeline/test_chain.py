"""The whole chain as people run it: `mobilenet-cli run`, in processes of its own."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.chain import current_evaluation
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.records import evaluations_of

STAGES = ["train", "export", "simplify", "quantize", "evaluate", "bench"]
PROGRAM = "from mobilenet_cli.cli import main; main()"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 150 digits as PNG files in class folders."""
    folder = tmp_path_factory.mktemp("chain")
    for sample in open_dataset("digits", "all").samples[::12]:
        path = folder / "digits" / str(sample.label) / Path(sample.key).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.read())
    return folder


def arguments(name: str, **changes: object) -> list[str]:
    options = {
        "data": "digits/",  # a trailing slash: the folder, not the built-in set
        "width": 0.25,
        "resolution": 32,
        "epochs": 2,
        "calib-count": 16,
        "seconds": 0.1,
        "threads": 1,
        "run": name,
    } | {key.replace("_", "-"): value for key, value in changes.items()}
    return ["run", "--json", *(f"--{key}={value}" for key, value in options.items())]


def training(name: str, **changes: object) -> list[str]:
    """The training of the same chain alone."""
    later = ("--calib-count", "--seconds", "--threads")
    options = [option for option in arguments(name, **changes)[1:] if not option.startswith(later)]
    return ["train", *options]


def start(home: Path, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def complete(home: Path, command: list[str]) -> dict[str, Any]:
    process = start(home, command)
    out, err = process.communicate()
    assert process.returncode == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def hashes(run: Run) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in run.artifacts()}


@pytest.fixture(scope="module")
def trained(home: Path) -> tuple[dict[str, Any], float]:
    """What a training said, and how many seconds it took."""
    started = time.monotonic()
    return complete(home, training("whole")), time.monotonic() - started


@pytest.fixture(scope="module")
def whole(home: Path, trained) -> tuple[Run, dict[str, Any], float, dict[str, str]]:
    """An uninterrupted run, what it said, how many seconds it took, and its models' hashes."""
    started = time.monotonic()
    document = complete(home, arguments("whole"))
    seconds = trained[1] + time.monotonic() - started
    run = Run(home / "runs" / "whole")
    return run, document, seconds, hashes(run)


def test_the_training_of_a_chain_is_that_of_train(home: Path, trained):
    document, _ = trained
    assert document["checkpoint"] == "runs/whole/model.safetensors"
    assert document["epochs"] == 2
    assert [path.name for path in Run(home / "runs" / "whole").artifacts()] == ["model.safetensors"]


def test_every_stage_reports(whole):
    run, document, _, made = whole
    assert document["skipped"] == ["train"]
    assert document["train"]["checkpoint"] == "runs/whole/model.safetensors"
    assert document["export"]["batch_norms"] == 27
    assert document["simplify"]["batch_norms_after"] == 0
    assert document["quantize"]["images"] == 16
    assert [Path(record["model"]).name for record in document["evaluate"]] == [
        "model.safetensors",
        "fp32.onnx",
        "folded.onnx",
        "int8.onnx",
    ]
    assert {row["sha256"] for row in document["bench"]["results"]} == set(made.values())
    assert "int8.onnx" in (run.folder / "report.md").read_text()
    assert_nothing_is_truncated(run)
    parents = [load_artifact(path).facts.parent for path in run.artifacts()]
    assert parents == [None, *list(made.values())[:-1]]


V2 = {"model": "mobilenet_v2", "width": 0.35, "epochs": 1}


@pytest.fixture
def trained_v2(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    run = Run(home / "runs" / "v2")
    if not run.checkpoint.exists():
        done = CliRunner().invoke(app, training("v2", **V2))
        assert done.exit_code == 0, done.stderr
    return run.checkpoint


def test_a_mobilenet_v2_is_trained(trained_v2: Path):
    assert load_artifact(trained_v2).facts.model.architecture == "mobilenet_v2"


def test_mobilenet_v2_takes_the_whole_chain(trained_v2: Path):
    chosen = arguments("v2", **V2)
    done = CliRunner().invoke(app, chosen)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["skipped"] == ["train"]
    assert document["export"]["batch_norms"] == 52
    assert document["simplify"]["batch_norms_after"] == 0
    assert len(document["evaluate"]) == 4
    run = Run(trained_v2.parent)
    for path in run.artifacts():
        spec = load_artifact(path).facts.model
        assert (spec.architecture, spec.width) == ("mobilenet_v2", 0.35)
    text = (run.folder / "report.md").read_text()
    assert "- MobileNetV2, width 0.35, 32×32 pixels, 10 classes, 408,938 parameters" in text
    assert "--model mobilenet_v2 --width 0.35" in (run.folder / "report.html").read_text()
    assert json.loads(CliRunner().invoke(app, chosen).stdout)["skipped"] == STAGES


@pytest.fixture
def again(whole, home: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the finished run again, in this process; return which stages it skipped."""

    def run_again(**changes: object) -> list[str]:
        result = CliRunner().invoke(app, arguments(whole[0].name, **changes))
        assert result.exit_code == 0, result.stderr
        skipped: list[str] = json.loads(result.stdout)["skipped"]
        return skipped

    monkeypatch.chdir(home)
    return run_again


def test_nothing_is_made_twice(whole, again):
    before = hashes(whole[0])
    assert again() == STAGES
    assert hashes(whole[0]) == before


@pytest.mark.parametrize("damage", ["fp32.onnx", "fp32.onnx.json"])
def test_a_damaged_file_is_made_again_and_is_the_same(whole, again, damage: str):
    again()
    before = hashes(whole[0])
    path = whole[0].folder / damage
    path.write_bytes(path.read_bytes()[:-10])
    assert again() == [stage for stage in STAGES if stage != "export"]
    assert hashes(whole[0]) == before


def test_imported_weights_are_not_trained_over(whole, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    run = Run(home / "runs" / "imported")
    run.folder.mkdir()
    tensors = load_file(whole[0].checkpoint)
    facts = load_artifact(whole[0].checkpoint).facts.model_copy(update={"stage": "import"})
    save_file(tensors, run.checkpoint, {METADATA_KEY: facts.model_dump_json()})
    result = CliRunner().invoke(app, arguments("imported"))
    assert result.exit_code == 2
    assert "holds imported weights" in result.stderr


def test_fine_tuned_weights_are_not_trained_over(whole, home: Path, monkeypatch):
    monkeypatch.chdir(home)
    tuned = Run(home / "runs" / "tuned")
    options = ["--data", "digits/", "--init", "runs/whole/model.safetensors", "--epochs", "0.2"]
    done = CliRunner().invoke(app, ["train", *options, "--run", "tuned"])
    assert done.exit_code == 0, done.stderr
    assert load_artifact(tuned.checkpoint).facts.parent == sha256_file(whole[0].checkpoint)
    before = hashes(tuned)
    result = CliRunner().invoke(app, arguments("tuned"))
    assert result.exit_code == 2
    assert "holds fine-tuned weights" in result.stderr
    assert hashes(tuned) == before


def test_an_evaluation_on_a_gpu_is_not_repeated(whole, home: Path, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(home)
    run, cuda = Run(tmp_path), "CUDAExecutionProvider"
    model = load_artifact(whole[0].checkpoint)
    (record,) = (r for r in evaluations_of(whole[0]).read() if r.sha256 == model.sha256)
    evaluations_of(run).merge(record)
    assert current_evaluation(run, model, EvaluateConfig(provider=cuda)) is None
    on_gpu = record.model_copy(update={"provider": "torch cuda"})
    evaluations_of(run).merge(on_gpu)
    assert current_evaluation(run, model, EvaluateConfig(provider=cuda)) == on_gpu
    assert current_evaluation(run, model, EvaluateConfig()) == record


def test_only_what_depends_on_an_option_is_made_again(again):
    assert again(calib_count=17) == ["train", "export", "simplify"]
    assert again(calib_count=17, batch=2) == ["train", "export", "simplify", "quantize", "evaluate"]


def assert_nothing_is_truncated(run: Run) -> None:
    """Every file that is there can be read to its end; hidden ones are not there yet."""
    for path in run.folder.glob("[!.]*"):
        if path.suffix == ".onnx":
            onnx.checker.check_model(path, full_check=True)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                assert all(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118 - not a dict
        elif path.suffix == ".json":
            json.loads(path.read_bytes())


def test_killed_at_random_moments_it_ends_the_same(trained, whole, home: Path, record_property):
    """`make acceptance-kill` does 20 kills, each of a run that starts from nothing.

    Here is one, of a run whose training and export are done; tests of training kill that.
    """
    finished, _, duration, expected = whole
    kills = int(os.environ.get("MOBILENET_CLI_KILLS", "0"))
    moments = random.Random(kills)
    for number in range(kills or 1):
        name = f"killed{number}"
        run = Run(home / "runs" / name)
        if not kills:
            duration = (whole[2] - trained[1]) / 2
            run.folder.mkdir()
            for path in (*finished.folder.glob("model.saf*"), *finished.folder.glob("fp32.onnx*")):
                shutil.copy(path, run.folder)
        process = start(home, arguments(name))
        delay = moments.uniform(0.1, 1.0) * duration
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        left = sorted(path.name for path in run.folder.glob("[!.]*"))
        record_property(f"killed after {delay:.1f} s of {duration:.1f} s", left)
        assert_nothing_is_truncated(run)
        document = complete(home, arguments(name))
        assert hashes(run) == expected
        assert len(document["evaluate"]) == 4
        assert list(run.folder.glob(".*.tmp")) == []
