"""Importing weights: real files of each layout, and everything that can be wrong with one."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data import imagenet
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.mobilenet_v1 import conv_layers
from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import DataError, ModelError, OptionError, StorageError
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.graphs.normalize_graph import normalize_graph
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    run_name,
    write_checkpoint,
)
from mobilenet_cli.pipeline.importing.layouts import hugging_face
from mobilenet_cli.pipeline.importing.layouts.plan import width_of
from mobilenet_cli.pipeline.importing.layouts.timm import BLOCKS
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.pipeline.runtime.tensor_values import EXACT

KERAS = {"weight": "gamma", "bias": "beta"} | {
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
Tensors = dict[str, np.ndarray]
AS_IS = ImportConfig()


def random_state(spec: ModelSpec, seed: int = 0) -> Tensors:
    """A network's state with statistics like those of a trained one."""
    torch.manual_seed(seed)
    network = MobileNetV1(spec)
    randomize(network)
    return {
        name: tensor.numpy()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def randomize(network: nn.Module) -> None:
    """Give every normalization its own scale, shift, mean and variance."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(0, 1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.1, 1)


def keras_file(path: Path, state: Tensors, top: bool = True) -> Path:
    """Write a state as Keras applications does."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for index in range(27):
            kind = "pw" if index % 2 == 0 else "dw"
            layer = "conv1" if index == 0 else f"conv_{kind}_{(index + 1) // 2}"
            kernel = state[f"layers.{index}.conv.weight"]
            if kind == "dw":
                file[f"{layer}/{layer}/depthwise_kernel:0"] = kernel.transpose(2, 3, 0, 1)
            else:
                file[f"{layer}/{layer}/kernel:0"] = kernel.transpose(2, 3, 1, 0)
            for ours, theirs in KERAS.items():
                file[f"{layer}_bn/{layer}_bn/{theirs}:0"] = state[f"layers.{index}.bn.{ours}"]
        if top:
            file["conv_preds/conv_preds/kernel:0"] = state["classifier.weight"].T[None, None]
            file["conv_preds/conv_preds/bias:0"] = state["classifier.bias"]
    return path


def timm_state(state: Tensors) -> Tensors:
    """A state under timm's names."""
    blocks = [f"blocks.{stage}.{i}" for stage, n in enumerate(BLOCKS) for i in range(n)]
    renamed = {n: state[n] for n in ("classifier.weight", "classifier.bias")}
    for index in range(27):
        if index == 0:
            kernel, norm = "conv_stem", "bn1"
        else:
            block, first = blocks[(index - 1) // 2], index % 2 == 1
            kernel = f"{block}.{'conv_dw' if first else 'conv_pw'}"
            norm = f"{block}.{'bn1' if first else 'bn2'}"
        renamed[f"{kernel}.weight"] = state[f"layers.{index}.conv.weight"]
        for part in KERAS:
            renamed[f"{norm}.{part}"] = state[f"layers.{index}.bn.{part}"]
    return renamed


def marvis_network(spec: ModelSpec, activation: Callable[[], nn.Module]) -> nn.Module:
    """The network of marvis/pytorch-mobilenet, built from its published description."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = conv_layers(spec)
            blocks: list[list[nn.Module]] = [[]]
            for layer in layers:
                if layer.kind == "depthwise":
                    blocks.append([])
                conv = nn.Conv2d(
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel,
                    layer.stride,
                    layer.kernel // 2,
                    groups=layer.groups,
                    bias=False,
                )
                blocks[-1] += [conv, nn.BatchNorm2d(layer.out_channels), activation()]
            self.model = nn.Sequential(
                *(nn.Sequential(*block) for block in blocks), nn.AdaptiveAvgPool2d(1)
            )
            self.fc = nn.Linear(layers[-1].out_channels, spec.classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.model(x).flatten(1))

    network = Net().eval()
    randomize(network)
    return network


def imported_logits(
    source: Path, out: Path, images: torch.Tensor, config: ImportConfig = AS_IS
) -> np.ndarray:
    """Import, write, read back and run."""
    artifact = write_checkpoint(read_source(str(source), config), out / "model.safetensors")
    with torch.inference_mode():
        return load_network(load_artifact(artifact.path))(images).numpy()


def own_logits(spec: ModelSpec, state: Tensors, images: torch.Tensor) -> np.ndarray:
    network = MobileNetV1(spec).eval()
    network.load_state_dict({n: torch.from_numpy(t) for n, t in state.items()}, strict=False)
    with torch.inference_mode():
        return network(images).numpy()


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- layouts ---------------------------------------------------------------------------------


def test_keras_file(tmp_path, images):
    spec = ModelSpec(width=0.25, padding="same", bn_epsilon=1e-3)
    state = random_state(spec)
    file = keras_file(tmp_path / "mobilenet_2_5_160_tf.h5", state)
    found = imported_logits(file, tmp_path, images)
    np.testing.assert_array_equal(found, own_logits(spec, state, images))
    facts = load_artifact(tmp_path / "model.safetensors").facts
    assert facts.model == spec
    assert (facts.input.resolution, facts.input.resize) == (160, 183)
    assert facts.classes == imagenet.synsets()
    assert facts.names[0] == "tench"


def test_keras_file_without_classifier(tmp_path):
    state = random_state(ModelSpec(width=0.25, padding="same"))
    file = keras_file(tmp_path / "mobilenet_2_5_128_tf_no_top.h5", state, top=False)
    imported = read_source(str(file), AS_IS)
    assert imported.facts.input.resolution == 128
    assert "no classifier" in imported.record.notes[0]
    artifact = write_checkpoint(imported, tmp_path / "model.safetensors")
    assert not load_network(artifact).classifier.weight.any()


@pytest.mark.parametrize("side", [224, 192, 160, 128])
@pytest.mark.parametrize("width", [1.0, 0.75, 0.5, 0.25])
def test_hugging_face_names_and_shapes(width, side):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'interop'")
    config = transformers.MobileNetV1Config(
        depth_multiplier=width, image_size=side, num_labels=1001
    )
    with torch.device("meta"):
        state = transformers.MobileNetV1ForImageClassification(config).state_dict()
    theirs = {n: tuple(t.shape) for n, t in state.items() if not n.endswith("tracked")}
    file = WeightFile(Path("x"), False, dict.fromkeys(theirs, np.zeros(0, np.float32)))
    names = hugging_face.plan(file, None).names
    ours = MODELS["mobilenet_v1"].tensor_shapes(ModelSpec(width=width, classes=1001))
    assert {names[name]: shape for name, shape in ours.items()} == theirs


@pytest.mark.parametrize(
    ("width", "side"), [(1.0, 128), (0.75, 192), (0.5, 160), (0.25, 224), (1.0, 224)]
)
def test_hugging_face_equals_transformers(tmp_path, width, side):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'interop'")
    torch.manual_seed(0)
    config = transformers.MobileNetV1Config(
        depth_multiplier=width, image_size=side, num_labels=1001
    )
    network = transformers.MobileNetV1ForImageClassification(config).eval()
    randomize(network)
    network.save_pretrained(tmp_path / "hub")
    images = torch.rand(1, 3, side, side) * 2 - 1
    with torch.inference_mode():
        expected = network(images).logits.numpy()
    found = imported_logits(tmp_path / "hub", tmp_path, images)
    assert np.abs(found - expected).max() <= 1e-4
    assert np.ptp(expected) > 0.1  # or the comparison says little
    facts = load_artifact(tmp_path / "model.safetensors").facts
    assert facts.model == ModelSpec(width=width, classes=1001, padding="same")
    assert (facts.input.resolution, facts.input.resize) == (side, side + 32)
    assert facts.classes[:2] == ("background", "n01440764")


def test_hugging_face_preprocessor_is_read(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'interop'")
    config = transformers.MobileNetV1Config(depth_multiplier=0.25, num_labels=1000)
    transformers.MobileNetV1ForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": {"height": 192, "width": 192},
                "size": {"shortest_edge": 200},
                "resample": 3,
                "image_mean": [0.4, 0.5, 0.6],
                "image_std": [0.1, 0.2, 0.3],
            }
        )
    )
    spec = read_source(str(tmp_path), AS_IS).facts.input
    assert (spec.resolution, spec.resize, spec.interpolation) == (192, 200, "bicubic")
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


def test_hugging_face_bin_file(tmp_path, images):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'interop'")
    config = transformers.MobileNetV1Config(depth_multiplier=0.25, num_labels=1001)
    network = transformers.MobileNetV1ForImageClassification(config).eval()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with torch.inference_mode():
        expected = network(images).logits.numpy()
    assert np.abs(imported_logits(tmp_path, tmp_path, images) - expected).max() <= 1e-4


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv1_125"])
def test_timm_equals_timm(tmp_path, images, name):
    timm = pytest.importorskip("timm", reason="timm needs torchvision, which is not here")
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    randomize(network)
    save_file({n: t.numpy() for n, t in network.state_dict().items()}, tmp_path / "x.safetensors")
    with torch.inference_mode():
        expected = network(images).numpy()
    found = imported_logits(tmp_path / "x.safetensors", tmp_path, images)
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize(("width", "resize"), [(1.0, 256), (1.25, 248)])
def test_timm_file(tmp_path, images, width, resize):
    spec = ModelSpec(width=width, padding="symmetric", bn_epsilon=1e-5)
    state = random_state(spec)
    file = tmp_path / "model.safetensors"
    save_file(timm_state(state), file)
    found = imported_logits(file, tmp_path / "run", images)
    np.testing.assert_array_equal(found, own_logits(spec, state, images))
    facts = load_artifact(tmp_path / "run" / "model.safetensors").facts
    assert facts.model == spec
    assert (facts.input.resolution, facts.input.resize) == (224, resize)
    assert (facts.input.interpolation, facts.input.mean) == ("bicubic", (0.5, 0.5, 0.5))


def test_timm_configuration_is_read(tmp_path):
    save_file(timm_state(random_state(ModelSpec(width=0.25))), tmp_path / "model.safetensors")
    config = {"input_size": [3, 240, 240], "crop_pct": 0.95, "interpolation": "bilinear"}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "mobilenetv1_100", "pretrained_cfg": config})
    )
    spec = read_source(str(tmp_path), AS_IS).facts.input
    assert (spec.resolution, spec.resize, spec.interpolation) == (240, 252, "bilinear")


@pytest.mark.parametrize("by", ["config", "tensor"])
def test_timm_variant_is_refused_by_name(tmp_path, by):
    tensors = timm_state(random_state(ModelSpec(width=0.25)))
    if by == "config":
        (tmp_path / "config.json").write_text('{"architecture": "mobilenetv1_100h"}')
    else:
        tensors["conv_head.weight"] = np.zeros((8, 8, 1, 1), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="is timm's mobilenetv1_100h"):
        read_source(str(tmp_path), AS_IS)


def test_marvis_file_keeps_its_relu(tmp_path, images):
    spec = ModelSpec(width=0.25)
    network = marvis_network(spec, nn.ReLU)
    state = {f"module.{n}": t for n, t in network.state_dict().items()}  # as DataParallel saves it
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model_best.pth.tar")
    with torch.inference_mode():
        expected = network(images * 3).numpy()
    found = imported_logits(tmp_path / "model_best.pth.tar", tmp_path, images * 3)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    facts = load_artifact(tmp_path / "model.safetensors").facts
    assert facts.model is not None
    assert facts.model.activation == "relu"
    assert facts.input.mean == (0.485, 0.456, 0.406)


def test_activation_must_be_said_where_the_layout_does_not(tmp_path, images):
    network = marvis_network(ModelSpec(width=0.25), nn.ReLU6)
    state = {n.replace("model.", "features."): t for n, t in network.state_dict().items()}
    file = tmp_path / "haq.pth"
    torch.save(state, file)
    with pytest.raises(OptionError, match="does not say whether the network uses ReLU or ReLU6"):
        read_source(str(file), AS_IS)
    with torch.inference_mode():
        expected = network(images).numpy()
    found = imported_logits(file, tmp_path, images, ImportConfig(activation="relu6"))
    assert np.abs(found - expected).max() <= 1e-4


def test_order_of_safetensors_is_that_of_the_numbers(tmp_path, images):
    network = marvis_network(ModelSpec(width=0.25), nn.ReLU)
    save_file({n: t.numpy() for n, t in network.state_dict().items()}, tmp_path / "x.safetensors")
    with torch.inference_mode():
        expected = network(images).numpy()
    found = imported_logits(tmp_path / "x.safetensors", tmp_path, images)
    assert np.abs(found - expected).max() <= 1e-4


def test_ambiguous_order_is_refused(tmp_path):
    state = marvis_network(ModelSpec(width=0.25), nn.ReLU).state_dict()
    torch.save(dict(reversed(state.items())), tmp_path / "x.pth")
    with pytest.raises(ModelError, match="is ambiguous: its tensors are in another order"):
        read_source(str(tmp_path / "x.pth"), AS_IS)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize(
    "width", [1.0, 0.75, 0.5, 0.25, 1.25, 1.4, 1.3, 0.3, 0.35, 2.0, 0.01, 0.337]
)
def test_width_follows_from_the_channels(width, architecture):
    spec = ModelSpec(architecture=architecture, width=width)
    channels = {layer.name: layer.out_channels for layer in MODELS[architecture].layers(spec)}
    found = width_of(spec.architecture, channels)
    layers = MODELS[architecture].layers
    assert layers(replace(spec, width=found)) == layers(spec)
    if width >= 0.25 and width != 0.337:  # whose three decimals no channel tells
        assert found == width


# --- what can be wrong -------------------------------------------------------------------------


@pytest.fixture
def safetensors_file(tmp_path):
    """Write timm tensors, changed by the test, and return the path."""

    def write(change: Callable[[Tensors], object] = lambda _: None) -> str:
        tensors = timm_state(random_state(ModelSpec(width=0.25)))
        change(tensors)
        save_file(
            {n: np.ascontiguousarray(t) for n, t in tensors.items()}, tmp_path / "w.safetensors"
        )
        return str(tmp_path / "w.safetensors")

    return write


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(safetensors_file, value):
    def change(tensors: Tensors) -> None:
        tensors["blocks.1.0.conv_pw.weight"] = tensors["blocks.1.0.conv_pw.weight"].copy()
        tensors["blocks.1.0.conv_pw.weight"][3, 1] = value

    with pytest.raises(ModelError, match=r"NaN or infinity in 'blocks\.1\.0\.conv_pw\.weight'"):
        read_source(safetensors_file(change), AS_IS)


def test_negative_variance(safetensors_file):
    def change(tensors: Tensors) -> None:
        tensors["bn1.running_var"] = -np.abs(tensors["bn1.running_var"])

    with pytest.raises(ModelError, match=r"negative variance in 'bn1\.running_var'"):
        read_source(safetensors_file(change), AS_IS)


def test_wrong_shape(safetensors_file):
    def change(tensors: Tensors) -> None:
        tensors["blocks.2.1.conv_dw.weight"] = np.zeros((64, 1, 5, 5), np.float32)

    with pytest.raises(ModelError, match=r"'blocks\.2\.1\.conv_dw\.weight' of shape \(64, 1, 5, 5"):
        read_source(safetensors_file(change), AS_IS)


def test_missing_tensor(safetensors_file):
    with pytest.raises(ModelError, match=r"lacks 'blocks\.0\.0\.bn2\.bias'"):
        read_source(safetensors_file(lambda t: t.pop("blocks.0.0.bn2.bias")), AS_IS)


def test_unknown_tensor(safetensors_file):
    def change(tensors: Tensors) -> None:
        tensors["blocks.0.0.se.weight"] = np.zeros(3, np.float32)

    with pytest.raises(ModelError, match=r"beyond a MobileNet v1, 'blocks\.0\.0\.se\.weight'"):
        read_source(safetensors_file(change), AS_IS)


def test_unknown_layout_says_what_was_expected_and_found(tmp_path):
    save_file({"weight": np.zeros((3, 4), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors in no known layout \(weight \(3, 4\)\)") as e:
        read_source(str(tmp_path / "x.safetensors"), AS_IS)
    assert all(name in e.value.fix for name in ("Keras", "Hugging Face", "timm", "torch"))


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.999])
def test_truncated_h5(tmp_path, fraction):
    file = keras_file(tmp_path / "x.h5", random_state(ModelSpec(width=0.25)))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(ModelError, match="cannot be read as an HDF5 file"):
        read_source(str(file), AS_IS)


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_truncated_file(tmp_path, form):
    state = timm_state(random_state(ModelSpec(width=0.25)))
    file = tmp_path / f"x.{form}"
    if form == "pth":
        torch.save({n: torch.from_numpy(t) for n, t in state.items()}, file)
    else:
        save_file(state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cannot be read as a (safetensors|torch) file"):
        read_source(str(file), AS_IS)


class Bomb:
    """What a malicious pickle holds."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_does_not_run(tmp_path, zipped):
    file, target = tmp_path / "x.pth", tmp_path / "ran"
    if zipped:
        torch.save({"state_dict": Bomb(target)}, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": Bomb(target)}, protocol=2))
    with pytest.raises(ModelError, match="holds more than tensors, and its code was not run"):
        read_source(str(file), AS_IS)
    assert not target.exists()


def test_format_that_is_not_weights(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"\x00\x00TensorFlow")
    with pytest.raises(ModelError, match="no HDF5, safetensors, torch or TensorFlow") as error:
        read_source(str(tmp_path / "x.ckpt"), AS_IS)
    assert "all of its files" in error.value.fix


def test_file_that_does_not_exist(tmp_path):
    with pytest.raises(ModelError, match=r"x\.h5 does not exist"):
        read_source(str(tmp_path / "x.h5"), AS_IS)
    os.mkfifo(tmp_path / "x.h5")
    with pytest.raises(ModelError, match=r"x\.h5 is no file but a pipe"):
        read_source(str(tmp_path / "x.h5"), AS_IS)


def test_relative_path_with_a_typing_error_is_no_hub_id():
    with pytest.raises(ModelError, match=r"weights/mobilenet\.h5 does not exist"):
        read_source("weights/mobilenet.h5", AS_IS)


def test_folder_without_weights(tmp_path):
    with pytest.raises(ModelError, match="has neither"):
        read_source(str(tmp_path), AS_IS)


def test_width_that_is_not_the_files(safetensors_file):
    with pytest.raises(OptionError, match=r"of width 0\.25, not 0\.5"):
        read_source(safetensors_file(), ImportConfig(width=0.5))


def test_resolution_too_small(safetensors_file):
    with pytest.raises(OptionError, match="resolution 16 is too small"):
        read_source(safetensors_file(), ImportConfig(resolution=16))


def test_class_count_without_a_known_list(tmp_path):
    save_file(
        timm_state(random_state(ModelSpec(width=0.25, classes=7))), tmp_path / "x.safetensors"
    )
    with pytest.raises(ModelError, match="has 7 outputs, not one for each of ImageNet's 1000"):
        read_source(str(tmp_path / "x.safetensors"), AS_IS)


def test_class_list_of_ones_own(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(timm_state(random_state(ModelSpec(width=0.25, classes=3))), file)
    listed = tmp_path / "classes.txt"
    for text in ("ant\nbee\ncat\n", "\ufeffant\r\nbee\r\ncat", "ant\nbee \ncat\n\n \n"):
        listed.write_text(text, "utf-8")
        facts = read_source(str(file), ImportConfig(classes=listed)).facts
        assert facts.classes == ("ant", "bee", "cat")
    listed.write_text("ant\nbee\ncat\n", "utf-16")
    with pytest.raises(DataError, match=r"classes\.txt is no text in UTF-8"):
        read_source(str(file), ImportConfig(classes=listed))
    numbered = tmp_path / "imagenet_class_index.json"
    numbered.write_text('{"1": ["n2", "bee"], "0": ["n1", "ant"], "2": ["n3", "cat"]}')
    facts = read_source(str(file), ImportConfig(classes=numbered)).facts
    assert (facts.classes, facts.names) == (("n1", "n2", "n3"), ("ant", "bee", "cat"))
    listed.write_text("ant\nbee\n")
    with pytest.raises(OptionError, match=r"lists 2 classes, but .* has 3 outputs"):
        read_source(str(file), ImportConfig(classes=listed))
    listed.write_text("ant\nbee\nant\n")
    with pytest.raises(OptionError, match="has the class 'ant' more than once"):
        read_source(str(file), ImportConfig(classes=listed))


def test_checkpoint_of_other_origin_is_not_overwritten(safetensors_file, tiny, tmp_path):
    import shutil

    imported = read_source(safetensors_file(), AS_IS)
    run = shutil.copytree(tiny, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(StorageError, match="checkpoint of other origin"):
        write_checkpoint(imported, run / "model.safetensors")
    assert (run / "model.safetensors").read_bytes() == before
    fresh = tmp_path / "fresh" / "model.safetensors"
    write_checkpoint(imported, fresh)
    write_checkpoint(imported, fresh)  # the same again is fine


# --- hub ---------------------------------------------------------------------------------------


def run_offline(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in offline mode, with its own hub cache."""
    script = "from mobilenet_cli.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=cache,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)},
    )


def test_hub_without_network_says_which_file_to_fetch(tmp_path):
    pytest.importorskip("huggingface_hub")
    done = run_offline(tmp_path, "import", "google/mobilenet_v1_1.0_224", "--revision", "abc")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert (
        "https://huggingface.co/google/mobilenet_v1_1.0_224/resolve/abc/model.safetensors"
        in done.stderr
    )
    assert "pass that folder" in done.stderr


def test_hub_cache_is_used_offline_and_pins_the_commit(tmp_path):
    pytest.importorskip("huggingface_hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--timm--mobilenetv1_025"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    save_file(timm_state(random_state(ModelSpec(width=0.25))), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text('{"architecture": "mobilenetv1_025"}')
    done = run_offline(tmp_path, "import", "timm/mobilenetv1_025", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["revision"] == commit
    assert document["source"] == "timm/mobilenetv1_025"
    assert document["layout"] == "timm"


# --- the command, and the published weights ----------------------------------------------------


def test_command(safetensors_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["import", safetensors_file(), "--run", "mine", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["run"] == "mine"
    assert document["checkpoint"] == "runs/mine/model.safetensors"
    assert document["classes"] == 1000
    assert document["source"].endswith("w.safetensors")
    assert document["parameters"] == sum(
        t.size
        for n, t in load_file(tmp_path / document["checkpoint"]).items()
        if "running" not in n
    )


def test_another_resolution_does_not_replace_the_first(safetensors_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = ["import", safetensors_file(), "--run", "mine"]
    assert CliRunner().invoke(app, source).exit_code == 0
    assert CliRunner().invoke(app, source).exit_code == 0  # the same again is no harm
    before = (tmp_path / "runs/mine/model.safetensors").read_bytes()
    refused = CliRunner().invoke(app, [*source, "--resolution", "128"])
    assert refused.exit_code == 2
    said = "runs/mine/model.safetensors has the same weights, imported at resolution 224, not 128"
    assert said in refused.stderr.replace("\n", " ")
    assert (tmp_path / "runs/mine/model.safetensors").read_bytes() == before


def test_importing_does_not_import_torch(safetensors_file, tmp_path):
    script = (
        "import sys; from mobilenet_cli.cli import app\n"
        f"app(['import', {safetensors_file()!r}], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def published(shared, tmp_path_factory) -> list[Artifact]:
    """The published weights of width 0.75 as checkpoint, exported, and folded."""
    from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
    from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify

    out = tmp_path_factory.mktemp("published")
    imported = read_source(str(shared / "weights/mobilenet_7_5_224_tf.h5"), AS_IS)
    assert imported.record.parameters == 2_585_560
    checkpoint = write_checkpoint(imported, out / "model.safetensors")
    exported = export(checkpoint, ExportConfig(), out / "fp32.onnx")
    return [checkpoint, exported, simplify(exported, SimplifyConfig(), out / "folded.onnx")]


def test_published_weights_give_the_reference_logits(shared, published):
    from mobilenet_cli.data.loader import batches
    from mobilenet_cli.data.open_dataset import open_dataset
    from mobilenet_cli.pipeline.runtime.predictor import open_predictor

    golden = np.load(shared / "reference/mobilenet_v1_0.75_224_golden.npz")
    names = [Path(str(name)).name for name in golden["files"]]
    val = open_dataset(str(shared / "imagenet/val"), "all").samples
    samples = {Path(sample.key).name: sample for sample in val}
    (batch,) = batches([samples[n] for n in names], published[0].facts.input, len(names))
    for artifact in published:
        with open_predictor(artifact) as predictor:
            for images, expected in (
                (batch.images, golden["logits"]),
                (golden["random_input"].astype(np.float32), golden["random_logits"]),
            ):
                error = np.abs(predictor.logits(images) - expected).max()
                assert error <= 1e-4, artifact.path.name


def test_published_weights_reach_the_reference_accuracy(shared, published):
    from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate

    record = evaluate(published[2], EvaluateConfig(data=str(shared / "imagenet/val")))
    reference = json.loads((shared / "reference/expected.json").read_text())
    expected = reference["val_resize256_crop224_bilinear"]
    assert record.images == expected["images"] == 650
    assert abs(record.top1_correct - expected["top1_correct"]) <= 1
    assert abs(record.top5_correct - expected["top5_correct"]) <= 1


@pytest.fixture(scope="module")
def published_v2(shared, tmp_path_factory) -> Artifact:
    """The published weights of torchvision's MobileNetV2 as a checkpoint."""
    out = tmp_path_factory.mktemp("published_v2")
    imported = read_source(str(shared / "weights/mobilenet_v2-b0353104.pth"), AS_IS)
    assert imported.record.parameters == 3_504_872
    assert imported.record.layout == "torchvision"
    assert run_name(imported.facts) == "mobilenet_v2_1_224"
    return write_checkpoint(imported, out / "model.safetensors")


def test_both_files_of_mobilenet_v2_give_the_reference_logits(shared, published_v2):
    golden = np.load(shared / "reference/mobilenet_v2_golden.npz")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = load_network(published_v2)(images).numpy()
    assert np.abs(found - golden["random_logits"]).max() <= 1e-4
    # TorchScript's exporter wrote the same network, with all its BatchNormalization
    path = shared / "weights/mobilenet_v2_torchscript_bn.onnx"
    model = normalize_graph(path, onnx.load(path), None).model
    session = open_session(model.SerializeToString(), EXACT)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.abs(logits - golden["random_logits"]).max() <= 1e-4
    assert np.abs(logits - found).max() <= 1e-4


@pytest.mark.slow
def test_torchvisions_mobilenet_v2_reaches_the_reference_accuracy(shared, published_v2, tmp_path):
    from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate
    from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
    from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify

    exported = export(published_v2, ExportConfig(), tmp_path / "fp32.onnx")
    folded = simplify(exported, SimplifyConfig(), tmp_path / "folded.onnx")
    record = evaluate(folded, EvaluateConfig(data=str(shared / "imagenet/val")))
    top1, top5 = np.load(shared / "reference/mobilenet_v2_golden.npz")["correct"]
    assert record.images == 650
    assert abs(record.top1_correct - top1) <= 1
    assert abs(record.top5_correct - top5) <= 1
