"""A model card (Mitchell et al., Model Cards for Model Reporting, FAT* 2019) of a run's last model.

Only what the records say is stated; what they cannot know is said to be unknown.
"""

from mobilenet_cli.reports.markdown import metric_text, rows_markdown
from mobilenet_cli.reports.records.quantization import QuantizeRecord
from mobilenet_cli.reports.records.run import ReportRecord
from mobilenet_cli.reports.reproduce import commands
from mobilenet_cli.reports.tables import code, escape


def model_card(report: ReportRecord) -> str:
    """The card as Markdown."""
    run = report.run
    model = run.artifacts[-1]
    row = report.rows[-1]
    classes = ", ".join((model.names or model.classes)[:10])
    more = f" and {len(model.classes) - 10} more" if len(model.classes) > 10 else ""
    measured = (
        f"Top-1 {metric_text(row.top1)} % and top-5 {metric_text(row.top5)} % on "
        f"{row.images} images of {row.data} (95 % Wilson intervals)."
        if row.top1 is not None
        else "Accuracy has not been measured."
    )
    quantized = model.measured(QuantizeRecord)
    sections = [
        (
            "Model details",
            f"MobileNet v1 image classifier, `{code(model.file)}`, {model.size_mb:.2f} MiB, "
            f"SHA-256 `{model.sha256}`, made by {escape(model.stage)}. {escape(report.headline)}",
        ),
        (
            "Intended use",
            f"To tell apart {len(model.classes)} classes: {escape(classes)}{more}. An image of "
            "anything else is given one of these classes all the same.",
        ),
        (
            "Training data",
            f"{escape(model.data)}." if model.data else "Unknown: the weights were imported.",
        ),
        (
            "Calibration data",
            f"{quantized.images} images, listed with their hashes in `report.json`."
            if quantized
            else "None: the model is not quantized.",
        ),
        ("Evaluation", f"{escape(measured)}\n\n{rows_markdown(report.rows)}"),
        (
            "Caveats",
            "".join(f"- {escape(text)}\n" for text in run.warnings)
            + "".join(f"- {escape(part.file)} {escape(part.why)}\n" for part in run.missing)
            + "- Accuracy on groups of people, places or cameras has not been looked at.",
        ),
        ("How to make it again", "```sh\n" + "\n".join(map(code, commands(run))) + "\n```"),
    ]
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections)
    return f"# Model card: {escape(run.run)}\n\n{body}"
