"""Tell which int8 file is right on which kernels: ``python benchmarks/targets.py KIT...``.

Every proof kit (``mobilenet-cli quantize --cross``) is run on the kernels at hand, and a row of
Markdown says how far the whole model is from its simulation, in dB, and what is wrong: on this CPU,
and on it held to VNNI and to AVX2 (``avx2_only.c``), where files that are made for more must be
recognised as wrong; a file for ``arm64`` on emulated ARM (``arm64.py``); a file for ``vnni`` in
WebAssembly under Node and in headless Chromium, where ``--modules`` names a node_modules folder
with onnxruntime-web.
"""

import argparse
import functools
import http.server
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arm64
from avx2_only import build_shim

from mobilenet_cli.pipeline.runtime.proving.integer_kernels import detect_target

Proof = dict[str, Any]
X86 = {"avx2": "AVX2", "vnni": "VNNI", "amx": "AMX"}
THREADS = (1, 4)
COLUMNS = (
    *X86.values(),
    *arm64.CPUS,
    *(f"{where} × {threads}" for where in ("Node", "Chromium") for threads in THREADS),
)
# A page is given several threads only if no other site can look into it.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
PAGE = """async (threads) => {
  const ort = await import("/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = threads;
  const { prove } = await import("/prove.mjs");
  const bytes = async (name) => new Uint8Array(await (await fetch("/" + name)).arrayBuffer());
  if (!crossOriginIsolated) throw new Error("the page has one thread");
  return JSON.stringify(await prove(ort, bytes));
}"""


def told(command: list[Any], **environment: str) -> Proof:
    """Run a kit's program, and return its record."""
    done = subprocess.run(  # noqa: S603 - a program of ours
        list(map(str, command)), env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    record: Proof = json.loads(done.stdout)
    return record


def native(kit: Path, **environment: str) -> Proof:
    """Run a kit on this CPU."""
    return told([sys.executable, "-I", kit / "prove.py"], **environment)


def with_modules(kit: Path, modules: Path, folder: Path) -> Path:
    """Copy a kit beside npm packages."""
    copied = shutil.copytree(kit, folder / "kit")
    (copied / "node_modules").symlink_to(modules.resolve())
    return copied


def under_node(kit: Path, modules: Path, threads: int) -> Proof:
    """Run a kit in WebAssembly under Node."""
    with tempfile.TemporaryDirectory() as folder:
        copied = with_modules(kit, modules, Path(folder))
        return told(["node", copied / "prove.mjs", threads])


class Handler(http.server.SimpleHTTPRequestHandler):
    """This handler serves a page that may have several threads."""

    def end_headers(self) -> None:
        """Add the headers that isolate the page."""
        for name, value in ISOLATED.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def in_chromium(kit: Path, modules: Path, threads: int) -> Proof:
    """Run a kit in WebAssembly in headless Chromium."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        handler = functools.partial(Handler, directory=with_modules(kit, modules, Path(folder)))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/kit.json")
        record: Proof = json.loads(page.evaluate(PAGE, threads))
        browser.close()
        server.shutdown()
        server.server_close()
    return record


def on_arm(kit: Path, kernels: str) -> Proof:
    """Run a kit on emulated ARM, and insist on the kernels."""
    record, found = arm64.prove(arm64.build_root(), kit, arm64.CPUS[kernels][0])
    if not arm64.taken(kernels, found):
        sys.exit(f"ONNX Runtime did not take the kernels {kernels}, but {', '.join(found)}")
    return record


def kernels_at_hand(
    target: str, shim: Path | None, modules: Path | None
) -> Iterator[tuple[str, Callable[[Path], Proof]]]:
    """Yield the kernels that files for a target are tried on, by name."""
    here = detect_target()
    if shim:
        hidden = functools.partial(native, LD_PRELOAD=str(shim))
        yield "AVX2", hidden
        if here == "amx":
            yield "VNNI", functools.partial(hidden, AVX2_ONLY_HIDES="amx")
    if here in X86 and not (shim and here == "avx2"):
        yield X86[here], native
    if target == "vnni" and modules:
        for name, run in (("Node", under_node), ("Chromium", in_chromium)):
            for threads in THREADS:
                found = functools.partial(run, modules=modules, threads=threads)
                yield f"{name} × {threads}", found
    if target == "arm64" and arm64.obstacle() is None:
        for kernels in arm64.CPUS:
            yield kernels, functools.partial(on_arm, kernels=kernels)


def cell(record: Proof) -> str:
    """Say in a few words what a kit has found: decibels to the simulation, and what is wrong."""
    decibels = record["model_sqnr_db"]
    text = "equal" if decibels is None else f"{decibels:.1f}"
    if record["right"]:
        return text
    apart = max(math.inf if codes is None else codes for codes in record["layers"].values())
    return f"WRONG: {text}, {len(record['wrong'])} layers, {apart:g} codes"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kits", nargs="+", type=Path, metavar="KIT")
    parser.add_argument("--modules", type=Path, help="node_modules with onnxruntime-web")
    options = parser.parse_args()
    print(f"| file | layers | {' | '.join(COLUMNS)} |")
    print(f"| --- | --- |{' --- |' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        shim = build_shim(Path(folder))
        for kit in options.kits:
            manifest = json.loads((kit / "kit.json").read_bytes())
            tried = kernels_at_hand(manifest["target"], shim, options.modules)
            found = {kernels: cell(run(kit)) for kernels, run in tried}
            cells = [kit.name.removesuffix("-kit"), str(len(manifest["layers"]))]
            cells += [found.get(kernels, "") for kernels in COLUMNS]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
