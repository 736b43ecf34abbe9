import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifact import METADATA_KEY, Facts, save_artifact, sha256_file
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.inspection import inspect_file
from mobilenet_cli.pipeline.onnx_file import with_facts
from mobilenet_cli.reports.text import inspect_text


def quantized_convolution(batch="N"):
    """A depthwise and a pointwise Conv, the second with int8 weights behind DequantizeLinear."""
    initializers = {
        "w1": np.zeros((4, 1, 3, 3), np.float32),
        "q2": np.zeros((8, 4, 1, 1), np.int8),
        "s2": np.ones(8, np.float32),
        "b2": np.zeros(8, np.float32),
        "w3": np.zeros((10, 8), np.float32),
        "b3": np.zeros(10, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], group=4, pads=[1] * 4, strides=[2, 2]),
        helper.make_node("DequantizeLinear", ["q2", "s2"], ["w2"], axis=0),
        helper.make_node("Conv", ["a", "w2", "b2"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w3", "b3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 4, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, 10))],
        [numpy_helper.from_array(v, k) for k, v in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_onnx_file_of_another_tool(tmp_path):
    path = tmp_path / "foreign.onnx"
    onnx.save(quantized_convolution(), path)
    record = inspect_file(path)
    assert record.facts is None
    assert record.provenance == ()
    assert record.opset == 18
    assert record.inputs == ("x: N x 4 x 6 x 6 float",)
    assert record.parameters == 4 * 9 + 8 * 4 + 8 + 80 + 10
    # 3x3 outputs of 9 products in 4 channels, of 4 products in 8 channels, and a 8x10 product
    assert record.multiply_adds == 9 * 9 * 4 + 9 * 4 * 8 + 80
    assert record.weight_types == {"float": 36 + 8 + 8 + 80 + 10, "int8": 32}
    assert record.operators["Conv"] == 2
    assert "made by:       another tool" in inspect_text(record)


def test_multiply_adds_of_an_unknown_shape_are_not_guessed(tmp_path):
    model = quantized_convolution()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    path = tmp_path / "free.onnx"
    onnx.save(model, path)
    assert inspect_file(path).multiply_adds is None
    assert "multiply-adds: unknown" in inspect_text(inspect_file(path))


def test_provenance_is_followed_through_sidecars(tmp_path):
    first = Facts(stage="train", input=InputSpec(), classes=("a",), parent="f" * 64)
    trained = save_artifact(tmp_path / "model.safetensors", b"weights", first)
    second = first.model_copy(update={"stage": "export", "parent": trained.sha256})
    content = with_facts(quantized_convolution(), second)
    exported = save_artifact(tmp_path / "fp32.onnx", content, second)
    (tmp_path / "train.json").write_text("not a sidecar")
    record = inspect_file(exported.path)
    assert record.provenance == (
        f"model.safetensors (by train, {trained.sha256[:12]})",
        f"{'f' * 12}, which is not in this folder",
    )
    assert record.sha256 == sha256_file(exported.path)
    assert "made by:       export" in inspect_text(record)


def test_checkpoint(tmp_path):
    facts = Facts(
        stage="train", input=InputSpec(), classes=tuple(map(str, range(1000))), model=ModelSpec()
    )
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros((3, 5), np.float32)}, path, {METADATA_KEY: facts.model_dump_json()})
    record = inspect_file(path)
    assert record.format == "safetensors"
    assert record.weight_types == {"F32": 15}
    assert round(record.parameters / 1e6, 1) == 4.2  # table 6 of the paper
    assert round(record.multiply_adds / 1e6) == 569
    foreign = tmp_path / "other.safetensors"
    save_file({"w": np.zeros((3, 5), np.float32)}, foreign)
    record = inspect_file(foreign)
    assert (record.parameters, record.multiply_adds) == (15, None)


@pytest.mark.parametrize("name", ["a.onnx", "a.safetensors"])
def test_what_is_no_model(tmp_path, name):
    with pytest.raises(ModelError, match="does not exist"):
        inspect_file(tmp_path / name)
    (tmp_path / name).write_bytes(b"no model at all")
    with pytest.raises(ModelError, match="readable"):
        inspect_file(tmp_path / name)
