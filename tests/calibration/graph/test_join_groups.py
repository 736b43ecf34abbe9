"""Groups of channels are joined where integer kernels want more of them."""

import numpy as np
import pytest

from mobilenet_cli.calibration.graph.join_groups import join_groups
from mobilenet_cli.calibration.graph.parse import attributes_of, parse
from mobilenet_cli.pipeline.runtime.session import open_session


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "left", "integer"),
    [
        (32, 32, 8, 1, True),  # 4 a group
        (32, 64, 4, 1, True),  # 8 inputs and 16 outputs a group
        (48, 48, 4, 2, True),  # 12 a group
        (72, 72, 3, 3, True),  # 24 a group are enough
        (12, 12, 3, 3, False),  # all together would be too few
        (32, 32, 32, 32, True),  # depthwise
        (32, 64, 32, 32, False),  # with two outputs a channel, of which 8 are too few
    ],
)
def test_narrow_groups_are_joined_and_the_function_stays(
    small_graph, inputs, outputs, groups, left, integer
):
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, inputs, strides=[2, 2]))
    g.head(g.node("Relu", g.conv(x, inputs, outputs, group=groups)), outputs)
    before = g.model()
    after = join_groups(before)
    assert [attributes_of(n).get("group", 1) for n in after.graph.node if n.op_type == "Conv"] == [
        1,
        left,
    ]
    image = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    plain, joined = (
        open_session(model.SerializeToString()).run(None, {"x": image})[0]
        for model in (before, after)
    )
    np.testing.assert_allclose(joined, plain, rtol=1e-4, atol=1e-5)
    layers = parse(after).linears.values()
    assert [linear.groups for linear in layers] == ([1, left, 1] if integer else [1, 1])
