"""One row of ``bench`` lives in a process that loads one model, then times it on demand.

``main`` answers the requests that a ``worker.Worker`` sends through a pipe.
"""

import ctypes
import importlib
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.benchmarking.processes.engines import ENGINES, engine_error
from mobilenet_cli.pipeline.benchmarking.processes.job import (
    ONNX_RUNTIME,
    BenchJob,
    does_not_fit,
    lacks_memory,
)
from mobilenet_cli.pipeline.benchmarking.processes.operator_profile import Inside
from mobilenet_cli.pipeline.errors import CheckError, MobilenetError, counted
from mobilenet_cli.pipeline.runtime.machine import peak_rss_mb
from mobilenet_cli.pipeline.runtime.session import CPU, device_of, open_session
from mobilenet_cli.pipeline.runtime.timing import time_block

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def pin(job: BenchJob) -> None:
    """Pin this thread; ONNX Runtime pins those it starts.

    Torch's are OpenMP's to pin, this one included, as soon as torch is imported; they get the mask
    that holds them all, before. So do the threads of other engines. ONNX Runtime is imported
    first: loaded by a thread that is bound to one CPU, it would leave AMX out
    (``machine.runtime_knows_amx``).
    """
    if job.session.cpus:
        ours = not job.is_checkpoint and job.engine == ONNX_RUNTIME
        pins_its_own = ours and job.session.provider == CPU
        os.sched_setaffinity(0, job.session.cpus[:1] if pins_its_own else job.session.cpus)


def serve(requests: Any, answers: Any) -> None:
    """Answer the parent's requests until it closes the pipe.

    The first one is the job; then come numbers of runs to time, and functions of the job.
    """
    run: Callable[[], Any] | None = None
    while True:
        try:
            request = pickle.load(requests)  # noqa: S301 - written by our own parent
        except EOFError:
            return
        try:
            answer: Any
            if isinstance(request, BenchJob):
                job = request
                run, answer = start(job)
            elif callable(request):
                answer = request(job)
            else:
                assert run is not None
                answer = time_block(run, request)
        except MobilenetError as error:
            answer = error
        except Exception as error:  # an engine's own, of any type
            if job.engine == ONNX_RUNTIME:
                raise
            answer = engine_error(job.engine, job.model, error)
        pickle.dump(answer, answers)
        answers.flush()


def start(job: BenchJob) -> tuple[Callable[[], Any], float]:
    """Load the model, run it once, check its output; return what runs it again, and ``cold_ms``.

    Raises:
        OptionError: the batch does not fit in memory.
        CheckError: the output has NaN or infinity.
    """
    # Imported here: importing libraries is no part of a cold start.
    if job.is_checkpoint:
        pin(job)
        importlib.import_module("torch")
    else:
        importlib.import_module(ENGINES[job.engine].module)
        pin(job)
    if not device_of(job.session.provider):
        limit_memory(job.memory)
    try:
        images = np.load(job.images)[: job.batch]
        began = time.perf_counter_ns()
        run = runner_of(job, images)
        output = run()
        cold_start_ms = (time.perf_counter_ns() - began) / 1e6
    except Exception as error:  # ONNX Runtime's, torch's and Python's have no common base
        if isinstance(error, MemoryError) or lacks_memory(str(error.__cause__ or error)):
            raise does_not_fit(job) from error
        raise
    if not np.isfinite(output).all():
        raise CheckError(
            f"{job.model} gives NaN or infinity for a batch of {counted(len(images), 'image')}",
            "A model that diverged or was damaged cannot be benchmarked; make it again",
        )
    return run, cold_start_ms


def runner_of(job: BenchJob, images: NDArray[Any]) -> Callable[[], NDArray[Any]]:
    """Load the model, and return what runs it host to host, or within the device's memory."""
    if job.is_checkpoint:
        # Nothing else in ``bench`` imports torch.
        from mobilenet_cli.pipeline.benchmarking.processes.torch_runner import runner

        return runner(job, images)
    if job.on_device:
        session = open_session(job.model, job.session)
        return device_runner(session, images, device_of(job.session.provider))
    return partial(ENGINES[job.engine].load(job, images.shape), images)


def device_runner(
    session: Any, images: NDArray[np.float32], device: str
) -> Callable[[], NDArray[Any]]:
    """Copy the input to the device once and leave the output there; each run ends synchronised.

    What a run returns is the first run's output: later ones do not leave the device.
    """
    import onnxruntime as ort

    binding = session.io_binding()
    value = ort.OrtValue.ortvalue_from_numpy(images, device, 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    output = session.get_outputs()[0]
    # A fixed address: nothing is allocated in a run, and a CUDA graph can be replayed.
    shape = [size if isinstance(size, int) else len(images) for size in output.shape]
    logits = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0)
    binding.bind_ortvalue_output(output.name, logits)
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    first: NDArray[Any] = logits.numpy()

    def run() -> NDArray[Any]:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return first

    return run


def peak_memory(_: BenchJob) -> float:
    """Return the largest resident set of this process so far, in MiB."""
    return peak_rss_mb()


def inside_of(job: BenchJob) -> Inside:
    """Return what ran where, which takes memory; empty for engines that do not tell, and torch."""
    look = None if job.is_checkpoint else ENGINES[job.engine].inside
    return look(job, np.load(job.images)[: job.batch]) if look else Inside((), {})


def answers_of(job: BenchJob) -> NDArray[Any]:
    """Return the first output for all images of the job, batch by batch."""
    images = np.load(job.images)
    parts = [images[at : at + job.batch] for at in range(0, len(images), job.batch)]
    compute = ENGINES[job.engine].load(job, parts[0].shape)
    return np.concatenate([np.array(compute(part)) for part in parts])


def defined_of(job: BenchJob) -> NDArray[Any]:
    """Return the same as ONNX Runtime computes it in float, by the model's definition."""
    session = replace(job.session, integer_kernels=False, provider=CPU, provider_options={})
    return answers_of(replace(job, session=session))


def limit_memory(allowance: int) -> None:
    """Make allocations beyond the allowance fail, instead of calling in the out-of-memory killer.

    The limit is on address space, of which CUDA reserves more than any machine has memory: this
    is for the CPU only.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + allowance, resource.RLIM_INFINITY))


def die_with_parent() -> None:
    """Have the kernel end this process with its parent, which may be killed while it is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Serve the parent; anything else that is printed goes to standard error."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)
