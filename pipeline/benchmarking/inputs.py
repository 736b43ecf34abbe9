"""A benchmark gives images to a model, if the model takes them."""

from math import ceil, prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.preprocess import InputSpec, denormalize
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.files import is_checkpoint
from mobilenet_cli.pipeline.artifacts.onnx_graph import input_shape, takes_pixels
from mobilenet_cli.pipeline.benchmarking.processes.engines import ENGINES
from mobilenet_cli.pipeline.benchmarking.rows import Row
from mobilenet_cli.pipeline.errors import ModelError, OptionError, counted
from mobilenet_cli.pipeline.runtime.machine import available_memory
from mobilenet_cli.pipeline.runtime.proving.probe_images import probe_images

MAX_IMAGES = 64  # different ones in a batch


def input_images(row: Row, data: str | None, least: int = 1) -> tuple[NDArray[np.generic], str]:
    """Return the input [n batch, C, R, R] of a row, or its pixels, and where it comes from.

    It is as many whole batches as have ``least`` images.

    Real images of ``data`` or of the set the model was trained on, repeated where the batch is
    larger than ``MAX_IMAGES``; seeded noise where neither is known or ``data`` is ``noise``. The
    latency of these networks does not depend on the values: no kernel branches on them.
    """
    facts, batch = row.artifact.facts, row.batch
    pixels = ENGINES[row.engine].classifies_pixels or (
        not row.artifact.is_checkpoint and takes_pixels(row.artifact.path)
    )
    if not (row.artifact.is_checkpoint or pixels):
        check_input(row.artifact.path, facts.input, batch)
    count = batch * ceil(least / batch)
    needed = count * prod(facts.input.shape) * np.dtype(np.float32).itemsize
    if needed > available_memory():
        raise OptionError(
            f"a batch of {counted(batch, 'image')} does not fit in memory "
            f"({needed / 2**30:.0f} GiB of input)",
            "Pass a smaller --batch",
        )
    if data == "noise":
        facts, data = facts.model_copy(update={"data": None}), None
    images, source = probe_images(facts, data, min(count, MAX_IMAGES))
    images = images[np.arange(count) % len(images)]
    return (denormalize(images, facts.input) if pixels else images), source


def check_input(path: Path, spec: InputSpec, batch: int) -> None:
    """Raise unless the model takes a batch of images of the spec's resolution."""
    shape = input_shape(path)
    if shape[0] not in (None, batch):
        raise OptionError(
            f"{path} takes batches of {shape[0]} only, not {batch}", f"Pass --batch {shape[0]}"
        )
    if any(side not in (None, spec.resolution) for side in shape[2:]):
        raise ModelError(
            f"{path} takes images of {shape[2]}x{shape[3]}, but says its resolution is "
            f"{spec.resolution}",
            "Export the model again",
        )


def open_model(path: Path) -> Artifact:
    """Load any model file; a foreign one is measured at the resolution its graph names, or 224."""
    foreign = None
    if path.is_file() and not is_checkpoint(path) and not takes_pixels(path):
        side = input_shape(path)[2] or InputSpec().resolution
        foreign = InputSpec(resolution=side, resize=side)
    return load_artifact(path, foreign)
