"""The machine's CPUs, instruction sets and limits are read as the kernel states them."""

import os
import subprocess
import sys

import pytest

from mobilenet_cli.pipeline.runtime.machine import (
    cpu_quota,
    cpus_to_pin,
    gpus,
    instruction_sets,
    kernel_flags,
    known_instruction_sets,
    machine,
    oom_kills,
    own_cpus,
    saturates_int8,
    usable_cpus,
)

CASCADE_LAKE = {"AVX2": True, "AVX512F": True, "AVX512VNNI": True}


def test_affinity_limits_the_cpus():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from mobilenet_cli.pipeline.runtime.machine import usable_cpus; print(usable_cpus())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("cpus", "used"), [({0}, False), ({0, 3}, True)])
def test_a_process_on_one_cpu_does_without_amx(monkeypatch, cpus, used):
    flags = kernel_flags() | {"amx_int8"}
    monkeypatch.setattr("mobilenet_cli.pipeline.runtime.machine.kernel_flags", lambda: flags)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)
    assert ("AMX-INT8" in instruction_sets()) == used


def test_threads_go_to_different_cores_first(tmp_path, monkeypatch):
    for cpu, siblings in {0: "0,1", 1: "0,1", 2: "2-3", 3: "2-3"}.items():
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr("mobilenet_cli.pipeline.runtime.machine.cpu_quota", lambda: None)
    assert [cpus_to_pin(n, tmp_path) for n in (1, 2, 3)] == [(0,), (0, 2), (0, 2, 1)]
    assert cpus_to_pin(2, tmp_path / "absent") == (0, 1)
    assert cpus_to_pin(5, tmp_path) == ()


def test_a_process_has_cpus_of_its_own_unless_a_quota_grants_fewer(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1})
    assert (own_cpus(2), own_cpus(1), own_cpus(3)) == ((1, 3), (), ())


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"memory.events": "oom 3\noom_kill 2\n"}, 2),
        ({"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"}, 4),
        ({}, 7),
    ],
)
def test_out_of_memory_kills_by_kernel_interface(tmp_path, files, count):
    for name, text in {**files, "vmstat": "pgfault 1\noom_kill 7\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path, tmp_path / "vmstat") == count
    assert oom_kills(tmp_path / "absent", tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({}, None),
    ],
)
def test_quota_of_both_control_group_versions(tmp_path, files, cpus):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert cpu_quota(tmp_path) == cpus


def test_what_numpy_does_not_know_comes_from_the_kernel():
    listed = frozenset({"avx2", "avx512f", "avx512_vnni", "amx_int8"})
    found = known_instruction_sets(CASCADE_LAKE, listed)
    assert found == ("AVX2", "AVX-512F", "AVX-512 VNNI", "AMX-INT8")


def test_a_kernel_list_that_contradicts_the_processor_is_not_believed():
    # qemu-user emulates a Haswell while /proc/cpuinfo still shows the host
    haswell = dict.fromkeys(CASCADE_LAKE, False) | {"AVX2": True}
    listed = frozenset({"avx2", "avx512f", "avx512_vnni", "amx_int8"})
    assert known_instruction_sets(haswell, listed) == ("AVX2",)


def test_numpy_and_the_kernel_agree_here():
    # Should NumPy drop or rename a feature, this fails where the kernel lists it.
    names = instruction_sets()
    flags = kernel_flags()
    for name, flag in [("AVX2", "avx2"), ("AVX-512 VNNI", "avx512_vnni"), ("NEON", "asimd")]:
        assert (name in names) == (flag in flags)


def test_saturation_follows_from_the_dot_product(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert saturates_int8(("AVX", "AVX2", "AVX-512F"))
    assert not saturates_int8(("AVX2", "AVX-VNNI"))
    assert not saturates_int8(("AVX2", "AVX-512F", "AVX-512 VNNI"))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not saturates_int8(("NEON",))


def test_nvidia_smi_that_fails_means_no_gpu(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    program.chmod(0o755)
    assert gpus() == ()
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1, 143771 MiB'\n")
    assert gpus() == ("NVIDIA H200, 570.1, 143771 MiB",)


def test_the_record_names_this_machine():
    record = machine()
    assert record.usable_cpus == usable_cpus()
    assert record.memory_mb > 100
    assert record.cpu
    assert "numpy" in record.versions
