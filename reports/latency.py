"""Latency records as Markdown tables: pure functions from records to text."""

from pathlib import Path

from mobilenet_cli.reports.records import BenchRecord, BenchResult, ClassicRow


def table(header: str, rows: list[list[str]]) -> str:
    """A Markdown table; ``header`` is its first line without the outer bars."""
    titles = [title.strip() for title in header.split("|")]
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def row_name(result: BenchResult) -> str:
    """The artifact's file name and what sets the row apart."""
    extra = result.variant or (result.direction if result.provider == "torch" else "")
    return f"{Path(result.model).name}{f' ({extra})' if extra else ''}"


def latency_markdown(record: BenchRecord) -> str:
    """One line a row, with the ratio to the reference row of the same batch."""
    header = (
        "model | provider | threads | batch | p50 ms | 95 % interval | p90 | p99 | images/s "
        "| ratio | cold start ms | peak MiB | size MiB"
    )
    return table(header, [_latency_row(record, i) for i in range(len(record.results))])


def _latency_row(record: BenchRecord, index: int) -> list[str]:
    r = record.results[index]
    return [
        row_name(r),
        r.provider.removesuffix("ExecutionProvider"),
        str(r.threads),
        str(r.batch),
        f"{r.p50_ms:.3g}",
        f"{r.low_ms:.3g} to {r.high_ms:.3g}",
        f"{r.p90_ms:.3g}",
        f"{r.p99_ms:.3g}",
        f"{r.images_per_second:.0f}",
        ratio_to_reference(record, index),
        f"{r.cold_start_ms:.0f}",
        f"{r.peak_rss_mb:.0f}",
        f"{r.size_mb:.1f}",
    ]


def ratio_to_reference(record: BenchRecord, index: int) -> str:
    """``0.52 (0.51 to 0.53)``: latency over the reference row's, with its interval."""
    reference = record.results[index].reference
    found = [r for r in record.ratios if (r.row, r.reference) == (index, reference)]
    if not found:
        return "1" if reference == index else ""
    return f"{found[0].value:.3f} ({found[0].low:.3f} to {found[0].high:.3f})"


def classic_markdown(record: BenchRecord) -> str:
    """The table Device | Forward | Forward-Backward | Instruction set | ..."""
    header = "Device | Forward | Forward-Backward | Instruction set | Quantized | Fused-BN | Remark"
    return table(header, [_classic_row(row) for row in record.classic])


def _classic_row(row: ClassicRow) -> list[str]:
    backward = row.forward_backward_ms
    return [
        row.device,
        f"{row.forward_ms:.2f} ms",
        "" if backward is None else f"{backward:.2f} ms",
        row.instruction_set,
        "yes" if row.quantized else "no",
        "yes" if row.fused_bn else "no",
        row.remark,
    ]
