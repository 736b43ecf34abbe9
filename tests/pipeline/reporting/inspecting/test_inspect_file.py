"""Inspection shows what ONNX files, checkpoints and states of training hold."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import save_artifact
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.reporting.inspecting.inspect_file import inspect_file
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.train import train
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.terminal import inspect_text


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
    trained = save_artifact(tmp_path / "model.safetensors", b"weights", first, Record())
    second = first.model_copy(update={"stage": "export", "parent": trained.sha256})
    content = with_facts(quantized_convolution(), second)
    exported = save_artifact(tmp_path / "fp32.onnx", content, second, Record())
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
    with pytest.raises(ModelError, match="is a text file"):
        inspect_file(tmp_path / name)


@pytest.fixture
def config(class_folders):
    """One step an epoch, with a moving average."""
    folder = class_folders({"cat": 4, "dog": 4})
    changes = ("batch=4", "ema=0.9")
    return TrainConfig(data=str(folder), epochs=3, width=0.25, resolution=32, changes=changes)


def interrupted(config, out):
    """The state of a training that took two steps."""
    asked = []
    with pytest.raises(KeyboardInterrupt):
        train(config, out, stop=lambda: bool(asked) or bool(asked.append(1)))
    return out.with_name("training.pt")


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("rmsprop", 2), ("sgd", 1)])
def test_training_state_tells_weights_average_and_optimizer(config, tmp_path, optimizer, moments):
    config = replace(config, changes=(*config.changes, f"optimizer={optimizer}", "layer_rate=0.5"))
    state = interrupted(config, tmp_path / "model.safetensors")
    record = inspect_file(state)
    spec = ModelSpec(width=0.25, classes=2)
    assert record.format == "training state"
    assert record.parameters == MODELS[spec.architecture].parameters(spec)
    assert record.multiply_adds == MODELS[spec.architecture].multiply_adds(spec, 32)
    assert sum(record.stored_bytes.values()) == state.stat().st_size
    assert record.stored_bytes["weights"] == record.stored_bytes["average"]
    assert [layer.name for layer in record.layers[:3]] == ["layers.0", "layers.1", "layers.2"]
    assert record.layers[-1].name == "classifier"
    for layer in record.layers:
        counters = 0 if optimizer == "sgd" else 4 * (2 if layer.name == "classifier" else 3)
        assert layer.optimizer == moments * 4 * layer.parameters + counters
    text = inspect_text(record)
    assert "interrupted after step 1 of epoch 2" in text
    share = 100 * record.stored_bytes["optimizer"] / state.stat().st_size
    assert f"{share:.1f} %" in text.splitlines()[-1]


def test_checkpoint_by_layer(config, tmp_path):
    made = train(replace(config, epochs=1), tmp_path / "model.safetensors")
    record = inspect_file(made.path)
    assert len(record.layers) == 28
    assert sum(layer.parameters for layer in record.layers) == record.parameters
    assert sum(layer.multiply_adds for layer in record.layers) == record.multiply_adds
    first, last = record.layers[0], record.layers[-1]
    assert (first.parameters, first.multiply_adds) == (27 * 8 + 16, 27 * 8 * 16 * 16)
    assert first.weights == 4 * (27 * 8 + 4 * 8)  # statistics too
    assert (last.name, last.parameters, last.optimizer) == ("classifier", 2 * 256 + 2, 0)
    assert record.stored_bytes["optimizer"] == record.stored_bytes["average"] == 0
    assert sum(record.stored_bytes.values()) == made.path.stat().st_size
    assert "classifier" in inspect_text(record)
    assert "optimizer" not in inspect_text(record).splitlines()[-1]


def test_weights_that_import_takes(tmp_path):
    path = tmp_path / "weights.pth"
    spec = ModelSpec(width=0.25, classes=1000)
    network = MODELS[spec.architecture].build(spec)
    torch.save(network.state_dict(), path)
    record = inspect_file(path)
    assert record.format == "file of torch"
    assert record.taken_by.startswith(f"mobilenet-cli import {path}, but: ")
    assert "--activation" in record.taken_by
    stored = (tensor for tensor in network.state_dict().values() if tensor.is_floating_point())
    assert record.weight_types == {"float": sum(tensor.numel() for tensor in stored)}
    assert "taken by:" in inspect_text(record)


def test_keras_weights(shared):
    path = shared / "weights" / "mobilenet_7_5_224_tf.h5"
    record = inspect_file(path)
    assert record.format == "HDF5 file of Keras"
    assert record.taken_by == f"mobilenet-cli import {path}"
    assert record.parameters == 2_585_560
    assert record.multiply_adds == 325_400_448
    assert record.facts["model"]["width"] == 0.75


def test_tensorflow_lite(tmp_path):
    """A model of TensorFlow's own converter, or a damaged one, whose bytes are no model."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs the extra tensorflow")
    weights = tensorflow.constant(np.ones((3, 3, 3, 4), np.float32))

    @tensorflow.function(input_signature=[tensorflow.TensorSpec((1, 8, 8, 3), name="image")])
    def network(image):
        return tensorflow.nn.conv2d(image, weights, 2, "SAME")

    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions(
        [network.get_concrete_function()]
    )
    path = tmp_path / "model.tflite"
    content = converter.convert()
    path.write_bytes(content)
    record = inspect_file(path)
    assert record.format == "TensorFlow Lite model"
    assert record.inputs == ("image: 1 x 8 x 8 x 3 float32",)
    assert record.outputs[0].endswith("1 x 4 x 4 x 4 float32")
    assert record.weight_types["float32"] >= 3 * 3 * 3 * 4
    assert "tf2onnx" in record.taken_by
    for length in range(8, 400, 40):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match="cut off or damaged"):
            inspect_file(path)


def test_what_is_no_training_state(config, tmp_path):
    with pytest.raises(ModelError, match=r"a\.pt does not exist"):
        inspect_file(tmp_path / "a.pt")
    foreign = tmp_path / "a.pt"
    torch.save({"classifier.bias": torch.zeros(2)}, foreign)
    assert inspect_file(foreign).taken_by.startswith("none: ")
    state = interrupted(config, tmp_path / "model.safetensors")
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"training\.pt is not the state of a training"):
        inspect_file(state)
