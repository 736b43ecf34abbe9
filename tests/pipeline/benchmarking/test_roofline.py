"""The roofline's work is really done, and its best time is taken."""

import numpy as np

from mobilenet_cli.pipeline.benchmarking import roofline
from mobilenet_cli.pipeline.benchmarking.roofline import (
    best_ns,
    matrix_product,
    measure_roofline,
    memory_copy,
)


def test_products_are_computed(monkeypatch):
    monkeypatch.setattr(roofline, "SIDE", 64)
    floats = matrix_product("MatMul", 1)()[0]
    integers = matrix_product("MatMulInteger", 1)()[0]
    assert floats.dtype == np.float32
    assert integers.dtype == np.int32
    assert np.array_equal(floats, integers)  # the same small numbers: exact in both, unsaturated


def test_every_byte_is_copied(monkeypatch):
    monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 16)
    seen = []
    monkeypatch.setattr(np, "copyto", lambda to, part: seen.append(to.nbytes + 0 * part.nbytes))
    memory_copy(3)()
    assert sum(seen) == 1 << 16
    assert len(seen) == 3


def test_best_is_the_shortest(monkeypatch):
    clock = iter([0, 9, 10, 15, 20, 27] + [100, 200] * 4)
    monkeypatch.setattr(roofline.time, "perf_counter_ns", lambda: next(clock))
    assert best_ns(lambda: None) == 5


def test_this_machine(monkeypatch):
    monkeypatch.setattr(roofline, "SIDE", 256)
    monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 22)
    measured = measure_roofline(1)
    assert measured.fp32_gmacs > 0.1
    assert measured.int8_gmacs > 0.1
    assert measured.gb_per_s > 0.1
