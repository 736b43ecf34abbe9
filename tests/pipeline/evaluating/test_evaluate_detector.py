"""Average precision: pycocotools' own, its bootstrap, the published figures, and what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.boxes.box_dataset import Boxes
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.models.detections import Detections
from mobilenet_cli.pipeline.errors import DataError, NotFiniteError, OptionError
from mobilenet_cli.pipeline.evaluating import average_precision
from mobilenet_cli.pipeline.evaluating.average_precision import measure
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.evaluate_detector import (
    evaluate_detector,
    intervals,
    resampled,
)
from mobilenet_cli.pipeline.evaluating.predicting.predict_boxes import predict_boxes
from mobilenet_cli.pipeline.runtime.predictor import Predictor
from mobilenet_cli.reports.accuracy_statistics import compare_precision


def random_case(seed: int, images: int = 12, classes: int = 3) -> tuple[list, list]:
    """Objects, some of them ignored, and detections near them, with ties in probability."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(images):
        n = int(rng.integers(0, 6))
        low = rng.uniform(0, 80, (n, 2))
        corners = np.concatenate([low, low + rng.uniform(5, 60, (n, 2))], 1).astype(np.float32)
        labels = rng.integers(0, classes, n)
        areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
        truth.append(Boxes(corners, labels, rng.random(n) < 0.2, areas))
        near = corners[rng.random(n) < 0.8]
        boxes = np.concatenate([near + rng.normal(0, 4, near.shape), rng.uniform(0, 90, (3, 4))])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = np.sort(rng.integers(1, 10, len(boxes)) / 10)[::-1].astype(np.float32)
        found.append(
            Detections(boxes.astype(np.float32), scores, rng.integers(0, classes, len(boxes)))
        )
    return truth, found


@pytest.mark.parametrize("seed", range(4))
def test_counting_again_gives_what_pycocotools_gives(seed: int) -> None:
    coco = measure(*random_case(seed), 3)
    once = np.ones(coco.images, np.int64)
    each = [m.precision(once) for m in coco.matches]
    mean = np.mean([values for values in each if values is not None], axis=0)
    np.testing.assert_allclose(
        (mean.mean(), mean[average_precision.AT_50], mean[average_precision.AT_75]),
        coco.stats[:3],
        atol=1e-9,
    )
    for index, precision in enumerate(coco.precision):
        own = coco.of_class(index).ap50
        assert precision.mean() == pytest.approx(own or 0.0, abs=1e-9)


def test_the_interval_is_that_of_resampled_images() -> None:
    truth, found = random_case(0, images=40)
    coco = measure(truth, found, 3)
    rows = coco.bootstrap(seed=1)
    assert rows.shape == (average_precision.RESAMPLES, 3)
    # drawn again by hand: an image that is drawn twice is there twice
    drawn = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40))
    twice = np.repeat(np.arange(40), drawn)
    again = measure([truth[i] for i in twice], [found[i] for i in twice], 3)
    np.testing.assert_allclose(rows[0], again.stats[:3], atol=0.02)  # ties are in another order
    (ap, *_) = intervals(coco, coco.bootstrap())
    assert ap.low < ap.value < ap.high


def test_two_detectors_are_compared_on_the_same_resamples(detector, squares) -> None:
    """What differs in a few images has a narrower interval than either has alone."""
    truth, found = random_case(0, images=40)
    none = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    worse = [none, none, *found[2:]]
    made = evaluate_detector(detector.int8, EvaluateConfig(str(squares)))
    records = []
    for name, detections in (("a.onnx", found), ("b.onnx", worse)):
        coco = measure(truth, detections, 3)
        rows = coco.bootstrap()
        update = {"model": name, "ap50": intervals(coco, rows)[1]}
        update["ap50_resampled"] = resampled(rows[:, 1])
        records.append(made.model_copy(update=update))
    pair = compare_precision(*records)
    assert pair is not None
    assert (pair.base, pair.other, pair.images) == ("a.onnx", "b.onnx", made.images)
    difference = pair.difference
    assert difference.value == records[1].ap50.value - records[0].ap50.value < 0
    assert difference.low < difference.value < difference.high
    assert difference.high - difference.low < records[0].ap50.high - records[0].ap50.low
    same = compare_precision(records[0], records[0])
    assert same is not None
    assert (same.difference.low, same.difference.high) == (0, 0)
    for other in ({"data_fingerprint": "other"}, {"images": 9}, {"ap50_resampled": ()}):
        assert compare_precision(records[0], records[1].model_copy(update=other)) is None


def test_nothing_found_and_nothing_there() -> None:
    truth, found = random_case(0)
    none = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    assert measure(truth, [none] * len(truth), 3).stats[0] == 0
    empty = Boxes(np.empty((0, 4), np.float32), *(np.empty(0, t) for t in (int, bool, np.float32)))
    nothing = measure([empty] * len(found), found, 3)
    assert nothing.stats[0] == -1
    assert nothing.of_class(0).ap is None
    assert intervals(nothing, nothing.bootstrap())[0].low is None


@pytest.fixture
def squares(tmp_path: Path, encoded) -> Path:
    """Ten images of one object each, in COCO's format."""
    images, annotations = [], []
    for index in range(10):
        (tmp_path / f"{index}.png").write_bytes(encoded(seed=index, size=(80, 60)))
        images.append({"id": index, "file_name": f"{index}.png", "width": 80, "height": 60})
        annotations.append({"image_id": index, "category_id": 1, "bbox": [20, 15, 40, 30]})
    names = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
    document = {"images": images, "annotations": annotations, "categories": names}
    (tmp_path / "labels.json").write_text(json.dumps(document))
    return tmp_path / "labels.json"


class Oracle:
    """A predictor that finds one box in the middle of each image, of the second class."""

    def __init__(self, detector, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = detector.checkpoint.facts.boxes
        middle = np.tile(np.array([[0.25, 0.25, 0.75, 0.75]], np.float32), (spec.count, 1))
        logits = np.full((spec.count, 3), [5.0, 0, 0], np.float32)
        logits[7] = [0, 0, 5]
        self.row = np.concatenate([spec.encode(middle), logits], axis=1)

        def opened(*_):
            from contextlib import nullcontext

            return nullcontext(Predictor("oracle", 1, lambda _: self.row[None]))

        from mobilenet_cli.pipeline.evaluating import detecting

        monkeypatch.setattr(detecting, "open_predictor", opened)


def test_a_detector_that_is_right_has_an_ap_of_100(detector, squares, monkeypatch) -> None:
    Oracle(detector, monkeypatch)
    record = evaluate_detector(detector.int8, EvaluateConfig(str(squares)))
    assert (record.ap.value, record.ap50.low, record.ap75.high) == pytest.approx((100,) * 3)
    assert (record.images, record.objects, record.detections) == (10, 10, 10)
    assert [(c.name, c.objects, c.ap) for c in record.classes] == [
        ("disc", 0, None),
        ("square", 10, pytest.approx(100)),
    ]
    assert record.as_document()["ap50_interval"] == pytest.approx([100, 100])


def test_bad_images_and_labels_are_told(detector, squares, monkeypatch) -> None:
    oracle = Oracle(detector, monkeypatch)
    (squares.parent / "0.png").write_bytes(b"no image")
    document = json.loads(squares.read_text())
    document["images"][1] |= {"width": 800}
    squares.write_text(json.dumps(document))
    record = evaluate_detector(detector.int8, EvaluateConfig(str(squares)))
    assert record.images == 8
    assert any(
        "1.png has 80x60 pixels, and its labels are for 800x60" in b for b in record.bad_images
    )
    with pytest.raises(DataError, match=r"0\.png"):
        evaluate_detector(detector.int8, EvaluateConfig(str(squares), strict=True))
    document["categories"][0]["name"] = "sqare"
    squares.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"is no class of .*'sqare'\. Name the classes .* 'square'"):
        evaluate_detector(detector.int8, EvaluateConfig(str(squares)))
    document["categories"][0]["name"] = "square"
    squares.write_text(json.dumps(document))
    oracle.row[0] = np.nan
    with pytest.raises(NotFiniteError, match=r"output for 2\.png is NaN or infinite") as stopped:
        evaluate_detector(detector.int8, EvaluateConfig(str(squares)))
    photos = [Sample(f"{n}.png", None, (squares.parent / f"{n}.png").read_bytes) for n in (0, 2, 3)]
    told = [answer.error and answer.error.what for answer in predict_boxes(detector.int8, photos)]
    assert "is not an image" in str(told[0])
    assert told[1] == stopped.value.what
    assert "3.png is NaN or infinite" in str(told[2])


def test_strict_stops_where_an_image_is_not_there(detector, squares) -> None:
    (squares.parent / "3.png").unlink()
    assert evaluate_detector(detector.int8, EvaluateConfig(str(squares))).images == 9
    with pytest.raises(DataError, match=r"labels of an image that is not there \(.*3\.png\)"):
        evaluate_detector(detector.int8, EvaluateConfig(str(squares), strict=True))


def test_images_without_any_object_have_no_precision(detector, squares) -> None:
    document = json.loads(squares.read_text())
    squares.write_text(json.dumps(document | {"annotations": []}))
    with pytest.raises(DataError, match="have no objects to find, so there is no precision"):
        evaluate_detector(detector.int8, EvaluateConfig(str(squares)))


def test_every_file_of_a_detector_is_evaluated(detector, squares) -> None:
    records = [
        evaluate_detector(made, EvaluateConfig(str(squares), workers=workers))
        for made, workers in ((detector.checkpoint, 1), (detector.fp32, 2), (detector.folded, 1))
    ]
    assert len({(r.detections, round(r.ap50.value, 6)) for r in records}) == 1
    with pytest.raises(OptionError, match="does not say on which images"):
        evaluate_detector(detector.fp32, EvaluateConfig())


def test_the_command_prints_and_keeps_the_record(detector, squares) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(detector.int8.path), "--data", str(squares)])
    assert result.exit_code == 0, result.output
    assert "AP50" in result.stdout
    assert "square (10)" in result.stdout


def test_the_files_of_a_run_are_compared_image_by_image(
    detector, squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(squares.parent)
    for name in ("a", "b"):
        for made in (detector.checkpoint, detector.folded, detector.int8):
            copy = Path("runs", name, made.path.name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            for file in (made.path, made.path.with_name(f"{made.path.name}.json")):
                if file.exists():
                    shutil.copy(file, copy.with_name(file.name))

    def cli(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return done.stdout

    for name in ("a", "b"):
        cli("evaluate", "--run", name, "--data", str(squares))
    cli("report", "--run", "a")
    said = json.loads(Path("runs/a/report.json").read_bytes())
    assert "AP50 was found (95 %: " in said["headline"] or "AP50 changes by" in said["headline"]
    pairs = {pair["other"]: pair["difference"] for pair in said["run"]["paired_precision"]}
    assert pairs["model.safetensors"] == {"schema_version": 1, "value": 0, "low": 0, "high": 0}
    assert "AP50 on the same images" in Path("runs/a/report.html").read_text()
    compared = json.loads(cli("report", "--compare", "a", "b", "--json"))
    assert [pair["precision"]["difference"]["value"] for pair in compared["pairs"]] == [0, 0, 0]
    assert "| AP50 % |" in cli("report", "--compare", "a", "b")
    assert "| b | quantize | +0.00 (+0.00 to +0.00) |" in cli("report", "--compare", "a", "b")
