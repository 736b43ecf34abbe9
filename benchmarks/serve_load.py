"""What ``serve`` makes of the CPUs, how it bears too much work, and whether it loses a request.

Usage: python benchmarks/serve_load.py PACKAGE IMAGES [--seconds S] [--overload S] [--sigterms N]

1. Throughput: ``CONNECTIONS`` clients that ask again as soon as they have an answer, against a bare
   loop that decodes images and classifies them in batches, on as many threads as there are CPUs.
   The two take turns. The clients use some of the same CPUs, and other programs may, so CPU time
   for each image is compared, too: where nothing else is busy, that decides the throughput.
2. Latency of one request alone, and the 99th percentile at half that throughput, which arrives at
   random.
3. Overload: 1.5 times the throughput for ``--overload`` seconds; the answers by status, the memory
   of the server at each tenth of that time, and the latency of one request thereafter.
4. ``--sigterms`` servers that are stopped under load: requests that were sent on a connection and
   not answered, and whether the server counts as many as its clients.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.deploying.package import open_package
from mobilenet_cli.pipeline.deploying.serving.config import ServeConfig
from mobilenet_cli.pipeline.deploying.serving.served import Served, open_served
from mobilenet_cli.pipeline.runtime.machine import usable_cpus

CONNECTIONS = 16
ROUNDS = 5
DIFFERENT = 64  # images
BATCH = 8
OVERLOAD = 1.5
CONFIG = ServeConfig()


@dataclass
class Server:
    """A server in a process of its own, with its address and its log."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def memory(self) -> float:
        """Return its resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1e3 if found else 0.0

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(package: Path) -> Iterator[Server]:
    """Start a server, and stop it."""
    command = [sys.executable, "-m", "mobilenet_cli", "serve", str(package), "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(  # noqa: S603  # of ours
                command, stdout=subprocess.PIPE, stderr=file, text=True
            )
        if process.stdout is None:
            raise RuntimeError
        found = re.search(r":(\d+), on", process.stdout.readline())
        if found is None:
            sys.exit(log.read_text())
        try:
            yield Server(process, int(found[1]), log)
        finally:
            process.terminate()
            process.communicate()


@dataclass
class Answers:
    """These are the answers to many requests.

    Attributes:
        statuses: how many of each.
        seconds: that each answer with status 200 took.
        lost: requests that were sent and not answered.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lost: int = 0

    def percentile(self, share: int) -> float:
        """Return a percentile of the latency in milliseconds."""
        return 1e3 * float(np.percentile(self.seconds, share)) if self.seconds else float("nan")


class Connection(asyncio.Protocol):
    """A connection carries one request at a time.

    It is made of callbacks, since asyncio's streams take three times as much of the CPUs that the
    server needs.
    """

    def __init__(self) -> None:
        self.received = b""
        self.answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what sends."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Complete the answer when its head and its body are there."""
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or self.answer is None:
            return
        head = self.received[:end]
        length = re.search(rb"content-length: (\d+)", head)
        if len(self.received) >= end + 4 + (int(length[1]) if length else 0):
            self.received = b""
            self.answer.set_result(head)

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the client that it waits in vain."""
        if self.answer and not self.answer.done():
            self.answer.set_exception(ConnectionError())

    async def ask(self, request: bytes) -> bytes:
        """Return the head of an answer, or raise OSError."""
        if self.transport.is_closing():
            raise ConnectionError
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


class Client:
    """A client keeps its connection, and asks one thing at a time."""

    def __init__(self, port: int, answers: Answers) -> None:
        self.port, self.answers = port, answers
        self.connection: Connection | None = None

    async def ask(self, request: bytes, since: float) -> bool:
        """Ask, and tell whether the connection may be used again."""
        try:
            if self.connection is None:
                loop = asyncio.get_running_loop()
                place = ("127.0.0.1", self.port)
                _, self.connection = await loop.create_connection(Connection, *place)
        except OSError:  # it accepts no more
            return False
        try:
            head = await self.connection.ask(request)
        except OSError:
            self.answers.lost += 1
            return False
        status = int(head[9:12])
        self.answers.statuses[status] += 1
        if status == 200:
            self.answers.seconds.append(time.perf_counter() - since)
        if b"connection: close" in head:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        if self.connection:
            self.connection.transport.close()
        self.connection = None


async def closed_loop(
    port: int, requests: list[bytes], connections: int, seconds: float
) -> Answers:
    """Ask again and again on each connection, until the time is over or the server has left."""
    answers, end = Answers(), time.perf_counter() + seconds

    async def again(offset: int) -> None:
        client = Client(port, answers)
        for request in islice(cycle(requests), offset, None):
            now = time.perf_counter()
            if now > end or not await client.ask(request, now):
                break
        client.close()

    await asyncio.gather(*(again(index) for index in range(connections)))
    return answers


async def open_loop(
    port: int, requests: list[bytes], rate: float, seconds: float, server: Server | None = None
) -> tuple[Answers, list[float]]:
    """Ask at random times, so many times a second, whatever the answers are.

    Returns:
        The answers, and the memory of the server each second.
    """
    answers, memory = Answers(), list[float]()
    # In turn, so that none is idle for so long that the server closes it.
    idle, tasks = deque[Client](), set[asyncio.Task[None]]()
    generator = random.Random(0)  # noqa: S311  # arrivals need no secret

    async def once(request: bytes, due: float) -> None:
        client = idle.popleft() if idle else Client(port, answers)
        if await client.ask(request, due):
            idle.append(client)

    start = due = time.perf_counter()
    for request in cycle(requests):
        due += generator.expovariate(rate)
        if due > start + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.ensure_future(once(request, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if server and len(memory) < time.perf_counter() - start:
            memory.append(server.memory())
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return answers, memory


def bare_loop(served: Served, images: list[bytes], seconds: float) -> tuple[float, float]:
    """Return images a second, and a CPU second, of decoding and classifying alone."""
    end, threads = time.perf_counter() + seconds, usable_cpus()

    def work(offset: int) -> int:
        endless, done = islice(cycle(images), offset * BATCH, None), 0
        while time.perf_counter() < end:
            squares = [
                served.square(encoded, "image", CONFIG.max_pixels)
                for encoded in islice(endless, BATCH)
            ]
            done += len(served.answers(squares))
        return done

    start, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - start), done / (time.process_time() - used)


def throughput(package: Path, images: list[bytes], requests: list[bytes], seconds: float) -> Any:
    """Measure points 1 and 2."""
    served, rounds = open_served(open_package(package)), []
    with serving(package) as server:
        asyncio.run(closed_loop(server.port, requests, CONNECTIONS, 1))
        for _ in range(ROUNDS):
            bare, bare_cpu = bare_loop(served, images, seconds)
            used, start, own = server.cpu_seconds(), time.perf_counter(), time.process_time()
            answers = asyncio.run(closed_loop(server.port, requests, CONNECTIONS, seconds))
            done, taken = answers.statuses[200], time.perf_counter() - start
            cpu = (server.cpu_seconds() - used) / done
            rounds.append(
                {
                    "bare": bare,
                    "served": done / taken,
                    "ratio": done / taken / bare,
                    "bare_cpu_ms": 1e3 / bare_cpu,
                    "served_cpu_ms": 1e3 * cpu,
                    "cpu_ratio": 1 / bare_cpu / cpu,
                    "clients_cpu_ms": 1e3 * (time.process_time() - own) / done,
                }
            )
        medians = {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}
        rate = medians["served"]
        alone = asyncio.run(closed_loop(server.port, requests, 1, seconds))
        half, _ = asyncio.run(open_loop(server.port, requests, rate / 2, seconds))
    return {
        **medians,
        "cpu_ratios": [round(row["cpu_ratio"], 3) for row in rounds],
        "alone_p50_ms": alone.percentile(50),
        "half_load_p50_ms": half.percentile(50),
        "half_load_p99_ms": half.percentile(99),
        "p99_to_alone": half.percentile(99) / alone.percentile(50),
    }


def overload(package: Path, requests: list[bytes], rate: float, seconds: float) -> Any:
    """Measure point 3."""
    with serving(package) as server:
        before = asyncio.run(closed_loop(server.port, requests, 1, 2))
        answers, memory = asyncio.run(
            open_loop(server.port, requests, OVERLOAD * rate, seconds, server)
        )
        after = asyncio.run(closed_loop(server.port, requests, 1, 2))
        return {
            "seconds": seconds,
            "requests_per_second": sum(answers.statuses.values()) / seconds,
            "statuses": dict(answers.statuses),
            "lost": answers.lost,
            "answered_p99_ms": answers.percentile(99),
            "memory_mb": [memory[len(memory) * tenth // 10 - 1] for tenth in range(1, 11)],
            "alone_before_and_after_ms": [before.percentile(50), after.percentile(50)],
        }


def sigterms(package: Path, requests: list[bytes], count: int) -> Any:
    """Measure point 4."""
    total, counted, exits = Answers(), 0, Counter[int]()
    for _ in range(count):
        with serving(package) as server:

            async def scenario(running: Server = server) -> Answers:
                load = asyncio.ensure_future(closed_loop(running.port, requests, CONNECTIONS, 60))
                await asyncio.sleep(random.uniform(0.2, 0.6))  # noqa: S311  # likewise
                running.process.send_signal(signal.SIGTERM)
                return await load

            answers = asyncio.run(scenario())
            exits[server.process.wait()] += 1
            last = json.loads(server.log.read_text().splitlines()[-1])
            counted += last["requests"]
        total.statuses += answers.statuses
        total.lost += answers.lost
    return {
        "servers": count,
        "statuses": dict(total.statuses),
        "lost": total.lost,
        "counted_by_the_servers": counted,
        "exit_statuses": dict(exits),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("images", help="a folder of encoded images")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each part of a round")
    parser.add_argument("--overload", type=float, default=20.0, help="seconds; 600 for the record")
    parser.add_argument("--sigterms", type=int, default=3, help="servers; 200 for the record")
    arguments = parser.parse_args()
    samples = open_dataset(arguments.images, "all").samples
    images = [sample.read() for sample in samples[:: max(1, len(samples) // DIFFERENT)][:DIFFERENT]]
    head = "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n".format
    requests = [head(len(image)).encode() + image for image in images]
    found = throughput(arguments.package, images, requests, arguments.seconds)
    print(json.dumps({"throughput": found}), flush=True)
    if arguments.overload:
        made = overload(arguments.package, requests, found["served"], arguments.overload)
        print(json.dumps({"overload": made}), flush=True)
    if arguments.sigterms:
        made = sigterms(arguments.package, requests, arguments.sigterms)
        print(json.dumps({"sigterms": made}), flush=True)


if __name__ == "__main__":
    main()
