"""A network in training is evaluated on held-out images."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.loader import OnBad, batches
from mobilenet_cli.data.preprocess import InputSpec

if TYPE_CHECKING:
    import torch


def count_correct(
    network: "torch.nn.Module",
    dataset: Dataset,
    classes: tuple[str, ...],
    spec: InputSpec,
    device: "torch.device",
    tick: Callable[[int], None] = lambda _: None,
    on_bad: OnBad | None = None,
) -> tuple[int, int, float, int]:
    """Count the images whose class is the network's first, and those where it is among five.

    Args:
        network: maps images [n, 3, R, R] to logits [n, classes].
        dataset: the labelled images.
        classes: the identifiers of the classes, in the order of the logits.
        spec: how an image is prepared.
        device: the device of the network.
        tick: is told how many images are done.
        on_bad: is told of each image that cannot be read, which is then left out.

    Returns:
        Both counts, the sum of the cross-entropy, and the number of images that could be read.

    Raises:
        DataError: an image cannot be read and ``on_bad`` is None.
    """
    import torch

    network.eval()
    index = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([index[str(s.label)] for s in dataset.samples])
    top1 = top5 = seen = 0
    loss = 0.0
    with torch.inference_mode():
        for batch in batches(dataset.samples, spec, 64, on_bad=on_bad):
            logits = network(torch.from_numpy(batch.images).to(device)).cpu()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            right = labels[list(batch.indices)]
            correct = best == right[:, None]
            loss += float(torch.nn.functional.cross_entropy(logits, right, reduction="sum"))
            top1 += int(correct[:, 0].sum())
            top5 += int(correct.any(1).sum())
            seen += len(batch.indices)
            tick(batch.indices[-1] + 1)
    return top1, top5, loss, seen
