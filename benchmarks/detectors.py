"""What int8 costs and gives a detector, on AVX2 and on VNNI kernels, beside other quantizers.

    python benchmarks/detectors.py MODEL OUT --calib-dir DIR --data LABELS [--seconds 60]

MODEL is a folded fp32 detector of this tool, of LABELS the images with boxes. Everybody calibrates
on the same images: ours, ONNX Runtime's ``quantize_static``, and NNCF where it is installed. The
int8 files are kept in OUT, and those that are there are taken. For each family of kernels
(``avx2_only.c``; where a CPU cannot be held to one, for its own alone), in a process of its own:
AP50 of every file, and latency of one image on one thread, all files taking turns, as the median of
block-by-block ratios to float. A row of Markdown is printed for each file.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from avx2_only import build_shim
from quantizers import prepared, quantize_nncf, quantize_ort

from mobilenet_cli.data.loader import batches
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig
from mobilenet_cli.pipeline.evaluating.evaluate_detector import evaluate_detector
from mobilenet_cli.pipeline.quantizing.calibration_images import choose_images
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.runtime.timing import Subject, interleave, ratio, time_block
from mobilenet_cli.reports.records.base import Record

KERNELS = {"vnni": {"AVX2_ONLY_HIDES": "amx"}, "avx2": {}}
ORT = {"ort": "per-channel", "ort-reduced": "per-channel, reduced range"}


def quantize_all(source: Artifact, arguments: argparse.Namespace) -> list[Path]:
    """Make the int8 files that are not there."""
    paths = [source.path]
    chosen = (arguments.calib_dir, arguments.calib_count)
    for target in KERNELS:
        paths.append(arguments.out / f"{target}.onnx")
        if not paths[-1].exists():
            quantize(source, QuantizeConfig(*chosen, target=target, cross=True), paths[-1])
    others = {name: (quantize_ort, {"method": "minmax", "weights": w}) for name, w in ORT.items()}
    if importlib.util.find_spec("nncf"):
        others["nncf"] = (quantize_nncf, {})
    for name, (work, settings) in others.items():
        paths.append(arguments.out / f"{name}.onnx")
        if not paths[-1].exists():
            samples = choose_images(source, *chosen, 0).samples
            images = prepared(samples, source.facts.input, arguments.out / "images.npy")
            made = arguments.out / f"{name}.tmp"
            job = {"model": str(source.path), "out": str(made), "images": str(images)}
            work(job | {"input": "input"} | settings)
            content = with_facts(load_onnx(made), source.facts)
            save_artifact(paths[-1], content, source.facts, Record())
            made.unlink()
    return paths


def measure(paths: list[Path], data: str, seconds: float) -> list[dict[str, float | str]]:
    """Measure all files on this process's kernels; the first one is what the others are held to."""
    rows: list[dict[str, float | str]] = []
    subjects: list[Subject] = []
    for path in paths:
        artifact = load_artifact(path)
        record = evaluate_detector(artifact, EvaluateConfig(data, workers=1))
        rows.append({"file": path.name, "ap": record.ap.value, "ap50": record.ap50.value})
        session = open_session(path, SessionConfig(threads=1))
        if not rows[1:]:
            samples = choose_images(artifact, str(Path(data).parent), 1, 0).samples
            images = next(batches(samples, artifact.facts.input, 1)).images
        run = partial(session.run, None, {"input": images})
        subjects.append(partial(time_block, run))
    timings = interleave(subjects, int(seconds * 1e9))
    for row, timing in zip(rows, timings, strict=True):
        row["ms"] = timing.percentile(50) / 1e6
        row["faster"], row["low"], row["high"] = ratio(timings[0], timing)
    return rows


def main() -> None:
    """Quantize, and measure on each family of kernels in a child process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--calib-dir", required=True)
    parser.add_argument("--calib-count", type=int, default=64)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--child", nargs="+", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.data, arguments.seconds)))
        return
    paths = quantize_all(load_artifact(arguments.model), arguments)
    shim = build_shim(arguments.out)
    families = {"this CPU": {}} if shim is None else KERNELS
    print("| kernels | file | AP | AP50 | loss of AP50 | ms | times as fast as float |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kernels, hides in families.items():
        environment = os.environ | hides | ({"LD_PRELOAD": str(shim)} if shim else {})
        command = [sys.executable, __file__, *sys.argv[1:], "--child", *map(str, paths)]
        done = subprocess.run(  # noqa: S603 - this file, with this interpreter
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        rows = json.loads(done.stdout)
        for row in rows:
            print(
                f"| {kernels} | {row['file']} | {row['ap']:.2f} | {row['ap50']:.2f} | "
                f"{rows[0]['ap50'] - row['ap50']:.2f} | {row['ms']:.1f} | "
                f"{row['faster']:.2f} ({row['low']:.2f} to {row['high']:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
