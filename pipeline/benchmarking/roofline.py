"""The roofline is what this processor can do at best, measured: multiply-adds and bytes a second.

The roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009) bounds a program by the
slower of its arithmetic and its memory traffic. Arithmetic is measured with ONNX Runtime's own
matrix product, so that the distance to it is the network's, not the library's.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.latency import Roofline

SIDE = 1024  # of the matrices: 1 giga multiply-add, 12 MB in float32
COPY_BYTES = 256 * 2**20  # per copy, beyond most last-level caches
REPEATS = 7


def measure_roofline(threads: int) -> Roofline:
    """Measure both rates with this many threads; takes about a second."""
    products = SIDE**3
    return Roofline(
        threads=threads,
        fp32_gmacs=products / best_ns(matrix_product("MatMul", threads)),
        int8_gmacs=products / best_ns(matrix_product("MatMulInteger", threads)),
        # Each byte is read once and written once.
        gb_per_s=2 * COPY_BYTES / best_ns(memory_copy(threads)),
    )


def best_ns(run: Callable[[], Any]) -> int:
    """Time the shortest of ``REPEATS`` runs after one untimed: nothing disturbs a limit."""
    run()
    durations = []
    for _ in range(REPEATS):
        start = time.perf_counter_ns()
        run()
        durations.append(time.perf_counter_ns() - start)
    return min(durations)


def matrix_product(operator: str, threads: int) -> Callable[[], Any]:
    """Make a [SIDE, SIDE] product by constant weights: ``MatMul`` in float32, or ``MatMulInteger``.

    The integers are unsigned times signed, and small enough that no kernel saturates.
    """
    from onnx import helper, numpy_helper

    integer = operator == "MatMulInteger"
    rng = np.random.default_rng(0)
    left = rng.integers(0, 64, (SIDE, SIDE)).astype(np.uint8 if integer else np.float32)
    right = rng.integers(-63, 64, (SIDE, SIDE)).astype(np.int8 if integer else np.float32)
    out = np.int32 if integer else np.float32
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["out"])],
        operator,
        [helper.make_tensor_value_info("left", _element(left.dtype), [SIDE, SIDE])],
        [helper.make_tensor_value_info("out", _element(np.dtype(out)), [SIDE, SIDE])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = open_session(model.SerializeToString(), SessionConfig(threads=threads))
    return lambda: session.run(None, {"left": left})


def _element(dtype: np.dtype[Any]) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(dtype))


def memory_copy(threads: int) -> Callable[[], Any]:
    """Copy ``COPY_BYTES`` in equal parts; NumPy gives up the interpreter's lock meanwhile."""
    source = np.ones(COPY_BYTES // 8, dtype=np.float64)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: np.copyto(*part), parts))
