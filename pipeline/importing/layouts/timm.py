"""This is timm's layout of ``mobilenetv1_100`` and ``_125`` (timm/models/efficientnet.py).

Symmetric padding, epsilon 1e-5; images bicubic, cropped to 0.875 of the short side (0.9 at width
1.25), scaled to -1..1.
"""

import math
from typing import Any

from mobilenet_cli.data.preprocess import NORMALIZATIONS, RESAMPLING, InputSpec, Interpolation
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.plan import (
    LAYERS,
    TensorMapping,
    layer_names,
    torch_norm,
)

EXPECTED = "timm: conv_stem.weight, blocks.0.0.conv_dw.weight, ..., classifier.weight"
BLOCKS = (1, 2, 2, 6, 2)  # per stage
INTERPOLATIONS: dict[str, Interpolation] = {name: name for name in RESAMPLING}


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has the layer names of timm's depthwise separable networks."""
    return "conv_stem.weight" in file.tensors and "blocks.0.0.conv_dw.weight" in file.tensors


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Take names from timm; preprocessing from config.json, or as timm has it for the network.

    Raises:
        ModelError: another network of timm, named.
    """
    _refuse_variants(file)
    names = layer_names("layers.0", "conv_stem.weight", torch_norm("bn1"))
    blocks = [f"blocks.{stage}.{i}" for stage, count in enumerate(BLOCKS) for i in range(count)]
    for block, theirs in enumerate(blocks):
        depthwise, pointwise = 2 * block + 1, 2 * block + 2
        for layer, part, norm in ((depthwise, "conv_dw", "bn1"), (pointwise, "conv_pw", "bn2")):
            kernel = f"{theirs}.{part}.weight"
            names |= layer_names(f"layers.{layer}", kernel, torch_norm(f"{theirs}.{norm}"))
    assert pointwise == LAYERS - 1
    if any(name.startswith("classifier.") for name in file.tensors):
        names |= {name: name for name in ("classifier.weight", "classifier.bias")}
    return TensorMapping(
        layout="timm",
        names=names,
        padding="symmetric",
        bn_epsilon=1e-5,
        input=_input(file, resolution),
    )


def _refuse_variants(file: WeightFile) -> None:
    architecture = str(file.config.get("architecture", ""))
    named = architecture or file.path.name
    if architecture.endswith("h") or "conv_head.weight" in file.tensors or "_100h" in named:
        raise ModelError(
            f"{file.path} is timm's {architecture or 'mobilenetv1_100h'}, which has a further "
            "convolution after the pooling and is no plain MobileNet v1",
            "Import mobilenetv1_100 or mobilenetv1_125 instead",
        )
    if architecture and not architecture.startswith("mobilenetv1_"):
        raise ModelError(
            f"{file.path} is timm's {architecture}, which is no MobileNet v1",
            "Import mobilenetv1_100 or mobilenetv1_125 instead",
        )


def _input(file: WeightFile, resolution: int | None) -> InputSpec:
    config: dict[str, Any] = file.config.get("pretrained_cfg", {})
    wide = file.tensors["conv_stem.weight"].shape[0] == 40  # width 1.25
    side = resolution or int(config.get("input_size", (3, 224, 224))[1])
    crop = float(config.get("crop_pct", 0.9 if wide else 0.875))
    known = NORMALIZATIONS["inception"]
    mean, std = config.get("mean", known.mean), config.get("std", known.std)
    return InputSpec(
        resolution=side,
        resize=math.floor(side / crop),
        interpolation=INTERPOLATIONS[config.get("interpolation", "bicubic")],
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        convention="torchvision",  # whose transforms timm puts together
    )
