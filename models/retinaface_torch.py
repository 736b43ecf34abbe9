"""This is the torch module of RetinaFace on MobileNet v1."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from torch import nn

from mobilenet_cli.models import mobilenet_v1, retinaface
from mobilenet_cli.models.conv_norm_torch import ConvNorm
from mobilenet_cli.models.detector_torch import Detector
from mobilenet_cli.models.spec import ModelSpec


class RetinaFace(Detector):
    """RetinaFace looks at three maps, each with what the coarser ones know."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, retinaface.heads(spec))
        backbone = [layer.name for layer in mobilenet_v1.conv_layers(spec)]
        self.seen = [backbone.index(name) for name in retinaface.BACKBONE_MAPS]
        rooms: dict[str, dict[str, nn.Module]] = {}
        for layer in retinaface.layers(spec):
            room, _, part = layer.name.rpartition(".")
            rooms.setdefault(room, {})[part] = ConvNorm(layer, spec)
        self.layers = nn.Sequential(*rooms.pop("layers").values())
        maps = range(len(self.seen))
        self.pyramid = nn.ModuleList(nn.ModuleDict(rooms[f"pyramid.{index}"]) for index in maps)
        self.context = nn.ModuleList(nn.ModuleDict(rooms[f"context.{index}"]) for index in maps)
        self.activation = F.relu6 if spec.activation == "relu6" else F.relu

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the three maps, the finest first."""
        found = []
        x = images
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.seen:
                found.append(x)
        below = None
        joined = []
        for block, seen in zip(reversed(self.pyramid), reversed(found), strict=True):
            assert isinstance(block, nn.ModuleDict)
            own: torch.Tensor = block["lateral"](seen)
            if below is not None:
                own = block["merge"](own + enlarged(below, own))
            below = own
            joined.append(own)
        pairs = zip(self.context, reversed(joined), strict=True)
        return [self._in_context(block, seen) for block, seen in pairs]

    def _in_context(self, block: nn.Module, seen: torch.Tensor) -> torch.Tensor:
        assert isinstance(block, nn.ModuleDict)
        near = block["5x5_1"](seen)
        windows = [block["3x3"](seen), block["5x5_2"](near), block["7x7_3"](block["7x7_2"](near))]
        return self.activation(torch.cat(windows, 1))


def enlarged(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Return a map [N, C, h, w] with the sides of another one, by the nearest neighbour."""
    if fine.shape[-2:] == (2 * coarse.shape[-2], 2 * coarse.shape[-1]):
        return F.interpolate(coarse, scale_factor=2, mode="nearest")  # exports as one Resize
    return F.interpolate(coarse, fine.shape[-2:], mode="nearest")
