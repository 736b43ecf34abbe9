"""Images of many requests go through the model in batches, and no more of them than fit wait."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from mobilenet_cli.pipeline.serving.classifier import Answer, Image

Run = Callable[[Sequence[Image]], list[Answer]]


class FullError(Exception):
    """The queue is full.

    Args:
        seconds: after which there will probably be room.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"{seconds} s")
        self.seconds = seconds


@dataclass(frozen=True)
class _Waiting:
    image: Image
    due: float
    answer: "asyncio.Future[Answer]"


class Batcher:
    """A batcher gathers waiting images, and runs the model on them in threads.

    A run is due as soon as ``max_batch`` images wait, or the oldest has waited ``max_wait``
    seconds, and takes those that wait when a thread begins it. The threads do other work, too, such
    as decoding: while they do, images gather by themselves.

    Args:
        run: the model.
        pool: runs it, and is shared with other work.
        threads: of the pool.
        max_batch: images of one run.
        max_wait: seconds.
        max_queue: images that are admitted at a time.
        ran: told of each run: its images, and its seconds.
    """

    def __init__(
        self,
        run: Run,
        pool: Executor,
        threads: int,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        ran: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self.run, self.ran = run, ran
        self.pool, self.threads = pool, threads
        self.lock, self.called = threading.Lock(), 0  # runs that no thread has begun yet
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self.admitted = 0
        self.waiting: deque[_Waiting] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.seconds_per_image = 0.0

    def check(self, images: int = 1) -> None:
        """Raise FullError unless so many more images may come."""
        if self.admitted + images > self.max_queue:
            seconds = self.admitted * self.seconds_per_image / self.threads
            raise FullError(max(1, math.ceil(seconds)))

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Hold places in the queue, from decoding to the answer.

        Raises:
            FullError: there are too few.
        """
        self.check(images)
        self.admitted += images
        try:
            yield
        finally:
            self.admitted -= images

    async def answers(self, images: Sequence[Image]) -> list[Answer]:
        """Return the model's outputs for each image.

        Raises:
            MobilenetError: the model cannot be run.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + self.max_wait
        coming = [_Waiting(image, due, loop.create_future()) for image in images]
        self.waiting.extend(coming)
        self._leave()
        return await asyncio.gather(*(waiting.answer for waiting in coming))

    def _leave(self) -> None:
        """Call for as many runs as are due; wake up again when the next one is."""
        loop = asyncio.get_running_loop()
        with self.lock:
            while len(self.waiting) > (taken := self.called * self.max_batch):
                due = self.waiting[taken].due
                if len(self.waiting) - taken < self.max_batch and loop.time() < due:
                    if self.timer is None:
                        self.timer = loop.call_at(due, self._woken)
                    return
                self.called += 1
                batch: list[_Waiting] = []  # filled when a thread begins the run
                work = loop.run_in_executor(self.pool, self._timed, batch)
                work.add_done_callback(partial(self._arrived, batch))

    def _woken(self) -> None:
        self.timer = None
        self._leave()

    def _timed(self, batch: list[_Waiting]) -> list[Answer]:
        with self.lock:
            self.called -= 1
            count = min(self.max_batch, len(self.waiting))
            batch.extend(self.waiting.popleft() for _ in range(count))
        start = time.perf_counter()
        made = self.run([waiting.image for waiting in batch])
        seconds = time.perf_counter() - start
        self.seconds_per_image = seconds / count
        self.ran(count, seconds)
        return made

    def _arrived(self, batch: Sequence[_Waiting], done: "asyncio.Future[list[Answer]]") -> None:
        error = done.exception()
        for index, waiting in enumerate(batch):
            if waiting.answer.done():  # its request has been cancelled
                continue
            if error is not None:
                waiting.answer.set_exception(error)
            else:
                waiting.answer.set_result(done.result()[index])
