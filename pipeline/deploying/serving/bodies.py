"""Bodies of requests are read within limits: of one body, of all together, and of time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mobilenet_cli.pipeline.errors import DataError

SECONDS = 60.0  # for a whole body; a phone's photo on a slow line takes ten
TOGETHER = 8  # so many of the largest bodies are held at a time
MULTIPART = b"multipart/form-data"


class Bodies:
    """Bodies are read and held here.

    What is left of one that is refused is read and dropped: many clients look for an answer only
    when they have sent everything, and would find their connection broken.

    Args:
        most: bytes of one body.
        seconds: for reading one.
    """

    def __init__(self, most: int, seconds: float = SECONDS) -> None:
        self.most, self.seconds = most, seconds
        self.free = TOGETHER * most

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body, and hold it.

        Raises:
            HTTPException: 413 it is too large, 408 it comes too slowly, 429 too many are held.
            ClientDisconnect: it does not come whole.
        """
        if int(request.headers.get("content-length", 0)) > self.most:
            raise self._too_large()
        if request.headers.get("content-encoding", "").lower() not in ("", "identity"):
            raise HTTPException(415, "The body is compressed. Send it as it is.")
        body = bytearray()
        try:
            async with asyncio.timeout(self.seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self.most:
                        raise self._too_large()
                    if len(chunk) > self.free:
                        sentence = "The server holds too many bodies. Send it again later."
                        raise HTTPException(429, sentence, {"Retry-After": "1"})
                    self.free -= len(chunk)
                    body += chunk
            yield bytes(body)
        except TimeoutError:
            sentence = f"The body did not come within {self.seconds:g} s. Send it faster."
            raise HTTPException(408, sentence, {"Connection": "close"}) from None
        finally:
            self.free += len(body)

    def _too_large(self) -> HTTPException:
        sentence = f"The body is larger than {self.most >> 20} MiB. Send smaller images."
        return HTTPException(413, sentence)


def is_form(content_type: str) -> bool:
    """Tell whether a body is a form with files."""
    kind, _ = parse_options_header(content_type)
    return bool(kind == MULTIPART)


def files_of(body: bytes, content_type: str, most: int) -> list[tuple[str, bytes]]:
    """Return names and contents of the files of a form.

    Raises:
        DataError: it is a broken form, or has no files, or more than ``most``.
    """
    _, options = parse_options_header(content_type)
    files: list[tuple[str, bytes]] = []

    def take(file: File) -> None:
        if len(files) == most:
            raise DataError(f"the form has more than {most} files", "Send some of them later")
        name = (file.file_name or b"").decode(errors="replace") or f"file {len(files) + 1}"
        file.file_object.seek(0)
        files.append((name, file.file_object.read()))

    ended: list[bool] = []
    if not options.get(b"boundary"):
        raise DataError("the Content-Type of the form has no boundary", "Let a library make it")
    try:
        parser = FormParser(
            *(MULTIPART.decode(), lambda _: None, take, lambda: ended.append(True)),
            boundary=options[b"boundary"],
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},  # none goes to the disk
        )
        parser.write(body)
        parser.finalize()
        if not ended:
            raise ValueError("it is cut off")
    except (FormParserError, KeyError, ValueError) as error:
        raise DataError(
            f"the body is not the form that its Content-Type says ({error})",
            "Send multipart/form-data with a boundary, and a file in each part",
        ) from error
    if not files:
        raise DataError("the form has no file", "Give each image a filename")
    return files
