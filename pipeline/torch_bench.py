"""Forward and forward-backward of a checkpoint in torch, for ``bench``'s worker process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifact import load_artifact
from mobilenet_cli.pipeline.checkpoint import load_network


def runner(
    checkpoint: Path,
    images: NDArray[np.float32],
    threads: int,
    direction: Literal["forward", "forward-backward"],
) -> Callable[[], NDArray[Any]]:
    """Load the network, eager, channels_last, float32; return a function that runs it once.

    ``forward`` is inference: no gradients, batch normalization with its running statistics.
    ``forward-backward`` is one training step without the optimizer: batch statistics,
    cross-entropy, gradients of every parameter.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    torch.set_num_threads(threads)
    network = load_network(load_artifact(checkpoint)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(len(batch), dtype=torch.long)

    def forward() -> NDArray[Any]:
        with torch.inference_mode():
            logits: NDArray[Any] = network(batch).numpy()
        return logits

    def forward_backward() -> NDArray[Any]:
        network.zero_grad()
        loss = F.cross_entropy(network(batch), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        value: NDArray[Any] = loss.detach().numpy()
        return value

    network.train(direction == "forward-backward")
    return forward_backward if direction == "forward-backward" else forward
