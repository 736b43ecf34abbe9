"""This is the torch module of MobileNet v1."""

from torch import nn

from mobilenet_cli.models.classifier_torch import Classifier
from mobilenet_cli.models.conv_norm_torch import ConvNorm
from mobilenet_cli.models.mobilenet_v1 import conv_layers
from mobilenet_cli.models.spec import ModelSpec


class MobileNetV1(Classifier):
    """MobileNet v1 has the 27 convolutional layers of Table 1 before its classifier."""

    def __init__(self, spec: ModelSpec) -> None:
        layers = conv_layers(spec)
        modules = (ConvNorm(layer, spec) for layer in layers)
        super().__init__(spec, nn.Sequential(*modules), layers[-1].out_channels)
