"""Detectors: the published counts, their modules, anchors, and what becomes of their outputs."""

import numpy as np
import pytest
import torch

from mobilenet_cli.models import MODELS
from mobilenet_cli.models.boxes import AnchorMap, BoxSpec
from mobilenet_cli.models.conv_layers import feature_sizes
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import OptionError

NAMES = ["ssd_mobilenet_v1", "ssdlite_mobilenet_v1", "retinaface_mobilenet_v1"]
SSD = MODELS[NAMES[0]]
COCO = ModelSpec(architecture=NAMES[0], classes=91)


def test_counts_are_the_published() -> None:
    # MobileNet v1's Table 13 says 6.8 million parameters and 1.2 billion multiply-adds at 300
    # pixels for COCO, to two digits.
    assert round(SSD.parameters(COCO) / 1e6, 1) == 6.8
    assert round(SSD.multiply_adds(COCO, 300) / 1e9, 1) == 1.2


@pytest.mark.parametrize(
    ("name", "width", "side"),
    [(NAMES[0], 0.25, 64), (NAMES[0], 0.1, 33), (NAMES[1], 0.1, 33), (NAMES[2], 0.25, 64)],
)
def test_module_has_the_tensors_and_maps_of_the_data(name: str, width: float, side: int) -> None:
    found = MODELS[name]
    spec = ModelSpec(architecture=name, width=width, classes=4)
    network = found.build(spec).eval()
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items() if t.ndim}
    assert shapes == found.tensor_shapes(spec)
    boxes = BoxSpec(anchors=found.anchors(side), columns=(1, 2, 3))
    with torch.inference_mode():
        made, scores = network(torch.rand(2, 3, side, side))
    assert made.shape == (2, boxes.count, 4)
    assert scores.shape == (2, boxes.count, 4)
    sides = dict(
        zip(
            [x.name for x in found.layers(spec)],
            feature_sizes(found.layers(spec), side),
            strict=True,
        )
    )
    with torch.inference_mode():
        maps = network.maps(torch.rand(1, 3, side, side))
    assert [x.shape[-1] for x in maps] == [m.side for m in boxes.anchors]
    assert [sides[h.source] for h in found.heads(spec)[::2]] == [m.side for m in boxes.anchors]


def test_anchors_are_those_of_the_object_detection_api() -> None:
    sizes = [m.sizes for m in SSD.anchors(300)]
    assert [m.side for m in SSD.anchors(300)] == [19, 10, 5, 3, 2, 1]
    assert [len(s) for s in sizes] == [3, 6, 6, 6, 6, 6]  # 1917 in all, as everybody's file has
    assert BoxSpec(anchors=SSD.anchors(300), columns=(1,)).count == 1917
    np.testing.assert_allclose(sizes[0], [(0.1, 0.1), (0.28284, 0.14142), (0.14142, 0.28284)], 1e-4)
    np.testing.assert_allclose(sizes[5][1], (0.97468, 0.97468), 1e-4)


def test_outputs_become_boxes_and_boxes_outputs() -> None:
    spec = BoxSpec(anchors=SSD.anchors(64), columns=(1,))
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((spec.count, 2, 2), np.float32), axis=1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 0.01], axis=1)
    np.testing.assert_allclose(spec.decode(spec.encode(boxes)), boxes, atol=1e-5)
    # by hand: an anchor of 0.5 around (0.25, 0.25), moved by half its width, and twice as high
    one = BoxSpec(
        anchors=(AnchorMap(side=2, step=0.5, sizes=((0.5, 0.5),)),),
        columns=(0,),
        scores="sigmoid",
    )
    outputs = np.zeros((4, 4), np.float32)
    outputs[0] = (5, 0, 0, np.log(2) / 0.2)
    np.testing.assert_allclose(one.decode(outputs)[0], (0.25, -0.25, 0.75, 0.75), atol=1e-6)
    np.testing.assert_allclose(one.decode(outputs)[1], (0.5, 0.0, 1.0, 0.5), atol=1e-6)
    assert np.isfinite(one.decode(np.full((4, 4), 1e30, np.float32))[:, 2:]).all()


def test_probabilities_are_shares_or_sigmoids_of_the_columns() -> None:
    logits = np.array([[0.0, np.log(3), 0.0], [-200, 0, 200]], np.float32)
    maps = SSD.anchors(64)
    shares = BoxSpec(anchors=maps, columns=(1,)).probabilities(logits)
    np.testing.assert_allclose(shares, [[0.6], [0.0]], atol=1e-6)
    alone = BoxSpec(anchors=maps, columns=(0, 2), scores="sigmoid").probabilities(logits)
    np.testing.assert_allclose(alone, [[0.5, 0.5], [0.0, 1.0]], atol=1e-6)


@pytest.mark.parametrize(("side", "sizes"), [(0, ((1, 1),)), (1, ()), (1, ((1, 0),))])
def test_an_anchor_map_has_boxes(side: int, sizes: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(OptionError, match="no boxes"):
        AnchorMap(side=side, step=1, sizes=sizes)
