"""Keras files beyond the published MobileNet v1: Keras' own networks, and layers without names."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.models.mobilenet_v1 import conv_layers
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    write_checkpoint,
)
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.predictor import open_predictor

h5py = pytest.importorskip("h5py")
# Keras' own conversion of torch's tensors is not numpy 2's.
OLD_INTERFACE = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def imported(source: Path, folder: Path, classes: tuple[str, ...], **options) -> Artifact:
    names = folder / "classes.txt"
    names.write_text("\n".join(classes))
    config = ImportConfig(classes=names, **options)
    return write_checkpoint(read_source(str(source), config), folder / "model.safetensors")


# --- Keras' own networks, built and run by Keras -------------------------------------------------


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    library = pytest.importorskip("keras", reason="needs the extra tensorflow")
    library.utils.set_random_seed(0)
    return library


def with_statistics(keras, network):
    """Give every normalization its own scale, shift, mean and variance."""
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.get_weights()[0].size
            ranges = ((0.5, 1.5), (-0.3, 0.5), (-0.1, 0.1), (0.3, 1.0))
            layer.set_weights([random.uniform(*limits, size) for limits in ranges])
    return network


@OLD_INTERFACE
@pytest.mark.parametrize(
    ("name", "width", "side"),
    [("MobileNetV2", 0.35, 64), ("MobileNetV2", 0.5, 65), ("MobileNet", 0.25, 64)],
)
@pytest.mark.parametrize("depthwise", ["kernel", "depthwise_kernel"])
def test_networks_of_keras_give_its_logits(keras, tmp_path, name, width, side, depthwise):
    make = getattr(keras.applications, name)
    shape = {"input_shape": (side, side, 3), "alpha": width}
    network = make(**shape, weights=None, classes=3, classifier_activation=None)
    with_statistics(keras, network).save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "a") as file:
        for layer in list(file["model_weights"]):
            if depthwise == "depthwise_kernel" and isinstance(
                network.get_layer(layer) if layer != "top_level_model_weights" else None,
                keras.layers.DepthwiseConv2D,
            ):  # as Keras 2 wrote it
                group = file["model_weights"][layer][layer]
                group.move("kernel", "depthwise_kernel:0")
    made = imported(tmp_path / "model.h5", tmp_path, ("a", "b", "c"))
    assert (made.facts.model.width, made.facts.input.resolution) == (width, side)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
    with torch.inference_mode():
        expected = network(images.transpose(0, 2, 3, 1), training=False).numpy()
        found = load_network(made)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@OLD_INTERFACE
def test_weights_of_keras_3_without_names_are_a_sentence(keras, tmp_path):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    network.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(ModelError, match=r"without the names .* Save the whole model as HDF5"):
        read_source(str(tmp_path / "x.weights.h5"), ImportConfig())


# --- layers without names ------------------------------------------------------------------------


def layer_of(kind: str, name: str, **config) -> dict:
    return {"class_name": kind, "config": {"name": name, **config}}


def whole_model() -> dict:
    """The configuration of a MobileNet v1 of width 0.25 at 32 pixels, as Keras 2 writes it."""
    layers = [layer_of("InputLayer", "input_1", batch_input_shape=[None, 32, 32, 3])]
    counts = {"Conv2D": 0, "DepthwiseConv2D": 0}
    for index, layer in enumerate(conv_layers(ModelSpec(width=0.25))):
        kind = "DepthwiseConv2D" if layer.kind == "depthwise" else "Conv2D"
        stem = "depthwise_conv2d" if layer.kind == "depthwise" else "conv2d"
        number, counts[kind] = counts[kind], counts[kind] + 1
        name, suffix = f"{stem}_{number}" if number else stem, f"_{index}" if index else ""
        shape = {"strides": [layer.stride] * 2, "padding": "same", "activation": "linear"}
        layers.append(layer_of(kind, name, **shape))
        layers.append(layer_of("BatchNormalization", f"batch_normalization{suffix}", epsilon=0.002))
        layers.append(layer_of("ReLU", f"re_lu{suffix}", max_value=6.0))
    layers.append(layer_of("GlobalAveragePooling2D", "global_average_pooling2d"))
    layers.append(layer_of("Dense", "dense", activation="softmax"))
    return {"class_name": "Functional", "config": {"layers": layers}}


@pytest.fixture
def automatic(tmp_path) -> Callable[[dict | None], Path]:
    """Write a MobileNet v1 of width 0.25 without names, with a configuration or weights alone."""

    def write(config: dict | None) -> Path:
        random, path = np.random.default_rng(0), tmp_path / "auto.h5"
        model = whole_model()["config"]["layers"]
        names = iter([e["config"]["name"] for e in model if e["class_name"].endswith("Conv2D")])
        with h5py.File(path, "w") as file:
            for index, layer in enumerate(conv_layers(ModelSpec(width=0.25))):
                conv, norm = next(names), f"batch_normalization{f'_{index}' if index else ''}"
                deep = layer.kind == "depthwise"
                part = "depthwise_kernel" if deep else "kernel"
                ends = (layer.in_channels, 1 if deep else layer.out_channels)
                shape = (layer.kernel, layer.kernel, *ends)
                file[f"{conv}/{conv}/{part}:0"] = random.normal(0, 0.3, shape)
                file[f"{conv}/{conv}/bias:0"] = random.normal(0, 1, layer.out_channels)
                for statistic in ("beta", "moving_mean", "moving_variance"):  # scale=False
                    values = random.uniform(0.1, 1, layer.out_channels)
                    file[f"{norm}/{norm}/{statistic}:0"] = values
            file["dense/dense/kernel:0"] = random.normal(0, 0.1, (256, 2))
            file["dense/dense/bias:0"] = np.zeros(2)
            if config:
                file.attrs["model_config"] = json.dumps(config)
        return path

    return write


def test_a_whole_model_says_what_its_tensors_do_not(automatic, tmp_path):
    file = automatic(whole_model())
    made = imported(file, tmp_path, ("no", "yes"))
    expected = {"padding": "same", "bn_epsilon": 0.002, "activation": "relu6"}
    assert made.facts.model == ModelSpec(width=0.25, classes=2, **expected)
    assert made.facts.input.resolution == 32
    assert "scaled to 0..1" in made.record.notes[0]
    with pytest.raises(OptionError, match="whose network uses relu6"):
        imported(file, tmp_path, ("no", "yes"), activation="relu")
    network = load_network(made)
    with h5py.File(file) as raw:  # a bias before a normalization is a shift of its mean
        norm = raw["batch_normalization_5/batch_normalization_5"]
        conv = raw["depthwise_conv2d_2/depthwise_conv2d_2"]
        mean = norm["moving_mean:0"][()] - conv["bias:0"][()]
        np.testing.assert_allclose(network.layers[5].bn.running_mean, mean, rtol=1e-6)
        assert (network.layers[5].bn.weight == 1).all()


def test_weights_alone_do_not_tell_the_activation(automatic, tmp_path):
    file = automatic(None)
    with pytest.raises(OptionError, match="whether the network uses ReLU or ReLU6"):
        imported(file, tmp_path, ("no", "yes"))
    made = imported(file, tmp_path, ("no", "yes"), activation="relu", resolution=64)
    assert (made.facts.model.activation, made.facts.input.resolution) == ("relu", 64)


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (1, {"strides": [1, 1]}, r"layer 'conv2d' of .* has strides \[1, 1\]"),
        (4, {"padding": "valid"}, "layer 'depthwise_conv2d' of .* padding 'valid'"),
        (1, {"activation": "relu"}, "and activation 'relu'"),
        (2, {"epsilon": 1e-5}, r"epsilons \[1e-05, 0\.002\]"),
        (3, {"max_value": None}, r"27 activations \(relu, relu6\)"),
        (3, {"negative_slope": 0.1}, "kind ReLU"),
        (-1, {"activation": "sigmoid"}, "kind Dense with activation 'sigmoid'"),
        (0, {"batch_input_shape": [None, None, None, 3]}, "square input of known size"),
    ],
)
def test_another_network_of_the_same_shapes_is_refused(
    automatic, tmp_path, position, change, message
):
    model = whole_model()
    model["config"]["layers"][position]["config"] |= change
    with pytest.raises(ModelError, match=message):
        imported(automatic(model), tmp_path, ("no", "yes"))


def test_a_layer_that_computes_something_else_is_refused(automatic, tmp_path):
    model = whole_model()
    model["config"]["layers"][-2]["class_name"] = "GlobalMaxPooling2D"
    with pytest.raises(ModelError, match="kind GlobalMaxPooling2D"):
        imported(automatic(model), tmp_path, ("no", "yes"))


# --- MLPerf Tiny's visual wake words --------------------------------------------------------------


@pytest.fixture
def wake_words(shared, tmp_path) -> Artifact:
    return imported(shared / "weights/vww_96.h5", tmp_path, ("no person", "person"))


def probabilities(artifact: Artifact, shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """The published probabilities of 24 images, and those of a model."""
    golden = np.load(shared / "reference/vww_96_golden.npz")
    val = open_dataset(str(shared / "imagenet/val"), "all").samples
    samples = {Path(sample.key).name: sample for sample in val}
    chosen = [samples[Path(str(name)).name] for name in golden["files"]]
    (batch,) = batches(chosen, artifact.facts.input, len(chosen))
    with open_predictor(artifact) as predictor:
        found = np.exp(predictor.logits(batch.images))
    return golden["probabilities"], found / found.sum(1, keepdims=True)


def test_visual_wake_words_give_the_published_probabilities(shared, wake_words):
    expected = {"padding": "same", "activation": "relu"}
    assert wake_words.facts.model == ModelSpec(width=0.25, classes=2, **expected)
    np.testing.assert_allclose(*probabilities(wake_words, shared), atol=1e-4)


@pytest.mark.slow
def test_visual_wake_words_in_int8_agree_on_every_image(shared, wake_words, tmp_path):
    exported = export(wake_words, ExportConfig(), tmp_path / "fp32.onnx")
    folded = simplify(exported, SimplifyConfig(), tmp_path / "folded.onnx")
    settings = QuantizeConfig(calib_dir=str(shared / "imagenet/train"))
    expected, found = probabilities(quantize(folded, settings, tmp_path / "int8.onnx"), shared)
    assert (found.argmax(1) == expected.argmax(1)).sum() == 24
