"""A job is what the process of one row is asked to measure."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilenet_cli.pipeline.artifacts.files import is_checkpoint
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.runtime.session import SessionConfig

OUT_OF_MEMORY = (
    r"failed to allocate|(can't|cannot|unable to) allocate|bad_alloc|out of memory|alloc_failed"
    r"|^MemoryError"
)
ONNX_RUNTIME = "onnxruntime"  # the engine that all others are compared with
Direction = Literal["forward", "forward-backward"]


@dataclass(frozen=True)
class BenchJob:
    """A job is one row to measure.

    Attributes:
        model: the file that the engine reads; a safetensors checkpoint is torch's.
        images: a ``.npy`` file with the input [n batch, 3, R, R], float32, or pixels. The first
            batch is timed; the others are there to compare answers.
        batch: the number of images in a run.
        session: how ONNX Runtime is to run it; torch and other engines take its thread count.
        engine: a key of ``ENGINES``.
        memory: bytes that the worker may allocate.
        direction: ``forward-backward`` is torch's alone.
        on_device: keep input and output in the provider's memory.
        compiled: have torch compile the network.
    """

    model: Path
    images: Path
    batch: int
    session: SessionConfig
    memory: int
    engine: str = ONNX_RUNTIME
    direction: Direction = "forward"
    on_device: bool = False
    compiled: bool = False

    @property
    def is_checkpoint(self) -> bool:
        """Tell whether the model is torch's to run."""
        return is_checkpoint(self.model)


def lacks_memory(words: str) -> bool:
    """Tell whether these are words of ONNX Runtime, torch, CUDA or C++ for a lack of memory."""
    return bool(re.search(OUT_OF_MEMORY, words, re.IGNORECASE))


def does_not_fit(job: BenchJob) -> OptionError:
    """Return the error for a lack of memory."""
    return OptionError(
        f"a batch of {job.batch} does not fit in memory with {job.model}",
        "Pass a smaller --batch",
    )
