"""A package's card tells people what is in it, what was proved, and how to use it."""

from collections.abc import Sequence

from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.reports.records.deployment import LiteRtRecord, VariantRecord


def card(
    name: str,
    facts: Facts,
    variants: Sequence[VariantRecord],
    images: int,
    images_from: str,
    litert: LiteRtRecord | None,
) -> str:
    """Write the card as Markdown."""
    lite = ""
    if litert:
        lite = (
            f"- `{litert.model}`: for LiteRT, with the integers of `{litert.target}`; input "
            f"`pixels`, same class as `predict` on {100 * litert.agreement:.1f} %.\n"
        )
    side, spec = facts.input.resolution, facts.model
    width = f", width {spec.width:g}" if spec else ""
    rows = "".join(
        f"| `{v.target}` | {v.pixels.size / 2**20:.1f} | "
        + (f"{v.sqnr_db:.1f} | " if v.sqnr_db is not None else "– | ")
        + f"{100 * v.image.agreement:.1f} % | {v.image.max_difference:.2g} |\n"
        for v in variants
    )
    count, data = len(facts.classes), facts.data or "data that the file does not state"
    return f"""# Image classifier: {name}

It tells apart {count} classes (`labels.txt`){width}, and gives an image of anything
else one of these classes all the same. Trained on {data}. The licence of the
weights is that of their source, which the files do not state.

| variant | MiB | dB to float | same class as `predict` | probabilities up to … apart |
| --- | --- | --- | --- | --- |
{rows}
Compared on {images} images of {images_from}; a dash means that the variant is the float model.

- `VARIANT/image.onnx`: input `image`, uint8 RGB [rows, columns, 3] of any size, upright. It is
  resized and cut inside.
- `VARIANT/pixels.onnx`: input `pixels`, uint8 RGB [N, {side}, {side}, 3].
{lite}- Output `probabilities`, float32 [N, {count}].

Take the first variant of `manifest.json` whose answers to `probe.bin` are those in the manifest,
within its tolerance: integer kernels of older CPUs cut off sums without a word. These do so:

- `python classify.py IMAGE...` (onnxruntime, numpy, Pillow)
- `npm install`, then `node classify.mjs IMAGE...`, or `index.html` from any static file server
- `docker build -t classifier .` serves that page
- `tritonserver --model-repository triton`, whose model is one that every CPU computes rightly
"""
