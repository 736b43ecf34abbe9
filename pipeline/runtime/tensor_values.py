"""What single tensors of a graph are is found by running it with them as outputs."""

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

EXACT = SessionConfig(optimization="disabled")  # the graph as written


def tensor_values(
    model: onnx.ModelProto, names: Iterable[str], images: NDArray[np.generic]
) -> list[NDArray[np.float32]]:
    """Run a graph as written, and return some of its tensors in the order of their names.

    Raises:
        ModelError: ONNX Runtime cannot load the graph.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(exposed.SerializeToString(), EXACT)
    values: list[NDArray[np.float32]] = session.run(None, {model.graph.input[0].name: images})
    return values
