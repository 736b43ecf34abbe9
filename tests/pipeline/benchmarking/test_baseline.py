"""A benchmark is compared with an earlier one only where that means something."""

import json

import pytest

from mobilenet_cli.pipeline.benchmarking.baseline import load_baseline, slowdowns
from mobilenet_cli.pipeline.benchmarking.options import parse_percent
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.runtime.machine import machine
from mobilenet_cli.reports.records.latency import BenchRecord


def record(**medians):
    row = {"sha256": "0", "stage": "x", "provider": "P", "threads": 1, "batch": 1, "runs": 9}
    row |= dict.fromkeys(["p90_ms", "p99_ms", "min_ms", "low_ms", "high_ms", "cold_start_ms"], 1.0)
    row |= {"blocks": 9, "images_per_second": 1.0, "peak_rss_mb": 1.0, "size_mb": 1.0}
    row |= {"operators": {}, "operator_ms": {}, "nodes_by_provider": {}, "remarks": ()}
    row |= {"limit_ms": None, "reference": 0}
    return BenchRecord.model_validate(
        {
            "machine": machine(),
            "input": "noise",
            "provider_options": {},
            "results": [{**row, "model": f"runs/r/{k}", "p50_ms": v} for k, v in medians.items()],
            "ratios": [],
            "rooflines": [],
            "classic": [],
        }
    )


def test_only_rows_beyond_the_limit_count():
    before = record(a=10.0, b=10.0, c=10.0, gone=1.0)
    now = record(a=10.4, b=10.6, c=5.0, new=99.0)
    (slow,) = slowdowns(now, before, 0.05)
    assert str(slow) == "b, batch 1, 1 thread: 10 ms -> 10.6 ms (+6.0 %)"
    assert slowdowns(now, before, 0.07) == []


def test_comparisons_that_mean_nothing_are_refused():
    now = record(a=1.0)
    elsewhere = now.model_copy(
        update={"machine": now.machine.model_copy(update={"cpu": "another"})}
    )
    with pytest.raises(OptionError, match="measured on another, not on"):
        slowdowns(now, elsewhere, 0.05)
    with pytest.raises(OptionError, match="no row in common"):
        slowdowns(now, record(b=1.0), 0.05)


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("5", 0.05), (" 0.5 %", 0.005)])
def test_percent(text, value):
    assert parse_percent(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["-1%", "nan", "inf", "five"])
def test_no_percent(text):
    with pytest.raises(OptionError, match="--max-slowdown 5%"):
        parse_percent(text)


def test_baseline_file(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(record(a=1.0).model_dump_json())
    assert load_baseline(path).results[0].p50_ms == 1.0
    path.write_text(json.dumps({"results": []}))
    for wrong in (path, tmp_path / "missing.json"):
        with pytest.raises(OptionError, match="not a record of an earlier bench"):
            load_baseline(wrong)
