"""A model that takes bytes is the model that takes floats, and a package knows what runs where."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from mobilenet_cli.calibration.grid import Grid, asymmetric
from mobilenet_cli.cli import app
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec, denormalize, normalize, resize_and_crop
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.artifacts.sidecar import sidecar_path
from mobilenet_cli.pipeline.deploying import package as package_room
from mobilenet_cli.pipeline.deploying.deploy import DeployConfig, deploy, labels_text
from mobilenet_cli.pipeline.deploying.image import take_image
from mobilenet_cli.pipeline.deploying.package import Package, open_package
from mobilenet_cli.pipeline.deploying.pixels import pixel_codes, take_pixels
from mobilenet_cli.pipeline.deploying.stem import Stem, _fit_pairs
from mobilenet_cli.pipeline.deploying.variants import check
from mobilenet_cli.pipeline.errors import CheckError, OptionError, ProviderError
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.deployment import InputProof

NORMALIZATIONS = ["inception", "imagenet", "0..1", "0..255", "bgr 103.939,116.779,123.68"]


@pytest.fixture
def copy(package, tmp_path) -> Path:
    """A package to damage."""
    return Path(shutil.copytree(package.folder, tmp_path / "package"))


def grid_of(spec: InputSpec) -> Grid:
    ends = normalize(np.array([[[0] * 3, [255] * 3]], np.uint8), spec)
    return asymmetric(float(ends.min()), float(ends.max()))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_pixel_codes_are_those_of_the_normalized_floats(normalization: str):
    spec = InputSpec.cropped(32, normalization=normalization)
    grid = grid_of(spec)
    codes = pixel_codes(spec, grid)
    assert codes is not None
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    wanted = np.moveaxis(grid.quantize(normalize(values, spec)), -3, -1).reshape(256, 3)
    for channel in range(3):
        sums = np.arange(256) * codes.weights[channel] + codes.biases[channel]
        found = np.rint(sums * codes.scales[channel] / grid.scale) + grid.zero_point
        assert np.array_equal(found.clip(0, 255), wanted[:, channel])


def identity(spec: InputSpec, codes: bool) -> onnx.ModelProto:
    """A model that gives back its normalized input, or the values of the codes it makes of it."""
    channels, side, _ = spec.shape
    nodes, constants = [helper.make_node("Identity", ["input"], ["output"])], []
    if codes:
        grid = grid_of(spec)
        constants = [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [grid.scale]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [grid.zero_point]),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["output"]),
        ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", channels, side, side])
        for n in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "identity", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("normalization", [*NORMALIZATIONS, "gray 0.4/0.3"])
@pytest.mark.parametrize("side", [16, 13])
def test_any_preprocessing_is_the_same_from_pixels(normalization: str, side: int, codes: bool):
    gray = normalization.startswith("gray")
    spec = InputSpec.cropped(side, normalization=normalization, gray=gray)
    model = identity(spec, codes)
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    values = normalize(pixels, spec)
    expected = open_session(model.SerializeToString()).run(None, {"input": values})[0]
    taking = take_pixels(model, spec)
    onnx.checker.check_model(taking, full_check=True)
    found = open_session(taking.SerializeToString()).run(None, {"pixels": pixels})[0]
    assert np.array_equal(found, expected)
    assert np.array_equal(normalize(denormalize(values, spec), spec), values)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 32), (32, 32), (333, 97), (61, 120), (7, 9)])
@pytest.mark.parametrize(
    "convention", ["keras", "torchvision", "hugging-face", "stretch", "tf-slim"]
)
def test_an_image_is_resized_and_cut_as_pillow_does(encoded, size, interpolation, convention):
    resize = 32 if convention == "stretch" else 37
    spec = InputSpec(
        resolution=32, resize=resize, interpolation=interpolation, convention=convention
    )
    image = decode(encoded(size=size), "image")
    expected = normalize(resize_and_crop(image, spec), spec)
    taking = take_image(take_pixels(identity(spec, codes=False), spec), spec)
    onnx.checker.check_model(taking, full_check=True)
    session = open_session(taking.SerializeToString())
    found = session.run(None, {"image": np.asarray(image)})[0][0]
    if convention == "tf-slim":  # predict normalizes the squashed pixels without rounding them
        expected = np.rint((expected + 1) * 127.5) / 127.5 - 1
    levels = np.abs(found - expected) * 127.5
    # Of tall images that are stretched, Pillow resamples columns first.
    columns_first = convention == "stretch" and size[1] > size[0]
    assert levels.max() < (2.01 if columns_first else 1.01)  # where sums round the other way
    # most at ratios such as 72:120, which have many ties
    assert (levels > 0.5).mean() < (0.2 if columns_first else 0.06)


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]])
@pytest.mark.parametrize("normalization", ["inception", "imagenet", "bgr 103.939,116.779,123.68"])
def test_a_first_convolution_on_quads_is_the_same(small_graph, tmp_path, pads, normalization):
    g = small_graph()
    g.head(g.node("Relu", g.conv("x", 3, 16, strides=[2, 2], pads=pads)), 16)
    facts = Facts(
        stage="foreign",
        input=InputSpec.cropped(32, normalization=normalization),
        classes=tuple("abc"),
        data="digits",
    )
    model = with_facts(g.model(("N", 3)), facts)
    source = save_artifact(tmp_path / "float.onnx", model, facts, Record())
    config = QuantizeConfig(calib_count=8, target="vnni", cross=True)
    made = load_onnx(quantize(source, config, tmp_path / "int8.onnx").path)
    taking = take_pixels(made, facts.input)
    onnx.checker.check_model(taking, full_check=True)
    assert any(t.name == "quads_weight_codes" for t in taking.graph.initializer)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    for exact in (True, False):
        config = SessionConfig(threads=1, integer_kernels=exact)
        before, after = (open_session(m.SerializeToString(), config) for m in (made, taking))
        expected = before.run(None, {"x": normalize(pixels, facts.input)})[0]
        assert np.array_equal(after.run(None, {"pixels": pixels})[0], expected)


def test_weights_that_were_kept_within_16_bits_stay_so():
    codes = np.zeros((1, 4, 3, 3), np.int8)
    codes[0, 0, :, :], codes[0, 2] = 100, 100  # with channels 1 and 3, which are 0
    assert _fit_pairs(codes)
    stem = Stem(*[onnx.NodeProto()] * 2, codes[:, :3], *[np.ones(1)] * 3, (0, 0, 1, 1))
    assert not _fit_pairs(stem.on_quads)  # channel 2 of a pixel meets channel 0 of the next


def test_a_package_has_what_its_manifest_says(package):
    manifest = json.loads((package.folder / "manifest.json").read_text())
    files = {p for p in package.folder.rglob("*") if p.is_file()}
    assert {str(p.relative_to(package.folder)) for p in files} == {
        "manifest.json",
        *manifest["files"],
    }
    targets = [variant["target"] for variant in manifest["variants"]]
    assert targets[-2:] == ["avx2", "fp32"]
    assert len(targets) == 3
    assert "| `fp32` |" in (package.folder / "README.md").read_text()
    assert (package.folder / "labels.txt").read_text().split() == list("0123456789")
    for variant in manifest["variants"]:
        assert variant["pixels"]["agreement"] == 1
        assert variant["pixels"]["max_difference"] < 1e-6
        assert (variant["sqnr_db"] is None) == (variant["target"] == "fp32")
        model = load_onnx(package.folder / variant["image"]["model"])
        assert [value.name for value in model.graph.output] == [
            "probabilities",
            "top_probabilities",
            "top_classes",
        ]


def test_a_name_of_two_lines_is_one_label():
    names = ("tench", "gold\nfish", "sea\r\nlion", "a\u2028b", "", "ray")
    text = labels_text(names)
    assert text.splitlines() == ["tench", "gold fish", "sea lion", "a b", "", "ray"]
    assert text.split("\n")[:-1] == text.splitlines()


def test_int8_answers_bit_for_bit_as_before(package, chain):
    target = chain.int8.record.target
    session = open_session(package.folder / target / "pixels.onnx", SessionConfig(threads=1))
    before = open_session(chain.int8.path, SessionConfig(threads=1))
    spec = chain.int8.facts.input
    for sample in open_dataset("digits", "val").samples[:20]:
        pixels = resize_and_crop(decode(sample.read(), sample.key), spec)
        logits = before.run(None, {"input": normalize(pixels, spec)[None]})[0][0]
        found = session.run(None, {"pixels": pixels[None]})
        shares = np.exp(logits - logits.max())
        np.testing.assert_allclose(found[0][0], shares / shares.sum(), rtol=1e-5)
        assert found[2][0].tolist() == np.argsort(-logits, kind="stable")[:3].tolist()


def test_predict_and_evaluate_take_a_package(package, tmp_path):
    image = tmp_path / "digit.png"
    image.write_bytes(open_dataset("digits", "val").samples[0].read())
    told = []
    for model in (package.folder, package.folder / package.pick().pixels.model):
        result = CliRunner().invoke(app, ["predict", str(model), str(image), "--json"])
        assert result.exit_code == 0
        told.append(json.loads(result.stdout)[0]["predictions"])
    assert told[0] == told[1]
    result = CliRunner().invoke(
        app, ["evaluate", str(package.folder), "--data", "digits", "--json"]
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["images"] == 359


def test_a_provider_takes_the_first_variant_that_it_runs(package, monkeypatch):
    """As on a GPU, which refuses integers; a refusal of all is told as the provider told it."""
    opened = package_room.open_session

    def refusing(model, config):
        if config.provider == "Float" and model.parent.name != "fp32":
            raise ProviderError("integers are not for it", "Take fp32")
        return opened(model, SessionConfig())

    monkeypatch.setattr(package_room, "open_session", refusing)
    assert package.pick().target != "fp32"
    assert package.pick(provider="Float").target == "fp32"
    with pytest.raises(ProviderError, match="integers are not for it"):
        only(package, package.pick().target).pick("Float")


def only(package: Package, target: str) -> Package:
    """A package that has no other variant."""
    kept = tuple(v for v in package.manifest.variants if v.target == target)
    return replace(package, manifest=package.manifest.model_copy(update={"variants": kept}))


def test_a_saturating_variant_is_never_taken(package, avx2_only):
    program = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from mobilenet_cli.pipeline.deploying.package import open_package\n"
        "from mobilenet_cli.pipeline.errors import ProviderError\n"
        "package = open_package(Path(sys.argv[1]))\n"
        "print(package.pick().target)\n"
        "whole = package.manifest\n"
        "for variant in whole.variants:\n"
        "    if variant.target not in sys.argv[2:]: continue\n"
        "    manifest = whole.model_copy(update={'variants': (variant,)})\n"
        "    try: print('took', replace(package, manifest=manifest).pick().target)\n"
        "    except ProviderError as error: print(error)\n"
    )
    wide = [v.target for v in package.manifest.variants if v.target in ("amx", "vnni")]
    command = [sys.executable, "-c", program, str(package.folder), *wide]
    result = subprocess.run(command, env=avx2_only, capture_output=True, text=True, check=True)
    taken, *refused = result.stdout.splitlines()
    assert taken == "avx2"
    assert len(refused) == len(wide) >= 1
    for target, sentence in zip(wide, refused, strict=True):
        assert f"cannot run {target} of" in sentence


def predict_with(folder: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["predict", str(folder), str(folder / "labels.txt")])
    return result.exit_code, result.stderr


def change_file(folder: Path) -> None:
    path = folder / "fp32" / "image.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def change_manifest(**changes: object):
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def other_machine(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for variant in manifest["variants"]:
        variant["machines"] = ["another"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_file, "fp32/image.onnx is not the file that was proven"),
        (lambda folder: (folder / "probe.bin").unlink(), "lacks probe.bin"),
        (change_manifest(schema_version=2), "is of version 2, and this program reads 1"),
        (change_manifest(variants="none"), "cannot be read"),
        (change_manifest(files={"../labels.txt": ""}), "lacks ../labels.txt"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is no manifest"),
        (other_machine, "this CPU cannot run"),
    ],
)
def test_a_damaged_package_is_refused_in_a_sentence(copy, damage, words):
    damage(copy)
    status, told = predict_with(copy)
    assert status == 2
    assert words in told.replace("\n", " ")
    assert "Traceback" not in told


def test_a_target_that_is_not_there_is_named():
    with pytest.raises(OptionError, match="no variant can be made for 'tensorrt'"):
        DeployConfig(targets=("tensorrt",))


def test_what_does_not_answer_like_predict_is_not_kept():
    right = InputProof(model="a", size=1, agreement=1.0, max_difference=0.0)
    check("vnni", {"pixels": right, "image": right})
    for name, wrong in (("pixels", {"max_difference": 0.01}), ("image", {"agreement": 0.9})):
        proofs = {"pixels": right, "image": right}
        proofs[name] = right.model_copy(update=wrong)
        with pytest.raises(CheckError, match="the vnni variant does not answer like predict"):
            check("vnni", proofs)


def test_a_fixed_batch_is_refused_in_a_sentence(chain, tmp_path):
    model = load_onnx(chain.folded.path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    path = save_artifact(
        tmp_path / "model.onnx", with_facts(model, chain.folded.facts), chain.folded.facts, Record()
    ).path
    result = CliRunner().invoke(app, ["deploy", str(path), "--out", str(tmp_path / "package")])
    assert result.exit_code == 2
    assert "batch size" in result.stderr
    assert "is fixed at 4" in result.stderr.replace("\n", " ")


def test_the_record_of_another_file_is_not_taken(chain, tmp_path):
    """As a file that was copied without its sidecar leaves it, beside the sidecar of its own."""
    path = Path(shutil.copy(chain.int8.path, tmp_path))
    shutil.copy(sidecar_path(chain.folded.path), sidecar_path(path))
    made = deploy(load_artifact(path), DeployConfig(images=2), tmp_path / "package")
    assert [variant.sqnr_db for variant in made.manifest.variants] == [None]
    with_it = deploy(chain.int8, DeployConfig(images=2), tmp_path / "other")
    assert with_it.manifest.variants[0].sqnr_db == chain.int8.record.sqnr_db


def test_deploy_writes_over_packages_alone(chain, tmp_path):
    (tmp_path / "manifest.json").write_text("of a web page")
    result = CliRunner().invoke(app, ["deploy", str(chain.folded.path), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "exists and is no package" in result.stderr.replace("\n", " ")
    result = CliRunner().invoke(app, ["deploy", str(chain.checkpoint.path), "--out", "unused"])
    assert result.exit_code == 2
    assert "is not an ONNX model that names its classes" in result.stderr.replace("\n", " ")


def test_an_image_that_cannot_be_read_is_left_out_and_counted(chain, class_folders, tmp_path):
    photos = class_folders({"4": 3})
    (photos / "4" / "000.png").write_bytes(b"no image")
    arguments = ["--data", str(photos), "--out", str(tmp_path / "package")]
    result = CliRunner().invoke(app, ["deploy", str(chain.folded.path), *arguments])
    assert result.exit_code == 0, result.stderr
    assert "left out, cannot be read: 1 image: " in result.stderr
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert (manifest["images"], len(manifest["bad_images"])) == (2, 1)
    for path in (photos / "4").iterdir():
        path.write_bytes(b"no image")
    result = CliRunner().invoke(app, ["deploy", str(chain.folded.path), *arguments])
    assert result.exit_code == 2
    assert "can be read: 3 images tried, such as: " in result.stderr


def test_a_package_that_cannot_be_written_whole_leaves_nothing(chain, tmp_path, monkeypatch):
    written, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    arguments = ["deploy", str(chain.folded.path), "--out", str(tmp_path / "package")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_this_machine_takes_what_it_computes_rightly(package):
    assert open_package(package.folder) == package
    taken = package.pick()
    assert platform.machine() in (taken.machines or [platform.machine()])
