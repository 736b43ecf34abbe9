"""Classifiers of other programs, from their ONNX file to int8, by the command line."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.preprocess import prepare
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.sidecar import sidecar_path
from mobilenet_cli.pipeline.runtime.session import open_session

SIDE = 32


def model(path: Path, norm: bool = True, opset: int = 18, **changes: object) -> Path:
    """Two convolutions, with BatchNormalization or without, and a matrix product."""
    g = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (g.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    nodes, source = [], "x"
    constants = {"v": weights(3, 12), "b": weights(3)}
    for index, (inputs, outputs) in enumerate([(3, 8), (8, 12)]):
        constants[f"w{index}"] = weights(outputs, inputs, 3, 3)
        nodes.append(helper.make_node("Conv", [source, f"w{index}"], [f"c{index}"], strides=[2, 2]))
        source = f"c{index}"
        if norm:
            parts = [f"{part}{index}" for part in ("gamma", "beta", "mean", "variance")]
            constants |= {part: np.full(outputs, 0.5, np.float32) for part in parts}
            nodes.append(helper.make_node("BatchNormalization", [source, *parts], [f"n{index}"]))
            source = f"n{index}"
        nodes.append(helper.make_node("Relu", [source], [f"r{index}"]))
        source = f"r{index}"
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "b"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "other",
        [
            helper.make_tensor_value_info(
                "x", TensorProto.FLOAT, changes.get("shape", ["N", 3, SIDE, SIDE])
            )
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, changes.get("logits", ["N", 3]))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(made, path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, class_folders) -> Path:
    monkeypatch.chdir(tmp_path)
    class_folders({"cat": 8, "cow": 8, "dog": 8}, "animals")
    (tmp_path / "classes.txt").write_text("cat\ncow\ndog\n")
    return tmp_path


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 2
    assert result.stdout == ""
    return result.stderr


IMPORT = ("--classes", "classes.txt", "--normalization", "imagenet")


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("norm", [True, False])
def test_from_a_foreign_file_to_int8(home: Path, norm: bool, opset: int):
    source = model(home / "other.onnx", norm, opset)
    before = source.read_bytes()
    record = run("import", source, *IMPORT)
    assert record["run"] == "other"
    assert Path(record["checkpoint"]).name == ("fp32.onnx" if norm else "folded.onnx")
    assert record["resolution"] == SIDE
    assert record["parameters"] == 8 * 27 + 12 * 72 + 39 + (40 if norm else 0)
    if norm:
        assert run("simplify", "--run", "other", "--data", "animals")["batch_norms_before"] == 2
    made = run("quantize", "--run", "other", "--calib-dir", "animals")
    assert made["sqnr_db"] > 20
    assert made["operators"]["QLinearConv"] == 2
    rows = run("evaluate", "--run", "other", "--data", "animals")
    assert {Path(row["model"]).name for row in rows} >= {"folded.onnx", "int8.onnx"}
    assert all(row["images"] == 24 for row in rows)
    assert len(run("bench", "--run", "other", "--seconds", "0.1")["results"]) >= 2
    assert "markdown" in run("report", "--run", "other")["report"]
    assert "has not been made" not in (home / "runs/other/report.md").read_text()
    assert source.read_bytes() == before
    facts = load_artifact(home / "runs/other/int8.onnx").facts
    assert facts.classes == ("cat", "cow", "dog")
    assert facts.input.mean == (0.485, 0.456, 0.406)
    predictions = run("predict", "runs/other/int8.onnx", "animals/cat/000.png")
    assert len(predictions[0]["predictions"]) == 3


def test_normalization_must_be_given(home: Path):
    source = model(home / "other.onnx")
    sentence = refused("import", source, "--classes", "classes.txt")
    assert "does not say how its pixels are normalized" in sentence
    assert "--normalization inception" in sentence


def test_commands_say_how_a_foreign_file_is_used(home: Path):
    source = model(home / "other.onnx", norm=False)
    assert "mobilenet-cli import" in refused("quantize", source, "--calib-dir", "animals")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": ["N", SIDE, SIDE, 3]}, "ONNX Runtime cannot run it"),
        ({"shape": ["N", 5, SIDE, SIDE]}, "with 5 channels"),
        ({"shape": ["N", 3, SIDE, 48]}, "32 x 48"),
        ({"shape": ["N", 3]}, "not one of [batch, 3, side, side]"),
    ],
)
def test_inputs_that_are_no_square_images(home: Path, changes, said: str):
    sentence = refused("import", model(home / "other.onnx", norm=False, **changes), *IMPORT)
    assert said in sentence
    assert "other.onnx" in sentence
    assert not (home / "runs").exists()


def test_another_resolution_than_the_files(home: Path):
    assert "32 x 32" in refused("import", model(home / "o.onnx"), *IMPORT, "--resolution", "64")


def test_any_resolution(home: Path):
    source = model(home / "other.onnx", shape=["N", 3, "H", "W"])
    assert run("import", source, *IMPORT)["resolution"] == 224
    assert run("import", source, *IMPORT, "--resolution", "64", "--run", "b")["resolution"] == 64


@pytest.mark.parametrize("background", [0, 1])
def test_a_softmax_in_the_model_is_the_only_one(home: Path, small_graph, background: int):
    """Also where the share of a background class is left out behind it."""
    g = small_graph()
    g.head(g.node("Relu", g.conv("x", 3, 8)), 8, 3 + background, output="logits")
    g.node("Softmax", "logits", output="p", axis=1)
    first, behind = (g.constant([n], dtype=np.int64) for n in (background, 3 + background))
    g.node("Slice", "p", first, behind, g.constant([1], dtype=np.int64), output="kept")
    g.node("Identity", "kept" if background else "p", output="y")
    onnx.save(g.model(), home / "other.onnx")
    run("import", "other.onnx", *IMPORT)
    (found,) = run("predict", "--run", "other", "animals/cat/000.png")
    spec = load_artifact(home / "runs/other/folded.onnx").facts.input
    image = prepare((home / "animals/cat/000.png").read_bytes(), "x", spec)
    own = open_session(home / "other.onnx").run(None, {"x": image[None]})[0][0]
    shown = [guess["probability"] for guess in found["predictions"]]
    np.testing.assert_allclose(shown, sorted(own)[::-1], rtol=1e-5)


def test_gray_images(home: Path, small_graph):
    g = small_graph(("N", 28, 28, 1))
    x = g.node("Transpose", "x", perm=[0, 3, 1, 2])
    x = g.node("Relu", g.conv(x, 1, 8, strides=[2, 2]))
    g.head(g.node("Relu", g.conv(x, 8, 8)), 8)
    onnx.save(g.model(), home / "other.onnx")
    options = ("--classes", "classes.txt", "--normalization", "0..1")
    assert run("import", "other.onnx", *options)["resolution"] == 28
    assert load_artifact(home / "runs/other/folded.onnx").facts.input.channels == "gray"
    assert run("quantize", "--run", "other", "--calib-dir", "animals")["sqnr_db"] > 20
    rows = run("evaluate", "--run", "other", "--data", "animals")
    assert [row["images"] for row in rows] == [24, 24]
    assert len(run("bench", "--run", "other", "--seconds", "0.05")["results"]) == 2


def test_conditions_between_layers(home: Path, small_graph):
    g = small_graph()
    x = g.conv("x", 3, 8, strides=[2, 2])
    leak = g.node("Mul", x, g.constant(0.1))
    x = g.node("Where", g.node("Greater", x, g.constant(0.0)), x, leak)
    g.head(g.node("Relu", g.conv(x, 8, 8)), 8)
    onnx.save(g.model(), home / "other.onnx")
    run("import", "other.onnx", *IMPORT)
    made = run("quantize", "--run", "other", "--calib-dir", "animals")
    assert made["sqnr_db"] > 30
    assert made["kernels_equal"]


def test_bytes_need_no_normalization(home: Path, small_graph):
    g = small_graph(dtype=TensorProto.UINT8)
    x = g.node("Cast", "x", to=TensorProto.FLOAT)
    g.head(g.node("Relu", g.conv(x, 3, 8)), 8)
    onnx.save(g.model(), home / "other.onnx")
    said = refused("import", "other.onnx", *IMPORT)
    assert "takes pixels as bytes 0..255" in said
    run("import", "other.onnx", "--classes", "classes.txt")
    spec = load_artifact(home / "runs/other/folded.onnx").facts.input
    image = prepare((home / "animals/cat/000.png").read_bytes(), "x", spec)
    assert image.max() > 200


def test_classes_must_be_known(home: Path):
    sentence = refused("import", model(home / "other.onnx"), "--normalization", "imagenet")
    assert "has 3 outputs" in sentence
    assert "--classes" in sentence


@pytest.mark.parametrize("option", ["--width=0.5", "--activation=relu", "--revision=main"])
def test_options_that_say_nothing_about_onnx(home: Path, option: str):
    assert option.split("=")[0] in refused("import", model(home / "o.onnx"), *IMPORT, option)


def test_a_pipe_is_not_waited_for(home: Path):
    os.mkfifo(home / "pipe.onnx")
    assert "is no file but a pipe" in refused("import", home / "pipe.onnx", *IMPORT)


@pytest.mark.usefixtures("home")
def test_normalization_says_nothing_about_weights():
    assert "--normalization" in refused("import", "w.h5", "--normalization", "imagenet")


def test_a_second_import_does_not_replace_another_model(home: Path):
    run("import", model(home / "a.onnx"), *IMPORT, "--run", "x")
    before = (home / "runs/x/fp32.onnx").read_bytes()
    other = model(home / "b.onnx", opset=17)
    assert "of other origin" in refused("import", other, *IMPORT, "--run", "x")
    assert (home / "runs/x/fp32.onnx").read_bytes() == before


def test_a_file_of_our_own_needs_no_import(home: Path):
    run("import", model(home / "a.onnx"), *IMPORT)
    for name, stage in (("fp32", "simplify"), ("folded", "quantize")):
        own = f"runs/a/{name}.onnx"
        told = refused("import", own)
        assert f"{own} was made by this tool, so it needs no import" in told
        assert f"'mobilenet-cli {stage} {own}'" in told
        if stage == "simplify":
            run("simplify", own, "--data", "animals")


def test_the_same_file_with_other_classes_does_not_replace_the_first(home: Path):
    source = model(home / "a.onnx")
    run("import", source, *IMPORT)
    run("import", source, *IMPORT)  # the same again is no harm
    (home / "classes.txt").write_text("ape\nbee\ncat\n")
    told = refused("import", source, *IMPORT)
    assert "runs/a/fp32.onnx has the same weights, imported with other classes" in told


def test_a_run_beside_a_file_is_refused(home: Path):
    source = model(home / "a.onnx")
    run("import", source, *IMPORT)
    run("import", model(home / "b.onnx", opset=17), *IMPORT)
    for command in (["simplify"], ["bench", "--seconds", "0.1"], ["predict", "animals"]):
        told = refused(command[0], "runs/b/fp32.onnx", *command[1:], "--run", "a")
        assert "both the file runs/b/fp32.onnx and --run a say which model to take" in told
        told = refused(command[0], "runs/b/fp32.onnx", *command[1:], "--width", "1")
        assert "--width chooses among runs" in told
    run("simplify", "runs/b/fp32.onnx", "--run", "b", "--data", "animals")


def test_an_import_does_not_mix_with_a_trained_network(home: Path, chain):
    trained = home / "runs" / "trained"
    trained.mkdir(parents=True)
    shutil.copy(chain.checkpoint.path, trained)
    shutil.copy(sidecar_path(chain.checkpoint.path), trained)
    sentence = refused("import", model(home / "a.onnx"), *IMPORT, "--run", "trained")
    assert "holds model.safetensors already" in sentence
    assert "Choose another --run" in sentence
    assert not (trained / "fp32.onnx").exists()
