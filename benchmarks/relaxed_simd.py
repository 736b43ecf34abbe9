"""Find out whether browsers add products of codes rightly: ``python relaxed_simd.py MODULES``.

Relaxed SIMD has dot products of 8-bit codes whose second operand has 7 bits; with 8, engines may do
what is fastest (WebAssembly specification, relaxed_dot_i8x16_i7x16). This counts these instructions
in the builds of onnxruntime-web, and asks headless Chromium what they make of full codes, with
AVX-VNNI and without.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

# 0xFD, and the number of the instruction in LEB128.
DOT = bytes([0xFD, 0x92, 0x02])  # i16x8.relaxed_dot_i8x16_i7x16_s
ADD = bytes([0xFD, 0x93, 0x02])  # i32x4.relaxed_dot_i8x16_i7x16_add_s
SPLATS = bytes([0x20, 0, 0xFD, 0x0F, 0x20, 1, 0xFD, 0x0F])  # both parameters into all lanes
ZERO = bytes([0xFD, 0x0C, *[0] * 16])
FLAGS = {
    "as the CPU is": [],
    "without AVX-VNNI": ["--js-flags=--no-enable-avx-vnni --no-enable-avx-vnni-int8"],
}
RUN = """([bytes, pairs]) => {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(bytes)));
  return pairs.map(([weight, code]) => exports.add(weight, code));
}"""
PAIRS = [(127, 64), (127, 127), (127, 128), (127, 255), (-127, 255)]


def section(number: int, content: bytes) -> bytes:
    """Return a section of a module."""
    return bytes([number, len(content)]) + content


def module() -> bytes:
    """Return a module whose ``add(weight, code)`` adds four products of them."""
    body = b"\0" + SPLATS + ZERO + ADD + bytes([0xFD, 0x1B, 0]) + b"\x0b"
    return (
        b"\0asm\1\0\0\0"
        + section(1, bytes([1, 0x60, 2, 0x7F, 0x7F, 1, 0x7F]))
        + section(3, b"\1\0")
        + section(7, b"\1\3add\0\0")
        + section(10, bytes([1, len(body)]) + body)
    )


def sums(flags: list[str]) -> Any:
    """Return what Chromium makes of each of ``PAIRS``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])
        found = browser.new_page().evaluate(RUN, [list(module()), PAIRS])
        browser.close()
    return found


def main() -> None:
    """Print both tables as Markdown."""
    builds = sorted(Path(sys.argv[1]).glob("onnxruntime-web/dist/*.wasm"))
    print("| build of onnxruntime-web | relaxed dot products |\n| --- | --- |")
    for build in builds:
        content = build.read_bytes()
        print(f"| {build.name} | {content.count(DOT) + content.count(ADD)} |")
    print(f"\n| 4 products | {' | '.join(f'{w} × {c}' for w, c in PAIRS)} |")
    print(f"| --- |{' --- |' * len(PAIRS)}")
    print(f"| exact | {' | '.join(str(4 * w * c) for w, c in PAIRS)} |")
    for name, flags in FLAGS.items():
        print(f"| {name} | {' | '.join(map(str, sums(flags)))} |")


if __name__ == "__main__":
    main()
