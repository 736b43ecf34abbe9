"""The doctor finds what keeps commands from working, or makes them slow, and what to do."""

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from typing import Literal

from mobilenet_cli.pipeline.errors import ProviderError
from mobilenet_cli.pipeline.runtime import cuda
from mobilenet_cli.pipeline.runtime.machine import (
    kernel_flags,
    machine,
    runtime_knows_amx,
    saturates_int8,
)
from mobilenet_cli.pipeline.runtime.session import PROVIDERS, SessionConfig, open_session
from mobilenet_cli.reports.records.inspection import DoctorRecord, Finding
from mobilenet_cli.reports.records.latency import MachineRecord

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY")


def doctor() -> DoctorRecord:
    """Look at wheels, providers, the processor, threads and optional packages."""
    here = machine()
    findings = [
        runtime_finding(here),
        *provider_findings(here),
        *processor_findings(here),
        *thread_findings(here),
        torch_finding(),
    ]
    return DoctorRecord(machine=here, findings=tuple(findings))


def runtime_finding(here: MachineRecord) -> Finding:
    """Tell whether there is exactly one ONNX Runtime, and the one that fits the machine."""
    wheels = cuda.runtime_wheels()
    extra = "gpu" if here.gpus else "cpu"
    fix = f"Run: {cuda.REINSTALL.format(wheels=' '.join(wheels), extra=extra)}"
    if not wheels:
        fix = f'Run: pip install "mobilenet-cli[{extra}]"'
        return Finding(subject="runtime", status="problem", what="no ONNX Runtime", fix=fix)
    if len(wheels) > 1:
        what = f"{' and '.join(wheels)} are both installed and overwrite each other's files"
        return Finding(subject="runtime", status="problem", what=what, fix=fix)
    if here.gpus and wheels == ("onnxruntime",):
        what = f"the wheel is for the CPU only, but there is {here.gpus[0]}"
        return Finding(subject="runtime", status="note", what=what, fix=fix)
    version = importlib.metadata.version(wheels[0])
    return Finding(subject="runtime", status="ok", what=f"{wheels[0]} {version}")


def provider_findings(here: MachineRecord) -> Iterator[Finding]:
    """Try each provider on a small model; NVIDIA's only where there is a GPU or the wheel."""
    gpu_wanted = here.gpus or "onnxruntime-gpu" in cuda.runtime_wheels()
    for name, provider in PROVIDERS.items():
        if provider.library and not gpu_wanted:
            continue
        try:
            open_session(small_model(), SessionConfig(provider=name, threads=1))
        except ProviderError as error:
            status: Literal["note", "problem"] = "note" if provider.optional else "problem"
            yield Finding(subject=name, status=status, what=error.what, fix=error.fix)
        else:
            yield Finding(subject=name, status="ok", what="runs a model")


def small_model() -> bytes:
    """Make a model of one ReLU on [1, 3, 8, 8], which is enough to start a provider."""
    from onnx import TensorProto, helper

    shape = [1, 3, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized


def processor_findings(here: MachineRecord) -> Iterator[Finding]:
    """Say which kernels the processor's instruction sets allow."""
    names = here.instruction_sets
    if here.architecture == "x86_64" and "AVX2" not in names:
        what = "no AVX2: ONNX Runtime falls back to its slowest kernels"
        yield Finding(
            subject="processor", status="note", what=what, fix="Use a processor from 2015 or later"
        )
    if saturates_int8(names):
        what = "no VNNI: int8 kernels add in saturating 16 bits; 'quantize' limits pairs of weights"
        yield Finding(subject="int8", status="note", what=what)
    elif "amx_int8" in kernel_flags() and not runtime_knows_amx():
        yield Finding(
            subject="int8",
            status="note",
            what="ONNX Runtime leaves AMX unused in a process that is bound to one CPU",
            fix="Allow it two (taskset, the container's cpuset); --threads 1 is one thread still",
        )
    else:
        yield Finding(subject="int8", status="ok", what="integer kernels do not saturate")
    yield Finding(subject="processor", status="ok", what=f"{here.cpu}: {', '.join(names)}")


def thread_findings(here: MachineRecord) -> Iterator[Finding]:
    """Say what limits the number of threads, or slows them down."""
    what = f"{here.usable_cpus} of {here.cpus} CPUs usable"
    if here.cpu_quota is not None and here.cpu_quota != int(here.cpu_quota):
        what += f", but only {here.cpu_quota:g} CPUs' worth of time: threads are halted in turns"
        fix = f"Pass --threads {max(1, int(here.cpu_quota))}, or raise the container's limit"
        yield Finding(subject="threads", status="note", what=what, fix=fix)
    elif here.usable_cpus < here.cpus:
        fix = "Raise the container's CPU limit or the affinity (taskset) for more"
        yield Finding(subject="threads", status="note", what=what, fix=fix)
    else:
        yield Finding(subject="threads", status="ok", what=what)
    for name in THREAD_VARIABLES:
        if name in os.environ:
            what = f"{name}={os.environ[name]} changes torch's threads, not ONNX Runtime's"
            yield Finding(subject="threads", status="note", what=what, fix=f"Run: unset {name}")


def torch_finding() -> Finding:
    """Tell whether torch is there, which train, export and torch's rows of bench need."""
    if importlib.util.find_spec("torch") is None:
        return Finding(
            subject="torch",
            status="note",
            what="torch is not installed: no train, import, export, and no torch rows in bench",
            fix='Run: pip install "mobilenet-cli[train]"',
        )
    return Finding(subject="torch", status="ok", what=importlib.metadata.version("torch"))
