"""A detector's package: its files, its program, and what a detector cannot have."""

import io
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.boxes.shapes import open_shapes
from mobilenet_cli.models.detections import Detections, NmsConfig, common
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.deploying.answering import Boxes
from mobilenet_cli.pipeline.deploying.deploy import DeployConfig, deploy
from mobilenet_cli.pipeline.deploying.package import Package, open_package
from mobilenet_cli.pipeline.deploying.probe import RAW_TOLERANCE, answers_of, distance
from mobilenet_cli.pipeline.errors import CheckError, OptionError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.evaluate_detector import evaluate_detector
from mobilenet_cli.pipeline.exporting import nms
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

LEAST = 0.3


@pytest.fixture(scope="module")
def package(detector, tmp_path_factory) -> Package:
    config = DeployConfig("shapes", images=4, min_score=LEAST)
    return deploy(detector.int8, config, tmp_path_factory.mktemp("detector") / "package")


@pytest.fixture
def photo(tmp_path) -> Path:
    """A rendered scene, wider than high."""
    path = tmp_path / "photo.png"
    with Image.open(io.BytesIO(open_shapes("val").images[0].sample.read())) as scene:
        scene.resize((120, 90)).save(path)
    return path


def predicted(model: Path, photo: Path) -> list[dict]:
    arguments = ["predict", str(model), str(photo), "--json", "--min-score", str(LEAST)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)[0]["boxes"]


def test_a_package_has_what_its_manifest_says(package):
    files = {str(p.relative_to(package.folder)) for p in package.folder.rglob("*") if p.is_file()}
    assert files == {"manifest.json", *package.manifest.files}
    assert open_package(package.folder) == package
    for variant in package.manifest.variants:
        assert (variant.pixels.agreement, variant.pixels.max_difference) == (1, 0)
        assert variant.tolerance >= RAW_TOLERANCE
        for proof in (variant.pixels, variant.image):
            session = open_session(package.folder / proof.model)
            assert len(session.get_inputs()) == 1
            names = [output.name for output in session.get_outputs()]
            assert names == ["boxes", "scores", "classes", "count", "raw_boxes", "raw_scores"]
    record = package.manifest.nms
    assert (record.min_score, record.images) == (LEAST, 4)
    assert record.boxes_checked > 1000
    assert f"a probability of\n  {LEAST}; " in (package.folder / "README.md").read_text()
    assert (package.folder / "labels.txt").read_text().split() == ["disc", "square"]


def test_predict_and_evaluate_take_a_package(package, detector, photo):
    taken = package.folder / package.pick().pixels.model
    assert predicted(package.folder, photo) == predicted(detector.int8.path, photo)
    label = {"id": 1, "name": "square"}
    image = {"id": 1, "file_name": photo.name, "width": 120, "height": 90}
    objects = [{"image_id": 1, "category_id": 1, "bbox": [30, 20, 60, 50]}]
    document = {"images": [image], "annotations": objects, "categories": [label]}
    (photo.parent / "labels.json").write_text(json.dumps(document))
    config = EvaluateConfig(str(photo.parent / "labels.json"))
    records = [evaluate_detector(a, config) for a in (load_artifact(taken), detector.int8)]
    assert records[0].detections == records[1].detections > 0
    assert records[0].ap50 == records[1].ap50


def test_the_program_finds_the_boxes_of_predict(package, photo):
    program = package.folder / "detect.py"
    assert "mobilenet" not in program.read_text()
    assert len(program.read_text().splitlines()) < 80
    command = [sys.executable, "-P", str(program), str(photo)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    broken = subprocess.run([*command, "nowhere.jpg"], capture_output=True, text=True)
    assert (broken.returncode, broken.stdout) == (1, result.stdout)
    assert broken.stderr.startswith("nowhere.jpg cannot be read: ")
    wanted = predicted(package.folder / told["variant"] / "pixels.onnx", photo)
    kinds = ["disc", "square"]
    ours, theirs = (
        Detections(
            np.array([box["box"] for box in boxes], np.float32),
            np.array([box[score] for box in boxes], np.float32),
            np.array([kinds.index(box["class"]) for box in boxes]),
        )
        for boxes, score in ((wanted, "probability"), (told["boxes"], "score"))
    )
    assert len(ours) > 10
    assert common(ours, theirs, overlap=0.9) > 0.9 * max(len(ours), len(theirs))


def test_the_program_refuses_a_changed_package(package, photo, tmp_path):
    folder = Path(shutil.copytree(package.folder, tmp_path / "package"))
    (folder / "labels.txt").write_text("disc\nsquares\n")
    command = [sys.executable, str(folder / "detect.py"), str(photo)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "is not the file that was proven" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_probe_sees_every_head_and_nan(detector):
    spec = detector.int8.facts.boxes
    starts = np.cumsum([0, *(m.side**2 * len(m.sizes) for m in spec.anchors)])
    raw = np.random.default_rng(0).normal(size=(2, spec.count, 7)).astype(np.float32)
    answers = answers_of(raw, spec)
    assert distance(answers, raw) < 1e-4
    for first, last in itertools.pairwise(starts):
        wrong = raw.copy()
        wrong[1, first:last, :4] += 1  # the boxes of one head
        assert distance(answers, wrong) > RAW_TOLERANCE
    wrong[0] = np.nan
    assert not distance(answers, wrong) <= RAW_TOLERANCE


def test_other_boxes_than_the_reference_chooses_are_not_kept(detector, package):
    variant = package.manifest.variants[0]
    model = nms.load_onnx(package.folder / variant.pixels.model)
    spec = detector.int8.facts.boxes
    pixels = [np.zeros((1, 64, 64, 3), np.uint8)]
    right = Boxes(spec, NmsConfig(min_score=LEAST, max_overlap=spec.max_overlap), 64)
    assert right.check_chosen(model, pixels, SessionConfig()) > 0
    wrong = Boxes(spec, NmsConfig(min_score=LEAST, max_overlap=0.9), 64)
    with pytest.raises(CheckError, match="where the reference chooses"):
        wrong.check_chosen(model, pixels, SessionConfig())


def test_what_a_task_cannot_have_is_refused_in_a_sentence(detector, chain, tmp_path):
    out = tmp_path / "package"
    for config, words in (
        (DeployConfig("shapes", top=3), "is a detector, whose package gives boxes"),
        (DeployConfig("shapes", targets=("litert",)), "files for LiteRT are made of classifiers"),
    ):
        with pytest.raises(OptionError, match=words):
            deploy(detector.int8, config, out)
    with pytest.raises(OptionError, match="is a classifier, which finds no boxes"):
        deploy(chain.int8, DeployConfig(min_score=0.5), out)
    assert not out.exists()


def test_triton_repository_is_one(package):
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed"
    )
    from google.protobuf import text_format

    place = package.folder / "triton" / "detector"
    config = text_format.Parse((place / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == place.name
    made = {o.name: o.shape[1:] for o in open_session(place / "1" / "model.onnx").get_outputs()}
    for output in config.output:
        own = list(output.reshape.shape if output.HasField("reshape") else output.dims)
        assert own == made[output.name]
    assert [o.name for o in config.output] == ["boxes", "scores", "classes", "count"]
