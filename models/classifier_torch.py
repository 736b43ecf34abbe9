"""All torch modules of classifiers share one shape."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from torch import nn

from mobilenet_cli.models.spec import ModelSpec


class Classifier(nn.Module):
    """A classifier is a row of layers, global average pooling, and one fully connected layer.

    Args:
        spec: the network's values.
        layers: map images [N, 3, H, W] to features [N, C, h, w].
        features: the number C of features.
    """

    def __init__(self, spec: ModelSpec, layers: nn.Sequential, features: int) -> None:
        super().__init__()
        self.spec = spec
        self.layers = layers
        self.classifier = nn.Linear(features, spec.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized images [N, 3, H, W] to logits [N, classes]."""
        logits: torch.Tensor = self.classifier(self.embed(images))
        return logits

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized images [N, 3, H, W] to pooled features [N, C]."""
        features = self.layers(images)
        # A window of the whole map rather than a mean: it exports as one AveragePool.
        pooled = F.avg_pool2d(features, features.shape[-2:])
        return pooled.reshape(-1, self.classifier.in_features)
