"""Which images of a detector a report shows, and what is drawn into them."""

import json
import re
from pathlib import Path

import pytest

from mobilenet_cli.data.boxes.shapes import open_shapes
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.evaluate_model import evaluate_model
from mobilenet_cli.pipeline.evaluating.records import boxes_in
from mobilenet_cli.pipeline.reporting.box_cases import SHOWN, differing_boxes, mistaken_boxes
from mobilenet_cli.pipeline.reporting.report import report
from mobilenet_cli.reports.records.detection import BoxesRecord, ImageBoxes

NAMES = ("disc", "square")
HERE = (0, 10.0, 10.0, 50.0, 50.0)
NEAR = (0, 12.0, 10.0, 52.0, 50.0)
ELSEWHERE = (0, 60.0, 60.0, 90.0, 90.0)


def image(key: str, found=(), objects=(), ignored=()) -> ImageBoxes:
    return ImageBoxes(key=key, size=(100, 100), objects=objects, ignored=ignored, found=found)


def record(*images: ImageBoxes) -> BoxesRecord:
    return BoxesRecord(
        model="m.onnx",
        sha256="0",
        data="d",
        source="d",
        data_fingerprint="f",
        provider="p",
        min_score=0.5,
        images=images,
    )


def kinds(case) -> list[tuple[str, float | None]]:
    return [(box.kind, box.probability) for box in case.boxes]


def test_what_is_wrong_is_what_ap50_counts():
    cases = mistaken_boxes(
        record(
            image("right", found=((*NEAR, 0.9),), objects=(HERE,)),
            image("twice", found=((*NEAR, 0.9), (*HERE, 0.8)), objects=(HERE,)),
            image("crowd", found=((*NEAR, 0.9),), ignored=(HERE,)),
            image("other class", found=((1, *HERE[1:], 0.7),), objects=(HERE,)),
            image("missed", objects=(ELSEWHERE,)),
            image("nothing"),
        ),
        NAMES,
    )
    assert {case.key: kinds(case) for case in cases} == {
        "twice": [("right", 0.9), ("invented", 0.8)],
        "other class": [("invented", 0.7), ("missed", None)],
        "missed": [("missed", None)],
    }
    assert [case.key for case in cases] == ["twice", "other class", "missed"]
    assert cases[1].boxes[0].name == "square"
    assert cases[1].counts == {"invented": 1, "missed": 1}


def test_half_of_the_gallery_is_invented_and_half_missed():
    surer = [image(f"invented {i}", found=((*HERE, 0.5 + i / 100),)) for i in range(SHOWN)]
    larger = [image(f"missed {i}", objects=((0, 0.0, 0.0, 10.0 + i, 10.0),)) for i in range(SHOWN)]
    keys = [case.key for case in mistaken_boxes(record(*surer, *larger), NAMES)]
    half = SHOWN // 2
    assert keys[:half] == [f"invented {i}" for i in range(SHOWN - 1, SHOWN - 1 - half, -1)]
    assert keys[half:] == [f"missed {i}" for i in range(SHOWN - 1, SHOWN - 1 - half, -1)]
    keys = [case.key for case in mistaken_boxes(record(*surer, larger[0]), NAMES)]
    assert (len(keys), keys[-1]) == (SHOWN, "missed 0")


def test_boxes_that_one_of_two_models_finds():
    base = record(
        image("same", found=((*HERE, 0.9),)),
        image("float", found=((*HERE, 0.8), (*ELSEWHERE, 0.6))),
        image("int8", found=((*HERE, 0.9),)),
        image("gone", found=((*HERE, 0.9),)),
    )
    other = record(
        image("same", found=((*NEAR, 0.7),)),
        image("float", found=((*NEAR, 0.7),)),
        image("int8", found=((*NEAR, 0.7), (*ELSEWHERE, 0.65))),
    )
    cases = differing_boxes(base, other, NAMES)
    assert {case.key: kinds(case) for case in cases} == {
        "int8": [("both", 0.9), ("int8", 0.65)],
        "float": [("both", 0.8), ("float", 0.6)],
    }
    assert [case.key for case in cases] == ["int8", "float"]


@pytest.fixture
def run(detector, tmp_path: Path) -> Run:
    """A run of the small detector, evaluated on ten shapes whose classes it has."""
    folder = tmp_path / "run"
    folder.mkdir()
    for made in (detector.folded, detector.int8):
        for path in (made.path, made.path.with_name(made.path.name + ".json")):
            (folder / path.name).write_bytes(path.read_bytes())
    images, annotations = [], []
    for index, labelled in enumerate(open_shapes("val").images[:10]):
        (tmp_path / f"{index}.png").write_bytes(labelled.sample.read())
        images.append({"id": index, "file_name": f"{index}.png", "width": 96, "height": 96})
        for left, top, right, bottom in labelled.boxes.corners.tolist():
            box = [left, top, right - left, bottom - top]
            annotations.append({"image_id": index, "category_id": 1, "bbox": box})
    categories = [{"id": 1, "name": "square"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "labels.json").write_text(json.dumps(document))
    return Run(folder)


def test_a_report_draws_them(run, tmp_path):
    for path in (run.folded, run.int8):
        evaluate_model(load_artifact(path), EvaluateConfig(str(tmp_path / "labels.json")), run)
    assert [len(r.images) for r in boxes_in(run).read()] == [10, 10]
    made, paths = report(run)
    shown = (*made.run.differing_boxes, *made.run.mistaken_boxes)
    assert made.run.mistaken_boxes
    text = paths["html"].read_text()
    assert text.count('<svg viewBox="0 0 96 96"') == len(shown)
    assert text.count('<image href="data:image/jpeg;base64,') == len(shown)
    drawn = re.findall(r'<rect class="box (\w+)"', text)
    assert drawn == [box.kind for case in shown for box in case.boxes]
    (tmp_path / "0.png").unlink()
    text = report(run)[1]["html"].read_text()
    assert "<image" not in text
    assert "There are no pictures: " in text
    run.boxes.write_text("{")
    assert "boxes.json" in {part.file for part in report(run)[0].run.missing}
