"""Find boxes in images with the models in this folder: ``python detect.py IMAGE...``.

It needs onnxruntime, numpy and Pillow, and takes the fastest variant that is right on this CPU.
"""

import hashlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nobody is told of sessions
from onnxruntime import InferenceSession
from PIL import Image, ImageOps

HERE = Path(__file__).parent
CPU = ["CPUExecutionProvider"]


def read(manifest: dict[str, Any], name: str) -> bytes:
    """Return a file of the package, if it is the one that was proven."""
    content = (HERE / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
        sys.exit(f"{HERE / name} is not the file that was proven; copy the package again.")
    return content


def is_right(variant: dict[str, Any], raw: Any) -> bool:
    """Tell whether these are the raw outputs that the variant must give to the probe."""
    pairs = [(r[a["anchors"]], a["values"]) for a, r in zip(variant["answers"], raw, strict=True)]
    apart = [np.linalg.norm(found - wanted) / np.linalg.norm(wanted) for found, wanted in pairs]
    return bool(np.max(apart) <= variant["tolerance"])


def pick(manifest: dict[str, Any]) -> Any:
    """Return the first variant that computes rightly on this machine."""
    probe = np.frombuffer(read(manifest, manifest["probe"]["file"]), np.uint8)
    pixels = probe.reshape(manifest["probe"]["shape"])
    for variant in manifest["variants"]:
        if not variant["machines"] or platform.machine() in variant["machines"]:
            session = InferenceSession(read(manifest, variant["pixels"]["model"]), providers=CPU)
            raw = session.run(["raw_boxes", "raw_scores"], {"pixels": pixels})
            if is_right(variant, np.concatenate(raw, axis=-1)):
                return variant
    sys.exit("This CPU computes none of the variants rightly; deploy again with a target for it.")


def main() -> None:
    """Print the boxes of each image as one line of JSON: left, top, right, bottom in pixels."""
    manifest = json.loads((HERE / "manifest.json").read_bytes())
    if manifest["schema_version"] != 1:
        sys.exit(f"The manifest is of version {manifest['schema_version']}, not 1.")
    labels = read(manifest, "labels.txt").decode().splitlines()
    variant = pick(manifest)
    session = InferenceSession(read(manifest, variant["image"]["model"]), providers=CPU)
    bad = []
    for name in sys.argv[1:]:
        try:
            image = ImageOps.exif_transpose(Image.open(name))
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            pixels = np.asarray(image.convert("RGB"))
        except Exception as error:  # decoders raise whatever they stumble over
            bad.append(f"{name} cannot be read: {error}")
            continue
        outputs = session.run(["boxes", "scores", "classes"], {"image": pixels})
        found = zip(*(output[0].tolist() for output in outputs), strict=True)
        boxes = [{"class": labels[c], "score": s, "box": box} for box, s, c in found if c >= 0]
        print(json.dumps({"image": name, "variant": variant["target"], "boxes": boxes}))
    sys.exit("\n".join(bad) or 0)


if __name__ == "__main__":
    main()
