"""Proof kits, as a device has them: with numpy and onnxruntime, and nothing of this project."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.pipeline.errors import StorageError
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.kit import prove_kit
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.reports.records.proof import KitRecord, ProofRecord

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FEW = QuantizeConfig(calib_count=2, target="avx2", cross=True)


@pytest.fixture
def kit(crossed, tmp_path) -> Path:
    """A copy that may be damaged."""
    copied: Path = shutil.copytree(crossed.path.with_name(crossed.record.kit), tmp_path / "kit")
    return copied


def run_program(kit: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", kit / "prove.py"]
    return subprocess.run(command, capture_output=True, text=True, cwd=kit)


def rewrite(kit: Path, edit, name: str = "", content: bytes = b"") -> None:
    """Edit the manifest, and replace a file together with its hash, as if it was made so."""
    manifest = json.loads((kit / "kit.json").read_bytes())
    if name:
        (kit / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    edit(manifest)
    (kit / "kit.json").write_text(json.dumps(manifest))


def test_a_device_proves_its_kernels_with_numpy_and_onnxruntime_alone(crossed, kit):
    source = (kit / "prove.py").read_text()
    assert "import mobilenet" not in source
    assert len(source.splitlines()) < 110
    done = run_program(kit)
    assert done.returncode == 0, done.stderr
    record = ProofRecord.model_validate_json(done.stdout)
    assert record == prove_kit(kit)
    assert record.right
    assert record.target == "avx2"
    assert record.model == crossed.sha256
    assert list(record.layers) == [layer.name for layer in crossed.record.layers]
    assert record.model_sqnr_db is None or record.model_sqnr_db > 30


def test_this_machine_is_not_asked_what_another_computes(crossed, small_model, tmp_path):
    linear = {s.name for s in crossed.record.layers if s.operator in ("Conv", "Gemm")}
    assert linear
    for layer in crossed.record.layers:
        assert (layer.kernel_error is None) == (layer.name in linear)
    for target in ("auto", "tensorrt"):  # proven here; and what no CPU runs
        config = QuantizeConfig(calib_count=2, target=target)
        assert quantize(small_model, config, tmp_path / "int8.onnx").record.kit is None
        assert not (tmp_path / "int8-kit").exists()


def make_wrong(kit: Path) -> str:
    """Expect of one layer a code that is 3 off, and return the layer's name."""
    layer = KitRecord.model_validate_json((kit / "kit.json").read_bytes()).layers[1]
    (described,) = layer.outputs.values()
    codes = np.fromfile(kit / described.file, np.uint8).astype(np.int64)
    codes[7] += 3 if codes[7] < 200 else -3

    def expect(document):  # the next layer goes on with the codes that the simulation made
        document["layers"][1]["outputs"][layer.name]["file"] = "other.bin"

    rewrite(kit, expect, "other.bin", codes.astype(np.uint8).tobytes())
    return layer.name


def assert_named(done: subprocess.CompletedProcess[str], name: str) -> None:
    record = ProofRecord.model_validate_json(done.stdout)
    assert done.returncode == 1
    assert not record.right
    assert record.wrong == (name,)
    assert 2 <= (record.layers[name] or 0) <= 4  # a tie may be rounded the other way


def test_wrong_layers_are_named_with_their_codes(kit):
    name = make_wrong(kit)
    assert_named(run_program(kit), name)
    result = CliRunner().invoke(app, ["prove", str(kit)])
    assert result.exit_code == 1
    assert f"the kernels are WRONG in 1 of 6 layers: {name} (" in result.stdout


def make_whole_wrong(kit: Path) -> None:
    """Expect 1.5 times the logits of the whole model, and of each layer what it makes."""
    (described,) = KitRecord.model_validate_json(
        (kit / "kit.json").read_bytes()
    ).model.outputs.items()
    logits = np.fromfile(kit / described[1].file, np.float32)

    def expect(document):
        document["model"]["outputs"][described[0]]["file"] = "other.bin"

    rewrite(kit, expect, "other.bin", (1.5 * logits).astype(np.float32).tobytes())


def assert_far(record: ProofRecord) -> None:
    assert not record.right
    assert record.wrong == ()
    assert record.model_sqnr_db == pytest.approx(20 * np.log10(1.5 / 0.5), abs=0.1)


def test_a_whole_model_that_computes_something_else_is_not_right(kit):
    make_whole_wrong(kit)
    assert_far(prove_kit(kit))
    result = CliRunner().invoke(app, ["prove", str(kit)])
    assert result.exit_code == 1
    assert "in all 6 layers; the whole model is WRONG, 9.5 dB from its simulation" in result.stdout


def unknown_operator() -> bytes:
    node = helper.make_node("Conv9", ["x"], ["y"], domain="com.example")
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=9
    )
    content: bytes = model.SerializeToString()
    return content


BAD = {
    "changed": (lambda kit: (kit / "model.onnx").write_bytes(b"x"), "model.onnx was changed"),
    "missing": (lambda kit: (kit / "layers/00.onnx").unlink(), "/layers/00.onnx"),
    "empty": (lambda kit: (kit / "kit.json").write_text("{}"), "is no whole kit"),
    "no JSON": (lambda kit: (kit / "kit.json").write_bytes(b"\xff"), "is no whole kit"),
    "no folder": (lambda kit: shutil.rmtree(kit), "is no whole kit"),
    "pipe": (  # nobody writes to it
        lambda kit: ((kit / "kit.json").unlink(), os.mkfifo(kit / "kit.json")),
        "/kit.json is no file",
    ),
    "pipe in the place of a layer": (
        lambda kit: (
            (kit / "layers/00.onnx").unlink(),
            os.mkfifo(kit / "layers/00.onnx"),
        ),
        "/layers/00.onnx is no file",
    ),
    "version": (
        lambda kit: rewrite(kit, lambda m: m.update(schema_version=2)),
        "is of version 2, not 1",
    ),
    "damaged": (
        lambda kit: rewrite(kit, lambda m: m["model"].update(inputs={"x": None})),
        "is no whole kit",
    ),
    "shape": (
        lambda kit: rewrite(kit, lambda m: m["model"]["inputs"]["x"].update(shape=[1])),
        "is no whole kit",
    ),
    "outside": (  # reading it would never end
        lambda kit: rewrite(kit, lambda m: m["files"].update({"/dev/zero": ""})),
        "/dev/zero was changed",
    ),
    "operator": (
        lambda kit: rewrite(kit, lambda _: None, "layers/01.onnx", unknown_operator()),
        "cannot run layers/01.onnx",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_kit_that_cannot_be_run_is_one_sentence(kit, case):
    damage, words = BAD[case]
    damage(kit)
    result = CliRunner().invoke(app, ["prove", str(kit), "--json"])
    assert result.exit_code == 2
    assert words in json.loads(result.stdout)["error"]


def test_the_program_says_so_too(kit):
    BAD["empty"][0](kit)
    done = run_program(kit)
    assert done.returncode == 2
    assert done.stderr.startswith("prove: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_new_kit_replaces_the_old_one_and_nothing_else(small_model, crossed, tmp_path):
    out = tmp_path / "int8.onnx"
    folder = tmp_path / "int8-kit"
    (folder / "notes").mkdir(parents=True)
    with pytest.raises(StorageError, match="int8-kit exists and is no proof kit"):
        quantize(small_model, FEW, out)
    assert not out.exists()
    shutil.rmtree(folder)
    shutil.copytree(crossed.path.with_name("int8-kit"), folder)
    (folder / "layers/99.onnx").write_bytes(b"of a longer network")
    quantize(small_model, FEW, out)
    assert not (folder / "layers/99.onnx").exists()
    assert prove_kit(folder).right


@pytest.fixture
def node(kit) -> Path:
    """A kit with onnxruntime-web beside it."""
    modules = os.environ.get("MOBILENET_CLI_NODE_MODULES")
    if modules is None or shutil.which("node") is None:
        pytest.skip("no node, or MOBILENET_CLI_NODE_MODULES names no node_modules (make node)")
    (kit / "node_modules").symlink_to(modules)
    return kit


def run_node(kit: Path, threads: int) -> subprocess.CompletedProcess[str]:
    command = ["node", kit / "prove.mjs", str(threads)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_webassembly_is_proven_in_the_same_way(node, crossed, threads):
    done = run_node(node, threads)
    assert done.returncode == 0, done.stderr
    record = ProofRecord.model_validate_json(done.stdout)
    assert record.right
    assert record.model == crossed.sha256
    assert list(record.layers) == list(prove_kit(node).layers)
    assert record.device.startswith("v")


def test_webassembly_names_what_is_wrong(node):
    make_whole_wrong(node)
    assert_far(ProofRecord.model_validate_json(run_node(node, 1).stdout))
    name = make_wrong(node)
    assert_named(run_node(node, 1), name)


@pytest.mark.parametrize("case", ["changed", "missing", "version", "operator"])
def test_webassembly_says_why_a_kit_cannot_be_run(node, case):
    BAD[case][0](node)
    done = run_node(node, 1)
    assert done.returncode == 2
    assert done.stderr.startswith("prove: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("avx2_only")
def test_the_table_of_targets_has_a_row_for_each_kernels(crossed):
    kit = crossed.path.with_name(crossed.record.kit)
    script = BENCHMARKS / "targets.py"
    done = subprocess.run([sys.executable, script, kit], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, _, row = ([c.strip() for c in x.split("|")[1:-1]] for x in done.stdout.splitlines())
    assert row[:2] == ["int8", "6"]
    assert row[head.index("AVX2")]
    assert "WRONG" not in done.stdout
    assert row[head.index("NEON")] == ""  # a file for ARM alone is tried there


def test_onnxruntime_web_has_no_relaxed_dot_products(node):
    """Where one has, docs/targets.md is out of date: they saturate like AVX2."""
    builds = list((node / "node_modules" / "onnxruntime-web" / "dist").glob("*.wasm"))
    assert builds
    for build in builds:
        content = build.read_bytes()
        assert b"\xfd\xba\x01" in content  # i32x4.dot_i16x8_s, which widens and is exact
        assert b"\xfd\x92\x02" not in content
        assert b"\xfd\x93\x02" not in content
