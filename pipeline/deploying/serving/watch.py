"""Every request is checked for its token, counted and logged around the application."""

import hmac
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobilenet_cli.pipeline.deploying.serving.app import told
from mobilenet_cli.pipeline.deploying.serving.metrics import LOGGER, Metrics

OPEN = "/v2/health/"  # which orchestrators ask without a token
KNOWN = ("/classify", "/detect", "/metrics", OPEN, "/v2")


class Watch:
    """This is an ASGI application around another.

    Args:
        app: the application.
        metrics: told of every request.
        token: what clients must send; None lets everybody in.
        stopping: tells whether connections are to be closed after their answers.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str | None, stopping: Callable[[], bool]
    ) -> None:
        self.app, self.metrics, self.stopping = app, metrics, stopping
        self.token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, path = time.perf_counter(), scope["path"]
        scope.setdefault("state", {})
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.stopping():
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            app = self.app if self._may_enter(scope) else _unauthorized
            await app(scope, receive, sending)
        except Exception:
            LOGGER.exception("a bug")
            if status != 500:  # another answer has begun
                raise
        finally:
            known = next((prefix for prefix in KNOWN if path.startswith(prefix)), "other")
            self.metrics.requests.labels(known, str(status)).inc()
            taken = time.perf_counter() - began
            self.metrics.seconds.labels(known).observe(taken)
            fields = {"method": scope["method"], "path": path[:200], "status": status}
            if images := scope["state"].get("images"):
                fields["images"] = images
            LOGGER.info("request", extra={"fields": fields | {"ms": round(taken * 1e3, 2)}})

    def _may_enter(self, scope: Scope) -> bool:
        if self.token is None or scope["path"].startswith(OPEN):
            return True
        scheme, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        known = scheme.lower() == b"bearer"  # RFC 9110, section 11.1
        return hmac.compare_digest(token.strip(), self.token) and known


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
    answer = told(
        401, "The request has no valid token. Send 'Authorization: Bearer TOKEN'.", headers
    )
    await answer(scope, receive, send)
