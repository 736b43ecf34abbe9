"""The routes of the server: the Open Inference Protocol, encoded images, and metrics."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mobilenet_cli.data.preprocess import Square
from mobilenet_cli.pipeline.deploying.serving import protocol
from mobilenet_cli.pipeline.deploying.serving.batcher import Batcher, FullError
from mobilenet_cli.pipeline.deploying.serving.bodies import Bodies, files_of, is_form
from mobilenet_cli.pipeline.deploying.serving.config import ServeConfig
from mobilenet_cli.pipeline.deploying.serving.metrics import LOGGER, Metrics
from mobilenet_cli.pipeline.deploying.serving.served import CLASSIFIER, Answer, Served
from mobilenet_cli.pipeline.errors import DataError, MobilenetError, TooLargeError
from mobilenet_cli.pipeline.runtime.machine import own_cpus, usable_cpus
from mobilenet_cli.pipeline.runtime.session import CPU

VERSION = "1"  # as in the package's Triton repository, like the name of a classifier
PLATFORM = "onnxruntime_onnx"
TOP = 5
CLIENT_LEFT = 499  # nginx's status, for the log alone


class Api:
    """The routes share a model, its batcher and the threads that decode and run it.

    Args:
        served: the model.
        config: limits.
        metrics: told of every run.
        ready: tells whether new requests are welcome.
    """

    def __init__(
        self,
        served: Served,
        config: ServeConfig,
        metrics: Metrics,
        ready: Callable[[], bool],
    ) -> None:
        self.served, self.config, self.metrics, self.ready = served, config, metrics, ready
        threads = usable_cpus()
        self.pool = ThreadPoolExecutor(threads, "work", _keep_to_one, (iter(own_cpus(threads)),))
        self.batcher = Batcher(
            *(served.answers, self.pool, threads, config.max_batch),
            *(config.max_wait_ms / 1e3, config.max_queue, config.provider == CPU, metrics.ran),
        )
        metrics.queue.set_function(lambda: self.batcher.admitted)
        self.bodies = Bodies(config.max_body_mb << 20)
        self.names = [tensor.name for tensor in served.outputs]
        self.labels = [name for _, name in served.classes]

    async def decode(self, work: Callable[..., Any], *given: Any) -> Any:
        """Do work of milliseconds in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *given)

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()

    # -- encoded images ----------------------------------------------------------------------------

    async def images(self, request: Request) -> Response:
        """Say what is on the image that the body is, or on the images of a form."""
        top = self._top(request.query_params.get("top"))
        self.batcher.check()  # before the body is read, which costs more than to refuse it
        kind = request.headers.get("content-type", "")
        form = is_form(kind)
        async with self.bodies.read(request) as body:
            given = [("the body", body)]
            if not body:
                raise DataError(
                    "the body is empty",
                    "Send the bytes of an image file, as curl --data-binary @photo.jpg does",
                )
            if form:
                given = await self.decode(files_of, body, kind, self.config.max_queue)
            with self.batcher.admit(len(given)):
                told = await asyncio.gather(
                    *(self._answer(name, image, top) for name, image in given)
                )
        request.state.images = len(given)
        errors = [answer for answer in told if isinstance(answer, DataError)]
        if errors and not form:
            raise errors[0]
        documents = [
            {"image": name} | ({"error": str(answer)} if isinstance(answer, DataError) else answer)
            for (name, _), answer in zip(given, told, strict=True)
        ]
        none = len(errors) == len(told)
        return JSONResponse(documents if form else documents[0], 400 if none else 200)

    def _top(self, text: str | None) -> int:
        most = len(self.labels)
        if self.served.name != CLASSIFIER and text is not None:
            raise DataError("'top' is for classifiers, and this is a detector", "Leave it out")
        if text is None:
            return min(TOP, most)
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
            raise DataError("'top' is no number of classes", f"Pass ?top=1 to ?top={most}")
        return int(text)

    async def _answer(self, name: str, encoded: bytes, top: int) -> dict[str, Any] | DataError:
        square = partial(self.served.square, encoded, name, self.config.max_pixels)
        try:
            return self.served.describe(await self.batcher.answer(square), top)
        except DataError as error:
            return error

    # -- the Open Inference Protocol ---------------------------------------------------------------

    async def infer(self, request: Request) -> Response:
        """Answer an inference request."""
        self._check_model(request)
        self.batcher.check()
        length = request.headers.get(protocol.JSON_LENGTH)
        served = self.served
        async with self.bodies.read(request) as body:
            asked: protocol.Inference = await self.decode(
                *(protocol.read_inference, body, length),
                *(served.pixels, served.outputs, len(self.labels), self.config.max_queue),
            )
            with self.batcher.admit(len(asked.pixels)):
                side = served.spec.resolution
                squares = [Square(pixels, (side, side)) for pixels in asked.pixels]
                answers = await self.batcher.answers(squares)
        request.state.images = len(answers)
        content, json_length = await self.decode(self._write, asked, answers)
        if json_length is None:
            return Response(content, media_type="application/json")
        headers = {protocol.JSON_LENGTH: str(json_length)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    def _write(
        self, asked: protocol.Inference, answers: Sequence[Answer]
    ) -> tuple[bytes, int | None]:
        values = {name: np.stack([a[i] for a in answers]) for i, name in enumerate(self.names)}
        model = {"model_name": self.served.name, "model_version": VERSION}
        return protocol.write_inference(model, asked, values, self.labels)

    def _check_model(self, request: Request) -> None:
        name, version = (request.path_params.get(key) for key in ("model", "version"))
        if name != self.served.name or version not in (None, VERSION):
            raise HTTPException(
                404, f"There is no such model. Ask for '{self.served.name}', version {VERSION}."
            )

    async def server(self, _: Request) -> Response:
        """Describe the server."""
        from importlib.metadata import version

        name = "mobilenet-cli"
        known = {"name": name, "version": version(name), "extensions": protocol.EXTENSIONS}
        return JSONResponse(known)

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        self._check_model(request)
        served = self.served
        return JSONResponse(
            {
                "name": served.name,
                "versions": [VERSION],
                "platform": PLATFORM,
                "inputs": [served.pixels.as_document()],
                "outputs": [tensor.as_document() for tensor in served.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Tell whether the model answers."""
        self._check_model(request)
        return await self.health(request)

    async def health(self, request: Request) -> Response:
        """Tell whether the server lives, or is ready for more."""
        if not self.ready() and not request.url.path.endswith("live"):
            raise HTTPException(503, "The server is stopping. Ask another one.")
        return JSONResponse({})

    async def show_metrics(self, _: Request) -> Response:
        """Show the metrics."""
        text = generate_latest(self.metrics.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def routes(api: Api) -> list[Route]:
    """List what the server answers."""
    model = "/v2/models/{model}"
    get: dict[str, Callable[[Request], Coroutine[Any, Any, Response]]] = {
        "/v2": api.server,
        "/v2/health/live": api.health,
        "/v2/health/ready": api.health,
        "/metrics": api.show_metrics,
    }
    post = {api.served.path: api.images}
    for path in (model, model + "/versions/{version}"):
        get |= {path: api.model, f"{path}/ready": api.model_ready}
        post[f"{path}/infer"] = api.infer
    # They are tried in turn, so what is asked most comes first.
    return [
        *(Route(path, answer, methods=["POST"]) for path, answer in post.items()),
        *(Route(path, answer, methods=["GET"]) for path, answer in get.items()),
    ]


def _keep_to_one(cpus: Iterator[int]) -> None:
    """Keep this thread to the next of the CPUs, if there are any.

    Threads that move leave a CPU idle now and then, where another waits for Python's lock.
    """
    with suppress(StopIteration, OSError):
        os.sched_setaffinity(0, {next(cpus)})


def told(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the protocol has it."""
    return JSONResponse({"error": sentence}, status, headers)


async def refused(path: str, _: Request, error: Exception) -> Response:
    """Turn what a route raises into a status and a sentence; ``path`` answers image files."""
    if isinstance(error, HTTPException):
        sentence = error.detail
        if sentence == "Not Found":
            sentence = f"There is nothing here. Ask for {path}, /v2, /v2/models/... or /metrics."
        elif sentence == "Method Not Allowed":
            sentence = f"This path takes {(error.headers or {}).get('Allow')} alone."
        return told(error.status_code, sentence, error.headers)
    if isinstance(error, FullError):
        sentence = f"The queue is full. Try again in {error.seconds} s."
        return told(429, sentence, {"Retry-After": str(error.seconds)})
    if isinstance(error, DataError):
        return told(413 if isinstance(error, TooLargeError) else 400, str(error))
    if isinstance(error, ClientDisconnect):
        return told(CLIENT_LEFT, "The client has left.")
    LOGGER.error("the model cannot be run", exc_info=error)
    return told(500, "The model cannot be run. See the server's log.")


async def bug(_: Request, _error: Exception) -> Response:
    """Answer what no route has foreseen; the log has the rest."""
    return told(500, "The server has a bug. See its log.")


def make_app(api: Api) -> Starlette:
    """Return the application."""
    kinds = (HTTPException, FullError, MobilenetError, ClientDisconnect)
    handlers = dict.fromkeys(kinds, partial(refused, api.served.path)) | {Exception: bug}
    app = Starlette(routes=routes(api), exception_handlers=handlers)
    # A redirect has no sentence, and names http:// and the host that this process sees.
    app.router.redirect_slashes = False
    return app
