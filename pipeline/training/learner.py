"""A network that learns has an optimizer and a start, which are made here."""

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilenet_cli.models import find_architecture
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network, load_state
from mobilenet_cli.pipeline.training.optimizer import make_optimizer
from mobilenet_cli.pipeline.training.setup import TrainingSetup

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.architecture import Network


@dataclass(frozen=True)
class Learner:
    """A learner is a network with everything that a step of training changes.

    Attributes:
        network: the network in training.
        trained: what is called for ``network``; it averages gradients over processes.
        average: the moving average of the network's weights; None if the recipe keeps none.
        optimizer: the network's optimizer.
        scaler: scales the loss against underflow; does nothing but with fp16.
    """

    network: "Network"
    trained: "torch.nn.Module"
    average: "Network | None"
    optimizer: "torch.optim.Optimizer"
    scaler: "torch.amp.GradScaler"

    @property
    def kept(self) -> "Network":
        """Return the network that is evaluated and kept."""
        return self.average or self.network

    @property
    def learning_rate(self) -> float:
        """Return the largest learning rate of all parameters, that of the classifier."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)


def make_learner(setup: TrainingSetup) -> Learner:
    """Make the network to start from, and its optimizer."""
    import torch

    config, recipe = setup.config, setup.recipe
    torch.manual_seed(config.seed)
    network = starting_network(setup.spec, setup.training.source, setup.classes)
    if setup.grids is not None:
        from mobilenet_cli.models.classifier_torch import Classifier
        from mobilenet_cli.pipeline.training.methods.fake_quantize import fold_into

        assert isinstance(network, Classifier)  # no other has grids
        fold_into(network, setup.grids)
    if config.sync_norms and setup.group.world > 1:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch's own
    # Measured on two cores at 32 pixels, batch 64: 83 ms a step on this layout, 120 ms without.
    network = network.to(setup.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub of Module.to lacks memory_format
    average = copy.deepcopy(network).eval() if recipe.ema else None
    trained = setup.group.wrap(setup.computed(network))
    return Learner(
        network,
        torch.compile(trained) if config.compiled else trained,  # type: ignore[arg-type]  # it is a module
        average,
        make_optimizer(network, recipe),
        torch.amp.GradScaler(setup.device.type, enabled=config.precision == "fp16"),
    )


def starting_network(
    spec: ModelSpec, source: Artifact | None, classes: tuple[str, ...]
) -> "Network":
    """Make a random network, or that of ``source``, with a new classifier where classes differ.

    A detector takes of a classifier the layers that both have, and of a detector of the same
    classes all. Random kernels are those of He et al., arXiv:1502.01852, for ReLU; fan-out per
    group.
    """
    from torch import nn

    from mobilenet_cli.models.classifier_torch import Classifier
    from mobilenet_cli.models.detector_torch import Detector

    if source is not None:
        load_state(source)  # checks it before memory is taken for what its facts claim
    network = find_architecture(spec.architecture).build(spec)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    known = load_network(source) if source else None
    same = source is not None and source.facts.classes == classes
    if isinstance(network, Detector):
        for output in (module for head in network.heads for module in head.children()):
            if isinstance(output, nn.Conv2d):
                nn.init.normal_(output.weight, 0.0, 0.01)
                assert output.bias is not None
                nn.init.zeros_(output.bias)
        if known is not None:
            shared = network.state_dict().keys() if same and isinstance(known, Detector) else ()
            state = {
                name: tensor
                for name, tensor in known.state_dict().items()
                if name in shared or not name.startswith(("classifier.", "heads."))
            }
            network.load_state_dict(state, strict=False)
        return network
    nn.init.normal_(network.classifier.weight, 0.0, 0.01)
    nn.init.zeros_(network.classifier.bias)
    if isinstance(known, Classifier):
        network.layers.load_state_dict(known.layers.state_dict())
        if same:
            network.classifier.load_state_dict(known.classifier.state_dict())
    return network
