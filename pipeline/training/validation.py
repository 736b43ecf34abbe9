"""How many held-out images a network in training gets right."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mobilenet_cli.data.dataset import Dataset
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.preprocess import InputSpec

if TYPE_CHECKING:
    import torch


def count_right(
    network: "torch.nn.Module",
    held: Dataset,
    classes: tuple[str, ...],
    spec: InputSpec,
    device: "torch.device",
    tick: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Numbers of held-out images whose class is first, and among the first five.

    Args:
        network: from images [n, 3, R, R] to logits [n, classes].
        held: the images.
        classes: in the order of the logits.
        spec: how an image is prepared.
        device: where the network is.
        tick: told how many images are done.
    """
    import torch

    network.eval()
    index = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([index[str(s.label)] for s in held.samples])
    top1 = top5 = 0
    with torch.inference_mode():
        for batch in batches(held.samples, spec, 64):
            logits = network(torch.from_numpy(batch.images).to(device)).cpu()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hit = best == labels[list(batch.indices)][:, None]
            top1 += int(hit[:, 0].sum())
            top5 += int(hit.any(1).sum())
            tick(batch.indices[-1] + 1)
    return top1, top5
