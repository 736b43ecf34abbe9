"""A new classifier on the features as they are is what fine-tuning has to beat.

A few dozen images move pretrained layers more than they teach them: of 40 images in four folders
the best linear classifier on the untouched features gets more right than any fine-tuning of ours
(docs/training.md), as Kumar et al. explain, arXiv:2202.10054, section 3.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilenet_cli.data.loader import OnBad, batches
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.training.setup import TrainingSetup

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.classifier_torch import Classifier

MOST_IMAGES = 5000  # with more, fine-tuning is better, and the probe would only take time
BATCH = 64
# Of half the sum of the squared weights; 1e-4 to 0.1 give the same accuracy within two points.
DECAY = 0.03
ITERATIONS = 200


@dataclass(frozen=True)
class LinearProbe:
    """A probe is a network whose classifier alone has learnt.

    Attributes:
        network: the network.
        loss: its mean cross-entropy on the training images.
        top1: its accuracy on the training images, in percent.
    """

    network: "Classifier"
    loss: float
    top1: float


def wants_probe(setup: TrainingSetup) -> bool:
    """Tell whether training starts from the layers of a classifier of other classes, on few images.

    A detector's heads are no linear classifier, and grids leave no classifier to replace.
    """
    source = setup.training.source
    return (
        source is not None
        and setup.detection is None
        and setup.grids is None
        and source.facts.classes != setup.classes
        and len(setup.images.samples) <= MOST_IMAGES
    )


def linear_probe(
    setup: TrainingSetup, network: "Classifier", tick: Callable[[int], None], on_bad: OnBad
) -> LinearProbe:
    """Fit a classifier to the features of the training images as evaluation sees them.

    Mirrored images count too where training mirrors them. Labels are not smoothed: that cost two to
    four points here, and made the classifier too unsure of itself.

    Args:
        setup: the images.
        network: the network whose layers give the features; it stays as it is.
        tick: is told how many images are done.
        on_bad: is told of each image that cannot be read, which is then left out.

    Raises:
        DataError: none of the images can be read.
    """
    import torch

    probe = copy.deepcopy(network).eval()
    samples, spec, mirrored = setup.images.samples, setup.training.input, setup.images.mirror
    labels = torch.from_numpy(setup.images.labels)
    features, targets = [], []
    with torch.no_grad():
        for batch in batches(samples, spec, BATCH, setup.group.cpus, on_bad):
            images = torch.from_numpy(batch.images).to(setup.device)
            for view in (images, images.flip(3)) if mirrored else (images,):
                features.append(probe.embed(view))
                targets.append(labels[list(batch.indices)])
            tick(batch.indices[-1] + 1)
    if not features:
        raise DataError(
            f"none of the training images of {setup.config.data} can be read",
            "Check that the files are images",
        )
    return _fitted(probe, torch.cat(features), torch.cat(targets).to(setup.device))


def _fitted(probe: "Classifier", features: "torch.Tensor", targets: "torch.Tensor") -> LinearProbe:
    """Minimize the cross-entropy of features [n, C] with classes [n] by L-BFGS."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses

    classifier = probe.classifier
    optimizer = torch.optim.LBFGS(
        classifier.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss_of() -> torch.Tensor:
        return F.cross_entropy(classifier(features), targets)

    def closure() -> float:
        optimizer.zero_grad()
        objective = loss_of() + DECAY / 2 * classifier.weight.square().sum()
        objective.backward()  # type: ignore[no-untyped-call]  # torch's own
        return float(objective.detach())

    with torch.enable_grad():
        torch.nn.init.zeros_(classifier.weight)
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's own
    with torch.no_grad():
        right = classifier(features).argmax(1) == targets
        return LinearProbe(probe, float(loss_of()), 100 * float(right.float().mean()))
