"""Nothing changes its layout between the first QuantizeLinear and the last integer operator."""

import numpy as np
import onnx
import pytest

from mobilenet_cli.calibration.graph.channels_last import turn_single_pixels
from mobilenet_cli.calibration.graph.parse import parse
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import SIMULATED
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session


def optimized(path, folder):
    """Operators in the order in which ONNX Runtime runs them."""
    out = folder / "optimized.onnx"
    open_session(path, SessionConfig(optimized_path=out))
    return [node.op_type for node in onnx.load(out).graph.node]


@pytest.mark.parametrize("target", ["avx2", "vnni", "amx", "arm64"])
def test_images_are_turned_once_as_codes(chain, tmp_path, target):
    config = QuantizeConfig(calib_count=20, target=target, cross=True)
    out = quantize(chain.folded, config, tmp_path / "int8.onnx").path
    operators = optimized(out, tmp_path)
    pad = ["Pad"] * (target in ("vnni", "amx"))
    begin = ["QuantizeLinear", *pad, "Transpose", "QLinearConv"]
    assert operators[: len(begin)] == begin
    assert operators.count("Transpose") == 1


def test_tensorrt_gets_the_graph_as_it_is(chain, tmp_path):
    config = QuantizeConfig(calib_count=20, target="tensorrt")
    out = quantize(chain.folded, config, tmp_path / "int8.onnx").path
    assert not {"Transpose", "Flatten"} & {node.op_type for node in load_onnx(out).graph.node}


def test_logits_stay_bit_for_bit(chain, tmp_path):
    config = QuantizeConfig(calib_count=20, target="tensorrt")  # which is left as it is
    model = load_onnx(quantize(chain.folded, config, tmp_path / "int8.onnx").path)
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)

    def logits(session):
        content = open_session(model.SerializeToString(), session)
        return content.run(None, {model.graph.input[0].name: images})[0]

    before = [logits(session) for session in (SIMULATED, SessionConfig())]
    nodes = len(model.graph.node)
    turn_single_pixels(model, parse(load_onnx(chain.folded.path)))
    assert len(model.graph.node) == nodes + 1
    onnx.checker.check_model(model, full_check=True)
    for expected, session in zip(before, (SIMULATED, SessionConfig()), strict=True):
        assert np.array_equal(logits(session), expected)
