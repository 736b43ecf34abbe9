"""The scripts in benchmarks/ run, on the smallest model, and say what they promise."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.reports.records.base import Record

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run_folder(tmp_path):
    generator = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "v"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 8))],
        [
            numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w", (8, 3, 3, 3)), ("v", (8, 8)))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    facts = Facts(
        stage="simplify", input=InputSpec(resolution=32, resize=32), classes=tuple("abcdefgh")
    )
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    save_artifact(folder / "folded.onnx", with_facts(model, facts), facts, Record())
    return folder


def call(script, *arguments, cwd):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_method(run_folder):
    model = run_folder / "folded.onnx"
    done = call("method.py", model, "--calls", 1, "--seconds", 0.1, cwd=run_folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"timing loop: \d+ ns a run", done.stdout)
    assert re.search(r"of 1 calls: same file within 2 % in [01]", done.stdout)


def test_engines(run_folder):
    page = run_folder / "engines.md"
    done = call("engines.py", "--seconds", 0.1, "--markdown", page, cwd=run_folder.parents[1])
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| ONNX Runtime float32 \| [\d.]+ \|", page.read_text())
    assert "ONNX Runtime int8 is left out: runs/r/int8.onnx does not exist" in done.stdout


@pytest.mark.slow  # some fifty processes
def test_quantizers(run_folder, class_folders):
    images = class_folders({"a": 4, "b": 4})
    page, found = run_folder / "quantizers.md", run_folder / "quantizers.json"
    model = ["folded.onnx", "--calib-dir", images, "--data", images, "--calib-count", 2]
    done = call(
        "quantizers.py", *model, "--seconds", 0.1, "--markdown", page, "--json", found,
        cwd=run_folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    quantizers = set(rows) - {"folded fp32"}
    assert {"mobilenet-cli, avx2", "mobilenet-cli, vnni"} < quantizers
    assert sum(name.startswith("ORT ") for name in quantizers) == 9
    assert rows["folded fp32"]["native"]["agreement"] == 1
    for name in quantizers:
        assert rows[name]["native"]["sqnr_db"] > 6, name
        assert rows[name]["native"]["p50_ms"] > 0
        assert rows[name]["peak_rss_mb"] > 10
        assert f"| {name} | " in page.read_text()
    assert rows["ORT minmax, per-tensor"]["native"] != rows["ORT minmax, per-channel"]["native"]


def test_train_data(tmp_path, encoded):
    pytest.importorskip("google_crc32c")
    pytest.importorskip("pyarrow")
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(20):
            content = encoded(seed=number, form="JPEG")
            (tmp_path / "images" / label / f"{number}.jpg").write_bytes(content)
    done = call("train_data.py", "images", 1, 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads(done.stdout)["rounds"]
    sets = {"folder", "parquet", "tar", "tfrecord"}
    names = sets | {"random crops", "second epoch", "96 pixels", "processes", "others_cpus"}
    assert set(measured) == {"decode by simplejpeg", "decode by Pillow"} | names
    assert all(measured[name] > 0 for name in names - {"others_cpus"})


def test_serve_load(package, tmp_path):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    options = ("--seconds", 0.2, "--overload", 0.5, "--sigterms", 1)
    done = call("serve_load.py", package.folder, "digits", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    throughput, overload, sigterms = (next(iter(part.values())) for part in found)
    assert 0 < throughput["cpu_ratio"] < 2
    assert throughput["p99_to_alone"] > 0
    assert set(overload["statuses"]) <= {"200", "429"}
    assert overload["lost"] == sigterms["lost"] == 0
    assert sum(sigterms["statuses"].values()) == sigterms["counted_by_the_servers"] > 0


def test_deploy_agreement(package, chain, tmp_path):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    for index, sample in enumerate(open_dataset("digits", "val").samples[:4]):
        (tmp_path / f"{index}.png").write_bytes(sample.read())
    done = call("deploy_agreement.py", chain.int8.path, package.folder, tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[4:]]
    assert rows[0][0] == "predict"
    cells = [cell for row in rows for cell in row[1:] if cell.strip()]
    assert len(cells) in (3, 6)  # of three programs, or four with LiteRT
    assert all(cell.startswith("4, ") for cell in cells)
