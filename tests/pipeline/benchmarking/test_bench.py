"""Benchmarks measure the rows that they promise, and recognise slower and float models."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import save_artifact
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.artifacts.onnx_graph import input_shape
from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig, bench, job_of
from mobilenet_cli.pipeline.benchmarking.inputs import open_model
from mobilenet_cli.pipeline.benchmarking.options import (
    bench_config,
    parse_batches,
    parse_options,
    parse_threads,
)
from mobilenet_cli.pipeline.benchmarking.processes.child import device_runner, peak_memory
from mobilenet_cli.pipeline.benchmarking.processes.job import BenchJob, lacks_memory
from mobilenet_cli.pipeline.benchmarking.processes.operator_profile import Inside, summarize_profile
from mobilenet_cli.pipeline.benchmarking.processes.worker import Worker, openmp_binding
from mobilenet_cli.pipeline.benchmarking.remarks import float_leftovers, remarks_on
from mobilenet_cli.pipeline.benchmarking.results import Measured, result_of
from mobilenet_cli.pipeline.benchmarking.rows import Row, rows_of, worth_running_on
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError, ProviderError
from mobilenet_cli.pipeline.runtime.machine import cpus_to_pin, machine, oom_kills, usable_cpus
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.runtime.timing import MIN_BLOCKS, Timing
from mobilenet_cli.reports.latency_tables import classic_grid, classic_table, latency_grid, row_name
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.latency import UNFUSED, BenchRecord, BenchResult
from mobilenet_cli.reports.tables import grid_markdown
from mobilenet_cli.reports.terminal import tables_text

SPEC = InputSpec(resolution=32, resize=32)
QUICK = {"seconds": 0.05, "threads": (1,)}


def small_model(shape=("N", 3, 32, 32), gamma=1.0, norm=True, elem_type=TensorProto.FLOAT):
    """Conv, batch normalization, ReLU6, pooling: [N, 3, 32, 32] to [N, 8, 1, 1]."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)),
        "gamma": np.full(8, gamma),
        "beta": np.zeros(8),
        "mean": np.zeros(8),
        "var": np.ones(8),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n" if norm else "c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes if norm else [nodes[0], *nodes[2:]],
        "small",
        [helper.make_tensor_value_info("x", elem_type, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write(path: Path, model: onnx.ModelProto, stage="export"):
    """Write a model as other programs do: its output has no shape, and its input may be odd."""
    facts = Facts(stage=stage, input=SPEC, classes=tuple("abcdefgh"))
    helper.set_model_props(model, {METADATA_KEY: facts.model_dump_json()})
    return save_artifact(path, model.SerializeToString(), facts, Record())


@pytest.fixture(autouse=True)
def _small_roofline(monkeypatch):
    monkeypatch.setattr("mobilenet_cli.pipeline.benchmarking.roofline.SIDE", 64)
    monkeypatch.setattr("mobilenet_cli.pipeline.benchmarking.roofline.COPY_BYTES", 1 << 16)


@pytest.fixture
def exported(tmp_path):
    return write(tmp_path / "fp32.onnx", small_model())


@pytest.fixture
def folded(tmp_path):
    return write(tmp_path / "folded.onnx", small_model(norm=False), "simplify")


def test_rows_of_a_run(exported, folded):
    record = bench([exported, folded], BenchConfig(**QUICK))
    rows = [(Path(r.model).name, r.variant) for r in record.results]
    assert rows == [("fp32.onnx", ""), ("fp32.onnx", UNFUSED), ("folded.onnx", "")]
    fused, unfused, plain = record.results
    assert "BatchNormalization" not in fused.operators
    assert unfused.operators["Conv"] == 2  # ONNX Runtime runs a lone normalization as 1x1 Conv
    assert fused.operators == plain.operators
    assert [row.fused_bn for row in record.classic] == [True, False, True]
    assert [r.reference for r in record.results] == [2, 2, 2]
    for r in record.results:
        assert 0 < r.min_ms <= r.p50_ms <= r.p90_ms <= r.p99_ms
        assert r.low_ms <= r.high_ms
        assert r.images_per_second == pytest.approx(1000 / r.p50_ms)
        assert r.cold_start_ms > r.min_ms  # a session costs more than one run
        assert r.peak_rss_mb > 20
        assert r.threads == r.batch == 1
        assert r.size_mb == Path(r.model).stat().st_size / 2**20
    pairs = {(r.row, r.reference): r for r in record.ratios}
    assert pairs.keys() == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert pairs[0, 1].value == pytest.approx(1 / pairs[1, 0].value, rel=0.05)
    for r in record.results:
        assert r.nodes_by_provider == {"CPUExecutionProvider": sum(r.operators.values())}
        assert r.operator_ms.keys() == r.operators.keys()
        assert list(r.operator_ms.values()) == sorted(r.operator_ms.values(), reverse=True)
        assert r.remarks == ()
        assert r.limit_ms > 0


def test_the_record_survives_json_and_has_tables(exported, folded):
    record = bench([exported, folded], BenchConfig(**QUICK, batches=(1, 3)))
    assert BenchRecord.model_validate_json(record.model_dump_json()) == record
    assert [r.batch for r in record.results] == [1] * 3 + [3] * 3
    assert [r.reference for r in record.results] == [2] * 3 + [5] * 3
    assert record.results[5].images_per_second == pytest.approx(3000 / record.results[5].p50_ms)
    assert grid_markdown(latency_grid(record)).count("\n") == 2 + 6
    assert "batch norms not fused" in grid_markdown(latency_grid(record))
    assert grid_markdown(classic_grid(record)).splitlines()[0] == (
        "| Device | Forward | Forward-Backward | Instruction set | Quantized | Fused-BN | Remark |"
    )


def test_slower_model_is_recognised(tmp_path, folded):
    big = write(tmp_path / "big.onnx", small_model(("N", 3, 32, 32), norm=True))
    record = bench([folded, big], BenchConfig(seconds=0.5, threads=(1,)))
    unfused = next(i for i, r in enumerate(record.results) if r.variant)
    ratio = next(r for r in record.ratios if (r.row, r.reference) == (unfused, 0))
    assert ratio.low > 1  # a second pass over all pixels cannot be free


def test_real_images_or_noise(exported, class_folders):
    folder = class_folders({"a": 3, "b": 3})
    record = bench([exported], BenchConfig(**QUICK, data=str(folder), batches=(8,)))
    assert record.input == str(folder)
    assert bench([exported], BenchConfig(**QUICK)).input == "seeded noise"
    known = exported.facts.model_copy(update={"data": str(folder)})
    trained = save_artifact(exported.path, with_facts(small_model(), known), known, Record())
    assert bench([trained], BenchConfig(**QUICK)).input == str(folder)
    assert bench([trained], BenchConfig(**QUICK, data="noise")).input == "seeded noise"


@pytest.fixture
def checkpoint(tmp_path):
    return small_checkpoint(tmp_path / "model.safetensors", 32)


def small_checkpoint(path, resolution):
    torch = pytest.importorskip("torch")
    from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1
    from mobilenet_cli.models.spec import ModelSpec
    from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes

    torch.manual_seed(0)
    spec = ModelSpec(width=0.25, classes=4)
    facts = Facts(
        stage="train",
        model=spec,
        input=InputSpec(resolution=resolution, resize=resolution),
        classes=("a", "b", "c", "d"),
    )
    return save_artifact(path, checkpoint_bytes(MobileNetV1(spec), facts), facts, Record())


def test_checkpoint_runs_in_torch_elsewhere(tmp_path):
    artifact = small_checkpoint(tmp_path / "model.safetensors", 64)
    record = bench([artifact], BenchConfig(**QUICK))
    forward, both = record.results
    assert (forward.direction, both.direction) == ("forward", "forward-backward")
    assert forward.provider == "torch"
    assert both.p50_ms > forward.p50_ms
    (row,) = record.classic
    assert (row.forward_ms, row.forward_backward_ms) == (forward.p50_ms, both.p50_ms)
    assert "torch" in row.remark
    assert not row.fused_bn

    # At 32 pixels the last maps have one pixel: no batch statistics of a single image.
    record = bench([small_checkpoint(artifact.path, 32)], BenchConfig(**QUICK))
    both = record.results[1]
    assert (both.direction, both.variant) == ("forward-backward", "frozen BatchNorm statistics")
    assert record.classic[0].forward_backward_ms == both.p50_ms


def test_bench_does_not_import_torch(exported):
    code = (
        "import sys; from pathlib import Path; "
        "from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig, bench; "
        "from mobilenet_cli.pipeline.benchmarking.inputs import open_model; "
        f"bench([open_model(Path({str(exported.path)!r}))], BenchConfig(seconds=0.05)); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_integer_rows_say_so(folded):
    record = bench([folded], BenchConfig(**QUICK))
    integer = record.results[0].model_copy(update={"operators": {"QLinearConv": 27}})
    here = record.machine.model_copy(
        update={"instruction_sets": ("AVX2", "AVX-512F", "AVX-512 BF16", "AVX-512 VNNI")}
    )
    plain, quantized = classic_table([record.results[0], integer], here)
    assert (plain.instruction_set, plain.quantized) == ("AVX-512F", False)
    assert (quantized.instruction_set, quantized.quantized) == ("AVX-512 VNNI", True)


def quantized_with_leftovers():
    """Conv between DequantizeLinear and QuantizeLinear, then a Clip that keeps the next float."""
    scale = {"s": np.float32(0.1), "z": np.uint8(128), "ws": np.float32(0.01), "wz": np.int8(0)}
    weights = np.random.default_rng(0).integers(-99, 99, (8, 3, 3, 3)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"]),
        helper.make_node("Erf", ["c"], ["e"]),
        helper.make_node("QuantizeLinear", ["e", "s", "z"], ["eq"]),
        helper.make_node("DequantizeLinear", ["eq", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "leftovers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(v), k) for k, v in {**scale, "w": weights}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_model_that_is_not_fully_integer_is_told(tmp_path):
    artifact = write(tmp_path / "int8.onnx", quantized_with_leftovers(), "quantize")
    record = bench([artifact], BenchConfig(**QUICK))
    (remark,) = record.results[0].remarks
    assert remark.startswith("this model is not fully integer: ")
    assert "1 Conv" in remark
    assert "mobilenet-cli quantize" in remark
    assert remark in tables_text(record, as_markdown=True)
    assert not record.classic[0].quantized


def test_what_an_integer_network_needs_is_no_leftover():
    ends = {"QuantizeLinear": 1, "DequantizeLinear": 1, "Transpose": 1, "QLinearConv": 27}
    assert float_leftovers(ends) == {}
    assert float_leftovers(ends | {"Clip": 3, "DequantizeLinear": 4}) == {
        "DequantizeLinear": 3,
        "Clip": 3,
    }
    assert float_leftovers({"Conv": 27, "Clip": 27}) == {}  # a float model


def timing_of(*medians):
    """Blocks of ten runs at each of these medians, in milliseconds."""
    return Timing(tuple(np.full(10, 1e6 * median).astype(np.int64) for median in medians))


def test_uncertain_medians_are_flagged(folded):
    assert timing_of(*[10] * 20).settled()
    assert not timing_of(*[10, 11] * 10, 10).settled()
    record = bench([folded], BenchConfig(**QUICK))
    row = record.results[0]
    for noisy, cell in [(False, "10 to 11 |"), (True, "10 to 11 (noisy) |")]:
        shown = row.model_copy(update={"low_ms": 10.0, "high_ms": 11.0, "noisy": noisy})
        changed = record.model_copy(update={"results": (shown,)})
        assert cell in grid_markdown(latency_grid(changed))
        assert ("- Noisy, " in tables_text(changed, as_markdown=True)) == noisy


def test_a_row_without_time_to_settle_is_flagged(folded):
    (row,) = bench([folded], BenchConfig(seconds=1e-9, threads=(1,))).results
    assert row.blocks < MIN_BLOCKS
    assert row.noisy


def test_fallback_is_labelled(folded):
    inside = Inside((("Conv", "CUDAExecutionProvider"), ("Clip", "CPUExecutionProvider")), {})
    (remark,) = remarks_on(
        SessionConfig(provider="CUDAExecutionProvider", threads=1), {"Conv": 1, "Clip": 1}, inside
    )
    assert remark.startswith("not all nodes ran on CUDAExecutionProvider: 1 on CPUExecution")
    record = bench([folded], BenchConfig(**QUICK))
    nodes = {"CUDAExecutionProvider": 5, "CPUExecutionProvider": 1}
    result = record.results[0].model_copy(
        update={"provider": "CUDAExecutionProvider", "nodes_by_provider": nodes}
    )
    changed = record.model_copy(update={"results": (result,)})
    assert "| CUDA + CPU |" in grid_markdown(latency_grid(changed))


def test_torch_on_a_gpu_is_told_from_torch_on_the_cpu(checkpoint):
    def measured(provider: str) -> BenchResult:
        row = Row(checkpoint, SessionConfig(provider=provider, threads=1), 1)
        found = Measured(row, timing_of(*[10] * 10), 1.0, 1.0, Inside((), {}))
        return result_of(found, 0, None, None)

    gpu, cpu = measured("CUDAExecutionProvider"), measured("CPUExecutionProvider")
    assert [(r.engine, r.provider) for r in (gpu, cpu)] == [
        ("torch", "torch cuda"),
        ("torch", "torch"),
    ]
    assert row_name(gpu) == row_name(cpu) == f"{checkpoint.path.name} (forward)"
    here = machine().model_copy(update={"gpus": ("NVIDIA H200, 580.1, 141 GiB",)})
    fast, slow = classic_table([gpu, cpu], here)
    assert (fast.device, fast.instruction_set) == ("NVIDIA H200", "GPU")
    assert (slow.device, slow.instruction_set == "GPU") == (here.cpu, False)
    assert fast.remark == slow.remark
    assert "torch" in fast.remark


def test_gpu_rows_include_one_within_its_memory(exported):
    rows = rows_of(exported, SessionConfig(provider="CUDAExecutionProvider"), 1, compiled=False)
    assert [(row.variant, row.on_device) for row in rows] == [
        ("", False),
        (UNFUSED, False),
        ("device-bound", True),
    ]


def test_cuda_graph_is_measured_within_the_gpus_memory_only(exported):
    session = SessionConfig(
        provider="CUDAExecutionProvider", provider_options={"enable_cuda_graph": "1"}
    )
    (row,) = rows_of(exported, session, 1, compiled=False)
    assert row.on_device
    assert row.variant == "device-bound, CUDA graph"


def test_of_a_run_a_gpu_gets_what_is_made_for_it(tmp_path):
    def quantized(target):
        facts = Facts(stage="quantize", input=SPEC, classes=(), config={"target": target})
        return save_artifact(
            tmp_path / f"{target}.onnx", with_facts(small_model(norm=False), facts), facts, Record()
        ).path

    floats = write(tmp_path / "folded.onnx", small_model(norm=False), "simplify").path
    paths = [floats, quantized("vnni"), quantized("tensorrt")]
    told: list[str] = []
    assert worth_running_on("CPUExecutionProvider", paths, told.append) == paths
    assert told == []
    assert worth_running_on("CUDAExecutionProvider", paths, told.append) == [floats]
    assert worth_running_on("TensorrtExecutionProvider", paths, told.append) == [floats, paths[2]]
    assert f"leaving out {paths[1]}" in told[0]


def test_bound_memory_gives_the_same_logits(folded):
    # "cpu" is a device like any other to IO binding
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    session = open_session(folded.path)
    expected = session.run(None, {"x": images})[0]
    run = device_runner(session, images, "cpu")
    assert np.array_equal(run(), expected)
    assert np.array_equal(run(), expected)


def test_profile_summary_leaves_the_first_run_out():
    def event(name, operator, duration, cat="Node"):
        args = {"op_name": operator, "provider": "P"}
        return {"name": f"{name}_kernel_time", "cat": cat, "dur": duration, "args": args}

    run = [event("a", "Conv", 3000), event("b", "Conv", 1000), event("c", "Gemm", 500)]
    cold = [event("a", "Conv", 99000), event("b", "Conv", 99000), event("c", "Gemm", 99000)]
    other = [{"name": "model_run", "cat": "Session", "dur": 1, "args": {}}]
    inside = summarize_profile([*other, *cold, *run, *run])
    assert inside.nodes == (("Conv", "P"), ("Conv", "P"), ("Gemm", "P"))
    assert inside.milliseconds == {"Conv": 4.0, "Gemm": 0.5}


def test_missing_provider_is_not_replaced(exported):
    with pytest.raises(ProviderError, match="CUDAExecutionProvider cannot run here"):
        bench([exported], BenchConfig(provider="CUDAExecutionProvider"))
    with pytest.raises(ProviderError, match="Perhaps CPUExecutionProvider is meant"):
        bench([exported], BenchConfig(provider="CPUExecutionProvidr"))
    with pytest.raises(ProviderError, match="Perhaps CPUExecutionProvider is meant"):
        bench_config("CPUExecutionProvidr", "1", "1", 1.0)  # without any file


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": (0,)},
        {"threads": (1, -1)},
        {"batches": ()},
        {"batches": (0,)},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
    ],
)
def test_senseless_settings(settings):
    with pytest.raises(OptionError):
        BenchConfig(**settings)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ((), "no batch size to measure"),
        ((0,), "cannot run a batch of 0 images"),
        ((8, -2), "cannot run a batch of -2 images"),
    ],
)
def test_senseless_batches_are_named(batches, message):
    with pytest.raises(OptionError, match=message):
        BenchConfig(batches=batches)


def test_thread_counts_and_options_from_text():
    assert parse_threads("1") == (1,)
    assert parse_threads(f"1,all,{usable_cpus()}, 1") == tuple({1: 0, usable_cpus(): 0})
    with pytest.raises(OptionError, match="--threads 1,all"):
        parse_threads("many")
    assert parse_options(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for wrong in ("a", "=1"):
        with pytest.raises(OptionError, match="--provider-option use_tf32=0"):
            parse_options([wrong])


def test_each_thread_count_is_a_group(exported, folded):
    record = bench([exported, folded], BenchConfig(seconds=0.05, threads=(1, 2)))
    assert [r.threads for r in record.results] == [1] * 3 + [2] * 3
    assert [r.reference for r in record.results] == [2] * 3 + [5] * 3
    assert [r.threads for r in record.rooflines] == [1, 2]
    text = tables_text(record, as_markdown=True)
    assert "G multiply-adds/s" in text
    assert "nodes and ms by operator" in text


AFFINITIES = """
import json, os, pickle, sys
job = pickle.loads(bytes.fromhex(sys.argv[1]))
if not job.is_checkpoint:
    import onnxruntime  # its import starts threads that do not compute, as does NumPy's
from mobilenet_cli.pipeline.benchmarking.processes.child import start
before = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
run, _ = start(job)
for _ in range(50):
    run()
tasks = set(os.listdir("/proc/self/task")) - before
print(json.dumps(sorted(sorted(os.sched_getaffinity(int(task))) for task in tasks)))
"""


def affinities(model, folder, cpus):
    """The CPUs of the calling thread and of each that loading and running a model started."""
    np.save(folder / "images.npy", np.zeros((4, 3, 32, 32), np.float32))
    job = BenchJob(
        model, folder / "images.npy", 4, SessionConfig(threads=len(cpus), cpus=cpus), 2**40
    )
    run = subprocess.run(
        [sys.executable, "-c", AFFINITIES, pickle.dumps(job).hex()],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | openmp_binding(job),
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


needs_two_cpus = pytest.mark.skipif(usable_cpus() < 2, reason="needs two CPUs to pin to")


@needs_two_cpus
def test_each_thread_of_onnx_runtime_has_a_cpu_of_its_own(folded, tmp_path):
    first, second = cpus_to_pin(2)
    assert affinities(folded.path, tmp_path, (second, first)) == sorted([[first], [second]])
    assert affinities(folded.path, tmp_path, (second,)) == [[second]]


LOADED = """
import importlib, os, pickle, sys
from mobilenet_cli.pipeline.benchmarking.processes import child
load = importlib.import_module
importlib.import_module = lambda name: print(name, len(os.sched_getaffinity(0))) or load(name)
child.start(pickle.loads(bytes.fromhex(sys.argv[1])))
"""


@needs_two_cpus
def test_onnx_runtime_is_loaded_before_its_thread_is_pinned(folded, tmp_path):
    """It would leave AMX out, and int8 be measured with the kernels of older processors."""
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 32, 32), np.float32))
    pinned = SessionConfig(threads=1, cpus=cpus_to_pin(1))
    job = BenchJob(folded.path, tmp_path / "images.npy", 1, pinned, 2**40)
    command = [sys.executable, "-c", LOADED, pickle.dumps(job).hex()]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"onnxruntime {len(os.sched_getaffinity(0))}\n"


@needs_two_cpus
def test_each_thread_of_torch_has_a_cpu_of_its_own(checkpoint, tmp_path):
    first, second = cpus_to_pin(2)
    both = affinities(checkpoint.path, tmp_path, (second, first))  # torch has idle ones besides
    assert {tuple(cpus) for cpus in both} == {(first,), (second,)}
    assert affinities(checkpoint.path, tmp_path, (second,))[0] == [second]


def test_the_record_names_the_cpus(folded):
    (row,) = bench([folded], BenchConfig(**QUICK)).results
    assert row.cpus == cpus_to_pin(1)
    many = usable_cpus() + 1
    record = bench([folded], BenchConfig(seconds=0.05, threads=(1, many)))
    assert [r.cpus for r in record.results] == [cpus_to_pin(1), ()]
    remark = f"oversubscribed: {many} threads take turns on {usable_cpus()} CPUs"
    assert [any(text.startswith(remark) for text in r.remarks) for r in record.results] == [
        False,
        True,
    ]
    text = tables_text(record, as_markdown=True)
    assert f"- 1 thread, pinned to CPU {row.cpus[0]}\n" in text
    assert f"- {many} threads\n" in text


def test_compiled_rows_come_beside_the_eager_ones(checkpoint):
    rows = rows_of(checkpoint, SessionConfig(threads=1), 2, compiled=True)
    assert [(row.variant, row.direction) for row in rows] == [
        ("", "forward"),
        ("", "forward-backward"),
        ("compiled", "forward"),
        ("compiled", "forward-backward"),
    ]
    jobs = [job_of(row, Path("images.npy")) for row in rows]
    assert [job.compiled for job in jobs] == [False, False, True, True]
    assert [job.direction == "forward-backward" for job in jobs] == [False, True, False, True]


@pytest.mark.slow
def test_torch_compile_runs_here(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    record = bench([checkpoint], BenchConfig(**QUICK, compiled=True, batches=(2,)))
    *_, compiled, both = record.results
    assert (compiled.variant, both.variant) == ("compiled", "compiled")
    assert list((tmp_path / "kernels").rglob("*.cpp"))  # something was compiled
    assert [row.forward_backward_ms for row in record.classic][1] == both.p50_ms


@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, "tf32"), ({"use_tf32": "1"}, "tf32"), ({"use_tf32": "0"}, "ieee")],
)
def test_torch_rows_use_the_arithmetic_of_the_onnx_rows(
    checkpoint, monkeypatch, options, precision
):
    torch = pytest.importorskip("torch")
    from mobilenet_cli.pipeline.benchmarking.processes import torch_runner

    session = SessionConfig(provider="CUDAExecutionProvider", threads=1, provider_options=options)
    job = BenchJob(checkpoint.path, Path("images.npy"), 1, session, 0)
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delattr(torch_runner, "load_network")  # what follows needs a GPU
    try:
        with pytest.raises(NameError, match="load_network"):
            torch_runner.runner(job, np.zeros((1, 3, 32, 32), np.float32))
        assert [backend.fp32_precision for backend in backends] == [precision] * 2
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def test_a_gpu_is_left_to_the_scheduler():
    (session,) = BenchConfig(provider="CUDAExecutionProvider", threads=(1,)).sessions()
    assert session.cpus == ()


def test_batches_from_text():
    assert parse_batches("1,8, 32") == (1, 8, 32)
    with pytest.raises(OptionError, match="--batch 1,8,32"):
        parse_batches("1,,2")


def test_nan_is_no_benchmark(tmp_path):
    broken = write(tmp_path / "nan.onnx", small_model(gamma=float("inf")))
    with pytest.raises(CheckError, match=r"nan\.onnx gives NaN"):
        bench([broken], BenchConfig(**QUICK))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 32, 32), "3x32x32, not a batch of images"), (("N", 2, 32, 32), r"\?x2x32x32, not")],
)
def test_input_that_is_no_batch_of_images(tmp_path, shape, message):
    path = tmp_path / "odd.onnx"
    onnx.save(small_model(shape), path)
    with pytest.raises(ModelError, match=message):
        open_model(path)


def test_another_input_beside_the_image(tmp_path):
    model = small_model()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1]))
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(ModelError, match=r"2 inputs .*'mask'.* instead of one image"):
        input_shape(tmp_path / "two.onnx")


def test_input_of_another_type(tmp_path):
    path = tmp_path / "bytes.onnx"
    onnx.save(small_model(elem_type=TensorProto.UINT8), path)
    with pytest.raises(ModelError, match="UINT8, not float32"):
        input_shape(path)


def test_fixed_batch_is_respected(tmp_path):
    fixed = write(tmp_path / "fixed.onnx", small_model((2, 3, 32, 32)))
    assert bench([fixed], BenchConfig(**QUICK, batches=(2,))).results[0].batch == 2
    with pytest.raises(OptionError, match="takes batches of 2 only, not 1"):
        bench([fixed], BenchConfig(**QUICK))


def test_foreign_model_is_measured_at_its_own_resolution(tmp_path):
    path = tmp_path / "foreign.onnx"
    onnx.save(small_model(("N", 3, 48, 48)), path)
    artifact = open_model(path)
    assert artifact.facts.input.resolution == 48
    assert bench([artifact], BenchConfig(**QUICK)).results[0].stage == "foreign"


def test_resolution_that_contradicts_the_facts(tmp_path):
    odd = write(tmp_path / "odd.onnx", small_model(("N", 3, 64, 64)))
    with pytest.raises(ModelError, match="takes images of 64x64, but says its resolution is 32"):
        bench([odd], BenchConfig(**QUICK))


def test_batch_beyond_memory(exported, monkeypatch):
    with pytest.raises(OptionError, match="100,000,000,000 images does not fit"):
        bench([exported], BenchConfig(**QUICK, batches=(10**11,)))
    # The input (24 MB) fits, with the activations (57 MB each) it does not.
    monkeypatch.setattr(
        "mobilenet_cli.pipeline.benchmarking.bench.available_memory", lambda: 64 * 2**20
    )
    with pytest.raises(OptionError, match=r"batch of 2000 does not fit in memory with .*fp32"):
        bench([exported], BenchConfig(**QUICK, batches=(2000,)))
    # In the worker not even the input (98 MB) does.
    with pytest.raises(OptionError, match=r"batch of 8000 does not fit in memory with .*fp32"):
        bench([exported], BenchConfig(**QUICK, batches=(8000,)))


@pytest.fixture
def worker(folded, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 32, 32), np.float32))
    job = BenchJob(folded.path, tmp_path / "images.npy", 1, SessionConfig(threads=1), 2**40)
    with contextlib.closing(Worker(job)) as worker:
        yield worker


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_not_taken_for_lack_of_memory(worker, number):
    os.kill(worker.pid, number)
    with pytest.raises(CheckError, match=rf"folded\.onnx was ended by {number.name}"):
        worker(1)


def test_the_out_of_memory_killer_is_recognised(worker, monkeypatch):
    before = oom_kills() or 0
    monkeypatch.setattr(
        "mobilenet_cli.pipeline.benchmarking.processes.worker.oom_kills", lambda: before + 1
    )
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(OptionError, match=r"a batch of 1 does not fit in memory with .*folded"):
        worker(1)


@pytest.mark.parametrize(
    ("words", "lacks"),
    [
        ("Failed to allocate memory for requested buffer of size 99", True),
        ("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("terminate called after throwing an instance of 'std::bad_alloc'", True),
        ("CUBLAS_STATUS_ALLOC_FAILED", True),
        ("This allocator is not registered", False),
        ("the allocation planner found a cycle in the graph", False),
    ],
)
def test_words_for_lack_of_memory(words, lacks):
    assert lacks_memory(words) is lacks


def test_killed_worker_is_reported(exported, monkeypatch):
    from mobilenet_cli.pipeline.benchmarking.processes import worker

    monkeypatch.setattr(worker.sys, "executable", "/bin/false")
    with pytest.raises(CheckError, match=r"fp32\.onnx ended with status 1"):
        bench([exported], BenchConfig(**QUICK))


def test_command_writes_and_prints(tmp_path):
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    write(folder / "fp32.onnx", small_model())
    command = [sys.executable, "-c", "from mobilenet_cli.cli import main; main()", "bench"]

    def call(*arguments):
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = call("--json", "--seconds", "0.05", "--threads", "1")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((folder / "bench.json").read_text())
    assert document["results"][0]["model"] == "runs/r/fp32.onnx"
    assert "taking runs/r/fp32.onnx" in done.stderr

    refused = call("--provider", "CUDAExecutionProvider")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "CUDAExecutionProvider cannot run here: the wheel onnxruntime is" in refused.stderr


def state_of(pid: int) -> str:
    """``T`` for a stopped process (proc(5), /proc/pid/stat); empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def settled_state(pid: int, wanted: str) -> str:
    for _ in range(500):
        if (state := state_of(pid)) in wanted:
            break
        time.sleep(0.01)
    return state


def test_idle_workers_are_stopped(tmp_path, folded):
    """Idle threads of a runtime spin, and would slow the other rows down."""
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((1, 3, 32, 32), np.float32))
    row = rows_of(folded, SessionConfig(threads=2), 1, compiled=False)[0]
    with contextlib.closing(Worker(job_of(row, images))) as worker:
        for _ in range(2):
            assert settled_state(worker.pid, "T") == "T"
            assert len(worker(3)) == 3
        assert worker.ask(peak_memory) > 0
    assert settled_state(worker.pid, "") == ""


def test_a_stopped_worker_ends_with_its_parent(tmp_path, folded):
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 32, 32), np.float32))
    program = f"""
import time
from pathlib import Path
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.benchmarking.bench import job_of
from mobilenet_cli.pipeline.benchmarking.rows import rows_of
from mobilenet_cli.pipeline.benchmarking.processes.worker import Worker
from mobilenet_cli.pipeline.runtime.session import SessionConfig
row = rows_of(load_artifact(Path({str(folded.path)!r})), SessionConfig(threads=1), 1, False)[0]
print(Worker(job_of(row, Path({str(tmp_path / "images.npy")!r}))).pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert settled_state(pid, "T") == "T"
    parent.kill()
    parent.communicate()
    assert settled_state(pid, "Z") in ("", "Z")  # nobody may be there to reap it
