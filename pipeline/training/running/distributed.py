"""Several processes, as torchrun starts them, train one network."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilenet_cli.pipeline.runtime.machine import usable_cpus

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ProcessGroup:
    """A group is the processes that train a network together, as one of them sees it.

    Attributes:
        rank: the number of the process, from 0; rank 0 alone writes files.
        world: the number of processes.
        local: the number of the process among those of this machine, from 0.
        here: the number of processes on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    here: int = 1

    @property
    def is_main(self) -> bool:
        """Tell whether this is the process that writes files."""
        return self.rank == 0

    @property
    def cpus(self) -> int:
        """Return the number of CPUs that this process may keep busy."""
        return max(1, usable_cpus() // self.here)

    def all_reduce_sum(self, *values: float) -> tuple[float, ...]:
        """Return each value summed over all processes."""
        if self.world == 1:
            return values
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return tuple(total.tolist())

    def any_rank(self, value: bool) -> bool:
        """Tell whether the value is true in any process."""
        return self.all_reduce_sum(float(value))[0] > 0

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.all_reduce_sum(0.0)

    def broadcast_buffers(self, network: "torch.nn.Module") -> None:
        """Give every process the statistics of rank 0; each has its own otherwise."""
        if self.world == 1:
            return
        import torch.distributed as dist

        for buffer in network.buffers():
            dist.broadcast(buffer, 0)

    def no_sync(self, module: "torch.nn.Module", wanted: bool) -> AbstractContextManager[None]:
        """Add up the gradients of a wrapped network without the other processes', if ``wanted``."""
        return module.no_sync() if wanted and self.world > 1 else nullcontext()  # type: ignore[operator]  # DistributedDataParallel's

    def wrap(self, network: "torch.nn.Module") -> "torch.nn.Module":
        """Return the network with gradients averaged over all processes."""
        if self.world == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        device = next(network.parameters()).device
        return DistributedDataParallel(network, [device] if device.type == "cuda" else None)


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started; without it, this process is the only one.

    The environment is torchrun's: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ProcessGroup()
        return
    import torch
    import torch.distributed as dist

    rank, local, here = (
        int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    group = ProcessGroup(rank, world, local, here)
    if torch.cuda.is_available():
        torch.cuda.set_device(group.local)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield group
    finally:
        dist.destroy_process_group()
