"""Runs are found by name, by age and by width."""

import os

import pytest

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.runs import (
    RUNS,
    Run,
    find_run,
    recorded_width,
    run_named,
    run_of,
)
from mobilenet_cli.pipeline.artifacts.sidecar import Sidecar, write_sidecar
from mobilenet_cli.pipeline.errors import ModelError, OptionError


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(folder, width, age, name="folded.onnx"):
    """A run with one model, ``age`` seconds old."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(b"model")
    facts = Facts(stage="simplify", model=ModelSpec(width=width), input=InputSpec(), classes=())
    write_sidecar(path, Sidecar("", facts, {}))
    os.utime(path, (1e9 - age, 1e9 - age))


def test_newest_run_that_has_the_file(tmp_path):
    make(tmp_path / "runs" / "old", 0.5, 30)
    make(tmp_path / "runs" / "new", 0.25, 20)
    make(tmp_path / "runs" / "newer", 1.0, 10, "fp32.onnx")
    assert find_run(None, "folded").name == "new"
    assert find_run(None, "fp32").name == "newer"


def test_newest_run_of_a_width(tmp_path):
    make(tmp_path / "runs" / "a", 0.5, 30)
    make(tmp_path / "runs" / "b", 0.5, 20)
    make(tmp_path / "runs" / "c", 0.25, 10)
    assert find_run(None, "folded", 0.5).name == "b"
    with pytest.raises(
        ModelError, match=r"no run of width 0\.75 .* holds folded\.onnx\. .*simplify"
    ):
        find_run(None, "folded", 0.75)


@pytest.mark.parametrize(
    ("needs", "cure"),
    [
        ("checkpoint", "'mobilenet-cli train' or 'mobilenet-cli import WEIGHTS'"),
        ("fp32", "'mobilenet-cli export'"),
        ("folded", "'mobilenet-cli simplify'"),
        ("int8", "'mobilenet-cli quantize'"),
        ("evaluation", "'mobilenet-cli evaluate'"),
        ("bench", "'mobilenet-cli bench'"),
    ],
)
def test_no_run_says_which_command_makes_one(needs, cure):
    with pytest.raises(ModelError) as caught:
        find_run(None, needs)
    assert cure in caught.value.fix


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp/a", "../a", "runs/a/b"])
def test_a_run_lies_directly_under_runs(name):
    with pytest.raises(OptionError, match="is not the name of a folder directly under runs/"):
        run_named(name)


@pytest.mark.parametrize("name", ["a", "a/", "runs/a", "runs/a/", "./a"])
def test_a_run_may_be_named_as_shells_complete_it(name):
    assert run_named(name) == Run(RUNS / "a")


def test_named_run(tmp_path):
    make(tmp_path / "runs" / "a", 0.5, 0)
    assert find_run("a", "folded").folded.is_file()
    assert find_run("a", "folded", 0.5).name == "a"
    with pytest.raises(ModelError, match=r"run 'a' has no int8\.onnx"):
        find_run("a", "int8")
    with pytest.raises(ModelError, match=r"run 'a' has width 0\.5, not 0\.25"):
        find_run("a", "folded", 0.25)


def test_artifacts_in_the_order_of_the_chain(tmp_path):
    run = Run(tmp_path / "runs" / "a")
    for name in ("int8.onnx", "model.safetensors", "folded.onnx", "report.md"):
        make(run.folder, 1.0, 0, name)
    assert [p.name for p in run.artifacts()] == ["model.safetensors", "folded.onnx", "int8.onnx"]


def test_the_width_of_a_model_without_sidecar_is_unknown(tmp_path):
    assert recorded_width(tmp_path / "x.onnx") is None
    facts = Facts(stage="foreign", input=InputSpec(), classes=())
    write_sidecar(tmp_path / "x.onnx", Sidecar("", facts, {}))
    assert recorded_width(tmp_path / "x.onnx") is None


def test_run_of_a_model_file(tmp_path):
    make(tmp_path / "runs" / "a", 1.0, 0)
    found = run_of(tmp_path / "runs" / "a" / "folded.onnx")
    assert found is not None
    assert found.name == "a"
    assert run_of(tmp_path / "folded.onnx") is None


@pytest.mark.parametrize(
    ("file", "needs", "cure"),
    [
        ("folded.onnx", "fp32", "'mobilenet-cli quantize --run a'"),
        ("folded.onnx", "checkpoint", "'mobilenet-cli quantize --run a'"),
        ("fp32.onnx", "checkpoint", "'mobilenet-cli simplify --run a'"),
        ("fp32.onnx", "folded", "'mobilenet-cli simplify --run a'"),
        ("model.safetensors", "fp32", "'mobilenet-cli export --run a'"),
    ],
)
def test_a_run_that_begins_with_an_imported_file_says_how_it_goes_on(tmp_path, file, needs, cure):
    make(tmp_path / "runs" / "a", 0.5, 0, file)
    with pytest.raises(ModelError) as caught:
        find_run("a", needs)
    assert cure in caught.value.fix
