"""A predictor is a function from prepared images to logits, whatever runs it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.errors import ModelError, ProviderError
from mobilenet_cli.pipeline.runtime.session import CPU, CUDA, SessionConfig, open_session

TORCH = "torch"
GPU_BATCH = 32  # a CPU is fastest with one image at a time, whose activations stay in its caches


@dataclass(frozen=True)
class Predictor:
    """A predictor runs a model; as many threads as there are CPUs may call it.

    Attributes:
        provider: the execution provider, or ``torch`` (``torch cuda``) for a checkpoint.
        batch: images to give it at a time.
        logits: maps [n, 3, R, R] to [n, classes]; one call occupies one CPU.
    """

    provider: str
    batch: int
    logits: Callable[[NDArray[np.float32]], NDArray[np.float32]]


def top_classes(logits: NDArray[np.float32], count: int) -> tuple[list[int], list[float]]:
    """Rank the classes of one image by falling logit; ties are in order of index.

    Args:
        logits: [classes].
        count: how many classes to return at most.

    Returns:
        The indices of the most probable classes, and their softmax, 0..1.
    """
    order = np.argsort(-logits, kind="stable")[:count]
    exponentials = np.exp(logits - logits.max(), dtype=np.float64)
    return order.tolist(), (exponentials[order] / exponentials.sum()).tolist()


@contextlib.contextmanager
def open_predictor(artifact: Artifact, provider: str = CPU) -> Iterator[Predictor]:
    """Load a checkpoint into torch, or an ONNX file into ONNX Runtime, on one thread a call.

    Raises:
        ModelError: the file cannot be used, or its input is not a batch of images.
        ProviderError: the provider cannot run it here.
    """
    if artifact.is_checkpoint:
        with _torch_predictor(artifact, provider) as predictor:
            yield predictor
        return
    session = open_session(artifact.path, SessionConfig(provider=provider, threads=1))
    image = session.get_inputs()[0]
    side = artifact.facts.input.resolution
    if len(image.shape) != 4 or any(
        isinstance(actual, int) and actual != expected
        for actual, expected in zip(image.shape[1:], (3, side, side), strict=True)
    ):
        raise ModelError(
            f"{artifact.path} takes an input of shape {image.shape}, "
            f"not [batch, 3, {side}, {side}]",
            "Export the model again",
        )
    fixed = image.shape[0] if isinstance(image.shape[0], int) else None

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = session.run(None, {image.name: images})[0]
        return result

    yield Predictor(provider, fixed or (1 if provider == CPU else GPU_BATCH), logits)


@contextlib.contextmanager
def _torch_predictor(artifact: Artifact, provider: str) -> Iterator[Predictor]:
    import torch

    from mobilenet_cli.pipeline.artifacts.checkpoint import load_network

    devices = {CPU: "cpu", CUDA: "cuda"}
    if provider not in devices or (provider == CUDA and not torch.cuda.is_available()):
        raise ProviderError(
            f"torch cannot run the checkpoint {artifact.path} where {provider} was asked for",
            "Name the ONNX files to evaluate, or leave --provider out",
        )
    device = devices[provider]
    network = load_network(artifact).to(device)

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():  # holds for the calling thread only
            result: NDArray[np.float32] = network(torch.from_numpy(images).to(device)).cpu().numpy()
        return result

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if device == "cpu":
            yield Predictor(TORCH, 1, logits)
        else:
            yield Predictor(f"{TORCH} {device}", GPU_BATCH, logits)
    finally:
        torch.set_num_threads(threads)
