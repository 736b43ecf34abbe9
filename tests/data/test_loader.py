"""Batches keep the order of the samples, and bad images are reported."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from mobilenet_cli.data.loader import batches, ordered_map
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.pipeline.errors import DataError

SPEC = InputSpec(resolution=32, resize=32)


def test_batches_keep_the_order_and_end_short(class_folders):
    samples = open_dataset(str(class_folders({"a": 4, "b": 3})), "all").samples
    made = list(batches(samples, SPEC, 3, workers=2))
    assert [b.indices for b in made] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert made[0].images.shape == (3, 3, 32, 32)
    expected = prepare(samples[4].read(), "", SPEC)
    np.testing.assert_array_equal(made[1].images[1], expected)


def test_bad_image_is_reported_and_left_out(class_folders):
    root = class_folders({"a": 4})
    (root / "a" / "001.png").write_text("text")
    samples = open_dataset(str(root), "all").samples
    bad = []
    made = list(batches(samples, SPEC, 2, on_bad=lambda s, e: bad.append((s.key, str(e)))))
    assert [b.indices for b in made] == [(0,), (2, 3)]
    assert [key for key, _ in bad] == ["a/001.png"]
    assert "not an image" in bad[0][1]


def test_bad_image_stops_when_nobody_listens(class_folders):
    root = class_folders({"a": 2})
    (root / "a" / "001.png").write_text("text")
    samples = open_dataset(str(root), "all").samples
    with pytest.raises(DataError, match=r"a/001\.png is not an image"):
        list(batches(samples, SPEC, 2))


def test_work_stays_a_bounded_distance_ahead():
    started = 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return item

    results = ordered_map(work, range(1000), workers=2, ahead=5)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert started <= 15
    results.close()
    assert started <= 16


def test_a_thread_of_its_own_may_close_it_as_the_garbage_collector_does():
    turn = threading.Event()
    closed: Future[None] = Future()

    def work(item: int) -> int:
        if item == 1 and turn.wait(60):
            try:
                closed.set_result(results.close())
            except BaseException as error:
                closed.set_exception(error)
        return item

    results = ordered_map(work, range(2), workers=1, ahead=2)
    assert next(results) == 0
    turn.set()
    assert closed.result(60) is None
