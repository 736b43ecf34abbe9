"""The order of an epoch's images is a function of the seed and the epoch alone.

So a run can go on in the middle of an epoch, and several processes can share one epoch, without
telling each other anything.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.data.dataset import Block, Sample

WINDOW_BYTES = 256_000_000  # of blocks whose samples are mixed; more mixes better and holds more


def epoch_order(samples: Sequence[Sample], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of the samples' indices.

    Samples that can be read one by one are permuted freely. Where a block has to be read as a
    whole, the blocks are permuted, and the samples of as many neighbours as fit into
    ``WINDOW_BYTES`` are mixed: memory stays bounded, and each block is read once an epoch.

    Args:
        samples: the images of one split.
        seed: the seed of the run.
        epoch: any number; each has its own order.
    """
    generator = np.random.default_rng([seed, epoch])
    members: dict[int, list[int]] = {}  # by identity: blocks may be equal in size
    blocks: list[Block | None] = []
    for index, sample in enumerate(samples):
        members.setdefault(id(sample.block), []).append(index)
        if len(members) > len(blocks):
            blocks.append(sample.block)
    if len(blocks) < 2:
        return generator.permutation(len(samples))
    groups = list(members.values())
    order: list[NDArray[np.int64]] = []
    window: list[int] = []
    held = 0
    for position in generator.permutation(len(groups)):
        block = blocks[position]
        size = block.bytes if block else 0
        if window and held + size > WINDOW_BYTES:
            order.append(generator.permutation(window))
            window, held = [], 0
        window += groups[position]
        held += size
    order.append(generator.permutation(window))
    return np.concatenate(order)
