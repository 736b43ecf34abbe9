"""A model that takes JPEG files answers as predict, and stops at what is none."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.deploying.deploy import DeployConfig, deploy
from mobilenet_cli.pipeline.deploying.package import Package
from mobilenet_cli.pipeline.deploying.variants import check
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError
from mobilenet_cli.pipeline.evaluating.predicting.predict import predict
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.deployment import InputProof

TURNED = 6  # EXIF orientation: the first row is the image's right side
TAKES = SessionConfig(threads=1, extensions=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Digits as JPEG files in colour, in gray, turned and in CMYK, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for number, sample in enumerate(open_dataset("digits", "val").samples[:9]):
        image = decode(sample.read(), sample.key).resize((96 + number, 64))
        options: dict[str, Any] = {"quality": 95, "progressive": number % 2 == 1}
        if number == 3:
            exif = Image.Exif()
            exif[274] = TURNED
            options["exif"] = exif
        mode = {4: "L", 5: "CMYK"}.get(number, "RGB")
        form = "PNG" if number == 6 else "JPEG"
        image.convert(mode).save(folder / f"{number}.jpg", form, **options)
    return folder


@pytest.fixture(scope="module")
def made(chain, photos, tmp_path_factory) -> Package:
    pytest.importorskip("onnxruntime_extensions", reason="not installed (extra jpeg)")
    config = DeployConfig(str(photos), targets=("avx2",), jpeg=True)
    return deploy(chain.int8, config, tmp_path_factory.mktemp("deployed") / "package")


def test_jpeg_files_are_answered_as_predict_does(made, photos):
    assert made.manifest.jpegs == 8  # and a PNG file
    for variant in made.manifest.variants:
        assert variant.jpeg
        assert variant.jpeg.agreement == 1.0
        assert made.manifest.files[variant.jpeg.model]
    variant = made.pick()
    session = open_session(made.folder / variant.jpeg.model, TAKES)
    facts = load_artifact(made.folder / variant.jpeg.model).facts
    samples = {Path(sample.key).stem: sample for sample in open_dataset(str(photos), "all").samples}
    for name in ("0", "3", "4"):  # in colour, turned, gray
        path = photos / f"{name}.jpg"
        (given,) = session.run(None, {"jpeg": np.frombuffer(path.read_bytes(), np.uint8)})
        (told,) = predict(load_artifact(made.folder / variant.pixels.model), [samples[name]])
        best = told.as_document()["predictions"][0]
        assert facts.class_of(int(given[0].argmax()))[0] == best["class"]
        assert given[0].max() == pytest.approx(best["probability"], abs=0.05)


NO_FILE = "the bytes are not those of a whole JPEG file"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _: b"", NO_FILE),
        (lambda whole: whole[:1], NO_FILE),
        (lambda whole: whole[:3], NO_FILE),
        (lambda _: b"no image" * 20, NO_FILE),
        (lambda whole: whole[:-40], NO_FILE),
        (lambda whole: whole[3:], NO_FILE),
        (lambda whole: b"\x89PNG" + whole, NO_FILE),
        (lambda whole: whole[:4] + whole[200:], "Failed to decode"),
        (lambda whole: whole[:2] + whole[-2:], "Failed to decode"),
    ],
)
def test_what_is_no_whole_jpeg_file_is_an_error(made, photos, damage, words):
    encoded = damage((photos / "0.jpg").read_bytes())
    session = open_session(made.folder / made.pick().jpeg.model, TAKES)
    with pytest.raises(ModelError, match=words):
        session.run(None, {"jpeg": np.frombuffer(encoded, np.uint8)})


def test_it_must_be_asked_for(package):
    assert package.manifest.jpegs == 0
    assert not any(variant.jpeg for variant in package.manifest.variants)
    assert "jpeg.onnx" not in (package.folder / "README.md").read_text()


def test_the_card_says_how_to_load_it(made):
    text = " ".join((made.folder / "README.md").read_text().split())
    assert "get_library_path()" in text
    assert "same class as `predict` on 100.0 % of 8 such files" in text


def test_where_no_image_is_a_jpeg_file_it_is_refused(chain, tmp_path):
    pytest.importorskip("onnxruntime_extensions", reason="not installed (extra jpeg)")
    with pytest.raises(OptionError, match="none of 4 images of digits is a whole JPEG file"):
        deploy(chain.int8, DeployConfig(jpeg=True, images=4), tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_without_the_extra_it_is_a_sentence(chain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    command = ["deploy", str(chain.int8.path), "--jpeg", "--out", str(tmp_path / "package")]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["error"].startswith("--jpeg needs the package onnxruntime-extensions, which is")
    assert "mobilenet-cli[jpeg]" in found["fix"]


def test_a_version_that_writes_beyond_its_memory_is_refused(chain, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime_extensions", reason="not installed (extra jpeg)")
    monkeypatch.setattr("mobilenet_cli.pipeline.deploying.jpeg.version", lambda _: "0.15.2")
    with pytest.raises(OptionError, match=r"0\.15\.2 writes gray images beyond its memory"):
        deploy(chain.int8, DeployConfig(jpeg=True, images=4), tmp_path / "package")


def test_what_does_not_answer_like_predict_is_not_kept():
    right = InputProof(model="a", size=1, agreement=1.0, max_difference=0.0)
    proofs = {"pixels": right, "image": right, "jpeg": right}
    check("vnni", proofs)
    wrong = right.model_copy(update={"agreement": 0.9})
    with pytest.raises(CheckError, match="jpeg: the same class or box in 90") as error:
        check("vnni", proofs | {"jpeg": wrong})
    assert error.value.fix.startswith("Leave --jpeg out")
    with pytest.raises(CheckError) as error:
        check("vnni", proofs | {"jpeg": wrong, "image": wrong})
    assert error.value.fix.startswith("Install the onnxruntime version")


def test_other_commands_send_one_to_the_package(made, photos):
    variant = made.pick()
    for file, words in (
        (variant.jpeg.model, "needs operators of the package onnxruntime-extensions"),
        (variant.image.model, "takes an input of shape"),
    ):
        command = ["predict", str(made.folder / file), str(photos / "0.jpg")]
        result = CliRunner().invoke(app, command)
        told = result.stderr.replace("\n", " ")
        assert result.exit_code == 2
        assert words in told
        assert "folder" in told
