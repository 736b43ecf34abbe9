"""All torch modules of detectors share one shape."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from mobilenet_cli.models.conv_layers import Head
from mobilenet_cli.models.spec import ModelSpec


class Detector(nn.Module):
    """A detector makes maps of images, and boxes and scores of each position of a map.

    Args:
        spec: the network's values.
        heads: what makes the outputs, in pairs: boxes, scores.
    """

    def __init__(self, spec: ModelSpec, heads: Sequence[Head]) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.Sequential()  # the backbone, which a subclass makes
        self.heads = nn.ModuleList(
            nn.ModuleDict(
                {
                    h.name.rpartition(".")[2]: nn.Conv2d(h.in_channels, h.out_channels, 1)
                    for h in pair
                }
            )
            for pair in zip(heads[::2], heads[1::2], strict=True)
        )

    @abstractmethod
    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps [N, C, h, w] that the heads see, in their order."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map normalized images [N, 3, H, W] to boxes [N, A, 4] and scores [N, A, classes].

        They are raw: offsets from the anchors, and logits.
        """
        boxes, scores = [], []
        for head, seen in zip(self.heads, self.maps(images), strict=True):
            assert isinstance(head, nn.ModuleDict)
            boxes.append(self._rows(self._output(head, "boxes", seen), 4))
            scores.append(self._rows(self._output(head, "scores", seen), self.spec.classes))
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    def _output(self, head: nn.ModuleDict, kind: str, seen: torch.Tensor) -> torch.Tensor:
        before = f"{kind}_depthwise"
        made: torch.Tensor = head[kind](head[before](seen) if before in head else seen)
        return made

    def _rows(self, output: torch.Tensor, width: int) -> torch.Tensor:
        """Turn [N, anchors * width, h, w] into [N, h * w * anchors, width]."""
        count = output.shape[1] * output.shape[2] * output.shape[3] // width
        return output.permute(0, 2, 3, 1).contiguous().view(-1, count, width)
