"""These are the settings of ``serve``, and what cannot be served with them."""

import re
from dataclasses import dataclass
from pathlib import Path

from mobilenet_cli.data.decode import MAX_PIXELS
from mobilenet_cli.data.readers.files import read_text
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.runtime.session import CPU

LOOPBACK = "127.0.0.1"
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class ServeConfig:
    """These are the settings of ``serve``.

    Attributes:
        host: the address to listen on.
        port: its TCP port; 0 takes a free one.
        max_batch: the most images that one run of the model takes.
        max_wait_ms: how many milliseconds an image waits for others while a CPU is free.
        max_queue: the most images that are decoded, wait or are classified at a time; further
            requests are told to come back.
        max_body_mb: the largest body of a request in units of 2**20 bytes.
        max_pixels: the most pixels of an encoded image.
        token_file: holds what clients must send as ``Authorization: Bearer``; None lets everybody
            in.
        provider: the execution provider that runs the model, by its full name.
    """

    host: str = LOOPBACK
    port: int = 8000
    max_batch: int = 4
    max_wait_ms: float = 0.0
    max_queue: int = 128
    max_body_mb: int = 32
    max_pixels: int = MAX_PIXELS
    token_file: Path | None = None
    provider: str = CPU

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_body_mb", "max_pixels"):
            if (value := getattr(self, name)) < 1:
                flag = "--" + name.replace("_", "-")
                raise OptionError(f"{flag} {value} serves nobody", f"Pass {flag} 1 or more")
        if not 0 <= self.port <= 65535:
            raise OptionError(f"there is no TCP port {self.port}", "Pass --port 0 to 65535")
        if not 0 <= self.max_wait_ms <= 10_000:
            raise OptionError(
                f"an image cannot wait {self.max_wait_ms:g} ms", "Pass --max-wait-ms 0 to 10000"
            )

    def token(self) -> str | None:
        """Read the token that clients must send, if there is to be one.

        Raises:
            DataError: the file cannot be read.
            OptionError: its token is short or cannot stand in a header.
        """
        path = self.token_file
        if path is None:
            return None
        token = read_text(path).strip()
        if len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[!-~]+", token):
            raise OptionError(
                f"{path} does not hold a token of {SHORTEST_TOKEN} or more printable ASCII "
                "characters",
                f"Make one with: openssl rand -hex 32 > {path}",
            )
        return token
