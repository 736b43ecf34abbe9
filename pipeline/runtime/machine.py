"""This module describes the machine, without which a latency means nothing."""

import contextlib
import math
import os
import platform
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilenet_cli.reports.records.latency import MachineRecord

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
VMSTAT = Path("/proc/vmstat")
CGROUP = Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")
# Instruction sets that choose between kernels of an inference runtime, most specific last: the
# name people use, NumPy's name for it (None: NumPy does not look), Linux's name in /proc/cpuinfo.
INSTRUCTION_SETS: tuple[tuple[str, str | None, str], ...] = (
    ("SSE4.2", "SSE42", "sse4_2"),
    ("AVX", "AVX", "avx"),
    ("AVX2", "AVX2", "avx2"),
    ("FMA", "FMA3", "fma"),
    ("AVX-VNNI", None, "avx_vnni"),
    ("AVX-512F", "AVX512F", "avx512f"),
    ("AVX-512BW", "AVX512BW", "avx512bw"),
    ("AVX-512 VNNI", "AVX512VNNI", "avx512_vnni"),
    ("AVX-512 BF16", "AVX512BF16", "avx512_bf16"),
    ("AVX-512 FP16", "AVX512FP16", "avx512_fp16"),
    ("AMX-BF16", None, "amx_bf16"),
    ("AMX-INT8", None, "amx_int8"),
    ("NEON", "ASIMD", "asimd"),
    ("NEON FP16", "ASIMDHP", "asimdhp"),
    ("NEON dot product", "ASIMDDP", "asimddp"),
    ("NEON I8MM", None, "i8mm"),
    ("SVE", "SVE", "sve"),
)
# Instructions that sum four u8*s8 products in 32 bits. x86 without them adds two in 16 bits,
# saturating (vpmaddubsw): see calibration/kernels.py.
INT8_DOT_PRODUCTS = ("AVX-VNNI", "AVX-512 VNNI", "AMX-INT8")
LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch")


def usable_cpus() -> int:
    """Count the CPUs that this process may use: its affinity, and its quota rounded up."""
    affinity = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def cpus_to_pin(threads: int, topology: Path = TOPOLOGY) -> tuple[int, ...]:
    """Choose logical CPUs for this many threads, on as many physical cores as there are.

    Empty where the threads are more than the CPUs this process may keep busy: pinned, some would
    wait for one another while others rest.
    """
    if threads > usable_cpus():
        return ()
    taken: Counter[str] = Counter()
    turns = []
    for cpu in sorted(os.sched_getaffinity(0)):
        core = str(cpu)
        with contextlib.suppress(OSError):
            core = (topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        turns.append((taken[core], cpu))
        taken[core] += 1
    return tuple(cpu for _, cpu in sorted(turns)[:threads])


def own_cpus(threads: int) -> tuple[int, ...]:
    """Return the CPUs that this process may use if they are as many as threads, or else none.

    Where a quota grants less than the affinity, other processes have such quotas on the same CPUs,
    and threads that are pinned may meet them there.
    """
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    return cpus if len(cpus) == threads else ()


def cpu_quota(root: Path = CGROUP) -> float | None:
    """Return the CPUs' worth of time that the control group grants; None without a limit.

    Reads ``cpu.max`` (version 2: ``max 100000`` or ``150000 100000``, microseconds per period)
    or ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (version 1: quota -1 is no limit), as a
    container sees them at the root of its own namespace.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        times = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota_us, period_us = (int((root / "cpu" / name).read_text()) for name in times)
        return None if quota_us < 0 else quota_us / period_us
    return None


def runtime_knows_amx() -> bool:
    """Tell whether ONNX Runtime would use AMX in this process, if the processor has it.

    While it is loaded, it moves a thread from one CPU to another to see whether AMX's registers
    come along. In a process that is bound to one CPU (taskset, a container's cpuset) it cannot,
    and does without: with ONNX Runtime 1.32, int8 at width 1.0 takes 3.3 ms then, not 2.4.
    """
    return len(os.sched_getaffinity(0)) > 1


def instruction_sets() -> tuple[str, ...]:
    """Return the entries of ``INSTRUCTION_SETS`` that this process's kernels can use.

    NumPy asks the processor itself (cpuid, xgetbv; getauxval on ARM) when it is imported, which
    every command does anyway; a package for this alone would be slower and know less. NumPy does
    not look for AVX-VNNI, AMX and I8MM: these are taken from the kernel's list, provided that the
    list agrees with NumPy on everything that both know. It does not under an emulator such as
    qemu-user, whose guest reads the host's /proc/cpuinfo.
    """
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]  # compiled, no stubs

    flags = kernel_flags() if runtime_knows_amx() else kernel_flags() - {"amx_int8"}
    return known_instruction_sets(_multiarray_umath.__cpu_features__, flags)


def known_instruction_sets(asked: dict[str, bool], listed: frozenset[str]) -> tuple[str, ...]:
    """Combine NumPy's answers with the kernel's flags, as ``instruction_sets`` says."""
    trust_list = all(
        asked[numpy] == (linux in listed) for _, numpy, linux in INSTRUCTION_SETS if numpy in asked
    )
    return tuple(
        name
        for name, numpy, linux in INSTRUCTION_SETS
        if asked.get(numpy or "", trust_list and linux in listed)
    )


def kernel_flags(path: Path = CPUINFO) -> frozenset[str]:
    """Return the flags of the first processor in /proc/cpuinfo; empty if there is no such file."""
    return frozenset((_field(path, "flags") or _field(path, "Features")).split())


def _field(path: Path, key: str) -> str:
    """Return what stands behind ``key:`` in a file below /proc; empty if nothing does."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def saturates_int8(names: tuple[str, ...]) -> bool:
    """Tell whether integer kernels would add 8-bit products in saturating 16-bit arithmetic here.

    True on x86 without an int8 dot product; ARM's kernels widen before they add.
    """
    return platform.machine() in ("x86_64", "AMD64") and not set(names) & set(INT8_DOT_PRODUCTS)


def oom_kills(cgroup: Path = CGROUP, vmstat: Path = VMSTAT) -> int | None:
    """Count the processes that the kernel killed for lack of memory; None if it does not say.

    Of the control group (version 2, then 1), or of the whole machine where no group counts them.
    """
    for path in (cgroup / "memory.events", cgroup / "memory" / "memory.oom_control", vmstat):
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return None


def available_memory() -> int:
    """Return the bytes that can be allocated without swapping, as the kernel estimates them."""
    return _kilobytes(MEMINFO, "MemAvailable") * 1024


def _kilobytes(path: Path, key: str) -> int:
    return int(_field(path, key).removesuffix(" kB"))


def gpus() -> tuple[str, ...]:
    """Return name, driver version and memory of each NVIDIA GPU; empty without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)  # noqa: S603 - fixed arguments
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(answer.stdout.strip().splitlines()) if answer.returncode == 0 else ()


def machine() -> "MachineRecord":
    """Return everything about this machine and its libraries that a latency depends on."""
    from mobilenet_cli.pipeline.artifacts.facts import versions
    from mobilenet_cli.reports.records.latency import MachineRecord

    return MachineRecord(
        cpu=_field(CPUINFO, "model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        instruction_sets=instruction_sets(),
        cpus=os.cpu_count() or 1,
        usable_cpus=usable_cpus(),
        cpu_quota=cpu_quota(),
        memory_mb=_kilobytes(MEMINFO, "MemTotal") / 1024,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions(*LIBRARIES),
        gpus=gpus(),
    )


def peak_rss_mb() -> float:
    """Return ``VmHWM`` in MiB: getrusage would include the parent's peak from before the exec."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM") / 1024
