"""A predictor is a function from prepared images to logits, whatever runs it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import Pixels, denormalize
from mobilenet_cli.models.boxes import CORNERS, KEPT_RAW, BoxSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.artifacts.onnx_graph import OutputKind, features_model, output_kind
from mobilenet_cli.pipeline.errors import ModelError, NotFiniteError, ProviderError, counted
from mobilenet_cli.pipeline.runtime.session import CPU, CUDA, SessionConfig, device_of, open_session

TORCH = "torch"
GPU_BATCH = 32
CPU_BATCH = 4  # int8 is a tenth faster than with one, float as fast; more do not stay in the caches


@dataclass(frozen=True)
class Predictor:
    """A predictor runs a model; as many threads as there are CPUs may call it.

    Attributes:
        provider: the execution provider, or ``torch`` (``torch cuda``) for a checkpoint.
        batch: images to give it at a time.
        logits: maps normalized images [n, C, R, R] to [n, classes]; one call occupies one CPU.
            Where a model gives probabilities, these are the logits that they come from, up to a
            constant. Of a detector [n, A, 4 + classes]: raw boxes and scores, joined.
        independent: each class has a probability of its own, by a sigmoid, instead of a share.
        whole_batches: the model takes ``batch`` images and no fewer, or would prepare itself again.
        takes_pixels: ``logits`` takes pixels uint8 [n, R, R, 3] in RGB order, too, which are what
            the model wants.
    """

    provider: str
    batch: int
    logits: Callable[[Pixels], NDArray[np.float32]]
    independent: bool = False
    whole_batches: bool = False
    takes_pixels: bool = False


def provider_name(artifact: Artifact, provider: str) -> str:
    """Return what records call what runs a file: the provider, or torch with its device.

    Args:
        artifact: the file; torch runs checkpoints.
        provider: an execution provider's full name.
    """
    return f"{TORCH} {device_of(provider)}".strip() if artifact.is_checkpoint else provider


def refuse_not_finite(output: NDArray[np.float32], key: str) -> None:
    """Refuse a model's output for one image that has NaN or infinity.

    What only answers, such as ``predict``, goes on with the next image; what measures a model stops
    there, since a figure of the images that are left would flatter it.

    Raises:
        NotFiniteError: it has.
    """
    if not np.isfinite(output).all():
        raise NotFiniteError(
            f"the model's output for {key} is NaN or infinite", "Train or import the model again"
        )


def largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the indices of the largest values [n], largest first; ties are in order of index."""
    kept = np.arange(len(values))
    if count < len(values):
        # To sort them all takes five times as long.
        kept = np.flatnonzero(~(values < np.partition(values, -count)[-count]))
    return kept[np.argsort(-values[kept], kind="stable")[:count]]


def top_classes(
    logits: NDArray[np.float32], count: int, independent: bool = False
) -> tuple[list[int], list[float]]:
    """Rank the classes of one image by falling logit; ties are in order of index.

    Args:
        logits: [classes].
        count: how many classes to return at most.
        independent: each class has a probability of its own.

    Returns:
        The indices of the most probable classes, and their softmax (or sigmoid), 0..1.
    """
    order = largest(logits, count)
    return order.tolist(), probabilities_of(logits, independent)[order].tolist()


def probabilities_of(logits: NDArray[np.float32], independent: bool = False) -> NDArray[np.float64]:
    """Return the softmax of logits [..., classes], or the sigmoid where classes are independent."""
    if independent:
        return np.asarray(1 / (1 + np.exp(-logits, dtype=np.float64)))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def logits_of(outputs: NDArray[np.float32], kind: OutputKind) -> NDArray[np.float32]:
    """Return the logits that a model's outputs [n, classes] come from, up to a constant."""
    if kind == "logits":
        return outputs
    tiny = np.finfo(np.float32).tiny
    logits = np.log(np.maximum(outputs, tiny))
    return logits if kind == "softmax" else logits - np.log(np.maximum(1 - outputs, tiny))


@contextlib.contextmanager
def open_predictor(
    artifact: Artifact, provider: str = CPU, features: bool = False
) -> Iterator[Predictor]:
    """Load a checkpoint into torch, or an ONNX file into ONNX Runtime, on one thread a call.

    Args:
        artifact: any model file.
        provider: an execution provider's full name.
        features: in place of logits, return the averaged features that they are made of,
            [n, features]; only of ONNX files.

    Raises:
        ModelError: the file cannot be used, its input is not a batch of images, or it has no
            features to return.
        ProviderError: the provider cannot run it here.
    """
    if artifact.is_checkpoint:
        if features:
            raise ModelError(
                f"{artifact.path} is a checkpoint", "Export it, and name the .onnx file"
            )
        with _torch_predictor(artifact, provider) as predictor:
            yield predictor
        return
    model = features_model(artifact.path) if features else artifact.path
    session = open_session(model, SessionConfig(provider=provider, threads=1))
    classes = 0 if features else len(artifact.facts.classes)
    image = session.get_inputs()[0]
    spec = artifact.facts.input
    takes_pixels = image.type == "tensor(uint8)"
    square = (spec.resolution, spec.resolution, 3) if takes_pixels else spec.shape
    _check_shape(artifact, image.shape, square)
    boxes = artifact.facts.boxes
    raw = [o.name for o in session.get_outputs() if o.name in KEPT_RAW] or None
    kind = "logits" if features or boxes else output_kind(load_onnx(artifact.path).graph)
    fixed = image.shape[0] if isinstance(image.shape[0], int) else None

    def logits(images: Pixels) -> NDArray[np.float32]:
        given = images
        if takes_pixels and images.dtype != np.uint8:
            given = denormalize(np.asarray(images, np.float32), spec)
        if boxes is not None:
            return _joined(artifact, session.run(raw, {image.name: given}), len(images), boxes)
        outputs: NDArray[np.float32] = session.run(None, {image.name: given})[0]
        if features:
            outputs = outputs.reshape(len(outputs), -1)
        found = np.shape(outputs)
        fits = len(found) == 2 and found[0] == len(images) and classes in (0, found[1])
        if not fits or outputs.dtype.kind != "f":
            raise ModelError(
                f"{artifact.path} answers with an output of shape {found} where "
                f"{classes or 'its'} classes of {counted(len(images), 'image')} are expected",
                "Export the model again",
            )
        return logits_of(outputs, kind)

    batch = fixed or (GPU_BATCH if device_of(provider) else CPU_BATCH)
    whole = fixed is not None or provider != CPU
    yield Predictor(provider, batch, logits, kind == "sigmoid", whole, takes_pixels)


def _check_shape(artifact: Artifact, taken: Sequence[object], image: Sequence[int]) -> None:
    made_by = artifact.facts.stage
    if len(taken) != 4 or any(
        isinstance(actual, int) and actual != expected
        for actual, expected in zip(taken[1:], image, strict=True)
    ):
        raise ModelError(
            f"{artifact.path} takes an input of shape {taken}, "
            f"not [batch, {', '.join(map(str, image))}]",
            "Give the package's folder" if made_by == "deploy" else "Export the model again",
        )


def _joined(
    artifact: Artifact, outputs: list[NDArray[np.float32]], images: int, spec: BoxSpec
) -> NDArray[np.float32]:
    """Join a detector's raw outputs [n, A, 4] and [n, A, C].

    Raises:
        ModelError: they are something else.
    """
    shapes = [np.shape(output) for output in outputs]
    wanted = (images, spec.count)
    if len(shapes) != 2 or shapes[0] != (*wanted, CORNERS) or shapes[1][:-1] != wanted:
        raise ModelError(
            f"{artifact.path} answers with outputs of shapes {', '.join(map(str, shapes))} where "
            f"raw boxes and scores of {spec.count} anchors are expected",
            "Name the model as export, simplify or quantize has made it",
        )
    return np.concatenate(outputs, axis=-1)


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

    def logits(images: Pixels) -> NDArray[np.float32]:
        with torch.inference_mode():  # holds for the calling thread only
            made = network(torch.from_numpy(images).to(device))
            joined = made if isinstance(made, torch.Tensor) else torch.cat(made, -1)
            result: NDArray[np.float32] = joined.cpu().numpy()
        return result

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        on_gpu = device != "cpu"
        batch = GPU_BATCH if on_gpu else 1
        yield Predictor(provider_name(artifact, provider), batch, logits, whole_batches=on_gpu)
    finally:
        torch.set_num_threads(threads)
