"""Half precision keeps the function and the interface, or is refused."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_with_record, save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.errors import CheckError, ModelError, StorageError
from mobilenet_cli.pipeline.exporting.convert import ConvertConfig, convert_fp16
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.conversion import ConvertRecord

SPEC = InputSpec(resolution=32, resize=32)


def folded(path, scale=1.0, dtype=np.float32):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 3, 3, 3)) * scale, "v": rng.normal(size=(8, 5)) / scale}
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "v"], ["logits"]),
        ],
        "folded",
        [helper.make_tensor_value_info("input", element, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info("logits", element, ("N", 5))],
        [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    facts = Facts(stage="simplify", input=SPEC, classes=tuple("abcde"))
    return save_artifact(path, with_facts(model, facts), facts, Record())


def test_half_precision_keeps_the_function_and_the_interface(tmp_path):
    source = folded(tmp_path / "folded.onnx")
    made = convert_fp16(source, ConvertConfig(images=4), tmp_path / "fp16.onnx")
    graph = load_onnx(made.path).graph
    assert {t.data_type for t in graph.initializer} == {TensorProto.FLOAT16}
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [1, 1]
    onnx.checker.check_model(load_onnx(made.path), full_check=True)
    assert made.facts.stage == "convert"
    assert made.facts.parent == source.sha256
    assert load_with_record(made.path, ConvertRecord) == made
    images = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    expected, found = (open_session(a.path).run(None, {"input": images})[0] for a in (source, made))
    assert 0 < np.abs(expected - found).max() < 0.05
    assert 40 < made.record.sqnr_db < 100
    assert made.record.agreement == 1.0
    assert made.record.images_from == "seeded noise"


def test_overflow_is_refused(tmp_path):
    source = folded(tmp_path / "folded.onnx", scale=1e5)  # activations beyond 65504
    with pytest.raises(CheckError, match=r"logits are .* dB from float32's"):
        convert_fp16(source, ConvertConfig(images=2), tmp_path / "fp16.onnx")
    assert not (tmp_path / "fp16.onnx").exists()


def test_only_float32_is_converted(tmp_path):
    half = folded(tmp_path / "half.onnx", dtype=np.float16)
    with pytest.raises(ModelError, match="does not hold float32 weights alone"):
        convert_fp16(half, ConvertConfig(), tmp_path / "fp16.onnx")


def test_files_of_others_stay(tmp_path):
    source = folded(tmp_path / "folded.onnx")
    (tmp_path / "fp16.onnx").write_bytes(b"somebody's")
    with pytest.raises(StorageError):
        convert_fp16(source, ConvertConfig(images=1), tmp_path / "fp16.onnx")
    assert (tmp_path / "fp16.onnx").read_bytes() == b"somebody's"


def test_command(tmp_path):
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    folded(folder / "folded.onnx")
    command = [sys.executable, "-c", "from mobilenet_cli.cli import main; main()", "convert"]

    def call(*arguments):
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert call().returncode == 2
    done = call("--fp16", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "runs/r/fp16.onnx"
    assert onnx.load(folder / "fp16.onnx").graph.node
