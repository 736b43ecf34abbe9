"""A network is computed through the grids that ``quantize`` chose, with gradients.

Weights and activations are rounded to their grid and go on as float: what integers would compute.
Gradients pass through rounding as if it were not there, and stop where the grid ends (the
straight-through estimator; Jacob et al., arXiv:1712.05877, section 3).
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from torch import nn

from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import PAIR_MAX, WEIGHT_MAX, partners
from mobilenet_cli.models.classifier_torch import Classifier
from mobilenet_cli.models.conv_norm_torch import ConvNorm
from mobilenet_cli.models.mobilenet_v2_torch import InvertedResidual
from mobilenet_cli.pipeline.training.methods.qat import Grids


class FakeQuantized(nn.Module):
    """This is a network whose BatchNorms only add (``fold_into``), computed through grids.

    Args:
        network: that learns; its parameters are this module's.
        grids: of its weights and activations.
    """

    def __init__(self, network: Classifier, grids: Grids) -> None:
        super().__init__()
        self.network, self.grids = network, grids
        device = network.classifier.weight.device
        self.scales = [torch.from_numpy(layer.scale).to(device) for layer in grids.layers]
        self.partners = [
            torch.from_numpy(partners(layer.weight[:1])).to(device)
            if grids.target.pairs_saturate and layer.weight.shape[1:2] != (1,)
            else None
            for layer in grids.layers
        ]

    def weights(self) -> list[torch.Tensor]:
        """Return the weights of each layer, and of the classifier, on their grids."""
        kernels = [layer.conv.weight for layer in layers_of(self.network)]
        return [
            round_to_grid(weight, scale, partner)
            for weight, scale, partner in zip(
                [*kernels, self.network.classifier.weight],
                self.scales,
                self.partners,
                strict=True,
            )
        ]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized images [N, 3, H, W] to logits [N, classes]."""
        *kernels, last = self.weights()
        weights, grids = iter(kernels), iter(self.grids.activations)
        x = _rounded(images, next(grids))
        for block in self.network.layers:
            before = x
            for layer in layers_of(block):
                x = torch.func.functional_call(layer, {"conv.weight": next(weights)}, (x,))
                x = _rounded(x, next(grids))
            if isinstance(block, InvertedResidual) and block.residual:
                x = _rounded(before + x, next(grids))
        features = _rounded(F.avg_pool2d(x, x.shape[-2:]).flatten(1), next(grids))
        return F.linear(features, last, self.network.classifier.bias)


def layers_of(network: nn.Module) -> list[ConvNorm]:
    """Return the convolutional layers of a network or a block in order."""
    return [layer for layer in network.modules() if isinstance(layer, ConvNorm)]


def round_to_grid(
    weight: torch.Tensor, scale: torch.Tensor, partner: torch.Tensor | None = None
) -> torch.Tensor:
    """Return each output channel's weights rounded to multiples of its scale.

    Args:
        weight: [out, ...].
        scale: [out].
        partner: taps that are added in 16 bits (``kernels.partners``), kept within ``PAIR_MAX``.
    """
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(
        weight, scale, zeros, 0, -WEIGHT_MAX, WEIGHT_MAX
    )
    if partner is None:
        return rounded
    with torch.no_grad():
        codes = (rounded / scale.view(-1, *(1,) * (weight.ndim - 1))).round().flatten(1)
        other = codes[:, partner].where(partner >= 0, codes.new_zeros(()))
        same = codes.sign() == other.sign()
        beyond = (codes.abs() + other.abs() - PAIR_MAX).clamp_min(0).where(same, 0.0)
        cut = (codes.sign() * (beyond / 2).ceil() * scale[:, None]).reshape(weight.shape)
    return rounded - cut


def _rounded(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    limits = np.iinfo(grid.dtype)
    return torch.fake_quantize_per_tensor_affine(
        values.float(), grid.scale, grid.zero_point, int(limits.min), int(limits.max)
    )


def fold_into(network: Classifier, grids: Grids) -> Classifier:
    """Give a network the folded weights and biases from which training starts.

    Its BatchNorms are left to add the bias: their scale is 1 and does not learn.
    """
    *layers, last = grids.layers
    with torch.no_grad():
        for layer, start in zip(layers_of(network), layers, strict=True):
            layer.conv.weight.copy_(torch.from_numpy(start.weight))
            layer.bn.reset_running_stats()  # mean 0, variance 1
            layer.bn.weight.fill_(math.sqrt(1 + layer.bn.eps)).requires_grad_(False)
            layer.bn.bias.copy_(torch.from_numpy(start.bias))
        network.classifier.weight.copy_(torch.from_numpy(last.weight))
        network.classifier.bias.copy_(torch.from_numpy(last.bias))
    return network


def on_grid(quantized: FakeQuantized) -> Classifier:
    """Return the network with its weights on their grids for good: what is written at the end."""
    network = copy.deepcopy(quantized.network)
    *kernels, last = quantized.weights()
    with torch.no_grad():
        for layer, kernel in zip(layers_of(network), kernels, strict=True):
            layer.conv.weight.copy_(kernel)
        network.classifier.weight.copy_(last)
    return network
