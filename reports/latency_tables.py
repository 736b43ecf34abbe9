"""Latency records become tables: pure functions."""

from collections.abc import Sequence
from pathlib import Path

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.records.latency import (
    BenchRecord,
    BenchResult,
    ClassicRow,
    LoadgenRecord,
    LoadgenReport,
    MachineRecord,
    is_integer,
)
from mobilenet_cli.reports.tables import Cell, Grid, Section, label, number, table

FLOAT_SETS = ("SSE4.2", "AVX", "AVX2", "AVX-512F", "NEON", "SVE")
INTEGER_SETS = (
    *FLOAT_SETS,
    "AVX-VNNI",
    "AVX-512 VNNI",
    "AMX-INT8",
    "NEON dot product",
    "NEON I8MM",
)

CLASSIC_ENGINES = ("onnxruntime", "torch")  # their rows are named by provider and direction


def row_name(result: BenchResult) -> str:
    """Return the artifact's file name and what sets the row apart."""
    direction = result.direction if result.engine == "torch" else ""
    engine = "" if result.engine in CLASSIC_ENGINES else result.engine
    extra = ", ".join(part for part in (engine, direction, result.variant) if part)
    return f"{Path(result.model).name} ({extra})" if extra else Path(result.model).name


def bench_tables(record: BenchRecord) -> list[Section]:
    """Lay out the latencies, the engines, the classic table, and the time by operator."""
    engines = [Section("", engines_grid(record), engine_notes(record))] if record.engines else []
    return [
        Section("", latency_grid(record)),
        *engines,
        *([Section("", classic_grid(record))] if record.classic else []),
        Section("", operators_grid(record), bench_notes(record)),
    ]


def bench_notes(record: BenchRecord) -> list[str]:
    """Say what the rows were measured with, and what keeps them from being what they seem."""
    remarks = [
        f"{row_name(result)}: {remark}" for result in record.results for remark in result.remarks
    ]
    rooflines = [
        f"{threads_on(r.threads, ())}: {r.fp32_gmacs:.0f} G multiply-adds/s in fp32, "
        f'{r.int8_gmacs:.0f} in int8, {r.gb_per_s:.0f} GB/s of memory. "of limit": the time '
        "that a row's arithmetic and memory traffic take at these rates, as a share of its p50; "
        "100 % is as fast as the machine can be"
        for r in record.rooflines
    ]
    options = [f"provider option {k}={v}" for k, v in record.provider_options.items()]
    noisy = noise_note(record.results)
    return [
        f"input: {record.input}",
        *dict.fromkeys(threads_on(r.threads, r.cpus) for r in record.results),
        *options,
        *rooflines,
        *([noisy] if noisy else []),
        *remarks,
    ]


def engines_grid(record: BenchRecord) -> Grid:
    """Lay out who ran which file: the time over ONNX Runtime's, and how right the answers are."""
    rows = [
        [
            label(Path(r.model).name),
            label(f"{r.engine} {record.engines.get(r.engine, '')}"),
            number(r.threads),
            number(r.batch),
            number(r.p50_ms, ".3g"),
            _ratio_cell(record, index, plain),
            number(r.sqnr_db, ".1f"),
            label(f"{100 * (r.agreement or 0):.0f} %"),
            label("yes" if r.right else "no"),
        ]
        for index, r in enumerate(record.results)
        if r.right is not None and (plain := plain_row(record, r)) is not None
    ]
    titles = (
        *("model", "engine", "threads", "batch", "p50 ms", "of ONNX Runtime's"),
        *("dB to definition", "same class", "right"),
    )
    return Grid(titles, rows)


def plain_row(record: BenchRecord, result: BenchResult) -> int | None:
    """Return the index of the row in which ONNX Runtime plainly runs the same file, if any."""
    wanted = (result.model, result.threads, result.batch, "onnxruntime", "")
    for index, r in enumerate(record.results):
        if (r.model, r.threads, r.batch, r.engine, r.variant) == wanted:
            return index
    return None


def engine_notes(record: BenchRecord) -> list[str]:
    """Name the fastest right engine, those that compute something else, and those left out."""
    wrong = [
        f"{row_name(r)} does not compute the model: its logits are {r.sqnr_db:.1f} dB from what "
        f"the file says, and {100 * (r.agreement or 0):.0f} % of the images keep their class"
        for r in record.results
        if r.right is False
    ]
    out = [f"{r.engine} has no row for {Path(r.model).name}: {r.reason}" for r in record.left_out]
    return [*fastest_notes(record), *wrong, *dict.fromkeys(out)]


def fastest_notes(record: BenchRecord) -> list[str]:
    """Name the fastest row with right answers of each thread count and batch, with its figures."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, r in enumerate(record.results):
        if r.right:
            groups.setdefault((r.threads, r.batch), []).append(index)
    found = []
    for (threads, batch), rows in groups.items():
        index = min(rows, key=lambda i: record.results[i].p50_ms)
        best, plain = record.results[index], plain_row(record, record.results[index])
        text = (
            f"Fastest with right answers on {counted(threads, 'thread')}, "
            f"{counted(batch, 'image')} a run: {best.engine} with {Path(best.model).name}, "
            f"{best.p50_ms:.3g} ms"
        )
        if plain is not None and plain != index:
            ratio = _ratio_cell(record, index, plain)
            text += f", {ratio} of ONNX Runtime's time for that file"
        found.append(text)
    return found


def noise_note(results: Sequence[BenchResult]) -> str:
    """Name the rows whose medians are not settled, in one line; empty if all are."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        if result.noisy:
            words = [result.direction if result.engine == "torch" else "", result.variant]
            found.setdefault(Path(result.model).name, {})[", ".join(filter(None, words))] = None
    if not found:
        return ""
    rows = "; ".join(
        f"{model} ({', '.join(names)})" if (names := list(filter(None, kinds))) else model
        for model, kinds in found.items()
    )
    return f"Noisy, for their medians are not known to 2 %: {rows}. Give bench more --seconds"


def threads_on(threads: int, cpus: tuple[int, ...]) -> str:
    """Say ``1 thread, pinned to CPU 0``, or ``4 threads`` where they were not pinned."""
    count = counted(threads, "thread")
    names = f"pinned to CPU{'s' if len(cpus) > 1 else ''} {', '.join(map(str, cpus))}"
    return f"{count}, {names}" if cpus else count


def operators_grid(record: BenchRecord) -> Grid:
    """Lay out the time by operator of every row that ONNX Runtime ran, slowest first."""
    rows = [
        [
            label(row_name(result)),
            number(result.threads),
            number(result.batch),
            label(
                ", ".join(
                    f"{result.operators[name]} {name} {ms:.2f}"
                    for name, ms in result.operator_ms.items()
                )
            ),
        ]
        for result in record.results
        if result.operator_ms
    ]
    return Grid(("model", "threads", "batch", "nodes and ms by operator"), rows)


def latency_grid(record: BenchRecord) -> Grid:
    """Lay out the rows of a benchmark, with the ratio to the reference row of the same batch."""
    titles = (
        *("model", "threads", "batch", "p50 ms", "95 % interval", "ratio", "images/s", "provider"),
        *("p90", "p99", "of limit", "peak MiB", "cold start ms", "size MiB"),
    )
    return Grid(titles, [_latency_cells(record, index) for index in range(len(record.results))])


def _latency_cells(record: BenchRecord, index: int) -> list[Cell]:
    r = record.results[index]
    providers = {r.provider: None, **r.nodes_by_provider}  # several where nodes fell back
    return [
        label(row_name(r)),
        number(r.threads),
        number(r.batch),
        number(r.p50_ms, ".3g"),
        label(f"{r.low_ms:.3g} to {r.high_ms:.3g}{' (noisy)' if r.noisy else ''}"),
        _ratio_cell(record, index, r.reference),
        number(r.images_per_second, ".0f"),
        label(" + ".join(name.removesuffix("ExecutionProvider") for name in providers)),
        number(r.p90_ms, ".3g"),
        number(r.p99_ms, ".3g"),
        label(None if r.limit_ms is None else f"{100 * r.limit_ms / r.p50_ms:.0f} %"),
        number(r.peak_rss_mb, ".0f"),
        number(r.cold_start_ms, ".0f"),
        number(r.size_mb, ".1f"),
    ]


def _ratio_cell(record: BenchRecord, index: int, reference: int) -> Cell:
    """Make a cell of a row's latency over another's: ``0.520 (0.510 to 0.530)``."""
    found = [r for r in record.ratios if (r.row, r.reference) == (index, reference)]
    if not found:
        return number(1.0 if reference == index else None, "g")
    return number(found[0].value, ".3f", f"{found[0].low:.3f} to {found[0].high:.3f}")


def classic_grid(record: BenchRecord) -> Grid:
    """Lay out the table Device | Forward | Forward-Backward | Instruction set | ..."""
    titles = (
        *("Device", "Forward", "Forward-Backward", "Instruction set", "Quantized", "Fused-BN"),
        "Remark",
    )
    return Grid(titles, [_classic_cells(row) for row in record.classic])


def _classic_cells(row: ClassicRow) -> list[Cell]:
    backward = row.forward_backward_ms
    return [
        label(row.device),
        label(f"{row.forward_ms:.2f} ms"),
        label(None if backward is None else f"{backward:.2f} ms"),
        label(row.instruction_set),
        label("yes" if row.quantized else "no"),
        label("yes" if row.fused_bn else "no"),
        label(row.remark),
    ]


def classic_table(results: Sequence[BenchResult], here: MachineRecord) -> tuple[ClassicRow, ...]:
    """Make the rows of Device | Forward | Forward-Backward | Instruction set | ..."""
    backward = {
        _setting(result): result for result in results if result.direction == "forward-backward"
    }
    return tuple(
        ClassicRow(
            device=device_of(result, here),
            forward_ms=result.p50_ms,
            forward_backward_ms=both.p50_ms if (both := backward.get(_setting(result))) else None,
            instruction_set=instruction_set_of(result, here),
            quantized=is_integer(result.operators),
            fused_bn=result.batch_norms_fused,
            remark=remark_of(result, here, both),
        )
        for result in results
        if result.direction == "forward"
        and result.engine in CLASSIC_ENGINES
        and not result.provider.startswith("OpenVINO")  # which does not tell in what it computes
    )


def _setting(result: BenchResult) -> tuple[str, str, int, int]:
    variant = "" if result.frozen_statistics else result.variant
    return result.model, variant, result.batch, result.threads


def device_of(result: BenchResult, here: MachineRecord) -> str:
    """Return the processor's name or the first GPU's."""
    on_gpu = result.provider.startswith(("CUDA", "Tensorrt", "torch "))
    return here.gpus[0].split(",")[0] if on_gpu and here.gpus else here.cpu


def instruction_set_of(result: BenchResult, here: MachineRecord) -> str:
    """Return the widest instruction set that the processor has for the row's arithmetic."""
    if result.provider not in ("CPUExecutionProvider", "torch"):
        return "GPU"
    wanted = INTEGER_SETS if is_integer(result.operators) else FLOAT_SETS
    known = [name for name in here.instruction_sets if name in wanted]
    return known[-1] if known else "scalar"


def remark_of(result: BenchResult, here: MachineRecord, backward: BenchResult | None) -> str:
    """Name the runtime with its version, the artifact, threads and batch."""
    names = ("torch",) if result.engine == "torch" else ("onnxruntime", "onnxruntime-gpu")
    runtime = next((f"{name} {here.versions[name]}" for name in names if name in here.versions), "")
    parts = [runtime, Path(result.model).name, result.variant]
    parts += [counted(result.threads, "thread")]
    parts += [f"batch {result.batch}"] if result.batch > 1 else []
    parts += [backward.variant] if backward and backward.frozen_statistics else []
    return ", ".join(part for part in parts if part)


def loadgen_markdown(report: LoadgenReport) -> str:
    """Write one line a scenario run, and why LoadGen calls it INVALID."""
    rows = [
        [
            Path(r.model).name,
            r.scenario,
            r.mode,
            f"{r.threads}",
            f"{r.batch}",
            "" if r.valid is None else "VALID" if r.valid else "INVALID",
            f"top-1 {r.top1:.2f} % of {counted(r.images, 'image')}"
            if r.top1 is not None
            else _metric(r),
        ]
        for r in report.results
    ]
    reasons = [
        f"- {Path(r.model).name}, {r.scenario}: {reason}"
        for r in report.results
        for reason in r.reasons
    ]
    return table("model | scenario | mode | threads | batch | LoadGen | result", rows) + "\n".join(
        reasons
    )


def _metric(record: LoadgenRecord) -> str:
    if record.metric and record.metric.endswith("(ns)") and record.value is not None:
        return f"{record.metric.removesuffix(' (ns)')} {record.value / 1e6:.2f} ms"
    return f"{record.value:.1f} {(record.metric or '').lower()}"
