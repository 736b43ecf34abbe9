"""Torch runs a checkpoint forward and forward-backward, in ``bench``'s worker process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from numpy.typing import NDArray

from mobilenet_cli.models import find_architecture
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import ProviderError


@dataclass(frozen=True)
class TorchSetting:
    """A setting says how torch is to run a network.

    Attributes:
        threads: intra-op threads on the CPU.
        device: ``cpu`` or ``cuda``.
        compiled: through ``torch.compile`` with its default backend, instead of eager.
        backward: a training step without the optimizer, instead of inference.
        tf32: let a GPU round factors of float32 products to TF32's 10 bits of mantissa.
    """

    threads: int
    device: str
    compiled: bool
    backward: bool
    tf32: bool


def set_tf32(allowed: bool) -> None:
    """Have products and convolutions on a GPU use TF32 or not, as ONNX Runtime's ``use_tf32``.

    torch's own defaults differ: TF32 in convolutions, not in matrix products.
    """
    precision = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]  # torch makes it at run time


def loss_of(made: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return a loss with gradients for all parameters: every image, or anchor, is of class 0.

    Offsets of a detector's boxes should be 0.
    """
    logits = made if isinstance(made, torch.Tensor) else made[1].flatten(0, 1)
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    loss = F.cross_entropy(logits, labels)
    return loss if isinstance(made, torch.Tensor) else loss + made[0].square().mean()


def runner(
    checkpoint: Path, images: NDArray[np.float32], setting: TorchSetting
) -> Callable[[], NDArray[Any]]:
    """Load the network, channels_last, float32; return a function that runs it once.

    Forward is inference from host memory to host memory: no gradients, batch normalization with
    its running statistics. Forward-backward starts from images on the device: batch statistics
    (the running ones where the last maps have a single value a channel and so no statistics),
    cross-entropy, gradients of every parameter, and ends when the loss is in host memory and the
    gradients are computed.

    Raises:
        ModelError: the checkpoint cannot be used.
        ProviderError: there is no CUDA for torch.
    """
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            f"torch {torch.__version__} cannot use a GPU here, so {checkpoint} has no row",
            "Install torch for CUDA, or name the ONNX files to measure them alone",
        )
    torch.set_num_threads(setting.threads)
    if setting.device == "cuda":
        set_tf32(setting.tf32)
    torch.backends.cudnn.benchmark = True  # as in training; ONNX Runtime searches as well
    artifact = load_artifact(checkpoint)
    network = load_network(artifact)
    network.to(setting.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    assert artifact.facts.model is not None  # as ``load_network`` has seen
    side = find_architecture(artifact.facts.model.architecture).last_side(images.shape[-1])
    network.train(setting.backward and len(images) * side**2 > 1)
    function = torch.compile(network) if setting.compiled else network
    batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

    def forward() -> NDArray[Any]:
        with torch.inference_mode():
            made = function(batch.to(setting.device))
            outputs = [made] if isinstance(made, torch.Tensor) else made
            on_host = [output.cpu() for output in outputs]
        first: NDArray[Any] = on_host[0].numpy()
        return first

    on_device = batch.to(setting.device)

    def forward_backward() -> NDArray[Any]:
        network.zero_grad()
        loss = loss_of(function(on_device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        if setting.device == "cuda":
            torch.cuda.synchronize()
        value: NDArray[Any] = loss.detach().cpu().numpy()
        return value

    return forward_backward if setting.backward else forward
