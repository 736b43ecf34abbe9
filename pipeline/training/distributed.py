"""Several processes that train one network, as torchrun starts them."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilenet_cli.pipeline.runtime.machine import usable_cpus

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Team:
    """One process among all.

    Attributes:
        rank: from 0; rank 0 alone writes files.
        world: how many there are.
        local: rank among those of this machine, ``here`` how many those are.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    here: int = 1

    @property
    def leads(self) -> bool:
        """Is this the process that writes files?"""
        return self.rank == 0

    @property
    def cpus(self) -> int:
        """How many CPUs are this process's share of the machine's."""
        return max(1, usable_cpus() // self.here)

    def sums(self, *values: float) -> tuple[float, ...]:
        """Each value summed over all processes."""
        if self.world == 1:
            return values
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return tuple(total.tolist())

    def any(self, value: bool) -> bool:
        """Does any process say yes?"""
        return self.sums(float(value))[0] > 0

    def wait(self) -> None:
        """Until all processes are here."""
        self.sums(0.0)

    def agree(self, network: "torch.nn.Module") -> None:
        """Give every process the statistics of rank 0: they are each one's own otherwise."""
        if self.world == 1:
            return
        import torch.distributed as dist

        for buffer in network.buffers():
            dist.broadcast(buffer, 0)

    def alone(self, module: "torch.nn.Module", yes: bool) -> AbstractContextManager[None]:
        """While ``yes``, gradients of a wrapped network are added up without the others'."""
        waiting = yes and self.world > 1
        return module.no_sync() if waiting else nullcontext()  # type: ignore[operator]  # DistributedDataParallel's

    def wrap(self, network: "torch.nn.Module") -> "torch.nn.Module":
        """The network with gradients averaged over all processes."""
        if self.world == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        device = next(network.parameters()).device
        return DistributedDataParallel(network, [device] if device.type == "cuda" else None)


@contextmanager
def joined() -> Iterator[Team]:
    """Join the processes that torchrun started; alone where it did not.

    The environment is torchrun's: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team()
        return
    import torch
    import torch.distributed as dist

    rank, local, here = (
        int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    team = Team(rank, world, local, here)
    if torch.cuda.is_available():
        torch.cuda.set_device(team.local)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield team
    finally:
        dist.destroy_process_group()
