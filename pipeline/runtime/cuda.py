"""This module finds what keeps CUDA or TensorRT from starting, and the command that mends it.

ONNX Runtime's own answer is a log line with the first library that could not be loaded. It does
not say that two wheels overwrote each other, or that the driver is older than the wheel.
"""

import contextlib
import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import io
import re
import sys
from pathlib import Path

REINSTALL = 'pip uninstall -y {wheels} && pip install "mobilenet-cli[{extra}]"'
DRIVER_OF_CUDA = {
    12: 525,
    13: 580,
}  # oldest Linux driver by CUDA major version (CUDA release notes)


def runtime_wheels() -> tuple[str, ...]:
    """Return the distributions of the onnxruntime that is imported; two overwrite each other.

    One in another folder, such as that of a system whose packages an environment sees, is hidden
    by the first on the path and does no harm.
    """
    folders: dict[str, int | None] = {}
    for name in importlib.metadata.packages_distributions().get("onnxruntime", ()):
        folders[name] = None  # one that is just being installed has no metadata yet
        with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
            folder = str(importlib.metadata.distribution(name).locate_file(""))
            folders[name] = sys.path.index(folder)
    first = min((place for place in folders.values() if place is not None), default=None)
    return tuple(sorted(name for name, place in folders.items() if place in (first, None)))


def obstacle(library: str) -> tuple[str, str] | None:
    """Find the first thing that keeps a provider from starting, and how to mend it, if any.

    Looks at the wheels, the driver and its version, then loads the provider's ``library`` from
    ONNX Runtime's folder as ONNX Runtime does. Both texts are sentences without a full stop.
    """
    wheels = runtime_wheels()
    if len(wheels) > 1:
        return (
            f"{' and '.join(wheels)} are both installed and overwrite each other's files",
            f"Run: {REINSTALL.format(wheels=' '.join(wheels), extra='gpu')}",
        )
    if "onnxruntime-gpu" not in wheels:
        return (
            f"the wheel {' '.join(wheels) or 'onnxruntime'} is for the CPU only",
            f"Run: {REINSTALL.format(wheels=' '.join(wheels), extra='gpu')}; "
            "it needs an NVIDIA GPU and driver",
        )
    return driver_obstacle() or library_obstacle(library)


def driver_obstacle() -> tuple[str, str] | None:
    """Tell whether the driver is missing, or older than the CUDA version of the wheel."""
    import onnxruntime as ort

    needed = str(ort.cuda_version)
    major = int(needed.split(".")[0])
    oldest = DRIVER_OF_CUDA.get(major)
    install = f"Install NVIDIA's driver{f' {oldest} or newer' if oldest else ''}"
    found = driver_cuda_version()
    if found is None:
        return "this machine has no NVIDIA driver (libcuda.so.1 cannot be loaded)", install
    if found[0] < major:
        return (
            f"the NVIDIA driver supports CUDA {found[0]}.{found[1]}, but onnxruntime-gpu "
            f"{ort.__version__} is built for CUDA {needed}",
            install,
        )
    return None


def driver_cuda_version() -> tuple[int, int] | None:
    """Return the newest CUDA version that the driver supports (``cuDriverGetVersion``), if any."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()  # 1000 * major + 10 * minor
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def library_obstacle(library: str) -> tuple[str, str] | None:
    """Name a shared library that the provider's ``library`` needs and the loader does not find."""
    import onnxruntime as ort

    preload()
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / library))
    except OSError as error:
        return missing_library(str(error))
    return None


def missing_library(message: str) -> tuple[str, str]:
    """Say what is needed and what is found, given the loader's ``libcudnn.so.9: cannot open``."""
    match = re.match(r"(lib(\w+)\.so[.\d]*): cannot open", message)
    if match is None:
        return f"the provider's library cannot be loaded ({message})", "Install the gpu extra again"
    needed, stem = match.groups()
    others = other_versions(stem)
    found = f"found is {', '.join(others)}" if others else "no version of it is installed"
    return f"the library {needed} is missing; {found}", f"Run: pip install {package_of(needed)}"


def package_of(library: str) -> str:
    """Return what to install for ``libnvinfer.so.10`` (TensorRT) or a library of CUDA or cuDNN."""
    if not library.startswith(("libnvinfer", "libnvonnxparser")):
        return '"mobilenet-cli[gpu]"'
    import onnxruntime as ort

    cuda_major, version = str(ort.cuda_version).split(".")[0], library.rpartition(".so.")[2]
    return f"'tensorrt-cu{cuda_major}=={version}.*'"


def other_versions(stem: str) -> list[str]:
    """List files of ``lib<stem>`` that the loader or NVIDIA's Python packages do have."""
    found = {ctypes.util.find_library(stem)} - {None}
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        found |= {path.name for path in Path(root).glob(f"**/lib{stem}.so*")}
    return sorted(name for name in found if name)


def preload() -> None:
    """Load CUDA's libraries from NVIDIA's Python packages, without what ONNX Runtime prints."""
    import onnxruntime as ort

    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
