"""A LiteRT file has the integers of the ONNX file, and answers like it."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from mobilenet_cli.data.preprocess import InputSpec, normalize
from mobilenet_cli.pipeline.artifacts.artifact import save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.deploying.deploy import DeployConfig, deploy
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.predictor import probabilities_of
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.base import Record

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra litert)")


def read(content: bytes) -> tuple[Any, Counter[str]]:
    """The file as objects of the schema, and how often it has each operator."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    (graph,) = model.subgraphs
    return model, Counter(codes[operator.opcodeIndex] for operator in graph.operators)


def constants(model: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Codes and scales of the constants, by name."""
    types = {9: np.int8, 2: np.int32, 4: np.int64}
    found = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.quantization is not None:
            assert not np.any(tensor.quantization.zeroPoint)
            codes = np.asarray(data, np.uint8).view(types[tensor.type]).reshape(tensor.shape)
            found[tensor.name.decode()] = codes, np.asarray(tensor.quantization.scale)
    return found


def test_the_integers_are_those_of_the_onnx_file(package, chain):
    from mobilenet_cli.pipeline.deploying.litert import write_litert

    record = package.manifest.litert
    assert record is not None
    assert record.layers == 28
    assert record.agreement == 1
    assert record.max_difference < 0.03
    model, operators = read((package.folder / record.model).read_bytes())
    # 28 layers, and the one that makes codes of pixels; one QUANTIZE for pixels, one for features.
    assert operators["CONV_2D"] + operators["DEPTHWISE_CONV_2D"] == 29
    assert operators["PAD"] == 0
    onnx_file = load_onnx(chain.int8.path)
    written = constants(read(write_litert(onnx_file, chain.int8.facts.input)[0])[0])
    arrays = {t.name: numpy_helper.to_array(t) for t in onnx_file.graph.initializer}
    compared = 0
    for node in onnx_file.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight, bias = (name.removesuffix("_real") for name in node.input[1:3])
        stored = arrays[f"{weight}_codes"].astype(int)
        zero = arrays[f"{weight}_zero_point"].reshape([-1] + [1] * (stored.ndim - 1))
        wanted = stored - zero
        codes, scales = written[f"{node.output[0]}_weight"]
        if wanted.ndim == 4:
            depthwise = codes.shape[0] == 1 and wanted.shape[1] == 1
            wanted = wanted.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        assert np.array_equal(wanted[..., : codes.shape[-1]].reshape(codes.shape), codes)
        assert np.array_equal(scales, arrays[f"{weight}_scale"])
        codes, scales = written[f"{node.output[0]}_bias"]
        assert np.array_equal(codes, arrays[f"{bias}_codes"])
        np.testing.assert_allclose(scales, arrays[f"{bias}_scale"], rtol=1e-6)
        compared += 1
    assert compared == record.layers
    text = next(m for m in model.metadata if m.name == b"mobilenet_cli")
    facts = Facts.model_validate_json(bytes(model.buffers[text.buffer].data))
    assert facts.classes == tuple("0123456789")


@pytest.fixture
def small(tmp_path):
    """Quantize a small graph whose images are BGR."""

    def make(graph):
        facts = Facts(
            stage="foreign",
            input=InputSpec.cropped(32, normalization="bgr 103.939,116.779,123.68"),
            classes=tuple("abc"),
            data="digits",
        )
        model = with_facts(graph.model(("N", 3)), facts)
        source = save_artifact(tmp_path / "float.onnx", model, facts, Record())
        config = QuantizeConfig(calib_count=24, target="vnni", cross=True)
        return quantize(source, config, tmp_path / "int8.onnx")

    return make


def test_symmetric_padding_residuals_and_activations(small_graph, small):
    from mobilenet_cli.pipeline.deploying.litert import run_litert, write_litert

    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 16, strides=[2, 2]))
    y = g.node("Relu", g.conv(x, 16, 16, group=16))
    y = g.conv(y, 16, 16, 1)
    g.head(g.node("Relu", g.conv(g.node("Add", x, y), 16, 16, 1)), 16)
    made = small(g)
    content, layers = write_litert(load_onnx(made.path), made.facts.input)
    assert layers == 5
    _, operators = read(content)
    assert (operators["PAD"], operators["ADD"], operators["MEAN"]) == (1, 1, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    session = open_session(made.path)
    logits = session.run(None, {"x": normalize(pixels, made.facts.input)})[0]
    found = run_litert(content, [pixels[:1], pixels[1:]])
    np.testing.assert_allclose(found, probabilities_of(logits), atol=0.02)


def test_what_is_not_written_is_refused_in_a_sentence(small_graph, small, chain, tmp_path):
    from mobilenet_cli.pipeline.deploying.litert import write_litert

    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    g.head(g.node("Relu", g.conv(g.node("MaxPool", x, kernel_shape=[2, 2]), 8, 8)), 8)
    made = small(g)
    with pytest.raises(ModelError, match=r"the operator MaxPool.*Leave --target litert out"):
        write_litert(load_onnx(made.path), made.facts.input)
    with pytest.raises(ModelError, match="made of an integer model"):
        deploy(chain.folded, DeployConfig(images=2, targets=("litert",)), tmp_path / "package")
