"""The SSD of TensorFlow.js: the published face detector, small ones, and what is wrong with one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenet_cli.data.preprocess import prepare
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    run_name,
    write_checkpoint,
)
from mobilenet_cli.pipeline.importing.layouts import ssd_tfjs
from mobilenet_cli.pipeline.importing.layouts.keras import keras_norm

SPEC = ModelSpec(architecture=ssd_tfjs.ARCHITECTURE, width=0.25, classes=3, padding="same")
SIDE = 64
X_FIRST = [1, 0, 3, 2]


def y_first(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(*tensor.shape[:-1], -1, 4)[..., X_FIRST].reshape(tensor.shape)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made = MODELS[SPEC.architecture].build(SPEC)
    with torch.no_grad():
        made.train()(torch.rand(4, 3, SIDE, SIDE) * 2 - 1)  # statistics of its own
        for name, parameter in made.named_parameters():
            if ".bn." in name:
                parameter.uniform_(0.5, 1.5)
    return made.eval()


@pytest.fixture(scope="module")
def tensors(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Write the network as the converter does: all normalizations folded but the depthwise."""
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    made: dict[str, np.ndarray] = {"Postprocessor/stack/1": np.float32(9)}
    for ours, theirs in ssd_tfjs._convolutions():
        gamma, beta, mean, variance = (state[f"{ours}.bn.{part}"] for part in ssd_tfjs.NORM_PARTS)
        scale = gamma / np.sqrt(variance + np.float32(1e-3))
        kernel = state[f"{ours}.conv.weight"] * scale[:, None, None, None]
        made[f"{theirs}/weights"] = kernel.transpose(2, 3, 1, 0)
        made[f"{theirs}/convolution_bn_offset"] = beta - mean * scale
    for block in range(1, 14):
        ours, theirs = f"layers.{2 * block - 1}", f"MobilenetV1/Conv2d_{block}_depthwise"
        made[f"{theirs}/depthwise_weights"] = state[f"{ours}.conv.weight"].transpose(2, 3, 0, 1)
        for part, name in keras_norm(f"{theirs}/BatchNorm").items():
            made[name] = state[f"{ours}.bn.{part}"]
    for head in range(6):
        for kind, part in (("boxes", "BoxEncodingPredictor"), ("scores", "ClassPredictor")):
            theirs = f"Prediction/BoxPredictor_{head}/{part}"
            weight = state[f"heads.{head}.{kind}.weight"].transpose(2, 3, 1, 0)
            turn = y_first if kind == "boxes" else np.asarray
            made[f"{theirs}/weights"] = turn(weight)
            made[f"{theirs}/biases"] = turn(state[f"heads.{head}.{kind}.bias"])
    corners = ssd_tfjs.boxes_for(SIDE).anchor_corners()
    return made | {ssd_tfjs.ANCHORS: corners[None][..., X_FIRST]}


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Write:
    """Write the files; ``change`` may alter the tensors, ``bits`` quantizes the kernels."""

    def make(
        change: Callable[[dict[str, np.ndarray]], object] = lambda _: None,
        bits: int = 32,
        entry: Callable[[list[dict]], object] = lambda _: None,
        wrapped: bool = False,
    ) -> Path:
        mine = dict(tensors)
        change(mine)
        listed, content = [], b""
        for name, value in mine.items():
            row = {"name": name, "shape": list(np.shape(value)), "dtype": "float32"}
            if bits < 32 and np.ndim(value) == 4:
                dtype = {8: "uint8", 16: "uint16"}[bits]
                low, span = float(value.min()), float(np.ptp(value)) / (2**bits - 1)
                row["quantization"] = {"dtype": dtype, "min": low, "scale": span}
                value = np.rint((value - low) / span).astype(dtype)
            listed.append(row)
            content += np.ascontiguousarray(value).tobytes()
        entry(listed)
        half = len(content) // 2
        for number, part in enumerate((content[:half], content[half:]), 1):
            (tmp_path / f"shard{number}.bin").write_bytes(part)
        groups = [{"paths": ["shard1.bin", "shard2.bin"], "weights": listed}]
        path = tmp_path / ("model.json" if wrapped else "weights_manifest.json")
        path.write_text(json.dumps({"weightsManifest": groups} if wrapped else groups))
        return path

    return make


@pytest.mark.parametrize(("bits", "wrapped", "near"), [(32, False, 1e-4), (16, True, 1e-2)])
def test_a_small_one_is_the_same_function(
    write: Write, network: torch.nn.Module, tmp_path: Path, bits: int, wrapped: bool, near: float
) -> None:
    imported = read_source(str(write(bits=bits, wrapped=wrapped)), ImportConfig())
    assert imported.facts.model == SPEC
    assert imported.facts.task == "detection"
    assert imported.facts.classes == ("face",)
    assert run_name(imported.facts) == "ssd_mobilenet_v1_0.25_64"
    made = load_network(write_checkpoint(imported, tmp_path / "model.safetensors"))
    assert load_artifact(tmp_path / "model.safetensors").facts.boxes == ssd_tfjs.boxes_for(SIDE)
    images = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    with torch.inference_mode():
        for ours, theirs in zip(made(images), network(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=near, rtol=near)


def test_classes_can_be_named(write: Write, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("head\n")
    config = ImportConfig(classes=tmp_path / "names.txt")
    assert read_source(str(write()), config).facts.classes == ("head",)


def test_what_is_wrong_is_a_sentence(write: Write, tmp_path: Path) -> None:
    def refused(path: Path, match: str) -> None:
        with pytest.raises(ModelError, match=match):
            read_source(str(path), ImportConfig())

    def moved(tensors: dict[str, np.ndarray]) -> None:
        tensors[ssd_tfjs.ANCHORS] = tensors[ssd_tfjs.ANCHORS] + np.float32(0.01)

    refused(write(moved), "anchors that are not those")
    refused(write(lambda t: t.pop("Prediction/Conv2d_3_pointwise/weights")), "lacks 'Prediction")
    refused(
        write(lambda t: t.update(more=np.zeros(3, np.float32))), "beyond a MobileNet v1 SSD, 'more'"
    )
    refused(write(entry=lambda rows: rows[0].update(dtype="complex64")), r"\(weights\.0\.dtype")
    refused(write(entry=lambda rows: rows.pop()), r"have \d+ bytes instead of \d+")
    refused(write(entry=lambda rows: rows[-1].update(shape=[1, 99, 999])), "end within 'Output/")
    refused(write(entry=lambda rows: rows[-1].update(shape=[1 << 20, 1 << 20])), "more than any")
    path = write()
    (tmp_path / "shard2.bin").unlink()
    refused(path, "keeps weights in shard2.bin, which is not beside it")
    path.write_text(path.read_text().replace("shard2.bin", "../../secret.bin"))
    refused(path, r"\.\./\.\./secret.bin, which is not beside it")
    path.write_text('{"hello": 1}')
    refused(path, "is a JSON document")


@pytest.fixture(scope="module")
def faces(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    source = shared / "detect" / "ssd_mobilenetv1_model-weights_manifest.json"
    imported = read_source(str(source), ImportConfig())
    return load_network(
        write_checkpoint(imported, tmp_path_factory.mktemp("faces") / "model.safetensors")
    )


def test_the_published_face_detector_gives_the_golden_outputs(
    faces: torch.nn.Module, shared: Path
) -> None:
    golden = np.load(shared / "detect" / "ssd_golden.npz")
    noise = torch.rand(2, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    np.testing.assert_array_equal(noise[..., :4, :4], golden["random_input_corner"])
    spec = ssd_tfjs.InputSpec.stretched(512)
    photos = [
        prepare((shared / "detect" / "wider" / name).read_bytes(), name, spec)
        for name in golden["files"]
    ]
    pairs = ((noise, "random_"), (torch.from_numpy(np.stack(photos)), ""))
    for images, prefix in pairs:
        with torch.inference_mode():
            boxes, scores = faces(images)
        expected = golden[f"{prefix}boxes"][..., X_FIRST]
        np.testing.assert_allclose(boxes, expected, atol=1e-3)
        np.testing.assert_allclose(scores, golden[f"{prefix}logits"], atol=1e-3)
