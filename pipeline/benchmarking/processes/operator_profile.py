"""ONNX Runtime's profiler tells what ran where in an optimised graph, and for how long."""

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

PROFILED_RUNS = 5


@dataclass(frozen=True)
class Inside:
    """The inside of a session is what ran where, from ONNX Runtime's profiler.

    Attributes:
        nodes: type and execution provider of every node of the optimised graph.
        milliseconds: by type, slowest first; the profiler's own cost is some 2 microseconds a node.
    """

    nodes: tuple[tuple[str, str], ...]
    milliseconds: dict[str, float]


def look_inside(model: Path, images: NDArray[np.float32], session: SessionConfig) -> Inside:
    """Run the optimised graph a few times with ONNX Runtime's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(session, profile_prefix=Path(folder) / "profile")
        profiled = open_session(model, config)
        feed = {profiled.get_inputs()[0].name: images}
        for _ in range(PROFILED_RUNS + 1):
            profiled.run(None, feed)
        return summarize_profile(json.loads(Path(profiled.end_profiling()).read_text()))


def summarize_profile(events: list[dict[str, Any]]) -> Inside:
    """Sum up ONNX Runtime's trace events as nodes and milliseconds; the first run is left out."""
    durations: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            node = (event["args"]["op_name"], event["args"]["provider"], name)
            durations.setdefault(node, []).append(event["dur"])  # microseconds
    totals: dict[str, float] = {}
    for (operator, _, _), times in durations.items():
        totals[operator] = totals.get(operator, 0.0) + float(np.median(times[1:])) / 1e3
    nodes = tuple((operator, provider) for operator, provider, _ in durations)
    slowest_first = sorted(totals.items(), key=lambda item: -item[1])
    return Inside(nodes, dict(slowest_first))
