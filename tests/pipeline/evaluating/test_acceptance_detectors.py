"""The published detectors on the shared photos: average precision in every format, and of int8."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mobilenet_cli.data.boxes.open_boxes import open_boxes
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.evaluate_detector import evaluate_detector
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    write_checkpoint,
)
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize

pytestmark = pytest.mark.slow
WEIGHTS = {
    "ssd": "ssd_mobilenetv1_model-weights_manifest.json",
    "retinaface": "mobilenet0.25_Final.pth",
}


@pytest.fixture(scope="module", params=WEIGHTS)
def folded(request, shared: Path, tmp_path_factory) -> tuple[str, Artifact]:
    folder = tmp_path_factory.mktemp(request.param)
    imported = read_source(str(shared / "detect" / WEIGHTS[request.param]), ImportConfig())
    checkpoint = write_checkpoint(imported, folder / "model.safetensors")
    fp32 = export(checkpoint, ExportConfig(), folder / "fp32.onnx")
    return request.param, simplify(fp32, SimplifyConfig(), folder / "folded.onnx")


def relabelled(detect: Path, folder: Path, kind: str) -> Path:
    """Write the shared labels in another format."""
    if kind == "coco":
        return detect / "wider_instances.json"
    document = json.loads((detect / "wider_instances.json").read_text())
    (folder / "images").symlink_to(detect / "wider")
    (folder / {"voc": "Annotations", "yolo": "labels"}[kind]).mkdir()
    for image in document["images"]:
        stem, side = Path(image["file_name"]).stem, image["width"]
        boxes = [a["bbox"] for a in document["annotations"] if a["image_id"] == image["id"]]
        if kind == "yolo":
            lines = [
                f"0 {(x + w / 2) / side:.9f} {(y + h / 2) / side:.9f} {w / side:.9f} {h / side:.9f}"
                for x, y, w, h in boxes
            ]
            (folder / "labels" / f"{stem}.txt").write_text("\n".join(lines))
            continue
        rows = "".join(
            f"<object><name>face</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for x, y, w, h in boxes
        )
        size = f"<size><width>{side}</width><height>{side}</height></size>"
        text = f"<annotation><filename>{image['file_name']}</filename>{size}{rows}</annotation>"
        (folder / "Annotations" / f"{stem}.xml").write_text(text)
    if kind == "yolo":
        (folder / "classes.txt").write_text("face\n")
    return folder


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_ap_is_the_published_in_every_format(folded, shared, tmp_path, kind) -> None:
    name, model = folded
    expected = json.loads((shared / "detect" / "expected.json").read_text())[name]
    record = evaluate_detector(
        model, EvaluateConfig(str(relabelled(shared / "detect", tmp_path, kind)))
    )
    assert record.images == 100
    assert abs(record.ap.value / 100 - expected[0]) < 0.002
    assert abs(record.ap50.value / 100 - expected[1]) < 0.002


def test_int8_loses_little(folded, shared, tmp_path) -> None:
    _, model = folded
    photos = shared / "detect" / "wider"
    source = str(shared / "detect" / "wider_instances.json")
    int8 = quantize(model, QuantizeConfig(str(photos), 64), tmp_path / "int8.onnx")
    before, after = (evaluate_detector(m, EvaluateConfig(source)) for m in (model, int8))
    assert before.ap50.value - after.ap50.value <= 0.3
    operators = Counter(node.op_type for node in load_onnx(model.path).graph.node)
    running = int8.record.operators
    assert running["QLinearConv"] == operators["Conv"] > 40
    assert not running.keys() & {"Conv", "FusedConv"}


def test_labels_are_the_same_in_every_format(shared, tmp_path) -> None:
    kinds = {}
    for kind in ("coco", "voc", "yolo"):
        (tmp_path / kind).mkdir()
        kinds[kind] = open_boxes(str(relabelled(shared / "detect", tmp_path / kind, kind)), "all")
    assert {found.objects for found in kinds.values()} == {1955}
