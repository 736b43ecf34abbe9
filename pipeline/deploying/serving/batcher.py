"""Images of many requests go through the model in batches, and no more of them than fit wait."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from mobilenet_cli.data.preprocess import Square
from mobilenet_cli.pipeline.deploying.serving.served import Answer

Run = Callable[[Sequence[Square]], list[Answer]]


class FullError(Exception):
    """The queue is full.

    Args:
        seconds: after which there will probably be room.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"{seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, eq=False)
class _Waiting:
    image: Square
    due: float
    answer: "asyncio.Future[Answer]"


class Batcher:
    """A batcher gathers waiting images, and runs the model on them in threads.

    Images are ready as soon as ``max_batch`` of them wait, or the oldest has waited ``max_wait``
    seconds. The runs that are called for share those that are ready when they begin, so that no
    thread is idle while another has many images. The threads decode images, too: while they do,
    images gather by themselves, unless the thread that has decoded one runs the model on it at
    once. That keeps it from waiting until those that came after it are decoded, and costs nothing
    where a batch takes as long as its images take one by one.

    Args:
        run: the model.
        pool: runs it, and is shared with other work.
        threads: of the pool.
        max_batch: images of one run.
        max_wait: seconds.
        max_queue: images that are admitted at a time.
        at_once: whether the thread that has decoded an image makes the run that it calls for.
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
        at_once: bool = True,
        ran: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self.run, self.ran = run, ran
        self.pool, self.threads = pool, threads
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self.at_once = at_once
        self.admitted = 0
        self.seconds_per_image = 0.0
        self.lock = threading.Lock()  # of what follows
        self.waiting: deque[_Waiting] = deque()
        self.timed = False  # something wakes up when the oldest of these is due
        self.ready: deque[_Waiting] = deque()
        self.called = 0  # runs that no thread has begun yet; each will find an image

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

    async def answers(self, images: Sequence[Square]) -> list[Answer]:
        """Return the model's outputs for each image.

        Raises:
            MobilenetError: the model cannot be run.
        """
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Answer]] = [loop.create_future() for _ in images]
        for image, answer in zip(images, answers, strict=True):
            self._call(self._wait(image, answer))
        return await asyncio.gather(*answers)

    async def answer(self, decode: Callable[[], Square]) -> Answer:
        """Return the model's outputs for an image that one of the threads decodes.

        Raises:
            MobilenetError: as ``decode`` does, or the model cannot be run.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        # What is decoded waits at once: the event loop need not be woken up in between.
        self.pool.submit(self._decode, decode, answer)
        return await answer

    def _decode(self, decode: Callable[[], Square], answer: "asyncio.Future[Answer]") -> None:
        if answer.cancelled():
            return
        try:
            image = decode()
        except Exception as error:
            answer.get_loop().call_soon_threadsafe(_fail, [answer], error)
        else:
            runs = self._wait(image, answer)
            own = min(runs, int(self.at_once))
            self._call(runs - own)
            if own:
                self._run()

    def _wait(self, image: Square, answer: "asyncio.Future[Answer]") -> int:
        """Let an image wait, and return how many runs are to be made for those that are ready."""
        loop = answer.get_loop()
        with self.lock:
            self.waiting.append(_Waiting(image, loop.time() + self.max_wait, answer))
            return self._leave(loop)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> int:
        """Let images leave that are due, or enough; the lock is held."""
        while self.waiting:
            full, due = len(self.waiting) >= self.max_batch, self.waiting[0].due
            if not full and loop.time() < due:
                if not self.timed:
                    self.timed = True
                    loop.call_soon_threadsafe(loop.call_at, due, self._woken, loop)
                break
            for _ in range(min(self.max_batch, len(self.waiting))):
                self.ready.append(self.waiting.popleft())
        # As many as the images need, and one for each thread if they suffice.
        needed = math.ceil(len(self.ready) / self.max_batch)
        runs = max(needed, min(self.threads, len(self.ready))) - self.called
        self.called += runs
        return runs

    def _woken(self, loop: asyncio.AbstractEventLoop) -> None:
        with self.lock:
            self.timed = False
            runs = self._leave(loop)
        self._call(runs)

    def _call(self, runs: int) -> None:
        for _ in range(runs):
            self.pool.submit(self._run)

    def _run(self) -> None:
        with self.lock:
            count = min(self.max_batch, math.ceil(len(self.ready) / self.called))
            self.called -= 1
            batch = [self.ready.popleft() for _ in range(count)]
        answers = [waiting.answer for waiting in batch]
        loop = answers[0].get_loop()
        try:
            start = time.perf_counter()
            made = self.run([waiting.image for waiting in batch])
            seconds = time.perf_counter() - start
        except Exception as error:
            loop.call_soon_threadsafe(_fail, answers, error)
        else:
            self.seconds_per_image = seconds / count
            self.ran(count, seconds)
            loop.call_soon_threadsafe(_give, answers, made)


def _give(answers: Iterable["asyncio.Future[Answer]"], made: Iterable[Answer]) -> None:
    for answer, outputs in zip(answers, made, strict=True):
        if not answer.done():  # its request has been cancelled
            answer.set_result(outputs)


def _fail(answers: Iterable["asyncio.Future[Answer]"], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
