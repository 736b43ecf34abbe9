"""This module shows what the state of an interrupted training holds, optimizer included."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenet_cli.models import find_architecture
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.reporting.inspecting.layer_sizes import layer_sizes, stored_bytes
from mobilenet_cli.pipeline.training.state import reading
from mobilenet_cli.reports.records.inspection import InspectRecord

if TYPE_CHECKING:
    import torch


def inspect_state(path: Path) -> InspectRecord:
    """Read ``training.pt``; no code in it runs.

    Raises:
        ModelError: no such file, or not the state of a training.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist", "Training leaves one only while it is under way")
    fix = "Name a training.pt; weights of other programs are read by 'import'"
    with reading(path, fix) as (saved, document):
        return _record(path, saved, document)


def _record(path: Path, saved: dict[str, Any], document: dict[str, Any]) -> InspectRecord:
    network: dict[str, torch.Tensor] = saved["network"]
    settings, at = document["settings"], document["at"]
    spec = ModelSpec(
        architecture=settings.get("model", ModelSpec.architecture),
        width=settings["width"],
        classes=len(network["classifier.bias"]),
    )
    side = _side(settings)
    layers = layer_sizes(
        spec,
        side,
        {name: tensor.numel() for name, tensor in network.items()},
        _sizes(network),
        _sizes(saved["average"]),
        _optimizer_sizes(spec, settings["recipe"], saved["optimizer"]["state"]),
    )
    types = Counter[str]()
    for tensor in network.values():
        types[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    products = [layer.multiply_adds for layer in layers if layer.multiply_adds is not None]
    size = path.stat().st_size
    return InspectRecord(
        model=str(path),
        sha256=sha256_file(path),
        size_mb=size / 2**20,
        format="training state",
        parameters=sum(layer.parameters for layer in layers),
        multiply_adds=sum(products) if products else None,
        weight_types=dict(types),
        facts={
            "stage": f"train, interrupted after step {at['step']} of epoch {at['epoch'] + 1}",
            "config": settings,
        },
        layers=layers,
        stored_bytes=stored_bytes(layers, size),
    )


def _side(settings: dict[str, Any]) -> int | None:
    """Return the resolution; None where only the weights to start from tell, and they are gone."""
    from mobilenet_cli.pipeline.training.config import RESOLUTIONS

    if settings["resolution"] is not None:
        return int(settings["resolution"])
    if settings["init"] is None:
        return RESOLUTIONS.get(settings["data"], 224)
    source = Path(settings["init"])
    return load_artifact(source).facts.input.resolution if source.is_file() else None


def _sizes(tensors: dict[str, "torch.Tensor"]) -> dict[str, int]:
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def _optimizer_sizes(
    spec: ModelSpec, recipe: dict[str, Any], state: dict[int, dict[str, Any]]
) -> dict[str, int]:
    """Return bytes by parameter: torch numbers parameters in the order of the groups."""
    import torch

    from mobilenet_cli.pipeline.training.optimizer import make_optimizer
    from mobilenet_cli.pipeline.training.recipes import Recipe

    network = find_architecture(spec.architecture).build(spec)
    values = {name: value for name, value in recipe.items() if name != "name"}
    groups = make_optimizer(network, Recipe(**values)).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    order = [names[id(parameter)] for group in groups for parameter in group["params"]]
    return {
        order[number]: sum(v.nbytes for v in kept.values() if isinstance(v, torch.Tensor))
        for number, kept in state.items()
    }
