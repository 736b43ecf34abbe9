"""A report of a detector has its average precision where a classifier's has top-1."""

from mobilenet_cli.reports.charts.run_charts import precision_chart
from mobilenet_cli.reports.markdown import report_markdown
from mobilenet_cli.reports.model_card import model_card
from mobilenet_cli.reports.records.accuracy import Interval
from mobilenet_cli.reports.records.detection import ClassPrecision, DetectionRecord
from mobilenet_cli.reports.records.run import BOXES, ArtifactRecord, RunRecord
from mobilenet_cli.reports.summary import summarize
from mobilenet_cli.reports.terminal import evaluation_notes, evaluation_text


def record(sha256: str, ap50: float) -> DetectionRecord:
    rows = (
        ClassPrecision(name="disc", objects=3, ap=40.0, ap50=60.0, precision=(1.0, 0.5, 0.0)),
        ClassPrecision(name="square", objects=0, ap=None, ap50=None, precision=(0.0, 0.0, 0.0)),
    )
    return DetectionRecord(
        model=f"runs/x/{sha256}.onnx",
        sha256=sha256,
        stage="",
        data="shapes (val)",
        data_fingerprint="f",
        provider="CPUExecutionProvider",
        images=1,
        bad_images=("a.png has no pixels",),
        objects=3,
        detections=5,
        ap=Interval(value=30.0, low=20.0, high=40.0),
        ap50=Interval(value=ap50, low=ap50 - 5, high=ap50 + 5),
        ap75=Interval(value=10.0),
        ap_small=None,
        ap_medium=30.0,
        ap_large=None,
        classes=rows,
        remarks=("2 boxes reach outside their image and were clipped, such as in a.png",),
        min_score=0.02,
        max_overlap=0.5,
        images_per_second=7.0,
        seconds=1.0,
        preprocessing={},
    )


def run() -> RunRecord:
    artifacts = tuple(
        ArtifactRecord(
            file=f"{name}.onnx",
            sha256=name,
            size_mb=4.0,
            stage=stage,
            classes=("disc", "square"),
            output=BOXES,
        )
        for name, stage in (("folded", "simplify"), ("int8", "quantize"))
    )
    found = (record("folded", 60.0), record("int8", 59.5))
    return RunRecord(run="x", artifacts=artifacts, detections=found)


def test_rows_and_headline_have_average_precision() -> None:
    report = summarize(run())
    assert [row.ap50.value for row in report.rows] == [60.0, 59.5]
    assert "AP50 is 59.50 % and that of fp32 60.00 %" in report.headline
    text = report_markdown(report)
    assert "| artifact | size MiB | AP50 % |" in text
    assert "59.50 (54.5 to 64.5)" in text
    assert "top-1" not in text
    assert "intervals by bootstrap over images" in text


def test_the_card_is_a_detectors() -> None:
    card = model_card(summarize(run()))
    assert "Object detector, `int8.onnx`" in card
    assert "To find objects of 2 classes: disc, square." in card
    assert "export --nms" in card
    assert "AP50 59.50" in card
    assert "softmax" not in card


def test_precision_and_recall_are_drawn_of_classes_with_objects() -> None:
    chart = precision_chart(run())
    assert [line["name"] for line in chart.data] == ["folded.onnx, disc", "int8.onnx, disc"]
    assert chart.data[0]["x"] == [0.0, 0.5, 1.0]
    assert precision_chart(RunRecord(run="x", artifacts=())) is None


def test_the_terminal_says_it() -> None:
    text = evaluation_text(record("int8", 59.5))
    assert "AP 30.00 [20.00, 40.00], AP50 59.50 [54.50, 64.50], AP75 10.00;" in text
    assert "small -, medium 30.00, large -" in text
    assert " 40.00  60.00  disc (3)" in text
    assert "no objects  square (0)" in text
    notes = evaluation_notes(record("int8", 59.5))
    assert notes[0].startswith("2 boxes reach outside")
    assert "a.png has no pixels" in notes[1]
