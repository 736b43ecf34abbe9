"""A model card (Mitchell et al., Model Cards for Model Reporting, FAT* 2019) tells a model's users.

Only what the records say is stated; what they cannot know is said to be unknown.
"""

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.latency_tables import noise_note
from mobilenet_cli.reports.markdown import interval_cell, rows_markdown
from mobilenet_cli.reports.records.conversion import ImportRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.run import (
    BOXES,
    ArtifactRecord,
    ReportRecord,
    ReportRow,
    RunRecord,
)
from mobilenet_cli.reports.reproduce import commands
from mobilenet_cli.reports.summary import class_count
from mobilenet_cli.reports.tables import code, escape


def model_card(report: ReportRecord) -> str:
    """Write the card as Markdown."""
    run, model, row = report.run, report.run.artifacts[-1], report.rows[-1]
    quantized = model.measured(QuantizeRecord)
    noise = noise_note(run.bench.results) if run.bench else ""  # no caveat of the model
    facts = "".join(f"- {escape(fact)}.\n" for fact in report.facts)
    classes = ", ".join(model.labels[:10])
    more = f" and {len(model.classes) - 10} more" if len(model.classes) > 10 else ""
    detects = model.output == BOXES
    kind = "Object detector" if detects else "Image classifier"
    use = "find objects of" if detects else "tell apart"
    other = " An image of anything else is given one of these classes all the same."
    sections = [
        (
            "Model details",
            f"{kind}, `{code(model.file)}`, {model.size_mb:.2f} MiB, SHA-256 "
            f"`{model.sha256}`, made by {escape(model.stage)}. {escape(report.headline)}\n\n{facts}"
            f"- Licence of the weights: {licence(run)}",
        ),
        (
            "Intended use",
            f"To {use} {counted(len(model.classes), 'class', 'classes')}: "
            f"{escape(classes)}{more}.{'' if detects else other}",
        ),
        ("How to use it", usage(model)),
        (
            "Training data",
            f"{escape(model.data)}." if model.data else "Unknown: the weights were imported.",
        ),
        (
            "Calibration data",
            f"{counted(quantized.images, 'image')}, listed with their hashes in `report.json`."
            if quantized
            else "None: the model is not quantized.",
        ),
        ("Evaluation", f"{escape(accuracy(row))}\n\n{rows_markdown(report.rows)}"),
        (
            "Caveats",
            "".join(f"- {escape(text)}\n" for text in run.warnings if text != noise)
            + "".join(f"- {escape(part.file)} {escape(part.why)}\n" for part in run.missing)
            + "- Accuracy on groups of people, places or cameras has not been looked at.",
        ),
        ("How to make it again", "```sh\n" + "\n".join(map(code, commands(run))) + "\n```"),
    ]
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections)
    return f"# Model card: {escape(run.run)}\n\n{body}"


def licence(run: RunRecord) -> str:
    """Say whose licence the weights have: the records do not hold its text."""
    imported = run.artifacts[0].measured(ImportRecord)
    if imported:
        return f"that of their source, {escape(imported.source)}, which the file does not state."
    return "yours to choose, as far as the training data and the weights it began with allow."


def accuracy(row: ReportRow) -> str:
    """Say how accurate the model is on which images."""
    if row.ap50 is not None:
        of = f"{counted(row.images or 0, 'image')} of {row.data}"
        return (
            f"AP50 {interval_cell(row.ap50)} % on {of}, as COCO measures it (95 % intervals by "
            "bootstrap over images)."
        )
    if row.top1 is None:
        return "Accuracy has not been measured."
    top5 = f" and top-5 {interval_cell(row.top5)} %" if row.top5 else ""
    return (
        f"Top-1 {interval_cell(row.top1)} %{top5} on {counted(row.images or 0, 'image')} of "
        f"{row.data} "
        "(95 % Wilson intervals)."
    )


def usage(model: ArtifactRecord) -> str:
    """Say what goes in and what comes out, with the lines of Python that do it."""
    spec = model.input
    if model.output == BOXES:
        return (
            "`mobilenet-cli predict` finds boxes, and draws them with `--draw`. For other programs "
            "`mobilenet-cli export --nms` makes an ONNX file with final boxes in pixels, "
            "probabilities, classes and their count."
        )
    if spec is None:
        return "The record does not say how an image becomes the input; `inspect` tells."
    if not model.file.endswith(".onnx"):
        return f"Export it first: `mobilenet-cli export`, then `simplify`. {preparation(model)}"
    return f"{preparation(model)}\n\n```python\n{python(model)}```"


def preparation(model: ArtifactRecord) -> str:
    """Describe the input and the output in words."""
    spec = model.input
    assert spec is not None  # the caller looked
    side, count = spec.resolution, class_count(model)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    depth = 1 if spec.channels == "gray" else 3
    gives = {
        "softmax": "probabilities by softmax, {}",
        "sigmoid": "a probability for each class, {}",
    }.get(model.output, "logits, {}; softmax makes them probabilities")
    order = (
        f"The classes are in this order: {escape(', '.join(model.classes))}."
        if 0 < len(model.classes) <= 20
        else "The class list, in this order, is inside the file: key `mobilenet_cli`, `classes`."
    )
    scaled = (
        f"to {side}×{side}"
        if spec.convention == "stretch"
        else f"so that its short side has {spec.resize} pixels, the central {side}×{side} are cut "
        "out"
    )
    return (
        f"Input `{code(model.input_name)}`: float32, [N, {depth}, {side}, {side}] (images, "
        f"channels {spec.channels}, rows, columns). An upright 8-bit image is scaled "
        f"({spec.interpolation}) {scaled}, and each value v becomes (v / 255 - mean) / std with "
        f"mean {mean} and std {std}. Output: {gives.format(f'float32, [N, {count}]')}. {order}"
    )


def python(model: ArtifactRecord) -> str:
    """Write the Python that classifies ``photo.jpg`` with ONNX Runtime alone."""
    spec = model.input
    assert spec is not None  # the caller looked
    turned = {"BGR": "[:, :, ::-1]", "gray": "[:, :, None]"}.get(spec.channels, "")
    mode, depth = ('.convert("L")', 1) if spec.channels == "gray" else ("", 3)
    made = "logits" if model.output == "logits" else "outputs"
    shares = "np.exp(logits[0] - logits[0].max())" if made == "logits" else "outputs[0]"
    total = "" if model.output == "sigmoid" else " / shares.sum()"
    cut = f"""ratio = {spec.resize} / min(image.size)
size = [max({spec.resize}, round(side * ratio)) for side in image.size]
image = image.resize(size, Image.Resampling.{spec.interpolation.upper()})
left, top = ((side - {spec.resolution}) // 2 for side in size)
image = image.crop((left, top, left + {spec.resolution}, top + {spec.resolution}))"""
    if spec.convention == "stretch":
        size = (spec.resolution, spec.resolution)
        cut = f"image = image.resize({size}, Image.Resampling.{spec.interpolation.upper()})"
    return f"""import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{code(model.file)}", providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["mobilenet_cli"])
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
{cut}{mode}
pixels = np.asarray(image, np.float32){turned} / 255
pixels = (pixels - np.float32({list(spec.mean[:depth])})) / np.float32({list(spec.std[:depth])})
({made},) = session.run(None, {{"{code(model.input_name)}": pixels.transpose(2, 0, 1)[None]}})
shares = {shares}
for index in shares.argsort()[::-1][:5]:
    name = (facts["names"] or facts["classes"])[index]
    print(f"{{shares[index]{total}:.1%}} {{name}}")
"""
