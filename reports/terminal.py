"""Sentences and tables for people at a terminal: pure functions, one for each record."""

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from mobilenet_cli.pipeline.errors import counted, examples
from mobilenet_cli.reports.compare import comparison_tables, history_tables
from mobilenet_cli.reports.latency_tables import bench_tables
from mobilenet_cli.reports.markdown import artifact_grid, settings
from mobilenet_cli.reports.records.accuracy import EvaluationRecord
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.conversion import (
    ConvertRecord,
    ExportRecord,
    ImportRecord,
    NmsRecord,
    SimplifyRecord,
)
from mobilenet_cli.reports.records.deployment import PackageRecord, ServeRecord
from mobilenet_cli.reports.records.detection import DetectionRecord
from mobilenet_cli.reports.records.inspection import DoctorRecord, InspectRecord
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.records.prediction import PredictRecord
from mobilenet_cli.reports.records.proof import ProofRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.run import ComparisonRecord, HistoryRecord, ReportRecord
from mobilenet_cli.reports.records.training import EpochRecord, TrainingStart, TrainRecord
from mobilenet_cli.reports.summary import slower_sentence
from mobilenet_cli.reports.tables import Section, grid_text, sections_markdown, sections_text

MANY_IMAGES = 100_000  # with fewer photos, weights that know photos are the better start
# Weights of the Hugging Face hub by architecture, with the run that they are imported into.
PRETRAINED = {"mobilenet_v1": ("google/mobilenet_v1_1.0_224", "mobilenet_v1_1_224")}
CALIBRATE = " --calib-dir FOLDER"  # of a model that does not say on which images it was trained
MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
SHIFTED = {  # by how many classes
    by: f"warning: the first class of most images is the one {which} that of their label: the "
    "labels seem to be counted otherwise than the model's classes, which start at 0 and without "
    "a background class; rename the labels, or pass --map"
    for by, which in ((-1, "before"), (1, "after"))
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Show characters that would steer a terminal, or that no encoding has, as their codes.

    File, class and tensor names are other people's: an escape sequence in one could rename the
    window, or hide what stands before it. A byte that is not UTF-8 is shown as in records.
    """
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1].replace("\\udc", "\\x"), text)


def recipes_text(recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """Show recipes by name, each with its source and its values."""
    texts = []
    for name, values in recipes.items():
        numbers = {k: v for k, v in values.items() if type(v) in (int, float) and v}
        listed = " ".join(f"{key}={value:g}" for key, value in numbers.items())
        texts.append(
            f"{name}: {values['note']}\n  expected: {values['expected']}\n"
            f"  from {values['source']}\n  optimizer={values['optimizer']} {listed}"
        )
    return "\n\n".join(texts)


def training_text(record: TrainingStart | EpochRecord) -> str:
    """Say what a training starts with, or what an epoch reached."""
    if isinstance(record, EpochRecord):
        name = f"epoch {record.epoch}" if record.epoch else "a new classifier alone"
        return (
            f"{name}: {_measured(record)} of the held-out images; training: "
            f"loss {record.loss:.3f}, {'matched anchors' if record.detects else 'top-1'} "
            f"{record.train_top1:.2f} %"
        )
    begin = f"the weights of {record.init}" if record.init else "random weights"
    text = (
        f"training {record.network}, from {begin} on {record.data}: "
        f"{counted(record.classes, 'class', 'classes')}, {counted(record.images, 'image')}, "
        f"{record.held_out:,} more held out, {counted(record.epochs, 'epoch')}"
    )
    if record.init or not record.photos or record.images >= MANY_IMAGES:
        return text
    weights, run = PRETRAINED.get(record.architecture, ("WEIGHTS", "NAME"))
    data = shlex.quote(record.data)
    return (
        f"{text}\nSo few photos teach far more to a network that knows photos already. To start "
        f"from such weights (docs/import.md lists more of them), interrupt this and give\n"
        f"  mobilenet-cli import {weights}\n"
        f"  mobilenet-cli train --data {data} --init runs/{run}/model.safetensors"
    )


def _measured(record: EpochRecord | TrainRecord) -> str:
    """Say what was reached on held-out images: top-1, or a detector's average precision."""
    if record.detects:
        return f"AP50 {record.top1:.2f} %, AP {record.top5:.2f} %"
    return f"top-1 {record.top1:.2f} %"


def train_notes(record: TrainRecord) -> list[str]:
    """Say what a training left out, replaced, or found no better."""
    notes = [f"left out, cannot be read: {name}" for name in record.bad_images]
    notes += _replaced(record.replaced)
    if record.start_top1 is not None:
        same = "; training found nothing better: the checkpoint was kept as it was"
        kept = "" if record.kept_epoch else same
        notes.append(f"quantized, before any training: top-1 {record.start_top1:.2f} %{kept}")
    return notes


def _replaced(file: str | None) -> list[str]:
    if file is None:
        return []
    return [f"there was a checkpoint of other settings, which is kept as {file} beside the new one"]


def train_text(file: Path, record: TrainRecord) -> str:
    """Say what a training reached, and which epoch it was."""
    after, kept = counted(record.epochs, "epoch"), record.kept_epoch
    best, name = "", f"epoch {kept}, the best," if kept else "a new classifier alone was better and"
    started = record.start_top1 is not None and not kept
    if kept is not None and record.last_top1 is not None and kept < record.epochs and not started:
        best = f" ({name} is kept; the last epoch had {record.last_top1:.2f} %)"
    return (
        f"{file}: {_measured(record)} of the held-out images after {after}{best}, "
        f"{record.images_per_second:.0f} images/s; curves in {file.with_name('curves.png')}"
    )


def import_text(file: Path, record: ImportRecord, side: int, width: float | None) -> str:
    """Say what was imported; the width is None for an ONNX classifier, whose next stage is told."""
    known = f"resolution {side}, {counted(record.parameters, 'parameter')}, "
    known += counted(record.outputs, "class", "classes")
    if width is not None:
        return f"{file}: {record.layout} weights, width {width:g}, {known}"
    step, rest = ("simplify", "") if file.name == "fp32.onnx" else ("quantize", CALIBRATE)
    return f"{file}: {known}; next: mobilenet-cli {step} --run {file.parent.name}{rest}"


def export_text(file: Path, record: ExportRecord) -> str:
    """Say what an export proved."""
    return (
        f"{file}: {counted(record.batch_norms, 'BatchNorm')} kept, largest difference to torch "
        f"{record.max_abs_error:.1e}"
    )


def nms_text(path: Path, record: NmsRecord) -> str:
    """Say what the boxes of a detector were compared with."""
    return (
        f"{path}: boxes above {record.min_score:g}, overlapping up to {record.max_overlap:g}, "
        f"at most {record.max_detections}; {counted(record.boxes_checked, 'box', 'boxes')} on "
        f"{counted(record.images, 'image')} ({record.images_from}) are the reference's"
    )


def simplify_text(file: Path, record: SimplifyRecord) -> str:
    """Say what folding did and proved."""
    return (
        f"{file}: BatchNorms {record.batch_norms_before} -> {record.batch_norms_after}, "
        f"{counted(record.channels_checked, 'channel')} checked, largest logit difference "
        f"{record.max_abs_error:.1e} on {counted(record.images, 'image')} ({record.images_from})"
    )


def convert_text(file: Path, record: ConvertRecord) -> str:
    """Say how close half precision is."""
    return (
        f"{file}: {record.sqnr_db:.1f} dB from float32 on {counted(record.images, 'image')} "
        f"({record.images_from}, {record.provider}), same top-1 on {100 * record.agreement:.1f} %"
    )


def quantize_notes(record: QuantizeRecord) -> list[str]:
    """Say what a quantization left out, and what its layers in float cost."""
    notes = [f"left out, cannot be read: {name}" for name in record.bad_images]
    against = f"is also in the evaluation set {record.leakage_checked}"
    notes += [f"warning: {name} {against}" for name in record.leakage]
    notes += [f"kept in float: {name}" for name in record.float_layers]
    notes += [
        f"with {layer.name} in float: {record.drop_measure} changes by {0 - layer.drop:+.2f} "
        f"points, {layer.p50_ms:.2f} ms, {layer.slowdown:.2f} of the integer model's time"
        for layer in record.kept_float
    ]
    if record.drop is not None:
        notes.append(
            f"{record.drop_measure} changes by {0 - record.drop:+.2f} points on "
            f"{counted(record.drop_images or 0, 'image')} of {record.drop_data}; a loss of "
            f"{record.max_drop:g} was allowed"
        )
    if record.tuning:
        t = record.tuning
        notes.append(
            f"tuned: of {counted(t.tried, 'choice')}, {len(t.kept)} kept, and the network takes "
            f"{t.ratio:.3f} ({t.low:.3f} to {t.high:.3f}) of its time in integers alone"
        )
    if record.speed and record.speed.slower:
        notes.append(f"warning: {slower_sentence(record.speed)}")
    return notes


def quantize_text(file: Path, record: QuantizeRecord) -> str:
    """Say how close int8 is; only the kernels that it is for prove it."""
    where = "on the integer kernels"
    if record.kernel_sqnr_db is None and not record.kernels_equal:
        where = "in simulation, not proven on this machine"
    if record.kit:
        kit = file.with_name(record.kit)
        where += (
            f"\n{kit}: copy it to the machine that the model is for, and run its prove.py there"
        )
    return (
        f"{file}: int8 for {record.target}, {counted(record.images, 'calibration image')}, "
        f"{100 * record.agreement:.1f} % agreement and {record.sqnr_db:.1f} dB SQNR with float "
        f"{where}"
    )


def proof_text(record: ProofRecord) -> str:
    """Say whether a machine's kernels are right, or else which layers are not."""
    layers = counted(len(record.layers), "layer")
    found = f"the kernels are right in all {layers}"
    if record.wrong:
        apart = {name: record.layers[name] for name in record.wrong}
        named = [f"{n} ({'floats' if a is None else counted(a, 'code')})" for n, a in apart.items()]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        found = f"the kernels are WRONG in {len(named)} of {layers}: {', '.join(named[:5])}{more}"
    whole = "the whole model equals its simulation"
    if record.model_sqnr_db is not None:
        far = "" if record.right or record.wrong else "WRONG, "
        whole = f"the whole model is {far}{record.model_sqnr_db:.1f} dB from its simulation"
    elif not record.right:
        whole = "the whole model's outputs are no numbers, or not those of its simulation"
    return f"{record.device}: of a model for {record.target}, {found}; {whole}"


def deploy_text(folder: Path, package: PackageRecord) -> str:
    """Say what is in a package and what was proved of it."""
    same = "predict's most probable boxes in" if package.nms else "same class as predict on"
    lines = [
        f"{folder / variant.image.model}: {same} "
        f"{100 * variant.image.agreement:.1f} % of {counted(package.images, 'image')}, "
        f"probabilities up to {variant.image.max_difference:.2g} apart; given predict's pixels, "
        f"{100 * variant.pixels.agreement:.1f} % and {variant.pixels.max_difference:.1g}"
        + ("" if variant.kernels else "; in simulation, not proven on this machine")
        for variant in package.variants
    ]
    lines += [
        f"{folder / jpeg.model}: {same} {100 * jpeg.agreement:.1f} % of "
        f"{counted(package.jpegs, 'JPEG file')}, probabilities up to {jpeg.max_difference:.2g} "
        "apart"
        for jpeg in (variant.jpeg for variant in package.variants)
        if jpeg
    ]
    if lite := package.litert:
        lines.append(
            f"{folder / lite.model}: {lite.layers} layers with the integers of {lite.target}; same "
            f"class as predict on {100 * lite.agreement:.1f} %, probabilities up to "
            f"{lite.max_difference:.2g} apart"
        )
    return "\n".join(lines)


def serve_text(record: ServeRecord) -> str:
    """Say what is served, on which kernels, and where."""
    path = "/detect" if record.model == "detector" else "/classify"
    by = "" if record.provider.startswith("CPU") else f" by {record.provider}"
    return (
        f"serving {record.package} ({record.name}, {counted(record.classes, 'class', 'classes')}) "
        f"at {record.address}, on the kernels {record.target}{by}, which answer its probe rightly "
        "here"
        f"\n  curl --data-binary @photo.jpg {record.address}{path}"
    )


def left_out(bad_images: Sequence[str]) -> list[str]:
    """Count images that a stage left out, and name some."""
    if not bad_images:
        return []
    unread = counted(len(bad_images), "image")
    return [f"left out, cannot be read: {unread}{examples(bad_images, 10)}"]


def evaluation_notes(record: EvaluationRecord | DetectionRecord) -> list[str]:
    """Name images that an evaluation left out, and what was wrong with labels."""
    if isinstance(record, DetectionRecord):
        notes = list(record.remarks)
    else:
        notes = [SHIFTED[record.label_shift]] if record.label_shift else []
    return notes + left_out(record.bad_images)


def evaluation_text(record: EvaluationRecord | DetectionRecord) -> str:
    """Say how accurate a model is, with intervals."""
    if isinstance(record, DetectionRecord):
        return _detection_text(record)
    top1, top5 = (
        f"{m.value:.2f} % [{m.low:.2f}, {m.high:.2f}]" for m in (record.top1, record.top5)
    )
    return (
        f"{record.model}: top-1 {top1}, top-5 {top5} on {counted(record.images, 'image')} of "
        f"{record.data}, {record.images_per_second:.0f} images/s"
    )


def _detection_text(record: DetectionRecord) -> str:
    """Say how precise a detector is; of several classes each by itself, too."""
    ap, ap50, ap75 = (
        f"{m.value:.2f}" + ("" if m.low is None else f" [{m.low:.2f}, {m.high:.2f}]")
        for m in (record.ap, record.ap50, record.ap75)
    )
    sizes = ", ".join(
        f"{size} {'-' if value is None else f'{value:.2f}'}"
        for size, value in (
            ("small", record.ap_small),
            ("medium", record.ap_medium),
            ("large", record.ap_large),
        )
    )
    lines = [
        f"{record.model}: AP {ap}, AP50 {ap50}, AP75 {ap75}; {sizes} (percent), "
        f"{counted(record.objects, 'object')} on {counted(record.images, 'image')} of "
        f"{record.data}, {record.images_per_second:.0f} images/s"
    ]
    for row in record.classes if len(record.classes) > 1 else ():
        figures = (
            "no objects" if row.ap is None or row.ap50 is None else f"{row.ap:6.2f} {row.ap50:6.2f}"
        )
        lines.append(f"  {figures}  {row.name} ({row.objects})")
    return "\n".join(lines)


def prediction_text(image: str, guesses: Sequence[tuple[str, float]]) -> str:
    """Name an image's classes or boxes with their probabilities, one a line."""
    lines = [f"  {value:7.2%}  {name}" for name, value in guesses]
    image = image.replace("\n", "\\n")  # which would look like another image's answer
    return "\n".join([image, *(lines or ["  nothing was found"])])


def job_text(folder: Path, record: PredictRecord) -> str:
    """Say what a job has written, and where its time went."""
    text = (
        f"{folder}: {counted(record.rows, 'row')} in {counted(record.parts, 'part')}, "
        f"{record.errors:,} without an answer"
    )
    if record.failed:
        failed = counted(len(record.failed), "part")
        text += f"; {failed} could not be had, and the next start tries again"
    if not record.images:
        return text if record.failed else f"{text}; nothing was left to do"
    return (
        f"{text}; {counted(record.images, 'image')} at {record.images_per_second:.1f} images/s, "
        f"{record.decoding_share:.0%} of the threads' time for decoding"
    )


def chain_notes(skipped: Sequence[str], replaced: str | None) -> list[str]:
    """Say which stages had nothing to do, and what training replaced."""
    current = [f"up to date: {', '.join(skipped)}"] if skipped else []
    return [*current, *_replaced(replaced)]


def doctor_text(record: DoctorRecord) -> str:
    """Write one line a finding, and below it the fix."""
    here = record.machine
    lines = [f"{here.os}, Python {here.python}, {here.memory_mb / 1024:.1f} GiB of memory"]
    for finding in record.findings:
        lines.append(f"{MARKS[finding.status]} {finding.subject}: {finding.what}")
        lines += [f"          {finding.fix}"] if finding.fix else []
    return "\n".join(lines)


def inspect_text(record: InspectRecord) -> str:
    """Write facts by line, then the operators, and the layers of what training made."""
    facts = record.facts or {}
    rows = [
        ("file", f"{record.model}, {record.format}, {record.size_mb:.2f} MiB"),
        ("sha256", record.sha256),
        ("made by", facts.get("stage", "another tool")),
        ("from", "; ".join(record.provenance)),
        ("taken by", record.taken_by),
        ("opset", record.opset),
        ("inputs", "; ".join(record.inputs)),
        ("outputs", "; ".join(record.outputs)),
        ("parameters", f"{record.parameters:,}"),
        ("multiply-adds", f"{record.multiply_adds:,}" if record.multiply_adds else "unknown"),
        ("stored values", _counts(record.weight_types)),
        ("operators", _counts(record.operators)),
        *((name, _pairs(facts.get(name))) for name in ("model", "input", "config", "versions")),
    ]
    lines = [f"{name + ':':15}{value}" for name, value in rows if value]
    return "\n".join([*lines, *(_layer_table(record) if record.layers else ())])


def _layer_table(record: InspectRecord) -> list[str]:
    """Write a line a layer, then the sums and each part's fraction of the file."""
    shown = ["weights", *(p for p in ("average", "optimizer") if record.stored_bytes[p])]
    size = sum(record.stored_bytes.values())
    rows = [["", "parameters", "multiply-adds", *(f"{part} KiB" for part in shown), "of the file"]]
    for layer in record.layers:
        parts = [getattr(layer, part) for part in shown]
        products = "–" if layer.multiply_adds is None else f"{layer.multiply_adds:,}"
        kib = [f"{part / 1024:,.1f}" for part in parts]
        rows.append([layer.name, f"{layer.parameters:,}", products, *kib, _share(sum(parts), size)])
    products = f"{record.multiply_adds:,}" if record.multiply_adds else "–"
    sums = [record.stored_bytes[part] for part in shown]
    kib = [f"{part / 1024:,.1f}" for part in sums]
    parameters = f"{sum(layer.parameters for layer in record.layers):,}"
    rows.append(["in all", parameters, products, *kib, _share(sum(sums), size)])
    shares = [_share(part, size) for part in sums]
    other = record.stored_bytes["other"]
    rows.append(["of the file", "", "", *shares, f"{_share(other, size)} other"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


# Records that are tables, with what lays them out.
TABLES: dict[type[Record], Callable[[Any], list[Section]]] = {
    BenchRecord: bench_tables,
    ComparisonRecord: comparison_tables,
    HistoryRecord: history_tables,
}


def tables_text(record: Record, as_markdown: bool) -> str:
    """Write a record's tables as wide as the terminal, or as Markdown if wanted or piped on."""
    sections = TABLES[type(record)](record)
    if as_markdown or not sys.stdout.isatty():
        return sections_markdown(sections)
    return sections_text(sections, shutil.get_terminal_size().columns)


def report_text(record: ReportRecord, width: int | None = None) -> str:
    """Write headline, warnings, the table, and what is missing, as wide as the terminal."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    lines = [record.headline, *(f"warning: {text}" for text in record.run.warnings), ""]
    lines += [grid_text(artifact_grid(record.rows), width), *settings(record.rows)]
    lines += [f"missing: {m.file} {m.why}: {m.command}" for m in record.run.missing]
    return "\n".join(lines)


def _pairs(values: JsonValue) -> str:
    """Write a JSON object as ``width 1.0, classes 1000``; nothing for anything else."""
    if not isinstance(values, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
