"""Small records as plain text for a terminal."""

from pydantic import JsonValue

from mobilenet_cli.reports.markdown import row_cells, setting
from mobilenet_cli.reports.records.inspection import DoctorRecord, InspectRecord
from mobilenet_cli.reports.records.run import ReportRecord

MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


def doctor_text(record: DoctorRecord) -> str:
    """One line a finding, and below it what mends it."""
    here = record.machine
    lines = [f"{here.os}, Python {here.python}, {here.memory_mb / 1024:.1f} GiB of memory"]
    for finding in record.findings:
        lines.append(f"{MARKS[finding.status]} {finding.subject}: {finding.what}")
        lines += [f"          {finding.mend}"] if finding.mend else []
    return "\n".join(lines)


def inspect_text(record: InspectRecord) -> str:
    """Facts by line, then the operators; of what training made also the layers."""
    facts = record.facts or {}
    rows = [
        ("file", f"{record.model}, {record.format}, {record.size_mb:.2f} MiB"),
        ("sha256", record.sha256),
        ("made by", facts.get("stage", "another tool")),
        ("from", "; ".join(record.provenance)),
        ("opset", record.opset),
        ("inputs", "; ".join(record.inputs)),
        ("outputs", "; ".join(record.outputs)),
        ("parameters", f"{record.parameters:,}"),
        ("multiply-adds", f"{record.multiply_adds:,}" if record.multiply_adds else "unknown"),
        ("stored values", _counts(record.weight_types)),
        ("operators", _counts(record.operators)),
        *((name, _pairs(facts.get(name))) for name in ("model", "input", "config", "versions")),
    ]
    lines = [f"{name + ':':15}{value}" for name, value in rows if value]
    return "\n".join([*lines, *(_layer_table(record) if record.layers else ())])


def _layer_table(record: InspectRecord) -> list[str]:
    """A line a layer, then the sums and each part's share of the file."""
    shown = ["weights", *(p for p in ("average", "optimizer") if record.stored_bytes[p])]
    size = sum(record.stored_bytes.values())
    rows = [["", "parameters", "multiply-adds", *(f"{part} KiB" for part in shown), "of the file"]]
    for layer in record.layers:
        parts = [getattr(layer, part) for part in shown]
        products = "–" if layer.multiply_adds is None else f"{layer.multiply_adds:,}"
        kib = [f"{part / 1024:,.1f}" for part in parts]
        rows.append([layer.name, f"{layer.parameters:,}", products, *kib, _share(sum(parts), size)])
    products = f"{record.multiply_adds:,}" if record.multiply_adds else "–"
    sums = [record.stored_bytes[part] for part in shown]
    kib = [f"{part / 1024:,.1f}" for part in sums]
    parameters = f"{sum(layer.parameters for layer in record.layers):,}"
    rows.append(["in all", parameters, products, *kib, _share(sum(sums), size)])
    shares = [_share(part, size) for part in sums]
    other = record.stored_bytes["other"]
    rows.append(["of the file", "", "", *shares, f"{_share(other, size)} other"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def report_text(record: ReportRecord) -> str:
    """Headline, warnings, the table in columns, and what is missing."""
    titles = ["artifact", "MiB", "images", "top-1 %", "top-5 %", "p50 ms", "p99 ms", "speed-up"]
    rows = [titles, *(row_cells(row) for row in record.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [record.headline, *(f"warning: {text}" for text in record.run.warnings), ""]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += sorted({note for row in record.rows if (note := setting(row))})
    lines += [f"missing: {m.file} {m.why}: {m.command}" for m in record.run.missing]
    return "\n".join(lines)


def _pairs(values: JsonValue) -> str:
    """``width 1.0, classes 1000`` of a JSON object; empty for anything else."""
    if not isinstance(values, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
