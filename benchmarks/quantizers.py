"""Our quantizer beside ONNX Runtime's and NNCF's: same model, same images, one run.

    pip install nncf                    # optional: its rows are left out without it
    python benchmarks/quantizers.py MODEL --calib-dir DIR --data DIR
        [--calib-count 100] [--seconds 60] [--markdown docs/quantizers.md] [--json FILE]

MODEL is a folded fp32 ONNX file of this tool. Everybody calibrates on the same images, our seeded
choice, and each quantizer runs in a fresh child process, whose time and memory are its own:

* time: of the quantizer alone. Ours includes reading and decoding the images; the others get them
  prepared, in arrays.
* CPU: user and system seconds of the child, so that other work on the machine does not count.
* memory: the child's peak resident set, Python and libraries included.
* SQNR, agreement: of the logits on all images of --data, to the fp32 model's on the same kernels.
* latency: one thread, batch 1, all models taking turns in one process; ratios are medians of
  block-by-block ratios with their 95 % intervals.

A CPU with VNNI adds products in 32 bits, one without in 16, where int8 can saturate. Where gcc and
the kernel allow it, a machine with VNNI measures both: see ``benchmarks/avx2_only.c``.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from avx2_only import build_shim
from numpy.typing import NDArray

from mobilenet_cli.calibration.choose_grids import coded_tensors, seen_ranges
from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.calibration.ranges.calibrators import CALIBRATORS
from mobilenet_cli.calibration.tensor_statistics import histograms, observe
from mobilenet_cli.data.loader import batches
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.facts import versions
from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.evaluating.labels import evaluation_set, targets_of
from mobilenet_cli.pipeline.quantizing.calibration_images import RANGE_BATCH, choose_images
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.machine import machine, peak_rss_mb
from mobilenet_cli.pipeline.runtime.proving.integer_kernels import detect_target
from mobilenet_cli.pipeline.runtime.proving.parity import compare
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.runtime.timing import Subject, interleave, ratio, time_block
from mobilenet_cli.reports.tables import table

Images = NDArray[np.float32]
FOLDED = "folded fp32"
PLAIN = "ORT minmax, per-channel"  # what latencies are compared with: u8 activations, s8 weights
ORT_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
ORT_WEIGHTS: dict[str, dict[str, bool]] = {
    "per-tensor": {},
    "per-channel": {"per_channel": True},
    "per-channel, reduced range": {"per_channel": True, "reduce_range": True},
}
KERNELS = {"native": "this CPU", "avx2": "AVX2 kernels", "simulated": "simulated in float"}


class Reader:
    """Calibration images one by one, in the shape ONNX Runtime's calibrators ask for."""

    def __init__(self, name: str, images: Images) -> None:
        self.name = name
        self.images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        """The next image, or None after the last."""
        image = next(self.images, None)
        return None if image is None else {self.name: image[None]}


# -- what a child process does --------------------------------------------------------------------


def quantize_ours(job: dict[str, Any]) -> None:
    """The default command, for one target."""
    config = QuantizeConfig(
        calib_dir=job["calib_dir"],
        calib_count=job["calib_count"],
        target=job["target"],
        cross=job["target"] != detect_target(),
    )
    quantize(load_artifact(Path(job["model"])), config, Path(job["out"]))


def quantize_ort(job: dict[str, Any]) -> None:
    """``quantize_static`` to QDQ with u8 activations and s8 weights."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        job["model"],
        job["out"],
        Reader(job["input"], np.load(job["images"], mmap_mode="r")),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[ORT_METHODS[job["method"]]],
        **ORT_WEIGHTS[job["weights"]],
    )


def quantize_nncf(job: dict[str, Any]) -> None:
    """``nncf.quantize`` on the ONNX model, its defaults but for the number of images."""
    import nncf
    import onnx

    images = np.load(job["images"], mmap_mode="r")
    data = nncf.Dataset([{job["input"]: image[None]} for image in images])
    made = nncf.quantize(onnx.load(job["model"]), data, subset_size=len(images))
    onnx.save(made, job["out"])


def ranges_ours(job: dict[str, Any]) -> None:
    """One range method alone, on prepared images."""

    def by_batch() -> Iterator[Images]:
        # Mapped anew each time: pages of the images are no memory of the method.
        for start in range(0, job["count"], RANGE_BATCH):
            images = np.load(job["images"], mmap_mode="r")
            yield np.array(images[start : min(start + RANGE_BATCH, job["count"])])

    network = parse(load_onnx(Path(job["model"])))
    tensors = coded_tensors(network)
    seen = observe(network, tensors, frozenset(), by_batch, open_session, lambda _: None)
    ranges = seen_ranges(network, seen)
    if job["method"] != "minmax":
        counted = histograms(network, ranges, by_batch, open_session, lambda _: None)
        ranges = {name: CALIBRATORS[job["method"]](counted[name]) for name in ranges}
    if not np.isfinite(list(ranges.values())).all():
        raise ValueError(f"{job['method']} found ranges that are not finite")


def ranges_ort(job: dict[str, Any]) -> None:
    """ONNX Runtime's calibrator alone, as ``quantize_static`` calls it."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry

    images = np.load(job["images"], mmap_mode="r")[: job["count"]]
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            job["model"],
            list(QDQRegistry),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[ORT_METHODS[job["method"]]],
        )
        calibrator.collect_data(Reader(job["input"], images))
        calibrator.compute_data()


def logits_of(job: dict[str, Any]) -> None:
    """Logits of a model on all evaluation images."""
    images = np.load(job["images"], mmap_mode="r")
    session = open_session(Path(job["model"]), SessionConfig(integer_kernels=job["integer"]))
    found = [
        session.run(None, {job["input"]: images[start : start + 10]})[0].reshape(-1, job["classes"])
        for start in range(0, len(images), 10)
    ]
    np.save(job["out"], np.concatenate(found))


def latencies(job: dict[str, Any]) -> dict[str, Any]:
    """Median milliseconds of each model, and ratios to two of them."""
    image = np.array(np.load(job["images"], mmap_mode="r")[:1])

    def subject(path: str) -> Subject:
        session = open_session(Path(path), SessionConfig(threads=1))
        return lambda runs: time_block(lambda: session.run(None, {job["input"]: image}), runs)

    names = list(job["models"])
    timings = dict(
        zip(
            names,
            interleave([subject(job["models"][n]) for n in names], int(1e9 * job["seconds"])),
            strict=True,
        )
    )
    return {
        name: {
            "p50_ms": timing.percentile(50) / 1e6,
            "to_folded": ratio(timing, timings[FOLDED]),
            "to_plain": ratio(timing, timings[PLAIN]),
            "blocks": len(timing.blocks),
        }
        for name, timing in timings.items()
    }


CHILDREN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ours": quantize_ours,
    "ort": quantize_ort,
    "nncf": quantize_nncf,
    "ranges ours": ranges_ours,
    "ranges ort": ranges_ort,
    "logits": logits_of,
    "latency": latencies,
}


def child(job: dict[str, Any]) -> None:
    """Do the job, and print what it took as the last line."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.monotonic()
    result = CHILDREN[job["do"]](job)
    seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "result": result,
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_rss_mb": peak_rss_mb(),
    }
    print("\n" + json.dumps(cost))


# -- the parent -----------------------------------------------------------------------------------


def run_child(do: str, shim: Path | None = None, **job: Any) -> dict[str, Any]:
    """Run a job in a fresh process, on AVX2 kernels if a shim is given."""
    environment = dict(os.environ) | ({"LD_PRELOAD": str(shim)} if shim else {})
    command = [sys.executable, __file__, "--child", json.dumps({"do": do, **job})]
    done = subprocess.run(  # noqa: S603 - this file, with this interpreter
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{do} failed with status {done.returncode}: {done.stderr[-2000:]}")
    cost: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return cost


def jobs(with_nncf: bool) -> dict[str, dict[str, Any]]:
    """What to run for each row."""
    ours = {f"mobilenet-cli, {t}": {"do": "ours", "target": t} for t in ("avx2", "vnni", "amx")}
    ort = {
        f"ORT {method}, {weights}": {"do": "ort", "method": method, "weights": weights}
        for method in ORT_METHODS
        for weights in ORT_WEIGHTS
    }
    return ours | ort | ({"NNCF": {"do": "nncf"}} if with_nncf else {})


def prepared(samples: Any, spec: Any, path: Path) -> Path:
    """Decode images into one array on disk, which children map."""
    np.save(path, np.concatenate([b.images for b in batches(samples, spec, 16)]))
    return path


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, as the JSON document."""
    source = load_artifact(arguments.model)
    calibration = choose_images(source, arguments.calib_dir, arguments.calib_count, 0)
    evaluation = evaluation_set(source, arguments.data)
    targets = np.array(targets_of(evaluation, source))
    spec = source.facts.input
    common = {
        "model": str(source.path.resolve()),
        "input": parse(load_onnx(source.path)).input,
        "images": str(prepared(calibration.samples, spec, folder / "calibration.npy")),
        "calib_dir": arguments.calib_dir,
        "calib_count": arguments.calib_count,
    }
    shown = str(prepared(evaluation.samples, spec, folder / "evaluation.npy"))
    newer = detect_target() in ("vnni", "amx")
    shim = build_shim(folder) if newer else None
    notes = []
    with_nncf = importlib.util.find_spec("nncf") is not None
    if not with_nncf:
        notes.append("NNCF is not installed: its row is left out.")
    if newer and shim is None:
        notes.append(
            "The AVX2 kernels could not be had here (no gcc, or no code may be rewritten)."
        )
    rows: dict[str, dict[str, Any]] = {FOLDED: {"path": common["model"]}}
    for position, (name, job) in enumerate(jobs(with_nncf).items()):
        say(f"quantizing: {name}")
        out = folder / f"{position}.onnx"
        # Each target is proven on its own kernels where they can be had.
        on = shim if job.get("target") == "avx2" else None
        try:
            cost = run_child(**{**common, **job, "out": str(out), "shim": on})
        except RuntimeError as error:
            notes.append(f"{name}: {error}")
            continue
        rows[name] = {"path": str(out), **cost}
    for row in rows.values():
        row["size_mb"] = Path(row["path"]).stat().st_size / 1e6
    places: dict[str, tuple[Path | None, bool]] = {"native": (None, True)}
    if shim:
        places["avx2"] = (shim, True)
    places["simulated"] = (None, False)
    classes = len(source.facts.classes)
    for place, (on, integer) in places.items():
        reference = np.empty(0)
        for name, row in rows.items():
            if place == "simulated" and not name.startswith((FOLDED, "mobilenet-cli")):
                continue
            say(f"evaluating: {name}, {KERNELS[place]}")
            out = folder / "logits.npy"
            job = {"model": row["path"], "input": common["input"], "images": shown}
            run_child("logits", on, **job, out=str(out), integer=integer, classes=classes)
            logits = np.load(out)
            reference = logits if name == FOLDED else reference
            parity = compare(reference, logits)
            row[place] = {
                "top1_correct": int((logits.argmax(1) == targets).sum()),
                "agreement": parity.agreement,
                "sqnr_db": None if name == FOLDED else parity.sqnr_db,
            }
    for place, (on, integer) in places.items():
        if not integer:
            continue
        say(f"timing: {KERNELS[place]}")
        models = {name: row["path"] for name, row in rows.items()}
        timed = run_child(
            "latency",
            on,
            models=models,
            images=shown,
            input=common["input"],
            seconds=arguments.seconds,
        )["result"]
        for name, row in rows.items():
            row[place] |= timed[name]
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine().model_dump(mode="json"),
        "versions": versions("numpy", "onnx", "onnxruntime")
        | ({"nncf": importlib.metadata.version("nncf")} if with_nncf else {}),
        "load_average": os.getloadavg(),
        "calibration_images": len(calibration.samples),
        "evaluation_images": len(targets),
        "rows": rows,
        "ranges": range_methods(arguments, source, common, folder),
        "notes": notes,
    }


def range_methods(
    arguments: argparse.Namespace, source: Any, common: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Cost of each range method at --calib-count images, and ours at four times as many."""
    few = arguments.calib_count
    many = choose_images(source, arguments.calib_dir, 4 * few, 0).samples
    job = common | {"images": str(prepared(many, source.facts.input, folder / "many.npy"))}
    results = []
    for method in CALIBRATORS:
        for do, count in (("ranges ours", few), ("ranges ours", len(many)), ("ranges ort", few)):
            if do == "ranges ort" and method not in ORT_METHODS:
                continue
            say(f"{do}: {method}, {count} images")
            cost = run_child(do, **job, method=method, count=count)
            results.append({"who": do.removeprefix("ranges "), "method": method, "images": count})
            results[-1] |= {k: cost[k] for k in ("seconds", "cpu_seconds", "peak_rss_mb")}
    return results


def document(record: dict[str, Any], command: str) -> str:
    """The record as a page."""
    here, total = record["machine"], record["evaluation_images"]
    parts = [
        f"# Quantizers compared\n\nMade {record['made']} by `{command}` with "
        f"{record['calibration_images']} calibration images (the same for all) and {total} "
        "evaluation images. What each column means is said in `benchmarks/quantizers.py`; "
        "`avx2`, `vnni` and `amx` are targets of `mobilenet-cli quantize`.\n"
    ]
    for place, title in KERNELS.items():
        rows = {n: r for n, r in record["rows"].items() if place in r}
        if not rows:
            continue
        best = rows[FOLDED][place]["top1_correct"]
        timed = place != "simulated"
        header = "quantizer | top-1 | loss, points | agreement | SQNR, dB"
        header += " | ms | / folded fp32 | / ORT per-channel" if timed else ""
        lines = []
        for name, row in rows.items():
            r = row[place]
            correct = r["top1_correct"]
            line = [name, f"{100 * correct / total:.2f} %", f"{100 * (best - correct) / total:.2f}"]
            line += [f"{100 * r['agreement']:.2f} %"]
            line += ["" if r["sqnr_db"] is None else f"{r['sqnr_db']:.2f}"]
            if timed:
                line += [f"{r['p50_ms']:.2f}", interval(r["to_folded"]), interval(r["to_plain"])]
            lines.append(line)
        parts.append(f"## Accuracy and latency: {title}\n\n{table(header, lines)}")
    costs = [
        [n, *(f"{r[k]:.{d}f}" for k, d in (("size_mb", 2), *COST.items()))]
        for n, r in record["rows"].items()
        if n != FOLDED
    ]
    header = "quantizer | size, MB | seconds | CPU seconds | peak memory, MB"
    parts.append(f"## Cost of quantizing\n\n{table(header, costs)}")
    ranges = [
        [
            f"{r['method']}, {r['who']}",
            str(r["images"]),
            *(f"{r[k]:.{d}f}" for k, d in COST.items()),
        ]
        for r in record["ranges"]
    ]
    header = "range method | images | seconds | CPU seconds | peak memory, MB"
    parts.append(f"## Range methods alone, on prepared images\n\n{table(header, ranges)}")
    known = {**here["versions"], **record["versions"]}
    load = record["load_average"][1]
    parts.append(
        "".join(f"{note}\n\n" for note in record["notes"])
        + f"{here['cpu']}, {here['usable_cpus']} CPUs ({', '.join(here['instruction_sets'])}); "
        f"{here['os']}; {', '.join(f'{n} {v}' for n, v in known.items())}; load average over the "
        f"last five minutes {load:.1f}.\n"
    )
    return "\n".join(parts)


COST = {"seconds": 1, "cpu_seconds": 1, "peak_rss_mb": 0}


def interval(found: list[float]) -> str:
    """A ratio with its interval."""
    value, low, high = found
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measure and print; with --child, do one job."""
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib-dir", required=True)
    parser.add_argument("--data", required=True, help="evaluation images in class folders")
    parser.add_argument("--calib-count", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, on each CPU")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(arguments, Path(folder))
    if arguments.json:
        write_atomically(arguments.json, json.dumps(record, indent=1).encode())
    text = document(
        record,
        "python benchmarks/quantizers.py MODEL --calib-dir DIR --data DIR "
        f"--calib-count {arguments.calib_count} --seconds {arguments.seconds:g}",
    )
    if arguments.markdown:
        write_atomically(arguments.markdown, text.encode())
    print(text)


if __name__ == "__main__":
    main()
