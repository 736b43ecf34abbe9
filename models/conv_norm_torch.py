"""This is the torch module of one convolutional layer."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from torch import nn

from mobilenet_cli.models.conv_layers import ConvLayer
from mobilenet_cli.models.spec import ModelSpec, Padding


def window_padding(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Return the pixels to add (before, after) along one axis of ``size`` pixels.

    ``same`` is TensorFlow's rule: ``total = max((ceil(size / stride) - 1) * stride + kernel -
    size, 0)``, the odd pixel at the end (tensorflow/core/framework/common_shape_fns.cc).
    """
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """A layer is a convolution, batch normalization and, unless it is linear, an activation."""

    def __init__(self, layer: ConvLayer, spec: ModelSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            groups=layer.groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(layer.out_channels, eps=spec.bn_epsilon)
        self.kernel, self.stride, self.padding = layer.kernel, layer.stride, spec.padding
        self.linear = layer.linear
        self.activation = F.relu6 if spec.activation == "relu6" else F.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] to [N, C', ceil(H / stride), ceil(W / stride)]."""
        top, bottom, left, right = (
            pixels
            for size in x.shape[-2:]
            for pixels in window_padding(size, self.kernel, self.stride, self.padding)
        )
        if (top, left) != (bottom, right):  # a convolution's own padding is the same on both sides
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        conv = self.conv
        x = F.conv2d(x, conv.weight, None, self.stride, (top, left), groups=conv.groups)
        normed: torch.Tensor = self.bn(x)
        return normed if self.linear else self.activation(normed)
