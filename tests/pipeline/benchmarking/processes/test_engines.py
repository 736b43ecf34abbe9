"""Engines beside ONNX Runtime are timed with it, judged by their answers, and may fail alone."""

from pathlib import Path

import numpy as np
import pytest

from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig, bench
from mobilenet_cli.pipeline.benchmarking.options import bench_config
from mobilenet_cli.pipeline.benchmarking.processes.engines import ENGINES, logits_of
from mobilenet_cli.pipeline.benchmarking.results import RIGHT_DB
from mobilenet_cli.pipeline.errors import EngineError, OptionError
from mobilenet_cli.reports.latency_tables import fastest_notes, row_name
from mobilenet_cli.reports.records.latency import BenchRecord
from mobilenet_cli.reports.terminal import tables_text

QUICK = {"seconds": 0.05, "threads": (1,)}
# An OpenVINO that another program has put in its place: it is missing, computes zeros, ends in the
# middle of the benchmark with an exception, or takes the process with it.
FAKE = """
import os
import numpy as np
kind = os.environ["FAKE_OPENVINO"]
if kind == "missing":
    raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

class Request:
    runs, profiling_info = 0, ()
    def infer(self, inputs, share_inputs):
        self.runs += 1
        if kind == "fails" and self.runs > 15:
            raise RuntimeError("out of\\n  tiles")
        if kind == "dies" and self.runs > 15:
            os.abort()
        return [np.zeros((len(inputs[0]), 10), np.float32)]

class Core:
    def read_model(self, path): return self
    def reshape(self, shape): pass
    def compile_model(self, *args): return self
    def create_infer_request(self): return Request()
"""


@pytest.fixture
def fake_openvino(tmp_path, monkeypatch):
    (tmp_path / "openvino.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def set_kind(kind):
        monkeypatch.setenv("FAKE_OPENVINO", kind)

    return set_kind


@pytest.fixture(autouse=True)
def _small_roofline(monkeypatch):
    monkeypatch.setattr("mobilenet_cli.pipeline.benchmarking.roofline.SIDE", 64)
    monkeypatch.setattr("mobilenet_cli.pipeline.benchmarking.roofline.COPY_BYTES", 1 << 16)


def test_engines_are_named_or_refused():
    config = bench_config("CPUExecutionProvider", "1", "1", 1.0, engines="openvino, litert")
    assert config.engines == ("onnxruntime", "openvino", "litert")
    with pytest.raises(OptionError, match=r"unknown engine 'tvm'. Use any of onnxruntime, openvi"):
        BenchConfig(engines=("tvm",))
    with pytest.raises(OptionError, match="not compared with CUDAExecutionProvider"):
        BenchConfig(provider="CUDAExecutionProvider", engines=("openvino",))


def test_every_engine_runs_what_it_reads(chain):
    for name in ENGINES:
        pytest.importorskip(ENGINES[name].module, reason="the extras engines and ncnn are missing")
    pytest.importorskip("pnnx", reason="the extra ncnn is missing")
    config = BenchConfig(**QUICK, engines=tuple(ENGINES))
    record = bench([chain.folded, chain.int8], config)
    assert BenchRecord.model_validate_json(record.model_dump_json()) == record
    ran = {(Path(r.model).name, r.engine): r for r in record.results}
    assert set(ran) == {
        *(("folded.onnx", engine) for engine in ("onnxruntime", "openvino", "ncnn")),
        *(("int8.onnx", engine) for engine in ("onnxruntime", "openvino", "litert")),
    }
    for (model, engine), r in ran.items():
        assert r.right, (model, engine, r.sqnr_db)
        assert r.sqnr_db >= RIGHT_DB[model == "int8.onnx"]
        assert r.agreement == 1
        assert r.limit_ms == ran[model, "onnxruntime"].limit_ms
        assert row_name(r) == (model if engine == "onnxruntime" else f"{model} ({engine})")
    assert "Convolution" in " ".join(ran["folded.onnx", "openvino"].operators)
    assert [row.remark.split()[0] for row in record.classic] == ["onnxruntime"] * 2
    reasons = {(Path(r.model).name, r.engine): r.reason for r in record.left_out}
    assert set(reasons) == {("folded.onnx", "litert"), ("int8.onnx", "ncnn")}
    assert set(record.engines) == set(ENGINES)
    best = min(record.results, key=lambda r: r.p50_ms)
    (note,) = fastest_notes(record)
    assert f": {best.engine} with {Path(best.model).name}, " in note
    text = tables_text(record, as_markdown=True)
    assert all(found in text for found in (note, *reasons.values()))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "needs the package openvino, which is not installed. Install it with pip"),
        ("fails", "openvino cannot run .*folded.onnx .out of tiles.. Leave openvino out"),
        ("dies", "the process that ran .*folded.onnx was ended by SIGABRT"),
    ],
)
def test_an_engine_that_fails_leaves_the_other_rows(chain, fake_openvino, kind, reason):
    fake_openvino(kind)
    record = bench([chain.folded], BenchConfig(**QUICK, engines=("openvino",)))
    (row,) = record.results
    assert (row.engine, row.right) == ("onnxruntime", True)
    (left,) = record.left_out
    assert (left.engine, left.threads, left.batch) == ("openvino", 1, 1)
    with pytest.raises(EngineError, match=reason):
        raise EngineError(left.reason, "")
    assert "- openvino has no row for folded.onnx: " in tables_text(record, as_markdown=True)


def test_a_fast_engine_with_wrong_answers_is_not_the_fastest(chain, fake_openvino):
    fake_openvino("zeros")
    record = bench([chain.folded], BenchConfig(**QUICK, engines=("openvino",)))
    ours, theirs = record.results
    assert theirs.p50_ms < ours.p50_ms
    assert (ours.right, theirs.right) == (True, False)
    assert fastest_notes(record)[0].count(": onnxruntime with folded.onnx")
    assert "folded.onnx (openvino) does not compute the model: its logits are" in tables_text(
        record, as_markdown=True
    )


def test_probabilities_are_compared_by_their_logits():
    logits = np.random.default_rng(0).normal(size=(4, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert logits_of(probabilities, "litert") == pytest.approx(logits_of(logits, "onnxruntime"))
