"""A worker is the parent's end of a process in which one row of ``bench`` lives.

A process of its own gives every row its own cold start, peak memory and threads, keeps torch out
of ``bench`` itself, and leaves the others standing when memory runs out.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.benchmarking.processes import child
from mobilenet_cli.pipeline.benchmarking.processes.job import (
    ONNX_RUNTIME,
    BenchJob,
    does_not_fit,
    lacks_memory,
)
from mobilenet_cli.pipeline.errors import CheckError, EngineError, MobilenetError, OptionError
from mobilenet_cli.pipeline.runtime.machine import oom_kills

T = TypeVar("T")

CRASH_CURE = (
    "The runtime crashed; name the other artifacts to measure them alone, "
    "and run 'mobilenet-cli doctor'"
)
SIGNAL_CURES = dict.fromkeys(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL), CRASH_CURE
)


class Worker:
    """A worker is a child process with one loaded model; calling it times a block of runs.

    Between calls the process is stopped: the idle threads of inference runtimes wait for work by
    spinning, which on two cores made another row's runs 2.6 times as long.

    Attributes:
        failure: why it cannot go on; of engines other than ONNX Runtime an EngineError, so that
            the other rows can.
    """

    def __init__(self, job: BenchJob) -> None:
        self._job = job
        self.failure: MobilenetError | None = None
        self._oom_kills = oom_kills()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", f"from {child.__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | openmp_binding(job),
        )
        try:
            self.cold_start_ms: float = self._ask(job)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Return the identifier of the process."""
        return self._process.pid

    def __call__(self, runs: int) -> NDArray[np.int64]:
        """Run once untimed, then ``runs`` times; durations in nanoseconds."""
        durations: NDArray[np.int64] = self._ask(runs)
        return durations

    def ask(self, question: Callable[[BenchJob], T]) -> T:
        """Return what a function of ``child`` finds out about the job, in the process."""
        answer: T = self._ask(question)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _ask(self, request: Any) -> Any:
        """Send a request and return the answer; the worker's errors are raised here."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.send_signal(signal.SIGCONT)
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)  # noqa: S301 - written by our own child
            self._process.send_signal(signal.SIGSTOP)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            answer = self._death()
        if isinstance(answer, MobilenetError):
            if self._job.engine != ONNX_RUNTIME:
                answer = EngineError(answer.what, answer.fix)
            self.failure = answer
            raise answer
        return answer

    def _death(self) -> CheckError | OptionError:
        status = self._process.wait()
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().splitlines()
        kills = oom_kills()
        killed_for_memory = status == -signal.SIGKILL and kills != self._oom_kills
        if killed_for_memory or lacks_memory("".join(words[-1:])):
            return does_not_fit(self._job)
        if status < 0:
            no_lack = "" if kills is None else ", and the kernel reports no lack of memory"
            return CheckError(
                f"the process that ran {self._job.model} was ended by "
                f"{signal.Signals(-status).name}{no_lack}",
                SIGNAL_CURES.get(
                    signal.Signals(-status), "Run it again, unless somebody stopped it on purpose"
                ),
            )
        return CheckError(
            f"the process that ran {self._job.model} ended with status {status} "
            f"({words[-1] if words else 'no message'})",
            "Run 'mobilenet-cli doctor'",
        )


def openmp_binding(job: BenchJob) -> dict[str, str]:
    """Return what tells torch's OpenMP, when it is loaded, where its threads belong."""
    if not (job.is_checkpoint and job.session.cpus):
        return {}
    cpus = " ".join(map(str, job.session.cpus))
    return {"OMP_PROC_BIND": "true", "GOMP_CPU_AFFINITY": cpus}
