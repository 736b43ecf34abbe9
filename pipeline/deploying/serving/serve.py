"""A package is served until a signal comes; what was accepted by then is answered."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mobilenet_cli.pipeline.artifacts.files import is_package
from mobilenet_cli.pipeline.deploying.package import open_package
from mobilenet_cli.pipeline.deploying.serving.app import Api, make_app, told
from mobilenet_cli.pipeline.deploying.serving.config import ServeConfig
from mobilenet_cli.pipeline.deploying.serving.metrics import LOGGER, Metrics, log_json_lines
from mobilenet_cli.pipeline.deploying.serving.served import open_served
from mobilenet_cli.pipeline.deploying.serving.watch import Watch
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.reports.records.deployment import ServeRecord

CONNECTIONS = 1024  # more are told 429
MAX_HEAD = 1 << 16  # bytes
IDLE_SECONDS = 75  # without a word, or with half a head; more than proxies keep connections
LINGER_SECONDS = 1.0  # for which clients with open connections are told, by an answer, to leave
DRAIN_SECONDS = 60  # that answers may take after that
Run = Callable[[Callable[[], None]], None]
UVICORN: dict[str, Any] = {
    "ws": "none",
    "lifespan": "off",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    "timeout_keep_alive": IDLE_SECONDS,
    "timeout_graceful_shutdown": DRAIN_SECONDS,
}


def open_server(folder: Path, config: ServeConfig) -> tuple[ServeRecord, Run]:
    """Load a package and open the socket that it is served at.

    Returns:
        What is served, and a function that serves it until SIGTERM, SIGHUP or Ctrl-C, and calls
        what it is given as soon as requests and signals are answered as they should be.

    Raises:
        ModelError: it is no package, or a damaged one.
        ProviderError: this machine runs none of its variants rightly.
        OptionError: the address cannot be listened on, or the token cannot be read.
    """
    if not is_package(folder):
        raise ModelError(
            f"{folder} is not a package",
            "Make one with 'mobilenet-cli deploy', and name its folder",
        )
    token, package = config.token(), open_package(folder)
    served = open_served(package, config.provider)
    listener = _listen(config)
    host, port, *_ = listener.getsockname()
    record = ServeRecord(
        package=str(folder),
        name=package.manifest.name,
        model=served.name,
        target=served.target,
        provider=config.provider,
        classes=len(served.classes),
        address=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
        token=token is not None,
        max_batch=config.max_batch,
        max_wait_ms=config.max_wait_ms,
        max_queue=config.max_queue,
    )

    def run(started: Callable[[], None]) -> None:
        metrics = Metrics(name=record.name, target=record.target, parent=package.manifest.parent)
        api = Api(served, config, metrics, ready=lambda: not server.should_exit)
        app = Watch(make_app(api), metrics, token, stopping=lambda: server.leaving)
        server = _Server(uvicorn.Config(app, http=_Protocol, **UVICORN))
        server.when_started = started
        log_json_lines()
        LOGGER.info("serving", extra={"fields": record.model_dump(mode="json")})
        try:
            server.run([listener])
        finally:
            api.close()
        LOGGER.info("stopped", extra={"fields": {"requests": server.server_state.total_requests}})

    return record, run


def _listen(config: ServeConfig) -> socket.socket:
    """Open the socket; connections wait in it until the server accepts them."""
    try:
        family, *_, place = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(place[:2], family=family, backlog=CONNECTIONS)
        # The accepted connections inherit it. asyncio does not set it on those of this listener,
        # whose protocol number is 0, and the body of an answer would wait 40 ms behind its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise OptionError(
            f"{config.host} port {config.port} cannot be listened on ({error.strerror})",
            "Choose another --port or --host",
        ) from error
    return listener


class _Server(uvicorn.Server):  # type: ignore[misc, unused-ignore]  # where it is not installed
    """This server stops as soon as a signal comes, and loses nothing that it has accepted.

    Closing an idle connection would lose a request that is under way to it. So for a moment clients
    with open connections are still answered, and told with the answer that the connection ends.
    """

    should_exit: bool
    leaving = False  # clients are told to
    when_started: Callable[[], None]
    stopped_by = ""  # a signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal stops at once."""
        del frame
        self.force_exit = self.should_exit
        self.should_exit, self.stopped_by = True, signal.Signals(sig).name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; a closed terminal stops it like the other signals."""
        await super().startup(sockets)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)
        self.when_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, answer what comes through the open ones, and close them."""
        LOGGER.info("stopping", extra={"fields": {"signal": self.stopped_by}})
        for server in self.servers:
            server.close()
        self.leaving = True
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self.server_state.connections and not self.force_exit:
                    await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class _Protocol(HttpToolsProtocol):  # type: ignore[misc, unused-ignore]  # likewise
    """This protocol answers in JSON also where there is no request to answer.

    It closes connections whose request has no head, half of one or too long a one.
    """

    timeout_keep_alive_task: asyncio.TimerHandle | None
    head = 0  # bytes of it so far

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        super().on_message_begin()
        self.head = 1

    def on_headers_complete(self) -> None:
        """Answer the request, unless there are too many connections."""
        self.head = 0
        if len(self.connections) >= CONNECTIONS:
            sentence = "The server has too many connections. Send it again later."
            self.app = told(429, sentence, {"Connection": "close", "Retry-After": "1"})
        super().on_headers_complete()

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; wait again while there is no request to answer."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        if self.head:
            self.head += len(data)
            if self.head > MAX_HEAD:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close the connection."""
        del msg  # is for all the same
        answer = told(
            400,
            "The request is not valid HTTP. Send it with an HTTP library.",
            {"Connection": "close"},
        )
        head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def _wait(self) -> None:
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
