"""Images of many requests are gathered into batches, and no more than fit are let in."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from mobilenet_cli.pipeline.deploying.serving.batcher import Batcher, FullError

IMAGES = [np.full((2, 2, 3), value, np.uint8) for value in range(8)]


class Model:
    """A model that waits until it may go on, and answers with the first byte of each image."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.may_go.set()
        self.began = threading.Event()
        self.batches: list[int] = []

    def run(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        self.began.set()
        self.may_go.wait(10)
        self.batches.append(len(images))
        if any(image[0, 0, 0] == 7 for image in images):
            raise ValueError("seven")
        return [(image[0, 0, :1],) for image in images]


@pytest.fixture
def model() -> Model:
    return Model()


def batcher(
    model: Model, max_batch: int = 4, max_wait: float = 0.0, queue: int = 8, threads: int = 1
) -> Batcher:
    pool = ThreadPoolExecutor(threads)
    return Batcher(model.run, pool, threads, max_batch, max_wait, queue)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_waits_for_a_thread_leaves_together(model):
    async def scenario() -> list[int]:
        made = batcher(model)
        model.may_go.clear()
        first = asyncio.ensure_future(made.answers(IMAGES[:1]))
        await asyncio.to_thread(model.began.wait, 10)
        others = [asyncio.ensure_future(made.answers([image])) for image in IMAGES[1:7]]
        await settle()
        model.may_go.set()
        answers = [await task for task in (first, *others)]
        made.pool.shutdown()
        return [int(answer[0][0][0]) for answer in answers]

    assert asyncio.run(scenario()) == list(range(7))
    assert model.batches == [1, 3, 3]


def test_images_gather_while_the_threads_decode(model):
    async def scenario() -> None:
        made, decoded = batcher(model), threading.Event()
        made.pool.submit(decoded.wait, 10)
        tasks = [asyncio.ensure_future(made.answers([image])) for image in IMAGES[:6]]
        await settle()
        decoded.set()
        await asyncio.gather(*tasks)
        made.pool.shutdown()

    asyncio.run(scenario())
    assert model.batches == [3, 3]


@pytest.mark.parametrize(
    ("at_once", "order"),
    [
        (True, ["decode 0", "run 0", "decode 1", "run 1", "decode 2", "run 2"]),
        (False, ["decode 0", "decode 1", "decode 2", "run 0"]),  # with the others
    ],
)
def test_an_image_is_run_before_the_thread_decodes_others_or_with_them(model, at_once, order):
    events: list[str] = []
    run = model.run
    model.run = lambda images: (events.append(f"run {images[0][0, 0, 0]}"), run(images))[1]

    def decode(number: int) -> np.ndarray:
        events.append(f"decode {number}")
        return IMAGES[number]

    async def scenario() -> list[int]:
        made, begin = batcher(model), threading.Event()
        made.at_once = at_once
        made.pool.submit(begin.wait, 10)
        tasks = [asyncio.ensure_future(made.answer(partial(decode, i))) for i in range(3)]
        await settle()
        begin.set()
        answers = await asyncio.gather(*tasks)
        made.pool.shutdown()
        return [int(answer[0][0]) for answer in answers]

    assert asyncio.run(scenario()) == [0, 1, 2]
    assert events == order


def test_decoded_images_wait_for_others_until_a_batch_is_full(model):
    async def scenario() -> None:
        made = batcher(model, max_wait=10)
        await asyncio.gather(*(made.answer(partial(IMAGES.__getitem__, i)) for i in range(4)))
        made.pool.shutdown()

    asyncio.run(scenario())
    assert model.batches == [4]


@pytest.mark.parametrize(("images", "batches"), [(1, [1]), (5, [2, 3]), (7, [3, 4]), (8, [4, 4])])
def test_threads_share_the_images_that_wait(model, images, batches):
    async def scenario() -> None:
        made, decoded = batcher(model, max_batch=6, threads=2), threading.Event()
        for _ in range(made.threads):
            made.pool.submit(decoded.wait, 10)
        tasks = [asyncio.ensure_future(made.answers([image])) for image in IMAGES[:7] * 2]
        for task in tasks[images:]:
            task.cancel()
        await settle()
        decoded.set()
        await asyncio.gather(*tasks[:images])
        made.pool.shutdown()

    asyncio.run(scenario())
    assert sorted(model.batches) == batches


def test_every_image_of_many_is_run_once(model):
    """Decoding and runs of five threads are mixed at random."""
    runs: list[int] = []
    model.run = lambda images: (
        (time.sleep(0.001), runs.append(len(images)))[:0]
        or [(image[0, 0, :1],) for image in images]
    )

    async def scenario() -> list[int]:
        made = batcher(model, max_batch=3, threads=5)

        async def one(number: int) -> int:
            await asyncio.get_running_loop().run_in_executor(made.pool, time.sleep, number % 7e-3)
            ((answer,),) = await made.answers([IMAGES[number % 7]])
            return int(answer[0])

        found = await asyncio.gather(*map(one, range(500)))
        assert (made.called, len(made.ready)) == (0, 0)
        made.pool.shutdown()
        return found

    assert asyncio.run(scenario()) == [number % 7 for number in range(500)]
    assert (sum(runs), max(runs)) == (500, 3)


def test_images_wait_for_others_until_a_batch_is_full_or_due(model):
    async def scenario() -> tuple[float, float]:
        made = batcher(model, max_wait=0.2)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(made.answers([image]) for image in IMAGES[:4]))
        full = loop.time() - start
        await asyncio.gather(*(made.answers([image]) for image in IMAGES[:3]))
        made.pool.shutdown()
        return full, loop.time() - start - full

    _, due = asyncio.run(scenario())
    assert model.batches == [4, 3]
    assert due >= 0.19


def test_a_full_queue_says_when_to_come_back(model):
    made = batcher(model)
    with made.admit(5):
        made.seconds_per_image = 1.5
        with pytest.raises(FullError) as error, made.admit(4):
            pass
        assert error.value.seconds == 8
        with made.admit(3):
            assert made.admitted == 8
    assert made.admitted == 0
    made.pool.shutdown()


def test_a_run_that_fails_fails_its_images_alone(model):
    counted: list[int] = []

    async def scenario() -> list[object]:
        made = batcher(model, max_batch=1)
        made.ran = lambda images, _: counted.append(images)
        tasks = [made.answers([image]) for image in (IMAGES[7], IMAGES[1])]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        made.pool.shutdown()
        return found

    failed, answered = asyncio.run(scenario())
    assert isinstance(failed, ValueError)
    assert isinstance(answered, list)
    assert counted == [1]  # the run that failed is none of those that are measured


def test_a_request_that_was_cancelled_keeps_nobody_from_an_answer(model):
    async def scenario() -> int:
        made = batcher(model)
        model.may_go.clear()
        tasks = [asyncio.ensure_future(made.answers([image])) for image in IMAGES[:3]]
        await settle()
        tasks[1].cancel()
        await settle()
        model.may_go.set()
        answer = await tasks[2]
        made.pool.shutdown()
        return int(answer[0][0][0])

    assert asyncio.run(scenario()) == 2
