"""Engines are the runtimes that ``bench`` can put beside ONNX Runtime, on the same file.

Each engine is a line in ``ENGINES``: how it reads a model, and from which other form if it does not
read ONNX. Everything else is as for ONNX Runtime's rows: a process of its own, the same images, as
many threads, one clock, turns in blocks.

Whether an engine computes the model, and not something faster, is told by its answers on the
compared images: they are held against what the file says by its definition, in float by ONNX
Runtime, as are the answers of ONNX Runtime's own kernels. Probabilities are compared by their
logarithms, which are the logits but for a constant that both sides lose.
"""

import contextlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.artifacts.onnx_graph import has_operator
from mobilenet_cli.pipeline.benchmarking.processes.job import ONNX_RUNTIME, BenchJob
from mobilenet_cli.pipeline.benchmarking.processes.operator_profile import (
    PROFILED_RUNS,
    Inside,
    look_inside,
)
from mobilenet_cli.pipeline.errors import EngineError, MobilenetError, OptionError, missing_extra
from mobilenet_cli.pipeline.runtime.session import open_session

Compute = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Engine:
    """An engine is one way to run a model.

    Attributes:
        package: the distribution on PyPI, for its version.
        module: what is imported before the clock of a cold start runs.
        load: reads the job's file for batches of images of this shape, and returns a function
            from images to the first output.
        convert: writes the file that the engine reads into a folder, given a model and the shape
            of its input; None where it reads ONNX.
        inside: tells what runs in a loaded model; None where the engine does not tell.
        classifies_pixels: takes uint8 RGB [N, R, R, 3], and gives probabilities.
    """

    package: str
    module: str
    load: Callable[[BenchJob, Sequence[int]], Compute]
    convert: Callable[[Artifact, Sequence[int], Path], Path] | None = None
    inside: Callable[[BenchJob, NDArray[Any]], Inside] | None = None
    classifies_pixels: bool = False

    @property
    def version(self) -> str:
        """Return the version that is installed; empty of what did not come from PyPI."""
        for name in (self.package, f"{self.package}-gpu"):  # ONNX Runtime has two distributions
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(name)
        return ""


def load_onnx_runtime(job: BenchJob, _: Sequence[int]) -> Compute:
    """Load a model as everywhere in this project."""
    session = open_session(job.model, job.session)
    name = session.get_inputs()[0].name

    def compute(images: NDArray[Any]) -> NDArray[Any]:
        first: NDArray[Any] = session.run(None, {name: images})[0]
        return first

    return compute


def load_openvino(job: BenchJob, shape: Sequence[int]) -> Compute:
    """Load a model in float32, not in OpenVINO's own choice, which is bfloat16 on AMX."""
    request = _openvino_request(job, shape)

    def compute(images: NDArray[Any]) -> NDArray[Any]:
        first: NDArray[Any] = request.infer([images], share_inputs=True)[0]
        return first

    return compute


def _openvino_request(job: BenchJob, shape: Sequence[int], **more: Any) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(job.model)
    model.reshape(list(shape))
    settings = {
        "INFERENCE_NUM_THREADS": job.session.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return core.compile_model(model, "CPU", settings | more).create_infer_request()


def inside_openvino(job: BenchJob, images: NDArray[Any]) -> Inside:
    """Ask OpenVINO's profiler which kernels ran, such as ``brgconv_avx512_amx_I8``."""
    request = _openvino_request(job, images.shape, PERF_COUNT=True)
    durations: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for turn in range(PROFILED_RUNS + 1):
        request.infer([images], share_inputs=True)
        for node in request.profiling_info if turn else ():  # the first run is left out
            if str(node.status).endswith("EXECUTED"):
                durations.setdefault(node.node_name, []).append(node.real_time.total_seconds())
                kinds[node.node_name] = f"{node.node_type} {node.exec_type}"
    totals: dict[str, float] = {}
    for name, seconds in durations.items():
        totals[kinds[name]] = totals.get(kinds[name], 0.0) + 1e3 * float(np.median(seconds))
    nodes = tuple((kind, job.engine) for kind in kinds.values())
    return Inside(nodes, dict(sorted(totals.items(), key=lambda item: -item[1])))


def convert_to_litert(artifact: Artifact, _: Sequence[int], folder: Path) -> Path:
    """Write the integer model with the same codes, as ``deploy --target litert`` does.

    Raises:
        EngineError: the model is in float.
        ModelError: it has an operator that is not written for LiteRT.
    """
    from mobilenet_cli.pipeline.deploying.litert import write_litert

    if not has_operator(artifact.path, "QuantizeLinear"):
        raise EngineError(
            f"LiteRT files are made of integer models alone, and {artifact.path} is in float",
            "Its row is that of the int8 model",
        )
    path = folder / f"{artifact.path.stem}.tflite"
    path.write_bytes(write_litert(load_onnx(artifact.path), artifact.facts.input)[0])
    return path


def load_litert(job: BenchJob, shape: Sequence[int]) -> Compute:
    """Load a LiteRT file, with XNNPACK's kernels."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(job.model), num_threads=job.session.threads)
    source = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(source, list(shape))
    interpreter.allocate_tensors()
    result = interpreter.get_output_details()[0]["index"]

    def compute(images: NDArray[Any]) -> NDArray[Any]:
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        made: NDArray[Any] = interpreter.get_tensor(result)
        return made

    return compute


def convert_to_ncnn(artifact: Artifact, shape: Sequence[int], folder: Path) -> Path:
    """Convert a float model by pnnx, in float32.

    Raises:
        EngineError: the model is not for one float image, or pnnx does not know what is in it.
    """
    if importlib.util.find_spec("pnnx") is None:  # importing it would import torch
        raise ModuleNotFoundError(name="pnnx")
    if shape[0] != 1:
        raise EngineError("ncnn runs one image at a time", "Pass --batch 1")
    if has_operator(artifact.path, "QuantizeLinear"):
        raise EngineError(
            f"pnnx does not convert the integers of {artifact.path} for ncnn",
            "Its row is that of the float model",
        )
    (folder / "model.onnx").write_bytes(artifact.path.read_bytes())
    program = str(Path(sys.executable).with_name("pnnx"))
    convert = [program, "model.onnx", f"inputshape=[{','.join(map(str, shape))}]", "fp16=0"]
    subprocess.run(convert, cwd=folder, check=True, capture_output=True)  # noqa: S603 - the converter of this environment
    return folder / "model.ncnn.param"


def load_ncnn(job: BenchJob, _: Sequence[int]) -> Compute:
    """Load a model in float32, as it was converted."""
    import ncnn

    net = ncnn.Net()
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    net.opt.num_threads = job.session.threads
    net.load_param(str(job.model))
    net.load_model(str(job.model.with_suffix(".bin")))

    def compute(images: NDArray[Any]) -> NDArray[Any]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(images[0]))
        return np.array(extractor.extract("out0")[1])[None]

    return compute


def inside_onnx_runtime(job: BenchJob, images: NDArray[Any]) -> Inside:
    """Ask ONNX Runtime's profiler."""
    return look_inside(job.model, images, job.session)


ENGINES = {
    ONNX_RUNTIME: Engine(
        "onnxruntime", "onnxruntime", load_onnx_runtime, inside=inside_onnx_runtime
    ),
    "openvino": Engine("openvino", "openvino", load_openvino, inside=inside_openvino),
    "litert": Engine(
        "ai-edge-litert",
        "ai_edge_litert.interpreter",
        load_litert,
        convert_to_litert,
        classifies_pixels=True,
    ),
    "ncnn": Engine("ncnn", "ncnn", load_ncnn, convert_to_ncnn),
}


def check_engines(names: Sequence[str]) -> None:
    """Raise OptionError unless all are engines."""
    for name in names:
        if name not in ENGINES:
            raise OptionError(f"unknown engine '{name}'", f"Use any of {', '.join(ENGINES)}")


def engine_error(engine: str, model: Path, error: Exception) -> EngineError:
    """Say in a sentence why an engine of ``ENGINES`` does not run a model, and what to do."""
    if isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error.name)):
        return EngineError(missing.what, missing.fix)
    if isinstance(error, subprocess.CalledProcessError):
        error = RuntimeError(error.stderr.decode(errors="replace").strip()[-200:] or error)
    if isinstance(error, MobilenetError):
        return EngineError(error.what, f"Leave {engine} out of --engine")
    words = " ".join(str(error).split())[:300] or type(error).__name__
    return EngineError(f"{engine} cannot run {model} ({words})", f"Leave {engine} out of --engine")


def logits_of(answers: NDArray[Any], engine: str) -> NDArray[np.float64]:
    """Return logits [images, classes] less their mean, of logits or of probabilities."""
    rows = answers.reshape(len(answers), -1).astype(np.float64)
    if ENGINES[engine].classifies_pixels:
        rows = np.log(np.maximum(rows, np.finfo(np.float32).tiny))
    centred: NDArray[np.float64] = rows - rows.mean(1, keepdims=True)
    return centred
