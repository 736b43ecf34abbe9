"""TensorFlow checkpoints and frozen graphs, written and run by TensorFlow itself."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.models.mobilenet_v1 import TABLE_1, scaled_channels
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.hub import is_repository
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    write_checkpoint,
)

# It greets on standard error and warns of its own old interface, which these files are written in.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
tensorflow = pytest.importorskip("tensorflow", reason="needs the extra tensorflow")
tf = tensorflow.compat.v1
tensorflow.get_logger().setLevel("ERROR")

SIDE, WIDTH, OUTPUTS = 64, 0.25, 1001


@dataclass(frozen=True)
class Written:
    """What TensorFlow wrote, and what it computes with it."""

    checkpoint: Path
    graph: Path
    images: np.ndarray
    logits: np.ndarray


class Network:
    """A MobileNet in TensorFlow's own operators, with variables named by slim's rules."""

    def __init__(self, biases: bool, scale: bool, activation) -> None:
        self.biases, self.scale, self.activation = biases, scale, activation
        self.random = np.random.default_rng(0)

    def variable(self, name, shape, low, high):
        value = self.random.uniform(low, high, shape).astype(np.float32)
        return tf.get_variable(name, initializer=tf.constant(value))

    def layer(self, x, scope, norm, channels, kernel, stride, depthwise=False):
        inputs = int(x.shape[-1])
        size = 1.5 / kernel / np.sqrt(1 if depthwise else inputs)
        if depthwise:
            name, shape = "depthwise_weights", (kernel, kernel, inputs, 1)
            weights = self.variable(f"{scope}/{name}", shape, -size, size)
            x = tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], "SAME")
        else:
            shape = (kernel, kernel, inputs, channels)
            weights = self.variable(f"{scope}/weights", shape, -size, size)
            x = tf.nn.conv2d(x, weights, stride, "SAME")
        if self.biases:
            x = x + self.variable(f"{scope}/biases", (channels,), -0.2, 0.2)
        gamma = 1.0
        if self.scale:
            gamma = self.variable(f"{norm}/gamma", (channels,), 0.8, 1.2)
        beta = self.variable(f"{norm}/beta", (channels,), 0, 0.5)
        mean = self.variable(f"{norm}/moving_mean", (channels,), -0.1, 0.1)
        variance = self.variable(f"{norm}/moving_variance", (channels,), 0.1, 0.5)
        return self.activation(tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3))


def google(x):
    """research/slim/nets/mobilenet_v1.py by its published description."""
    net = Network(biases=False, scale=True, activation=tf.nn.relu6)
    for index, (kind, stride, filters) in enumerate(TABLE_1):
        channels, block = scaled_channels(filters, WIDTH), (index + 1) // 2
        scope = "MobilenetV1/Conv2d_0" if index == 0 else f"MobilenetV1/Conv2d_{block}_{kind}"
        kernel = 1 if kind == "pointwise" else 3
        x = net.layer(x, scope, f"{scope}/BatchNorm", channels, kernel, stride, kind == "depthwise")
    x = tf.reduce_mean(x, [1, 2], keepdims=True)
    scope = "MobilenetV1/Logits/Conv2d_1c_1x1"
    weights = net.variable(f"{scope}/weights", (1, 1, int(x.shape[-1]), OUTPUTS), -0.1, 0.1)
    x = tf.nn.conv2d(x, weights, 1, "SAME") + net.variable(f"{scope}/biases", (OUTPUTS,), -1, 1)
    return tf.squeeze(x, [1, 2])


def zehaos(x):
    """nets/mobilenet.py of Zehaos/MobileNet by its published description."""
    net = Network(biases=True, scale=False, activation=tf.nn.relu)
    for index, (kind, stride, filters) in enumerate(TABLE_1):
        channels, block = scaled_channels(filters, WIDTH), f"MobileNet/conv_ds_{(index + 3) // 2}"
        scope, norm = f"{block}/{kind}_conv", f"{block}/{kind[0]}w_batch_norm"
        if index == 0:
            scope, norm = "MobileNet/conv_1", "MobileNet/conv_1/batch_norm"
        kernel = 1 if kind == "pointwise" else 3
        x = net.layer(x, scope, norm, channels, kernel, stride, kind == "depthwise")
    x = tf.reduce_mean(x, [1, 2])
    weights = net.variable("MobileNet/fc_16/weights", (int(x.shape[-1]), OUTPUTS), -0.1, 0.1)
    return tf.matmul(x, weights) + net.variable("MobileNet/fc_16/biases", (OUTPUTS,), -1, 1)


@pytest.fixture(scope="module", params=[google, zehaos], ids=["google", "zehaos"])
def written(request, tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("tensorflow")
    images = np.random.default_rng(1).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    graph = tf.Graph()
    with graph.as_default(), tf.Session() as session:
        entry = tf.placeholder(tf.float32, (None, SIDE, SIDE, 3))
        logits = tf.identity(request.param(entry), "logits")
        average = tf.train.ExponentialMovingAverage(0.9)
        update = average.apply(tf.trainable_variables())
        with tf.control_dependencies([update]):  # what training leaves in a checkpoint
            loss = tf.reduce_mean(tf.square(logits))
            step = tf.train.get_or_create_global_step()
            optimizer = tf.train.MomentumOptimizer(0.0, 0.9).minimize(loss, global_step=step)
        session.run(tf.global_variables_initializer())
        session.run(optimizer, {entry: images})
        expected = session.run(logits, {entry: images})
        checkpoint = folder / f"mobilenet_v1_{WIDTH}_{SIDE}.ckpt"
        tf.train.Saver().save(session, str(checkpoint))
        frozen = tf.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ["logits"]
        )
    path = folder / f"mobilenet_v1_{WIDTH}_{SIDE}_frozen.pb"
    path.write_bytes(frozen.SerializeToString())
    return Written(checkpoint, path, images.transpose(0, 3, 1, 2), expected)


def logits_of(source: Path, images: np.ndarray, out: Path) -> np.ndarray:
    imported = read_source(str(source), ImportConfig())
    spec = imported.facts.model
    assert spec is not None
    assert imported.facts.input.resolution == SIDE
    assert imported.facts.classes[0] == "background"
    network = load_network(write_checkpoint(imported, out))
    with torch.inference_mode():
        made: np.ndarray = network(torch.from_numpy(images)).numpy()
    return made


@pytest.mark.parametrize(
    "form", ["checkpoint", "graph", "checkpoint.index", "checkpoint.data-00000-of-00001"]
)
def test_logits_equal_tensorflows(written: Written, tmp_path: Path, form: str):
    name, dot, part = form.partition(".")
    source = getattr(written, name)
    found = logits_of(
        source.with_name(source.name + dot + part), written.images, tmp_path / "model.safetensors"
    )
    assert np.abs(written.logits).max() > 1
    assert np.abs(found - written.logits).max() <= 1e-4


@pytest.mark.parametrize("source", ["features", "logits"])
def test_a_retrained_graph_is_not_taken_for_imagenets(
    written: Written, tmp_path: Path, source: str
):
    """With a head of two classes behind the features, or behind ImageNet's logits."""
    known = tf.GraphDef()
    known.ParseFromString(written.graph.read_bytes())
    pooled = next(n.name for n in known.node if n.op == "Mean")
    with tf.Graph().as_default() as graph:
        name = f"{pooled if source == 'features' else 'logits'}:0"
        (entry,) = tf.import_graph_def(known, return_elements=[name], name="")
        wide = int(np.prod(entry.shape[1:]))
        head = tf.constant(np.ones((wide, 2), np.float32), name="final/weights/final_weights")
        tf.nn.softmax(tf.matmul(tf.reshape(entry, (-1, wide)), head), name="final_result")
    path = tmp_path / "retrained.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ModelError, match=r"'final_result'.*'final/weights/final_weights'"):
        read_source(str(path), ImportConfig())


def test_a_folder_with_one_checkpoint(written: Written, tmp_path: Path):
    found = logits_of(written.checkpoint.parent, written.images, tmp_path / "model.safetensors")
    assert np.abs(found - written.logits).max() <= 1e-4


def test_a_folder_with_two_checkpoints(written: Written, tmp_path: Path):
    for name in ("a", "b"):
        shutil.copy(f"{written.checkpoint}.index", tmp_path / f"{name}.ckpt.index")
    with pytest.raises(ModelError, match="2 TensorFlow checkpoints"):
        read_source(str(tmp_path), ImportConfig())


def test_a_checkpoint_is_no_hub_id(written: Written, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(written.checkpoint.parent.parent)
    assert not is_repository(f"{written.checkpoint.parent.name}/{written.checkpoint.name}")


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
def test_a_damaged_checkpoint(written: Written, tmp_path: Path, part: str):
    for path in written.checkpoint.parent.glob("*.ckpt.*"):
        shutil.copy(path, tmp_path)
    damaged = tmp_path / f"{written.checkpoint.name}.{part}"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content[:-100])
    with pytest.raises(ModelError, match="cannot be read as a TensorFlow file"):
        read_source(str(tmp_path / written.checkpoint.name), ImportConfig())


def test_a_checkpoint_without_its_data(written: Written, tmp_path: Path):
    shutil.copy(f"{written.checkpoint}.index", tmp_path / "model.ckpt.index")
    with pytest.raises(ModelError, match=r"lacks model.ckpt.data-00000-of-00001"):
        read_source(str(tmp_path / "model.ckpt"), ImportConfig())


def test_a_cut_graph(written: Written, tmp_path: Path):
    (tmp_path / "cut.pb").write_bytes(written.graph.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be read as a TensorFlow file"):
        read_source(str(tmp_path / "cut.pb"), ImportConfig())


def test_a_graph_of_something_else(tmp_path: Path):
    with tf.Graph().as_default() as graph:
        tf.constant(np.ones((3, 3), np.float32), name="resnet/weights")
    (tmp_path / "other.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ModelError, match="no known layout"):
        read_source(str(tmp_path / "other.pb"), ImportConfig())


def test_a_graph_of_a_hundred_thousand_nodes(tmp_path: Path):
    graph = tf.compat.v1.GraphDef()
    for number in range(100_000):
        graph.node.add(name=str(number), op="Add", input=[str(max(0, number - 1))])
    (tmp_path / "long.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="has more than 10000 nodes"):
        read_source(str(tmp_path / "long.pb"), ImportConfig())


@pytest.mark.parametrize("written", [google], ids=["google"], indirect=True)
def test_nothing_but_sentences_on_standard_error(written: Written, tmp_path: Path):
    program = "from mobilenet_cli.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "import", str(written.checkpoint), "--run", "x"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("TF_")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("size", [(61, 47), (20, 90), (3, 5)])
def test_tensorflows_own_operators_give_the_pixels_of_tf_slim(encoded, size: tuple[int, int]):
    """The steps are ``preprocess_for_eval``'s, of slim/preprocessing/inception_preprocessing.py."""
    file = encoded(size=size)
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.image.convert_image_dtype(np.asarray(decode(file, "x")), tf.float32)
        square = tf.image.resize_bilinear(tf.image.central_crop(image, 0.875)[None], [32, 32])
        (expected,) = session.run((square - 0.5) * 2)
    found = prepare(file, "x", InputSpec.cropped(32, convention="tf-slim"))
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)
