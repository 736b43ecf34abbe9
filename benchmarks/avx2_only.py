"""Child processes on this CPU's AVX2 kernels, so that one machine measures two kinds of CPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def build_shim(folder: Path) -> Path | None:
    """Return the library to preload, which hides what is newer; None without gcc."""
    path = folder / "avx2_only.so"
    source = Path(__file__).with_name("avx2_only.c")
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    build = [compiler, "-O2", "-shared", "-fPIC", "-o", str(path), str(source)]
    subprocess.run(build, check=True)  # noqa: S603 - our source, with the machine's compiler
    environment = dict(os.environ) | {"LD_PRELOAD": str(path)}
    probe = subprocess.run(
        [sys.executable, "-c", "import numpy"], env=environment, check=False, capture_output=True
    )
    return path if probe.returncode == 0 else None
