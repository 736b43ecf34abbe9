"""Run proof kits on emulated ARM CPUs: ``python benchmarks/arm64.py KIT...``.

A root folder of arm64 is unpacked from Debian 12's packages and the aarch64 wheels of onnxruntime
and numpy, without installing anything, and ``prove.py`` runs in it under QEMU's user emulation. It
is kept in ``~/.cache/mobilenet-cli/arm64``, and takes 100 MB to download. This needs Debian 12's
package lists and the right to chroot.

Each CPU is one family of ONNX Runtime's kernels. Which was taken is seen in the instructions that
QEMU translates: a block of code is translated when it runs for the first time. The process must not
see the host's /proc, whose facts about an x86 CPU end it; it finds its own instead.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHON = "python3.11"
PACKAGES = (
    f"libc6 libgcc-s1 libstdc++6 {PYTHON}-minimal lib{PYTHON}-minimal lib{PYTHON}-stdlib "
    "zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libcrypt1"
).split()
# Mask and value of each instruction's encoding (Arm ARM, C7.2 and C8.2).
INSTRUCTIONS = {
    "udot": (0xBFC0F400, 0x2F80E000),  # by element
    "ummla": (0xFFE0FC00, 0x6E80A400),
    "sve ummla": (0xFFE0FC00, 0x45C09800),
}
# By kernels: the CPU as QEMU names it, and the instruction that only they have.
CPUS: dict[str, tuple[str, str | None]] = {
    "NEON": ("cortex-a57", None),
    "NEON dot product": ("neoverse-n1", "udot"),
    "i8mm": ("max,sve=off", "ummla"),
    "SVE i8mm": ("max", "sve ummla"),
}
CPUINFO = """processor\t: 0
Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics asimddp i8mm
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd07
CPU revision\t: 0
"""


class NotHereError(Exception):
    """This machine cannot emulate ARM; the argument says why."""


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run a command, whose failure is the reason why there is no emulation."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)  # noqa: S603 - our commands
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NotHereError(f"{command[0]} cannot do it: {' '.join(told)}")


def root_folder() -> Path:
    """Return the root folder, which may not be there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mobilenet-cli" / "arm64"


def obstacle() -> str | None:
    """Say what keeps this machine from emulating ARM, as far as that is known at once."""
    missing = [name for name in ("apt-get", "dpkg-deb", "chroot") if shutil.which(name) is None]
    if missing:
        return f"there is no {missing[0]}"
    return None if os.geteuid() == 0 else "only root may chroot"


def build_root() -> Path:
    """Return the root folder, which is made where it is missing.

    Raises:
        NotHereError: a package cannot be had.
    """
    root = root_folder()
    if root.is_dir():
        return root
    if reason := obstacle():
        raise NotHereError(reason)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        folder = Path(name)
        made = folder / "root"
        download(folder)
        for package in sorted(folder.glob("*.deb")):
            run("dpkg-deb", "-x", package, made if "_arm64" in package.name else folder, cwd=folder)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(made / "usr/lib/python3/dist-packages")
        shutil.copy(folder / "usr/bin/qemu-aarch64-static", made)
        cpus = made / "sys/devices/system/cpu"
        for inside in (cpus, made / "proc", made / "tmp"):
            inside.mkdir(parents=True, exist_ok=True)
        (made / "proc/cpuinfo").write_text(CPUINFO)
        for which in ("possible", "present"):
            (cpus / which).write_text("0\n")
        first = [*emulated(made, "cortex-a57"), "-c", "import numpy, onnxruntime"]
        run(*first, cwd=folder, env={})  # which leaves them compiled
        made.rename(root)
    return root


def emulated(root: Path, cpu: str, *options: str) -> list[str]:
    """Return the command that is Python on an ARM CPU."""
    chroot = shutil.which("chroot") or "chroot"
    return [chroot, str(root), "/qemu-aarch64-static", "-cpu", cpu, *options, f"/usr/bin/{PYTHON}"]


def download(folder: Path) -> None:
    """Fetch the packages and wheels; the machine's own lists of packages stay as they are."""
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64,amd64",
        "APT::Sandbox::User": "root",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
    }
    apart = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    run("apt-get", *apart, "-qq", "update", cwd=folder)
    run("apt-get", *apart, "-qq", "download", *PACKAGES, "qemu-user-static:amd64", cwd=folder)
    pinned = (HERE.parent / "constraints.txt").read_text()
    wheels = re.findall(r"^(?:onnxruntime|numpy)==\S+", pinned, re.MULTILINE)
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"]
    tags = ["--platform=manylinux_2_28_aarch64", f"--python-version={PYTHON[6:]}"]
    run(*pip, *tags, *wheels, cwd=folder)


def prove(root: Path, kit: Path, cpu: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Run a kit on one CPU.

    Args:
        root: from ``build_root``.
        kit: the folder.
        cpu: as QEMU names it.

    Returns:
        The kit's record, and the names in ``INSTRUCTIONS`` of those that were translated.

    Raises:
        NotHereError: it is no kit, it says that it cannot be run, or QEMU ended.
    """
    if not (kit / "kit.json").is_file():
        raise NotHereError(f"{kit} is no proof kit (mobilenet-cli quantize --cross makes one)")
    with tempfile.TemporaryDirectory(dir=root / "tmp") as name:
        shutil.copytree(kit, Path(name) / "kit")
        inside = f"/{Path(name).relative_to(root)}"
        watched = ["-d", "in_asm", "-D", f"{inside}/translated"]
        command = [*emulated(root, cpu, *watched), f"{inside}/kit/prove.py"]
        done = subprocess.run(command, env={}, capture_output=True, text=True)  # noqa: S603 - ours
        if done.returncode not in (0, 1) or not done.stdout:
            raise NotHereError(done.stderr.strip() or f"QEMU ended with {done.returncode}")
        with (Path(name) / "translated").open(errors="replace") as log:
            words = {line.split()[1] for line in log if line.startswith("0x")}  # address: encoding
    codes = [int(word, 16) for word in words]
    named = INSTRUCTIONS.items()
    return json.loads(done.stdout), frozenset(
        n for n, (mask, v) in named if any(c & mask == v for c in codes)
    )


def taken(kernels: str, found: frozenset[str]) -> bool:
    """Tell whether exactly these kernels were taken, and not those of another CPU."""
    own = CPUS[kernels][1]
    return found == ({own} if own else frozenset())


def main() -> None:
    """Print a row of Markdown for each kit and kernels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kits", nargs="*", type=Path, metavar="KIT")
    parser.add_argument("--kernels", nargs="*", choices=CPUS, default=list(CPUS))
    options = parser.parse_args()
    try:
        root = build_root()
        print("| kit | made for | kernels | wrong layers | most codes apart | whole model, dB |")
        print("| --- | --- | --- | --- | --- | --- |")
        for kit in options.kits:
            for kernels in options.kernels:
                record, found = prove(root, kit, CPUS[kernels][0])
                if not taken(kernels, found):
                    raise NotHereError(f"ONNX Runtime did not take the kernels {kernels}: {found}")
                apart = max(
                    record["layers"].values(),
                    key=lambda codes: float("inf") if codes is None else codes,
                )
                cells = (
                    kit,
                    record["target"],
                    kernels,
                    len(record["wrong"]),
                    apart,
                    record["model_sqnr_db"],
                )
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    except NotHereError as error:
        sys.exit(f"arm64: {error}")


if __name__ == "__main__":
    main()
