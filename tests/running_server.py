"""A server in a process of its own, and what is sent to it."""

import http.client
import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def ask(
        self, path: str, body: bytes | None = None, method: str = "", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, document and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = connection.getresponse()
        content, found = answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        connection.close()
        is_json = found.get("content-type") == "application/json"
        return answer.status, json.loads(content) if is_json else content, found

    def send(self, raw: bytes) -> bytes:
        """Send bytes, and nothing after them; return what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            try:
                while part := connection.recv(1 << 16):
                    parts.append(part)
            except ConnectionResetError:
                pass
            return b"".join(parts)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def start(folder: Path, log: Path, *options: object) -> Server:
    command = [sys.executable, "-m", "mobilenet_cli", "serve", folder, "--port", 0, "--json"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*map(str, command), *map(str, options)], stdout=subprocess.PIPE, stderr=file, text=True
        )
    assert process.stdout
    text = ""
    with process.stdout:
        while (line := process.stdout.readline()) and not line.startswith("}"):
            text += line
    assert line, log.read_text()
    return Server(process, int(json.loads(text + line)["address"].rsplit(":")[-1]), log)


def form(files: list[tuple[str, bytes]], boundary: str = "line") -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="{name}"'.encode()
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


FORM = "multipart/form-data; boundary=line"
