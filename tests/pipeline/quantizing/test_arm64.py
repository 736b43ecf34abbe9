"""Proof kits on ARM, emulated."""

import importlib.util
import platform
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "arm64.py"
specification = importlib.util.spec_from_file_location("arm64", SCRIPT)
assert specification
assert specification.loader
arm64 = importlib.util.module_from_spec(specification)
specification.loader.exec_module(arm64)


@pytest.fixture(scope="module")
def root():
    if platform.machine() != "x86_64":
        pytest.skip("this is no x86 machine that emulates ARM")
    if reason := arm64.obstacle():
        pytest.skip(f"ARM cannot be emulated: {reason}")
    if not arm64.root_folder().is_dir():
        pytest.skip(f"{arm64.root_folder()} is not there (make arm64)")
    return arm64.root_folder()


ORDINARY = "NEON dot product"
FAMILIES = [k if k == ORDINARY else pytest.param(k, marks=pytest.mark.slow) for k in arm64.CPUS]


@pytest.mark.parametrize("kernels", FAMILIES)
def test_a_kit_is_right_on_every_family_of_arm_kernels(root, crossed, kernels):
    record, found = arm64.prove(root, crossed.path.with_name("int8-kit"), arm64.CPUS[kernels][0])
    assert arm64.taken(kernels, found), found
    assert record["right"], record
    assert "aarch64" in record["device"]
    assert record["model"] == crossed.sha256
