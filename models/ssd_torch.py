"""This is the torch module of SSD on MobileNet v1."""

import torch
from torch import nn

from mobilenet_cli.models import mobilenet_v1, ssd
from mobilenet_cli.models.conv_norm_torch import ConvNorm
from mobilenet_cli.models.detector_torch import Detector
from mobilenet_cli.models.spec import ModelSpec


class SSD(Detector):
    """SSD looks at two maps of MobileNet v1, and at four that smaller layers make behind it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, ssd.heads(spec))
        layers = {layer.name: layer for layer in ssd.layers(spec)}
        backbone = [layer.name for layer in mobilenet_v1.conv_layers(spec)]
        self.seen = [backbone.index(name) for name in ssd.BACKBONE_MAPS]
        self.layers = nn.Sequential(*(ConvNorm(layers[name], spec) for name in backbone))
        self.extras = nn.ModuleList(nn.Sequential() for _ in ssd.EXTRAS)
        for name, layer in layers.items():
            room, _, rest = name.partition(".")
            if room != "layers":
                index, _, part = rest.partition(".")
                block = getattr(self, room)[int(index)]
                block.add_module(part, ConvNorm(layer, spec))

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return two maps of MobileNet's and one of each block behind it."""
        found = []
        x = images
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.seen:
                found.append(x)
        for block in self.extras:
            x = block(x)
            found.append(x)
        return found
