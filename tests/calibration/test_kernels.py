"""The pairs of weights that saturate are those that really do on AVX2 kernels."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mobilenet_cli.calibration.kernels import (
    PAIR_MAX,
    TARGETS,
    largest_pair_sum,
    packing_order,
    partners,
)

# Every pair of taps in an output channel of its own, both weights 127 under activations of 255:
# 2 * 255 * 127 if the sum is exact, 32767 if the two are added in 16 bits.
PROBE = """
import itertools, json, sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

def saturating(operator, shape, groups):
    taps = int(np.prod(shape))
    pairs = list(itertools.combinations(range(taps), 2))
    weight = np.zeros((len(pairs), taps), np.int16)
    for row, pair in zip(weight, pairs):
        row[list(pair)] = 127
    found = len(pairs)
    weight = np.tile(weight, (groups, 1)) if groups else weight
    groups = groups or len(pairs)
    channels = shape[0] * groups
    image = [1, channels, *shape[1:]] if operator == "Conv" else [1, taps]
    constants = {
        "xs": np.float32(1), "xz": np.uint8(0),
        "w": weight.astype(np.int8).reshape(len(weight), *shape),
        "ws": np.ones(len(weight), np.float32), "wz": np.zeros(len(weight), np.int8),
        "ys": np.float32(2 * 127), "yz": np.uint8(0),
    }
    attributes = {"transB": 1}
    if operator == "Conv":
        attributes = {"group": groups}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node(operator, ["xd", "wd"], ["yd"], **attributes),
        helper.make_node("QuantizeLinear", ["yd", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, image)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = open_session(model.SerializeToString())
    codes = session.run(None, {"x": np.full(image, 255, np.uint8)})[0].ravel()
    by_group = codes.reshape(-1, found)
    assert (by_group == by_group[0]).all()
    return [pair for pair, code in zip(pairs, by_group[0]) if code != 255]

print(json.dumps([saturating(*case) for case in json.loads(sys.argv[1])]))
"""
# operator, one output channel's weights, groups: 0 for one of each output
DENSE = {
    "first": ("Conv", (3, 3, 3), 1),
    "square": ("Conv", (4, 3, 3), 1),
    "tall": ("Conv", (2, 3, 1), 1),
    "pointwise": ("Conv", (8, 1, 1), 1),
    "odd pointwise": ("Conv", (7, 1, 1), 1),
    "odd square": ("Conv", (5, 3, 3), 1),
    "grouped": ("Conv", (4, 3, 3), 3),
    "odd grouped": ("Conv", (5, 3, 1), 2),
    "wide grouped": ("Conv", (24, 1, 1), 2),
    "product": ("Gemm", (10,), 1),
    "odd product": ("Gemm", (11,), 1),
}
DEPTHWISE = {"depthwise": ("Conv", (1, 3, 3), 0), "large depthwise": ("Conv", (1, 5, 5), 0)}
CASES = DENSE | DEPTHWISE


@pytest.fixture(scope="module")
def measured(avx2_only):
    """For each case the pairs of taps that really saturate on AVX2 kernels."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(list(CASES.values()))],
        env=avx2_only,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [{tuple(pair) for pair in pairs} for pairs in json.loads(done.stdout)]
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", DENSE)
def test_exactly_the_named_pairs_saturate(measured, case):
    partner = partners(np.zeros((1, *DENSE[case][1])))
    assert measured[case] == {(k, int(p)) for k, p in enumerate(partner) if k < p}


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_weights_never_saturate(measured, case):
    assert measured[case] == set()


def test_target_is_found_by_trying(avx2_only):
    script = (
        "from mobilenet_cli.pipeline.runtime.proving.integer_kernels import detect_target; "
        "print(detect_target())"
    )
    done = subprocess.run([sys.executable, "-c", script], env=avx2_only, capture_output=True)
    assert done.stdout.strip() == b"avx2"
    assert TARGETS["avx2"].pairs_saturate


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (5, 7), (2, 3, 3, 3), (4, 5, 1, 1), (1, 2, 3, 2)]
)
def test_partners_are_mutual_and_leave_out_an_odd_last_tap(shape):
    weight = np.zeros(shape)
    partner = partners(weight)
    taps = len(partner)
    assert sorted(packing_order(weight)) == list(range(taps))
    paired = np.flatnonzero(partner >= 0)
    assert len(paired) == taps // 2 * 2
    assert np.array_equal(partner[partner[paired]], paired)
    assert (partner[paired] != paired).all()
    if taps % 2:
        assert partner[packing_order(weight)[-1]] == -1


def test_kernels_pair_channels_of_one_pixel():
    """[out, in=4, 1 x 2]: taps in the order of memory are channel by channel."""
    assert packing_order(np.zeros((1, 4, 1, 2))).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert partners(np.zeros((1, 4, 1, 2))).tolist() == [2, 3, 0, 1, 6, 7, 4, 5]


def test_largest_pair_sum_counts_equal_signs_only():
    taps = np.array([[100, 27, -50, 60], [-90, -80, 1, 2], [0, 0, 0, 0]], float)
    assert largest_pair_sum(taps, partners(taps)).tolist() == [127, 170, 0]
    odd = np.array([[1, 2, 200]], float)
    assert largest_pair_sum(odd, partners(odd)).tolist() == [200]


def test_limit_is_the_largest_that_fits():
    assert 255 * PAIR_MAX <= 32767 < 255 * (PAIR_MAX + 1)
