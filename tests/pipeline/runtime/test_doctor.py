"""The doctor finds what keeps commands from working, and names a command that mends it."""

import json
import subprocess
import sys

import pytest

from mobilenet_cli.pipeline.runtime import cuda, doctor
from mobilenet_cli.pipeline.runtime.machine import machine
from mobilenet_cli.pipeline.runtime.session import PROVIDERS
from mobilenet_cli.reports.records.inspection import DoctorRecord
from mobilenet_cli.reports.terminal import doctor_text


@pytest.fixture(scope="module")
def here():
    return machine()


def statuses(findings):
    return {finding.subject: finding.status for finding in findings}


def test_this_machine_runs_the_cpu_provider():
    record = doctor.doctor()
    assert statuses(record.findings)["CPUExecutionProvider"] == "ok"
    assert DoctorRecord.model_validate_json(record.model_dump_json()) == record
    assert doctor_text(record).count("\n") >= len(record.findings)


def test_two_wheels_are_a_problem_with_a_command(here, monkeypatch):
    monkeypatch.setattr(cuda, "runtime_wheels", lambda: ("onnxruntime", "onnxruntime-gpu"))
    finding = doctor.runtime_finding(here)
    assert finding.status == "problem"
    assert finding.fix.startswith("Run: pip uninstall -y onnxruntime onnxruntime-gpu && pip")
    assert finding.fix in doctor_text(DoctorRecord(machine=here, findings=(finding,)))


def test_no_runtime_at_all(here, monkeypatch):
    monkeypatch.setattr(cuda, "runtime_wheels", lambda: ())
    assert doctor.runtime_finding(here).fix == 'Run: pip install "mobilenet-cli[cpu]"'


def test_gpu_with_the_wrong_wheel(here, monkeypatch):
    monkeypatch.setattr(cuda, "runtime_wheels", lambda: ("onnxruntime",))
    with_gpu = here.model_copy(update={"gpus": ("NVIDIA H200, 570.1, 143771 MiB",)})
    finding = doctor.runtime_finding(with_gpu)
    assert finding.status == "note"
    assert "mobilenet-cli[gpu]" in finding.fix
    found = statuses(doctor.provider_findings(with_gpu))
    assert found.keys() == PROVIDERS.keys()
    assert found["CPUExecutionProvider"] == "ok"
    assert found["CUDAExecutionProvider"] == "problem"
    assert found["TensorrtExecutionProvider"] == "note"
    for name, provider in PROVIDERS.items():
        assert not provider.optional or found[name] in ("ok", "note")  # as its package is there


def test_processors(here):
    old = here.model_copy(update={"instruction_sets": ("SSE4.2", "AVX"), "architecture": "x86_64"})
    findings = list(doctor.processor_findings(old))
    assert [finding.status for finding in findings] == ["note", "note", "ok"]
    new = here.model_copy(update={"instruction_sets": ("AVX2", "AVX-512 VNNI")})
    assert all(finding.status == "ok" for finding in doctor.processor_findings(new))


def test_amx_that_is_left_unused(here, monkeypatch):
    new = here.model_copy(update={"instruction_sets": ("AVX2", "AVX-512 VNNI")})
    monkeypatch.setattr(doctor, "kernel_flags", lambda: frozenset({"amx_int8"}))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1})
    integer, _ = doctor.processor_findings(new)
    assert integer.status == "note"
    assert "leaves AMX unused" in integer.what
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert all(finding.status == "ok" for finding in doctor.processor_findings(new))


@pytest.mark.parametrize(
    ("cpus", "usable", "quota", "status", "words"),
    [
        (4, 4, None, "ok", "4 of 4"),
        (4, 2, None, "note", "2 of 4"),
        (4, 2, 1.5, "note", "only 1.5 CPUs"),
        (4, 2, 2.0, "note", "2 of 4"),
    ],
)
def test_thread_limits(here, monkeypatch, cpus, usable, quota, status, words):
    for name in doctor.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    limits = {"cpus": cpus, "usable_cpus": usable, "cpu_quota": quota}
    (finding,) = doctor.thread_findings(here.model_copy(update=limits))
    assert finding.status == status
    assert words in finding.what
    assert bool(finding.fix) == (status == "note")


def test_thread_variables_are_told(here, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert any("unset OMP_NUM_THREADS" in f.fix for f in doctor.thread_findings(here))


def test_without_torch(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert doctor.torch_finding().fix == 'Run: pip install "mobilenet-cli[train]"'


def test_command_prints_one_document():
    command = [sys.executable, "-c", "from mobilenet_cli.cli import main; main()", "doctor"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["findings"]
