"""Work is spread over a Ray cluster by Ray Data, which schedules it, and repeats what is lost.

Items go in and results come out as bytes; images do not travel, each actor reads its own. An actor
holds one model and as many threads as it has CPUs.
"""

import contextlib
import logging
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact
from mobilenet_cli.pipeline.errors import MobilenetError, OptionError, ProviderError, mendable
from mobilenet_cli.pipeline.runtime.session import CPU, device_of

T = TypeVar("T")
R = TypeVar("R")
AUTO = "auto"
ACTOR_CPUS = 4  # at most; a model and an interpreter take 200 MB for each actor
ANSWER_SECONDS = 10
AUTH_MODE = "RAY_AUTH_MODE"  # "token" where the cluster asks for one (Ray 2.52 and later)
LOST_BEGINNINGS = 10  # actors in a row; what they say themselves is a result, and ends it at once
WINDOW = 10_000  # items that Ray is told of at a time


@dataclass(frozen=True)
class SentModel:
    """A model file travels to the actors, which need not see the driver's files."""

    name: str
    content: bytes

    @classmethod
    def of(cls, artifact: Artifact) -> "SentModel":
        """Take a model file along."""
        return cls(artifact.path.name, artifact.path.read_bytes())

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Artifact]:
        """Load the file from a folder that is there until a session has been made of it."""
        with tempfile.TemporaryDirectory(prefix="mobilenet-cli-") as folder:
            path = Path(folder) / self.name
            path.write_bytes(self.content)
            yield load_artifact(path)


class _Actor:
    """An actor works on items in the folder of the driver, where there is one of that name.

    Its own errors are results, which the driver raises: Ray would start it again and again.
    """

    def __init__(self, make: Callable[[int], Callable[[Any], Any]], cpus: int, folder: str) -> None:
        self.make, self.cpus, self.folder = make, cpus, folder
        self.work: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        result: Any
        try:
            if self.work is None:
                with contextlib.suppress(OSError):
                    os.chdir(self.folder)
                self.work = self.make(self.cpus)
            result = self.work(pickle.loads(row["item"]))  # noqa: S301 - the driver wrote it
        except (MobilenetError, ModuleNotFoundError, OSError) as error:
            result = mendable(error)
            if result is None:
                raise
        return {"result": pickle.dumps(result)}


def on_cluster(
    address: str,
    make: Callable[[int], Callable[[T], R]],
    items: Sequence[T],
    provider: str = CPU,
    ordered: bool = False,
) -> Iterator[R]:
    """Yield ``make(cpus)(item)`` of all items, worked on by the actors of a Ray cluster.

    Args:
        address: ``host:port``, or ``auto`` for the cluster of this machine, which is started where
            there is none.
        make: makes what works in an actor, given its CPUs; both can be pickled.
        items: what to work on; each may be worked on again after a loss, so it does no harm twice.
        provider: what runs models; one with memory of its own takes a GPU for each actor.
        ordered: yield results in the order of the items, instead of as they come.

    Raises:
        OptionError: no cluster answers, or it has no CPU or GPU to use.
        ProviderError: the cluster has given up.
        MobilenetError: what an actor says.
    """
    # Read at import: Ray tells its makers about clusters by default, and says much about itself.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    with contextlib.redirect_stdout(sys.stderr), _connected(address):  # Ray prints what it repeats
        compute = _actors(ray.nodes(), provider)
        arguments = (make, int(compute["num_cpus"]), str(Path.cwd()))
        for first in range(0, len(items), WINDOW):
            rows = [{"item": pickle.dumps(item)} for item in items[first : first + WINDOW]]
            try:
                for row in _results(rows, arguments, compute, ordered):
                    result = pickle.loads(row["result"])  # noqa: S301 - our actor wrote it
                    if isinstance(result, MobilenetError):
                        raise result
                    yield result
            except ray.exceptions.RayError as error:
                reason = " ".join(str(error).split())[-300:]
                raise ProviderError(
                    f"the cluster has given up ({reason})",
                    "Install the same mobilenet-cli on every machine, and start it again: finished "
                    "parts are kept",
                ) from error


def _results(
    rows: list[dict[str, bytes]], arguments: tuple[Any, ...], compute: dict[str, Any], ordered: bool
) -> Iterator[dict[str, Any]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = ordered
    # From Ray 2.60 on, an actor that is lost with its machine while it begins would end everything.
    if hasattr(context, "max_consecutive_actor_init_deaths"):
        context.max_consecutive_actor_init_deaths = LOST_BEGINNINGS
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    mapped = dataset.map(_Actor, fn_constructor_args=arguments, **compute)
    return iter(mapped.iter_rows())


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster, unless this process is connected to one."""
    import ray
    import ray.data

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    try:
        if address != AUTO:  # Ray would try for many minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        ray.init(
            address=None if address == AUTO else address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            include_dashboard=False,
        )
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        asked = "" if AUTH_MODE in os.environ else f", set {AUTH_MODE}=token if it asks for one"
        raise OptionError(
            f"no Ray cluster can be used at {address} ({reason})",
            f"Start one with 'ray start --head' and give its host:port{asked}, or pass --ray auto "
            "to use this machine alone",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _actors(nodes: list[dict[str, Any]], provider: str) -> dict[str, Any]:
    """Choose how many actors there are, and what each of them takes."""
    import ray.data

    found = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [int(resources.get("CPU", 0)) for resources in found]
    each = min([ACTOR_CPUS, *filter(None, cpus)])
    gpus = int(bool(device_of(provider)))
    count = sum(
        min(own // each, int(resources.get("GPU", 0)) if gpus else own)
        for own, resources in zip(cpus, found, strict=True)
    )
    if not count:
        raise OptionError(
            f"the cluster has no {'GPU' if gpus else 'CPU'} to use", "Add machines that have one"
        )
    strategy = ray.data.ActorPoolStrategy(size=count)
    return {"compute": strategy, "num_cpus": each, "num_gpus": gpus}
