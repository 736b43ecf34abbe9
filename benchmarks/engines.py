"""OpenVINO's own choices beside ONNX Runtime: NNCF's int8, and its default precision.

    pip install openvino nncf
    python benchmarks/engines.py --run NAME [--threads 1] [--seconds 5] [--markdown docs/engines.md]

``mobilenet-cli bench --engine openvino,litert,ncnn`` compares engines on the same file. What
these rows run is not that file: the run's ``folded.onnx`` in OpenVINO's default precision (bfloat16
where the CPU has AMX), and in int8 as NNCF quantizes it with the same calibration images. The
run's ``folded.onnx`` and ``int8.onnx`` in ONNX Runtime are what they are compared with.

All engines live in this process, take turns in blocks as in ``mobilenet-cli bench``, and get the
same image as a NumPy array in host memory. Every engine's logits are compared with ONNX Runtime's
before anything is timed, so that no row is fast for want of doing the work.
"""

import argparse
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.artifacts.runs import Run, find_run
from mobilenet_cli.pipeline.runtime.machine import machine, usable_cpus
from mobilenet_cli.pipeline.runtime.proving.parity import sqnr_db
from mobilenet_cli.pipeline.runtime.proving.probe_images import probe_images
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.runtime.timing import Timing, interleave, ratio, time_block
from mobilenet_cli.reports.tables import table

Images = NDArray[np.float32]
Runner = Callable[[], NDArray[Any]]
CALIBRATION_IMAGES = 100
SAME_DB = 60.0  # float engines differ by rounding alone
CLOSE_DB = 5.0  # int8 and bfloat16 approximate


@dataclass(frozen=True)
class Engine:
    """One row: who runs what.

    Attributes:
        name: engine and precision.
        needs: packages that it imports.
        build: returns the function to time, given artifact, image [1, 3, R, R] and threads.
        artifact: which file of the run it starts from.
        least_db: least signal-to-noise ratio of its logits to ONNX Runtime's float32.
    """

    name: str
    needs: tuple[str, ...]
    build: Callable[[Artifact, Images, int], Runner]
    artifact: str = "folded"
    least_db: float = SAME_DB


def onnx_runtime(artifact: Artifact, image: Images, threads: int) -> Runner:
    """What ``bench`` times."""
    session = open_session(artifact.path, SessionConfig(threads=threads))
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed)[0]


def openvino_default(artifact: Artifact, image: Images, threads: int) -> Runner:
    """OpenVINO's choice of precision."""
    return _compile_openvino(_read_openvino(artifact, image), image, threads)


def openvino_int8(artifact: Artifact, image: Images, threads: int) -> Runner:
    """NNCF's post-training quantization with its defaults."""
    import nncf

    calibration, _ = probe_images(artifact.facts, None, CALIBRATION_IMAGES)
    dataset = nncf.Dataset([calibration[i : i + 1] for i in range(len(calibration))])
    model = nncf.quantize(_read_openvino(artifact, image), dataset, subset_size=len(calibration))
    return _compile_openvino(model, image, threads)


def _read_openvino(artifact: Artifact, image: Images) -> Any:
    import openvino

    model = openvino.Core().read_model(artifact.path)
    model.reshape(list(image.shape))
    return model


def _compile_openvino(model: Any, image: Images, threads: int) -> Runner:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([image], share_inputs=True)[0]


ENGINES = (
    Engine("ONNX Runtime float32", (), onnx_runtime),
    Engine("OpenVINO default precision", ("openvino",), openvino_default, least_db=CLOSE_DB),
    Engine("ONNX Runtime int8", (), onnx_runtime, "int8", CLOSE_DB),
    Engine("OpenVINO int8 by NNCF", ("openvino", "nncf"), openvino_int8, least_db=CLOSE_DB),
)


def build_all(
    run: Run, image: Images, threads: int
) -> tuple[dict[str, Runner], dict[str, float], list[str]]:
    """Every engine that is installed, its logits' closeness in dB, and who is left out and why."""
    runners: dict[str, Runner] = {}
    closeness: dict[str, float] = {}
    left_out: list[str] = []
    reference: NDArray[Any] | None = None
    for engine in ENGINES:
        path: Path = getattr(run, engine.artifact)
        missing = [name for name in engine.needs if importlib.util.find_spec(name) is None]
        if missing or not path.is_file():
            what = f"pip install {' '.join(missing)}" if missing else f"{path} does not exist"
            left_out.append(f"{engine.name} is left out: {what}")
            continue
        runner = engine.build(load_artifact(path), image, threads)
        logits = runner()
        reference = logits if reference is None else reference
        closeness[engine.name] = sqnr_db(reference, logits.reshape(reference.shape))
        if closeness[engine.name] < engine.least_db:
            raise SystemExit(
                f"{engine.name} computes something else: {closeness[engine.name]:.1f} dB from "
                "ONNX Runtime's logits"
            )
        runners[engine.name] = runner
    return runners, closeness, left_out


def measure(runners: dict[str, Runner], seconds: float) -> dict[str, Timing]:
    """Interleaved, as ``bench`` does it."""
    subjects = [lambda runs, run=run: time_block(run, runs) for run in runners.values()]
    timings = interleave(subjects, limit_ns=int(seconds * len(runners) * 1e9))
    return dict(zip(runners, timings, strict=True))


def markdown(timings: dict[str, Timing], closeness: dict[str, float]) -> str:
    """One line an engine; ratios to ONNX Runtime in the same class of precision."""
    rows = []
    for name, timing in timings.items():
        low, high = timing.interval()
        base = "ONNX Runtime int8" if "int8" in name else "ONNX Runtime float32"
        against = ""
        if base in timings:
            value, from_, to = ratio(timing, timings[base])
            against = f"{value:.3f} ({from_:.3f} to {to:.3f}) of {base}"
        median = timing.percentile(50)
        interval = f"{low / 1e6:.2f} to {high / 1e6:.2f}"
        rows.append([name, f"{median / 1e6:.2f}", interval, against, f"{closeness[name]:.0f}"])
    return table("engine | p50 ms | 95 % interval | ratio | logits, dB", rows)


def setting(run: Run, threads: int) -> str:
    """What the figures mean nothing without."""
    here = machine()
    names = ("onnxruntime", "openvino", "nncf")
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for name in names
        if importlib.util.find_spec(name)
    ]
    spec = load_artifact(run.folded).facts
    width = f"width {spec.model.width:g}, " if spec.model else ""
    return (
        f"MobileNet v1 {width}{spec.input.resolution}x{spec.input.resolution}, batch 1, "
        f"{threads} thread{'s' if threads > 1 else ''}; {here.cpu} "
        f"({', '.join(here.instruction_sets)}); {', '.join(versions)}"
    )


def main() -> None:
    """Build, compare, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", help="folder under runs/; default: the newest with a folded.onnx")
    parser.add_argument("--threads", type=int, default=1, help="0 takes every usable CPU")
    parser.add_argument("--seconds", type=float, default=5.0, help="most time to spend on a row")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    run, threads = find_run(arguments.run, "folded"), arguments.threads or usable_cpus()
    image, _ = probe_images(load_artifact(run.folded).facts, None, 1)
    start = time.monotonic()
    runners, closeness, left_out = build_all(run, image, threads)
    text = f"{setting(run, threads)}\n\n{markdown(measure(runners, arguments.seconds), closeness)}"
    text += "".join(f"\n{line}" for line in left_out)
    print(text)
    print(f"{time.monotonic() - start:.0f} s")
    if arguments.markdown:
        write_atomically(arguments.markdown, f"# Engines\n\n{text}\n".encode())


if __name__ == "__main__":
    main()
