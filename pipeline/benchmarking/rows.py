"""The rows of a benchmark are artifacts in settings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenet_cli.models import find_architecture
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.artifacts.onnx_graph import has_operator
from mobilenet_cli.pipeline.benchmarking.processes.job import ONNX_RUNTIME, Direction
from mobilenet_cli.pipeline.runtime.predictor import TORCH
from mobilenet_cli.pipeline.runtime.session import PROVIDERS, Provider, SessionConfig, device_of
from mobilenet_cli.reports.records.latency import FROZEN, UNFUSED


@dataclass(frozen=True)
class Row:
    """A row is one line of the result: an artifact in one setting.

    Attributes:
        artifact: the model file.
        session: provider, threads and options; torch takes threads and device from it.
        batch: images per run.
        variant: what to call the setting; empty for the plain one.
        direction: ``forward-backward`` is torch's alone.
        on_device: input and output stay in the device's memory (IO binding).
        compiled: run by ``torch.compile``.
        engine: a key of ``ENGINES``; a checkpoint is torch's to run.
    """

    artifact: Artifact
    session: SessionConfig
    batch: int
    variant: str = ""
    direction: Direction = "forward"
    on_device: bool = False
    compiled: bool = False
    engine: str = ONNX_RUNTIME

    @property
    def ran_by(self) -> str:
        """Return the name of the engine, torch included."""
        return TORCH if self.artifact.is_checkpoint else self.engine

    @property
    def label(self) -> str:
        """Return what to call the row in a message."""
        engine = "" if self.engine == ONNX_RUNTIME else f"({self.engine})"
        direction = self.direction if self.artifact.is_checkpoint else ""
        extra = " ".join(filter(None, (engine, self.variant, direction)))
        return f"{self.artifact.path.name} {extra}".strip()


def rows_of(
    artifact: Artifact,
    session: SessionConfig,
    batch: int,
    compiled: bool,
    engines: Sequence[str] = (ONNX_RUNTIME,),
) -> list[Row]:
    """Return the settings in which one artifact is measured, ONNX Runtime's plain one first."""
    plain = Row(artifact, session, batch)
    if artifact.is_checkpoint:
        return list(_torch_rows(plain, compiled))
    others = [replace(plain, engine=engine) for engine in engines if engine != ONNX_RUNTIME]
    return [*_onnx_rows(plain), *others]


def _onnx_rows(plain: Row) -> Iterator[Row]:
    if plain.session.switched_on("enable_cuda_graph", default=False):
        # A captured graph reads and writes fixed addresses, so there are no host rows.
        yield replace(plain, variant="device-bound, CUDA graph", on_device=True)
        return
    yield plain
    if has_operator(plain.artifact.path, "BatchNormalization"):
        unfused = replace(plain.session, disabled_optimizers=("ConvBNFusion",))
        yield replace(plain, session=unfused, variant=UNFUSED)
    if device_of(plain.session.provider):
        yield replace(plain, variant="device-bound", on_device=True)


def _torch_rows(plain: Row, compiled: bool) -> Iterator[Row]:
    # Batch statistics need more than one value a channel; without, the running ones are used.
    facts, side = plain.artifact.facts, 0
    if facts.model:
        architecture = find_architecture(facts.model.architecture, plain.artifact.path)
        side = architecture.last_side(facts.input.resolution)
    frozen = FROZEN if plain.batch * side**2 == 1 else plain.variant
    eager = [plain, replace(plain, direction="forward-backward", variant=frozen)]
    yield from eager
    if compiled:
        yield from (replace(row, variant="compiled", compiled=True) for row in eager)


def worth_running_on(provider: str, paths: list[Path], tell: Callable[[str], None]) -> list[Path]:
    """Choose a run's models that are worth measuring on a provider.

    A GPU runs int8 through TensorRT alone, and only where it was made for it.

    Args:
        provider: an execution provider's full name.
        paths: the run's models.
        tell: is told what is left out.
    """

    def fits(path: Path) -> bool:
        facts = load_artifact(path).facts
        made_for = facts.config.get("target") if facts.stage == "quantize" else None
        return made_for is None or made_for == known.int8_target

    known = PROVIDERS.get(provider, Provider())
    if not known.device:
        return paths
    for path in paths:
        if not fits(path):
            tell(f"leaving out {path}: its int8 is for CPUs; name it to measure it all the same")
    return [path for path in paths if fits(path)]
