"""Torch runs a checkpoint forward and forward-backward, in ``bench``'s worker process."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from numpy.typing import NDArray

from mobilenet_cli.models import find_architecture
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.benchmarking.processes.job import BenchJob
from mobilenet_cli.pipeline.errors import ProviderError
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.session import device_of


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


def runner(job: BenchJob, images: NDArray[np.float32]) -> Callable[[], NDArray[Any]]:
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
    backward = job.direction == "forward-backward"
    device = device_of(job.session.provider) or "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            f"torch {torch.__version__} cannot use a GPU here, so {job.model} has no row",
            "Install torch for CUDA, or name the ONNX files to measure them alone",
        )
    torch.set_num_threads(job.session.threads or usable_cpus())
    if device == "cuda":
        set_tf32(job.session.switched_on("use_tf32", default=True))  # ONNX Runtime's default
    torch.backends.cudnn.benchmark = True  # as in training; ONNX Runtime searches as well
    artifact = load_artifact(job.model)
    network = load_network(artifact)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    assert artifact.facts.model is not None  # as ``load_network`` has seen
    side = find_architecture(artifact.facts.model.architecture).last_side(images.shape[-1])
    network.train(backward and len(images) * side**2 > 1)
    function = torch.compile(network) if job.compiled else network
    batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

    def forward() -> NDArray[Any]:
        with torch.inference_mode():
            made = function(batch.to(device))
            outputs = [made] if isinstance(made, torch.Tensor) else made
            on_host = [output.cpu() for output in outputs]
        first: NDArray[Any] = on_host[0].numpy()
        return first

    on_device = batch.to(device)

    def forward_backward() -> NDArray[Any]:
        network.zero_grad()
        loss = loss_of(function(on_device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        if device == "cuda":
            torch.cuda.synchronize()
        value: NDArray[Any] = loss.detach().cpu().numpy()
        return value

    return forward_backward if backward else forward
