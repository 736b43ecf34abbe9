"""The same codes and logits, from a graph that faster kernels take."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mobilenet_cli.calibration.graph.shape_for_kernels import (
    LEAST_INPUTS,
    pad_input_channels,
    shift_zero_points,
)
from mobilenet_cli.calibration.kernels import TARGETS
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.progress import silent
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import (
    SIMULATED,
    calibration_runtime,
    check_integer,
    running_operators,
)
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session


@pytest.fixture(scope="module")
def plain(chain, tmp_path_factory):
    """Eight-bit weights, in a graph that was not shaped for any kernel."""
    out = tmp_path_factory.mktemp("plain") / "int8.onnx"
    config = QuantizeConfig(calib_count=20, target="arm64", cross=True)
    return quantize(chain.folded, config, out).path


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def logits(model, config=None):
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    return open_session(model.SerializeToString(), config or SessionConfig()).run(
        None, {model.graph.input[0].name: images}
    )[0]


@pytest.mark.parametrize("change", [pad_input_channels, shift_zero_points])
def test_logits_stay_bit_for_bit(plain, change):
    model = load_onnx(plain)
    before, simulated = logits(model), logits(model, SIMULATED)
    content = model.SerializeToString()
    change(model)
    assert model.SerializeToString() != content
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(logits(model, SIMULATED), simulated)
    # Without VNNI the two graphs pair other weights, whose sums saturate differently.
    if not saturating():
        assert np.array_equal(logits(model), before)


def saturating():
    from mobilenet_cli.pipeline.runtime.proving.integer_kernels import pairs_saturate

    return pairs_saturate()


def test_the_image_gets_a_fourth_channel_of_nothing(plain):
    model = load_onnx(plain)
    pad_input_channels(model)
    (pad,) = (node for node in model.graph.node if node.op_type == "Pad")
    (quantizer,) = (node for node in model.graph.node if pad.input[0] in node.output)
    assert quantizer.op_type == "QuantizeLinear"
    assert quantizer.input[0] == model.graph.input[0].name
    before, after = arrays(load_onnx(plain)), arrays(model)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    (name,) = changed
    assert after[name].shape == (8, 4, 3, 3)
    assert np.array_equal(after[name][:, :3], before[name])
    assert not after[name][:, 3].any()


def test_wide_pointwise_weights_are_stored_one_lower(plain):
    model = load_onnx(plain)
    shift_zero_points(model)
    before, after = arrays(load_onnx(plain)), arrays(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    codes = {name for name in changed if name.endswith("_codes")}
    assert len(codes) == 1  # at width 0.25 the last layer alone has 256 input channels
    assert changed - codes == {name.replace("_codes", "_zero_point") for name in codes}
    for name in codes:
        assert before[name].shape[1] >= LEAST_INPUTS
        assert np.array_equal(after[name] + 1, before[name])
        assert set(after[name.replace("_codes", "_zero_point")].tolist()) == {-1}


def test_a_float_model_is_left_alone(chain):
    model = load_onnx(chain.folded.path)
    pad_input_channels(model)
    shift_zero_points(model)
    assert model == load_onnx(chain.folded.path)


@pytest.mark.parametrize("target", ["avx2", "vnni", "amx", "arm64"])
def test_each_target_gets_its_shape(chain, tmp_path, target):
    config = QuantizeConfig(calib_count=20, target=target, cross=True)
    made = quantize(chain.folded, config, tmp_path / "int8.onnx")
    model = load_onnx(made.path)
    padded = any(node.op_type == "Pad" for node in model.graph.node)
    shifted = any((value == -1).all() for n, value in arrays(model).items() if "weight_zero" in n)
    assert (padded, shifted) == (TARGETS[target].direct, TARGETS[target].tiles)
    operators = running_operators(made.path.read_bytes())
    assert operators["QLinearConv"] == 27
    assert not Counter({"Conv": 1, "FusedConv": 1}) & operators


def test_layers_that_stay_float_are_left_alone(chain):
    from mobilenet_cli.calibration.graph.parse import parse
    from mobilenet_cli.calibration.integer_network import build
    from mobilenet_cli.pipeline.quantizing.calibration_images import choose_images

    first = next(iter(parse(load_onnx(chain.folded.path)).linears))
    network = parse(load_onnx(chain.folded.path), frozenset({first}))
    images = choose_images(chain.folded, None, 8, 0)
    runtime = calibration_runtime(images, silent)
    made = build(network, images, TARGETS["amx"], "minmax", (), runtime)
    shaped = made.write(TARGETS["amx"])
    assert not any(node.op_type == "Pad" for node in shaped.graph.node)
    check_integer(network, running_operators(shaped.SerializeToString()))
    plain = made.write(TARGETS["arm64"])
    assert np.array_equal(logits(shaped, SIMULATED), logits(plain, SIMULATED))
