"""MobileNetV2: the counts that its authors, torchvision and Keras publish, and its module."""

from math import prod

import pytest
import torch

from mobilenet_cli.models import MODELS, find_architecture
from mobilenet_cli.models.mobilenet_v2 import blocks, scaled_channels
from mobilenet_cli.models.mobilenet_v2_torch import InvertedResidual
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import ModelError

V2 = MODELS["mobilenet_v2"]


def spec(width: float = 1.0, **more) -> ModelSpec:
    return ModelSpec(architecture="mobilenet_v2", width=width, **more)


def test_rows_are_those_of_table_2() -> None:
    outputs = [(b.layers[-1].out_channels, b.layers[-2].stride) for b in blocks(spec())[1:-1]]
    repeated = [(24, 1), (32, 1), (32, 1), (64, 1), (64, 1), (64, 1), (96, 1), (96, 1)]
    repeated += [(160, 1), (160, 1)]
    first = [(16, 1), (24, 2), (32, 2), (64, 2), (96, 1), (160, 2), (320, 1)]
    assert sorted(outputs) == sorted(first + repeated)
    assert sum(block.residual for block in blocks(spec())) == len(repeated)
    assert len(V2.layers(spec())) == 52


# TF-slim, nets/mobilenet/README.md, which cuts millions of multiply-adds and counts parameters
# without those of batch normalizations; the paper's Table 4 has 300 and 585 million.
@pytest.mark.parametrize(
    ("width", "resolution", "multiply_adds_m", "parameters_m"),
    [
        (1.4, 224, 582, 6.06),
        (1.3, 224, 509, 5.34),
        (1.0, 224, 300, 3.47),
        (1.0, 192, 221, 3.47),
        (1.0, 160, 154, 3.47),
        (1.0, 128, 99, 3.47),
        (1.0, 96, 56, 3.47),
        (0.75, 224, 209, 2.61),
        (0.75, 96, 39, 2.61),
        (0.5, 224, 97, 1.95),
        (0.5, 160, 50, 1.95),
        (0.35, 224, 59, 1.66),
        (0.35, 96, 11, 1.66),
    ],
)
def test_counts_are_the_published(
    width: float, resolution: int, multiply_adds_m: int, parameters_m: float
) -> None:
    assert int(V2.multiply_adds(spec(width), resolution) / 1e6) == multiply_adds_m
    shapes = V2.tensor_shapes(spec(width)).items()
    weights = sum(prod(shape) for name, shape in shapes if ".bn." not in name)
    assert round(weights / 1e6, 2) == parameters_m


# torchvision's _meta of MobileNet_V2_Weights, and trainable parameters in Keras' summaries.
@pytest.mark.parametrize(
    ("width", "parameters"), [(1.0, 3_504_872), (1.4, 6_108_776), (0.5, 1_968_680)]
)
def test_parameters_are_torchvisions_and_keras(width: float, parameters: int) -> None:
    assert V2.parameters(spec(width)) == parameters


@pytest.mark.parametrize(
    ("filters", "width", "channels"),
    [(32, 0.35, 16), (24, 0.35, 8), (24, 0.75, 24), (32, 1.4, 48), (160, 0.33, 56), (16, 0.1, 8)],
)
def test_channels_are_multiples_of_8_not_far_below_what_was_wanted(
    filters: int, width: float, channels: int
) -> None:
    assert scaled_channels(filters, width) == channels


@pytest.mark.parametrize("width", [0.1, 0.35, 1.0, 1.4])
def test_module_has_the_tensors_of_the_data(width: float) -> None:
    network = V2.build(spec(width, classes=7))
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items() if t.ndim}
    assert shapes == V2.tensor_shapes(spec(width, classes=7))
    assert sum(p.numel() for p in network.parameters()) == V2.parameters(spec(width, classes=7))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("resolution", [32, 33, 47])
def test_any_resolution_runs_and_maps_have_the_sides_that_are_counted(
    padding: str, resolution: int
) -> None:
    network = V2.build(spec(0.35, classes=3, padding=padding)).eval()
    with torch.inference_mode():
        images = torch.rand(2, 3, resolution, resolution)
        side = V2.last_side(resolution)
        assert network.layers(images).shape == (2, 1280, side, side)
        assert network(images).isfinite().all()


def test_a_residual_adds_its_input_to_a_linear_projection() -> None:
    network = V2.build(spec(0.35)).eval()
    block = network.layers[2 + 1]
    assert isinstance(block, InvertedResidual)
    assert block.residual
    x = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        projected = block.project(block.depthwise(block.expand(x)))
        assert (projected < 0).any()
        torch.testing.assert_close(block(x), x + projected)


def test_an_unknown_architecture_is_a_sentence(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"'resnet' is not known .* Use mobilenet_v1 or"):
        find_architecture("resnet")
    with pytest.raises(ModelError, match=r"'resnet', which .*x\.onnx names, is not known"):
        find_architecture("resnet", tmp_path / "x.onnx")
