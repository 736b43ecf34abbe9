"""Classify images with the models in this folder: ``python classify.py IMAGE...``.

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


def is_right(variant: dict[str, Any], probabilities: Any) -> bool:
    """Tell whether these are the answers that the variant must give to the probe."""
    rows = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    pairs = zip(variant["answers"], rows, strict=True)
    found = [np.abs(row[a["classes"]] - a["log_probabilities"]).max() for a, row in pairs]
    return bool(max(found) <= variant["tolerance"])


def pick(manifest: dict[str, Any]) -> Any:
    """Return the first variant that computes rightly on this machine."""
    probe = np.frombuffer(read(manifest, manifest["probe"]["file"]), np.uint8)
    pixels = probe.reshape(manifest["probe"]["shape"])
    for variant in manifest["variants"]:
        if not variant["machines"] or platform.machine() in variant["machines"]:
            session = InferenceSession(read(manifest, variant["pixels"]["model"]), providers=CPU)
            if is_right(variant, session.run(["probabilities"], {"pixels": pixels})[0]):
                return variant
    sys.exit("This CPU computes none of the variants rightly; deploy again with a target for it.")


def main() -> None:
    """Print the five most probable classes of each image as one line of JSON."""
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
        shares = session.run(["probabilities"], {"image": pixels})[0][0]
        best = [(labels[i], float(shares[i])) for i in shares.argsort()[::-1][:5]]
        print(json.dumps({"image": name, "variant": variant["target"], "classes": best}))
    sys.exit("\n".join(bad) or 0)


if __name__ == "__main__":
    main()
