"""This is the torch module of MobileNetV2."""

from collections import OrderedDict

import torch
from torch import nn

from mobilenet_cli.models.classifier_torch import Classifier
from mobilenet_cli.models.conv_norm_torch import ConvNorm
from mobilenet_cli.models.mobilenet_v2 import Block, blocks
from mobilenet_cli.models.spec import ModelSpec


class InvertedResidual(nn.Sequential):
    """An inverted residual expands, filters and projects, and adds its input where it may."""

    def __init__(self, block: Block, spec: ModelSpec) -> None:
        layers = block.layers
        super().__init__(
            OrderedDict((layer.name.rpartition(".")[2], ConvNorm(layer, spec)) for layer in layers)
        )
        self.residual = block.residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] to [N, C', ceil(H / stride), ceil(W / stride)]."""
        projected = x
        for layer in self:
            projected = layer(projected)
        return x + projected if self.residual else projected


class MobileNetV2(Classifier):
    """MobileNetV2 has the 19 blocks of Table 2 before its classifier."""

    def __init__(self, spec: ModelSpec) -> None:
        rows = blocks(spec)
        modules = (
            InvertedResidual(block, spec)
            if len(block.layers) > 1
            else ConvNorm(block.layers[0], spec)
            for block in rows
        )
        super().__init__(spec, nn.Sequential(*modules), rows[-1].layers[-1].out_channels)
