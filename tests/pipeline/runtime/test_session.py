"""A session runs on the provider asked for, or is refused with the cure."""

import os
import subprocess
import sys
import types

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.pipeline.benchmarking.processes.operator_profile import look_inside
from mobilenet_cli.pipeline.errors import ModelError, OptionError, ProviderError
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.proving.parity import sqnr_db
from mobilenet_cli.pipeline.runtime.session import (
    CPU,
    OPENVINO,
    PROVIDERS,
    Provider,
    SessionConfig,
    check_provider,
    nearest_provider,
    open_session,
)

CUDA = "CUDAExecutionProvider"


def test_the_runtime_does_not_report_to_its_maker(tmp_path):
    """Its wheels keep a database of events to send, and an identifier of the machine."""
    here = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    code = (
        "from mobilenet_cli.pipeline.runtime.session import open_session;"
        "from mobilenet_cli.pipeline.runtime.doctor import small_model; open_session(small_model())"
    )
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=here | homes, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [0, -1, 4097, 10**20])
def test_no_number_of_threads(threads):
    with pytest.raises(OptionError, match=f"cannot run on {threads} threads"):
        SessionConfig(threads=threads)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cpu", CPU),
        ("CPUExecutionProvidr", CPU),
        ("cudaexecutionprovider", CUDA),
        ("CUDA", CUDA),
        ("tensort", "TensorrtExecutionProvider"),
    ],
)
def test_misspelt_provider(chain, name, meant):
    with pytest.raises(ProviderError, match=f"Perhaps {meant} is meant") as caught:
        open_session(chain.folded.path, SessionConfig(provider=name))
    assert name in caught.value.what
    assert CPU in caught.value.what


def test_a_known_provider_that_is_not_installed_is_not_suggested(monkeypatch):
    name = "DnnlExecutionProvider"
    monkeypatch.setitem(PROVIDERS, name, Provider())
    with pytest.raises(ProviderError, match="is not in the installed ONNX Runtime") as caught:
        open_session(b"not even read", SessionConfig(provider=name))
    assert caught.value.fix.startswith("Install an ONNX Runtime")


def test_name_that_resembles_none():
    for name in ("abacus", "AbacusExecutionProvider"):
        assert nearest_provider(name, PROVIDERS) == "Choose one of these"


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this runtime has CUDA")
def test_cuda_without_cuda_fails_and_says_what_to_install(chain):
    with pytest.raises(ProviderError, match=f"{CUDA} cannot run here|{CUDA} is not in") as caught:
        open_session(chain.folded.path, SessionConfig(provider=CUDA))
    assert caught.value.fix


def test_every_usable_cpu_by_default(chain):
    session = open_session(chain.folded.path)
    assert session.get_session_options().intra_op_num_threads == usable_cpus()
    one = open_session(chain.folded.path, SessionConfig(threads=1))
    assert one.get_session_options().intra_op_num_threads == 1
    assert session.get_providers() == [CPU]


def test_file_that_the_runtime_cannot_load(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"cannot load .*x\.onnx"):
        open_session(path)


def test_operator_that_does_not_exist():
    graph = helper.make_graph(
        [helper.make_node("Levitate", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ModelError, match="Levitate"):
        open_session(model.SerializeToString())


def test_optimized_graph_is_what_was_asked_for(chain, tmp_path):
    """Fusing is on by default, off by name, and the graph that runs can be read."""
    import onnx

    operators = {}
    for name, disabled in (("all", ()), ("apart", ("ConvBNFusion",))):
        path = tmp_path / f"{name}.onnx"
        open_session(
            chain.fp32.path, SessionConfig(disabled_optimizers=disabled, optimized_path=path)
        )
        operators[name] = [n.op_type for n in onnx.load(path).graph.node]
    # The blocked layout of x86 turns a BatchNormalization that was not fused into a convolution.
    scalings = {
        name: sum(op in ("Conv", "FusedConv", "BatchNormalization") for op in found) - 27
        for name, found in operators.items()
    }
    assert scalings == {"all": 0, "apart": 27}


def test_simulation_does_not_saturate():
    """Without integer kernels, two full products are added exactly on any CPU."""
    initializers = {
        "xs": np.float32(1),
        "xz": np.uint8(0),
        "w": np.full((64, 1), 127, np.int8),
        "ws": np.float32(1),
        "wz": np.int8(0),
        "ys": np.float32(64 * 255 * 127 / 255),
        "yz": np.uint8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "ys", "yz"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = open_session(model.SerializeToString(), SessionConfig(integer_kernels=False))
    found = session.run(None, {"x": np.full((1, 64), 255, np.float32)})[0]
    assert found.item() == pytest.approx(64 * 255 * 127)


def test_openvino_runs_whole_models_in_the_arithmetic_of_the_file(chain):
    pytest.importorskip("onnxruntime_ep_openvino", reason="the extra openvino is missing")
    try:
        check_provider(OPENVINO)
    except ProviderError as error:
        if "takes none of this machine's processors" not in error.what:
            raise
        pytest.skip("OpenVINO's provider takes Intel's processors alone")
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    for model, least in ((chain.folded, 60), (chain.int8, 25)):
        session = open_session(model.path, SessionConfig(provider=OPENVINO, threads=1))
        expected = open_session(model.path, SessionConfig(integer_kernels=False))
        name = session.get_inputs()[0].name
        made, wanted = (s.run(None, {name: images})[0] for s in (session, expected))
        assert sqnr_db(wanted, made) > least
        assert set(session.get_providers()) == {OPENVINO, CPU}  # the last one may run no node
    inside = look_inside(chain.int8.path, images, SessionConfig(provider=OPENVINO, threads=1))
    assert {where for _, where in inside.nodes} == {OPENVINO}
    wrong = SessionConfig(provider=OPENVINO, provider_options={"load_config": "no JSON"})
    with pytest.raises(ProviderError, match=r"OpenVINOExecutionProvider cannot run .*folded.onnx"):
        open_session(chain.folded.path, wrong)


def test_a_plugin_that_takes_no_processor_of_this_machine(monkeypatch):
    """OpenVINO's starts on AMD's processors, too, and then offers nothing."""
    plugin = types.SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", plugin)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    for change in ("register", "unregister"):
        monkeypatch.setattr(ort, f"{change}_execution_provider_library", lambda *_: None)
    check_provider.cache_clear()
    with pytest.raises(ProviderError, match=r"takes none of this machine's processors, .* by \w+"):
        check_provider(OPENVINO)


def test_openvino_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    check_provider.cache_clear()
    with pytest.raises(ProviderError, match=r"which is not installed. Install it with pip .*openv"):
        check_provider(OPENVINO)
