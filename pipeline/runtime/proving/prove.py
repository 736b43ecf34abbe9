"""Prove that a device computes a quantized model as its definition says: ``python prove.py``.

A proof kit lies beside it. It needs numpy and onnxruntime, prints its record as JSON, and exits
with 0 if all is right, 1 if something is wrong, and 2 if nothing could be proven.
"""

import hashlib
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

VERSION, CPU = 1, ["CPUExecutionProvider"]
ROUNDING = 1  # codes: where another kernel scales in another order, a tie may be rounded otherwise
FLOAT_SQNR_DB = 60.0  # values that stay float differ by float32's rounding; saturation costs more
MODEL_SQNR_DB = 10.0  # of the outputs: what float steps differ by grows, but not so far


class UnusableError(Exception):
    """Nothing can be proven; the arguments are two sentences, what is wrong and how to mend it."""


def sqnr_db(reference: Any, other: Any) -> float:
    """Return ``10 log10(sum(reference^2) / sum((reference - other)^2))``, in float64."""
    exact = reference.astype("f8")
    signal, noise = float((exact**2).sum()), float(((exact - other) ** 2).sum())
    ratio = signal / noise if noise else math.inf
    return 10 * math.log10(ratio) if ratio else -math.inf


def codes_apart(expected: Any, found: Any) -> float:
    """Return the largest difference in codes; of floats 0, or inf beyond float32's rounding."""
    if found.dtype.kind == "f":
        return 0.0 if sqnr_db(expected, found) >= FLOAT_SQNR_DB else math.inf
    return float(abs(expected.astype("i8") - found).max())


def content_of(path: Path) -> bytes:
    """Return what a file holds; OSError of anything else, since a pipe might never end."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")
    return path.read_bytes()


def measure(folder: Path) -> dict[str, Any]:
    """Return the record of what the kernels of this device make of the kit in a folder."""
    import numpy as np
    import onnxruntime as ort

    manifest = json.loads(content_of(folder / "kit.json"))
    if (version := manifest["schema_version"]) != VERSION:
        raise UnusableError(f"{folder} is of version {version}, not {VERSION}", "Run its prove.py")
    files = {}
    for name, sha256 in manifest["files"].items():
        path = (folder / name).resolve()
        files[name] = content_of(path) if folder.resolve() in path.parents else b""
        if hashlib.sha256(files[name]).hexdigest() != sha256:
            raise UnusableError(f"{folder / name} was changed", "Copy the kit again")
    ort.set_default_logger_severity(4)  # errors are raised

    def tensor(of: Any) -> Any:
        return np.frombuffer(files[of["file"]], of["dtype"]).reshape(of["shape"])

    def apart(part: Any, distance: Any) -> list[float]:
        inputs = {name: tensor(of) for name, of in part["inputs"].items()}
        try:
            session = ort.InferenceSession(files[part["model"]], providers=CPU)
            found = session.run([*part["outputs"]], inputs)
        except Exception as error:  # what onnxruntime raises shares no base class
            told = " ".join(str(error).split())[:300]
            what = f"onnxruntime {ort.__version__} cannot run {part['model']} ({told})"
            raise UnusableError(what, f"Try version {manifest['onnxruntime']}") from error
        return list(map(distance, map(tensor, part["outputs"].values()), found))

    layers = {part["name"]: max(apart(part, codes_apart)) for part in manifest["layers"]}
    decibels = min(apart(manifest["model"], sqnr_db))
    wrong = [name for name, codes in layers.items() if not codes <= ROUNDING]
    return {
        "target": manifest["target"],
        "model": manifest["files"][manifest["model"]["model"]],
        "device": f"{platform.system()} {platform.machine()}, onnxruntime {ort.__version__}",
        "right": not wrong and decibels >= MODEL_SQNR_DB,
        "layers": {name: codes if codes < math.inf else None for name, codes in layers.items()},
        "wrong": wrong,
        "model_sqnr_db": decibels if math.isfinite(decibels) else None,
    }


def prove(folder: Path) -> dict[str, Any]:
    """Return ``measure``'s record; UnusableError says why a kit cannot be run."""
    try:
        return measure(folder)
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UnusableError(f"{folder} is no whole kit ({error})", "Copy it again") from error


if __name__ == "__main__":
    try:
        record = prove(Path(__file__).parent)
    except (UnusableError, ImportError) as problem:
        print(f"prove: {'. '.join(map(str, problem.args))}.", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(record, indent=1))
    sys.exit(not record["right"])
