"""A package's card tells people what is in it, what was proved, and how to use it."""

from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.reports.records.conversion import NmsRecord
from mobilenet_cli.reports.records.deployment import PackageRecord

CLASSIFY = """- `python classify.py IMAGE...` (onnxruntime, numpy, Pillow)
- `npm install`, then `node classify.mjs IMAGE...`, or `index.html` from any static file server
- `docker build -t classifier .` serves that page"""
DETECT = "- `python detect.py IMAGE...` (onnxruntime, numpy, Pillow)"


def card(manifest: PackageRecord, facts: Facts) -> str:
    """Write the card as Markdown."""
    lite = ""
    if litert := manifest.litert:
        lite = (
            f"- `{litert.model}`: for LiteRT, with the integers of `{litert.target}`; input "
            f"`pixels`, same class as `predict` on {100 * litert.agreement:.1f} %.\n"
        )
    side, spec, nms = facts.input.resolution, facts.model, manifest.nms
    width = f", width {spec.width:g}" if spec else ""
    rows = "".join(
        f"| `{v.target}` | {v.pixels.size / 2**20:.1f} | "
        + (f"{v.sqnr_db:.1f} | " if v.sqnr_db is not None else "– | ")
        + f"{100 * v.image.agreement:.1f} % | {v.image.max_difference:.2g} |\n"
        for v in manifest.variants
    )
    count, data = len(facts.classes), facts.data or "data that the file does not state"
    if nms:
        kind, same = "Object detector", "boxes that `predict` finds, too"
        told = f"Classes that it finds: {count} (`labels.txt`){width}."
        outputs = _boxes(nms)
    else:
        kind, same = "Image classifier", "same class as `predict`"
        told = (
            f"It tells apart {count} classes (`labels.txt`){width}, and gives an image of\n"
            "anything else one of these classes all the same."
        )
        outputs = f"- Output `probabilities`, float32 [N, {count}]."
    images = f"{manifest.images} images of {manifest.images_from}"
    return f"""# {kind}: {manifest.name}

{told} Trained on {data}. The licence of the
weights is that of their source, which the files do not state.

| variant | MiB | dB to float | {same} | probabilities up to … apart |
| --- | --- | --- | --- | --- |
{rows}
Compared on {images}; a dash means that the variant is the float model.

- `VARIANT/image.onnx`: input `image`, uint8 RGB [rows, columns, 3] of any size, upright. It is
  resized and cut inside.
- `VARIANT/pixels.onnx`: input `pixels`, uint8 RGB [N, {side}, {side}, 3].
{_jpeg(manifest, same)}{lite}{outputs}

Take the first variant of `manifest.json` whose answers to `probe.bin` are those in the manifest,
within its tolerance: integer kernels of older CPUs cut off sums without a word. These do so:

{DETECT if nms else CLASSIFY}
- `tritonserver --model-repository triton`, whose model is one that every CPU computes rightly
"""


def _jpeg(manifest: PackageRecord, same: str) -> str:
    shares = [variant.jpeg.agreement for variant in manifest.variants if variant.jpeg]
    if not shares:
        return ""
    return f"""- `VARIANT/jpeg.onnx`: input `jpeg`, uint8 [bytes] of a JPEG file, decoded inside,
  {same} on {100 * min(shares):.1f} % of {manifest.jpegs} such
  files, for sessions with the library of `pip install "onnxruntime-extensions<0.14"`:
  `options.register_custom_ops_library(onnxruntime_extensions.get_library_path())`.
"""


def _boxes(nms: NmsRecord) -> str:
    outputs = f"[N, {nms.max_detections}"
    return f"""- Output `boxes`, float32 {outputs}, 4]: left, top, right, bottom in pixels of the
  input, which is a square with `pixels.onnx`; `scores` and `classes` {outputs}], the most probable
  box first, behind the last one 0 and -1; `count` [N]. Boxes are above a probability of
  {nms.min_score:g}; of two of a class that overlap by more than {nms.max_overlap:g} one is left.
  They are made of `raw_boxes` and `raw_scores`."""
