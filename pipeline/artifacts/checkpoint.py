"""A checkpoint is a network's state as safetensors, which holds tensors and text but no code."""

from typing import TYPE_CHECKING

from mobilenet_cli.data.readers.files import utf8_path
from mobilenet_cli.models import find_architecture
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.errors import CheckError, ModelError

if TYPE_CHECKING:
    import torch

    from mobilenet_cli.models.classifier_torch import Classifier
    from mobilenet_cli.models.detector_torch import Detector


def checkpoint_bytes(network: "torch.nn.Module", facts: Facts) -> bytes:
    """Serialize a network's parameters and buffers, on the CPU, with the facts in the header.

    Raises:
        CheckError: one of them is NaN or infinite.
    """
    from safetensors.torch import save

    # BatchNorm's step counter matters to no stage and would make equal networks differ.
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckError(
                f"'{name}' became NaN or infinite", "Train again with a lower learning rate"
            )
    return save(state, metadata={METADATA_KEY: facts.model_dump_json()})


def load_network(artifact: Artifact) -> "Classifier | Detector":
    """Build the network of a checkpoint, in evaluation mode on the CPU.

    Raises:
        ModelError: as ``load_state``.
    """
    state, spec = load_state(artifact)
    network = find_architecture(spec.architecture, artifact.path).build(spec)
    network.load_state_dict(state, strict=False)  # all but the step counters, as checked there
    return network.eval()


def load_state(artifact: Artifact) -> tuple[dict[str, "torch.Tensor"], ModelSpec]:
    """Read the tensors of a checkpoint, and compare them with what its facts claim.

    No network is built before that: by its facts it may be larger than the memory.

    Returns:
        The tensors by name, and what network they are of.

    Raises:
        ModelError: the file is no checkpoint of ours, lacks a tensor, has one of another shape
            or of another network, or holds NaN or infinity.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, spec = artifact.path, artifact.facts.model
    if not artifact.is_checkpoint or spec is None:
        raise ModelError(
            f"{path} is not a checkpoint",
            "Pass a model.safetensors made by 'mobilenet-cli train' or 'mobilenet-cli import'",
        )
    try:
        with utf8_path(path) as readable:
            state = load_file(readable)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable safetensors file ({error})",
            "Make it again with 'mobilenet-cli train' or 'mobilenet-cli import'",
        ) from error
    architecture = find_architecture(spec.architecture, path)
    expected = architecture.tensor_shapes(spec)
    for name in sorted(expected.keys() ^ state.keys()):
        problem = "lacks the tensor" if name in expected else "has an unknown tensor"
        raise ModelError(
            f"{path} {problem} '{name}' of {architecture.title} width {spec.width:g}",
            "Make it again with 'mobilenet-cli train' or 'mobilenet-cli import'",
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(
                f"{path} has '{name}' of shape {tuple(state[name].shape)}, "
                f"but width {spec.width:g} needs {shape}",
                "The checkpoint belongs to another width or class count; import it with its own",
            )
        if not torch.isfinite(state[name]).all():
            raise ModelError(
                f"{path} has NaN or infinity in '{name}'", "Train again with a lower learning rate"
            )
    return state, spec
