"""Channels of nothing, where the integer kernels make sixteen of them at a time."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mobilenet_cli.calibration.graph.parse import attributes_of, parse
from mobilenet_cli.calibration.graph.widen_channels import widen_channels
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import check_integer, running_operators
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.session import open_session

IMAGES = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def logits(model):
    session = open_session(model.SerializeToString())
    return session.run(None, {model.graph.input[0].name: IMAGES})[0]


def convolutions(model):
    """Weight, bias and groups of each, in order."""
    values = arrays(model)
    return [
        (values[n.input[1]], values[n.input[2]], attributes_of(n).get("group", 1))
        for n in model.graph.node
        if n.op_type == "Conv"
    ]


def test_narrow_layers_become_sixteen_and_the_function_stays(chain):
    narrow = load_onnx(chain.folded.path)
    wide = widen_channels(parse(narrow))
    onnx.checker.check_model(wide, full_check=True)
    assert np.allclose(logits(wide), logits(narrow), rtol=1e-5, atol=1e-5)
    before, after = convolutions(narrow), convolutions(wide)
    assert [w.shape for w, _, _ in before[:3]] == [(8, 3, 3, 3), (8, 1, 3, 3), (16, 8, 1, 1)]
    assert [w.shape for w, _, _ in after[:3]] == [(16, 3, 3, 3), (16, 1, 3, 3), (16, 16, 1, 1)]
    assert after[1][2] == 16  # groups
    for weight, bias, _ in after[:2]:
        assert not weight[8:].any()
        assert not bias[8:].any()
    assert np.array_equal(after[0][0][:8], before[0][0])
    assert not after[2][0][:, 8:].any()
    for old, new in zip(before[3:], after[3:], strict=True):
        assert np.array_equal(old[0], new[0])  # sixteens already


def test_sixteens_stay_as_they_are(chain):
    wide = widen_channels(parse(load_onnx(chain.folded.path)))
    assert arrays(widen_channels(parse(wide))).keys() == arrays(wide).keys()
    for name, value in arrays(widen_channels(parse(wide))).items():
        assert np.array_equal(value, arrays(wide)[name])


def test_a_parameter_that_others_read_stays_theirs(chain):
    model = load_onnx(chain.folded.path)
    first, second = [n for n in model.graph.node if n.op_type == "Conv"][:2]
    second.input[2] = first.input[2]
    wide = widen_channels(parse(model))
    assert np.allclose(logits(wide), logits(model), rtol=1e-5, atol=1e-5)
    assert [len(bias) for _, bias, _ in convolutions(wide)[:2]] == [16, 16]


@pytest.mark.parametrize(
    ("target", "channels"), [("vnni", 16), ("amx", 16), ("avx2", 8), ("tensorrt", 8)]
)
def test_only_for_kernels_that_gain(chain, tmp_path, target, channels):
    made = quantize(
        chain.folded,
        QuantizeConfig(calib_count=8, target=target, cross=True),
        tmp_path / "int8.onnx",
    )
    model = load_onnx(made.path)
    weights = [v for k, v in arrays(model).items() if k.endswith("weight_codes") and v.ndim == 4]
    assert len(weights[0]) == channels
    # The new channels are put to work: none of their weights is left at zero.
    assert all(row.any() for row in weights[0])
    if target != "tensorrt":
        network = parse(load_onnx(chain.folded.path))
        check_integer(network, running_operators(made.path.read_bytes()))
    assert made.record.sqnr_db > 15
