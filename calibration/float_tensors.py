"""Tensors of the float network are computed from the nearest one before them that is held.

Each layer is compared with the float network. Were its tensors computed from the images each time,
that would take the longer, the deeper the network is.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mobilenet_cli.calibration.graph.parse import Network
from mobilenet_cli.calibration.tensor_statistics import FirstImages, Opener

HELD_BYTES = 1 << 27  # of one tensor on all images


class FloatTensors:
    """The float network's tensors are to be asked for in the order of computation.

    Args:
        network: the float network.
        images: gives its images.
        count: how many there are.
        run: opens a session of a float model.
    """

    def __init__(self, network: Network, images: FirstImages, count: int, run: Opener) -> None:
        self.network, self.images, self.count, self.run = network, images, count, run
        self.maker = {name: i for i, step in enumerate(network.steps) for name in step.outputs}
        self.bottlenecks = bottlenecks(network)
        self.start = network.input
        self.held: list[NDArray[np.float32]] | None = None  # batches of ``start``, of all images

    def rows(self, tensor: str, count: int) -> Iterator[NDArray[np.float32]]:
        """Yield the first rows of a tensor; some networks make several of an image."""
        for bottleneck in self._on_the_way_to(tensor)[-1:]:
            if self._size(bottleneck) <= HELD_BYTES:
                whole = list(self._batches(bottleneck, self.count))
                self.start, self.held = bottleneck, whole
        return islice(chain.from_iterable(self._batches(tensor, count)), count)

    def _on_the_way_to(self, tensor: str) -> list[str]:
        first, last = (self.maker.get(name, -1) for name in (self.start, tensor))
        return [name for name in self.bottlenecks if first < self.maker[name] <= last]

    def _size(self, tensor: str) -> float:
        """Return the bytes of a tensor on all images."""
        of_one = next(iter(self._batches(tensor, 1)))
        if self.held is None:
            return of_one.nbytes * self.count
        return of_one.nbytes / self.held[0].nbytes * sum(batch.nbytes for batch in self.held)

    def _batches(self, tensor: str, images: int) -> Iterator[NDArray[np.float32]]:
        session = self._session(tensor)
        for batch in self.images(images) if self.held is None else self.held:
            yield session.run([tensor], {self.start: batch})[0] if session else batch

    def _session(self, tensor: str) -> Any:
        if tensor == self.start:
            return None
        return self.run(part_between(self.network, self.start, tensor))


def bottlenecks(network: Network) -> list[str]:
    """List the tensors from which alone all that comes later is computed, in their order."""
    last_read = {name: index for index, step in enumerate(network.steps) for name in step.inputs}
    found: list[str] = []
    live: set[str] = set()
    for index, step in enumerate(network.steps):
        live = {n for n in (network.input, *live, *step.outputs) if last_read.get(n, -1) > index}
        if live == {step.output}:
            found.append(step.output)
    return found


def part_between(network: Network, start: str, end: str) -> bytes:
    """Write the part of the float network that makes one tensor of another."""
    wanted, kept = {end}, set[int]()
    for index, node in reversed(list(enumerate(network.model.graph.node))):
        if wanted.intersection(node.output):
            kept.add(index)
            wanted.update(node.input)
            wanted.discard(start)
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    graph = model.graph
    del graph.node[:], graph.output[:]
    graph.node.extend(n for i, n in enumerate(network.model.graph.node) if i in kept)
    graph.output.append(onnx.ValueInfoProto(name=end))
    if start != network.input:
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info(start, onnx.TensorProto.FLOAT, None))
    serialized: bytes = model.SerializeToString()
    return serialized
