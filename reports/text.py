"""Small records as plain text for a terminal."""

from pydantic import JsonValue

from mobilenet_cli.reports.records import DoctorRecord, InspectRecord

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
    """Facts by line, then the operators."""
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
    return "\n".join(f"{name + ':':15}{value}" for name, value in rows if value)


def _pairs(values: JsonValue) -> str:
    """``width 1.0, classes 1000`` of a JSON object; empty for anything else."""
    if not isinstance(values, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
