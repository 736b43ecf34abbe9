"""This is the layout of transformers: google/mobilenet_v1_1.0_224 and others.

These are the TF-slim checkpoints: 1001 classes with background first, TensorFlow's padding,
epsilon 1e-3 (transformers/models/mobilenet_v1). Their short side is resized to 32 pixels more
than the crop (convert_original_tf_checkpoint_to_pytorch.py of transformers 4).
"""

from typing import Any

from mobilenet_cli.data.preprocess import NORMALIZATIONS, InputSpec, Interpolation
from mobilenet_cli.models.spec import Activation
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.plan import (
    LAYERS,
    TensorMapping,
    layer_names,
    torch_norm,
)

EXPECTED = (
    "Hugging Face: mobilenet_v1.conv_stem.convolution.weight, "
    "mobilenet_v1.layer.0.convolution.weight, ..., classifier.weight"
)
STEM = "conv_stem.convolution.weight"
PREFIX = "mobilenet_v1."
RESAMPLE: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's codes
ACTIVATIONS: dict[str, Activation] = {"relu6": "relu6", "relu": "relu"}


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has the layer names of transformers, with or without classifier."""
    return STEM in file.tensors or PREFIX + STEM in file.tensors


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Take names from transformers; the rest from config.json, or as in the official files."""
    prefix = PREFIX if PREFIX + STEM in file.tensors else ""
    names: dict[str, str] = {}
    for layer in range(LAYERS):
        theirs = f"{prefix}conv_stem" if layer == 0 else f"{prefix}layer.{layer - 1}"
        kernel, norm = f"{theirs}.convolution.weight", torch_norm(f"{theirs}.normalization")
        names |= layer_names(f"layers.{layer}", kernel, norm)
    if any(name.startswith("classifier.") for name in file.tensors):
        names |= {name: name for name in ("classifier.weight", "classifier.bias")}
    config = file.config
    return TensorMapping(
        layout="Hugging Face",
        names=names,
        padding="same" if config.get("tf_padding", True) else "symmetric",
        bn_epsilon=float(config.get("layer_norm_eps", 1e-3)),
        activation=ACTIVATIONS[config.get("hidden_act", "relu6")],
        input=_input(config, file.preprocessor, resolution),
    )


def _input(config: dict[str, Any], prepare: dict[str, Any], resolution: int | None) -> InputSpec:
    crop = prepare.get("crop_size", config.get("image_size", 224))
    side = resolution or int(crop["height"] if isinstance(crop, dict) else crop)
    size = prepare.get("size")
    short = int(size["shortest_edge"]) if isinstance(size, dict) else side + 32
    if resolution:
        short = side + 32
    known = NORMALIZATIONS["inception"]
    mean, std = prepare.get("image_mean", known.mean), prepare.get("image_std", known.std)
    return InputSpec(
        resolution=side,
        resize=max(short, side),
        interpolation=RESAMPLE[prepare.get("resample", 2)],
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        convention="hugging-face",
    )
