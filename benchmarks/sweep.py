"""What folding and int8 give at every width and resolution of the paper.

    python benchmarks/sweep.py [--seconds 2] [--threads 1] [--markdown docs/latency.md]

Each network is made with seeded random weights (latency does not depend on them), goes through
export, simplify and quantize like a trained one, every proof included, and its artifacts are
measured by ``bench``, interleaved. The table has the folded model's latency, and ratios with 95 %
intervals: batch norms kept over folded, and int8 over folded. On a CPU with newer instructions a
second table is made with them hidden, on its AVX2 kernels. Then width 1.0 at 224 pixels, on one
thread and on all: inference of every artifact, and in torch, eager and compiled, a training step.
"""

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from avx2_only import build_shim

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig, bench
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.proving.integer_kernels import detect_target
from mobilenet_cli.reports.latency_tables import classic_grid
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.latency import BenchRecord, Ratio
from mobilenet_cli.reports.tables import grid_markdown, table

WIDTHS = (0.25, 0.5, 0.75, 1.0)
RESOLUTIONS = (128, 160, 192, 224)
CALIBRATION = QuantizeConfig(calib_dir="digits", calib_count=8)


def random_checkpoint(width: float, resolution: int, path: Path) -> Artifact:
    """A network with Kaiming weights and statistics that keep its activations in range."""
    torch.manual_seed(0)
    spec = ModelSpec(width=width)
    network = MobileNetV1(spec)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.normal_(0, 0.2)
            torch.nn.init.uniform_(module.get_buffer("running_var"), 0.8, 1.2)
    facts = Facts(
        stage="train",
        model=spec,
        input=InputSpec(resolution=resolution, resize=resolution),
        classes=tuple(map(str, range(spec.classes))),
    )
    return save_artifact(path, checkpoint_bytes(network, facts), facts, Record())


@contextlib.contextmanager
def artifacts(width: float, resolution: int) -> Iterator[list[Artifact]]:
    """The checkpoint of one network, and all that is made of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = random_checkpoint(width, resolution, folder / "model.safetensors")
        exported = export(checkpoint, ExportConfig(), folder / "fp32.onnx")
        folded = simplify(exported, SimplifyConfig(images=2), folder / "folded.onnx")
        int8 = quantize(load_artifact(folded.path), CALIBRATION, folder / "int8.onnx")
        yield [checkpoint, exported, folded, int8]


def classic(seconds: float) -> str:
    """The table Device, Forward, Forward-Backward, Instruction set, Quantized, Fused-BN, Remark."""
    threads = tuple(sorted({1, usable_cpus()}))
    config = BenchConfig(threads=threads, seconds=seconds, compiled=True)
    with artifacts(1.0, 224) as made:
        record = bench(made, config)
    return (
        "\n## Forward and backward\n\nWidth 1.0 at 224x224, batch 1, on this CPU.\n\n"
        f"{grid_markdown(classic_grid(record))}"
    )


def row_of(width: float, resolution: int, record: BenchRecord) -> list[str]:
    """One line of the table."""
    (folded,) = (i for i, r in enumerate(record.results) if r.stage == "simplify")
    (unfused,) = (
        i
        for i, r in enumerate(record.results)
        if not (r.batch_norms_fused or r.provider == "torch")
    )
    (int8,) = (i for i, r in enumerate(record.results) if r.stage == "quantize")
    ratios = {(r.row, r.reference): r for r in record.ratios}
    return [
        f"{width:g}",
        str(resolution),
        f"{record.results[folded].p50_ms:.2f}",
        _with_interval(ratios[unfused, folded]),
        f"{record.results[int8].p50_ms:.2f}",
        _with_interval(ratios[int8, folded]),
    ]


def _with_interval(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def document(rows: list[list[str]], record: BenchRecord, command: str) -> str:
    """The page: the table, and what it was measured on."""
    here, threads = record.machine, record.results[0].threads
    header = (
        "width | resolution | folded fp32, ms | batch norms kept / folded | int8, ms "
        "| int8 / folded"
    )
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    return (
        f"# What folding and int8 give\n\nMade by `{command}`: batch 1, {threads} "
        f"thread{'s' if threads > 1 else ''}, medians, 95 % intervals in parentheses; "
        f"the method is described in `pipeline/benchmarking/bench.py`.\n\n{table(header, rows)}\n"
        f"{here.cpu}, {here.usable_cpus} CPUs ({', '.join(here.instruction_sets)}); {here.os}; "
        f"{versions}.\n"
    )


def on_avx2_kernels(arguments: list[str]) -> str:
    """The same page made with all newer instructions hidden; empty where they cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        shim = build_shim(Path(folder)) if detect_target() in ("vnni", "amx") else None
        if shim is None:
            return ""
        done = subprocess.run(  # noqa: S603 - this script
            [sys.executable, __file__, *arguments],
            env=os.environ | {"LD_PRELOAD": str(shim)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    _, _, behind_title = done.stdout.partition("\n\n")
    return f"\n## With AVX2 kernels\n\n{behind_title}"


def main() -> None:
    """Measure every network and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="most time to spend on a row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table-alone", action="store_true", help="on the kernels there are")
    parser.add_argument("--markdown", type=Path, help="write the page to this file")
    arguments = parser.parse_args()
    config = BenchConfig(threads=(arguments.threads,), seconds=arguments.seconds)
    rows = []
    for width, resolution in itertools.product(WIDTHS, RESOLUTIONS):
        with artifacts(width, resolution) as (_, *onnx_files):
            record = bench(onnx_files, config)
        rows.append(row_of(width, resolution, record))
        print(*rows[-1], sep=" | ", file=sys.stderr)
    text = document(rows, record, f"python benchmarks/sweep.py --threads {arguments.threads}")
    if not arguments.table_alone:
        options = [f"--threads={arguments.threads}", f"--seconds={arguments.seconds}"]
        text += on_avx2_kernels([*options, "--table-alone"])
        text += classic(arguments.seconds)
    if arguments.markdown:
        write_atomically(arguments.markdown, text.encode())
    print(text, end="")


if __name__ == "__main__":
    main()
