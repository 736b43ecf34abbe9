"""Downloads, from a hub of our own on this machine that behaves like the Hugging Face one."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.hugging_face import plan

pytest.importorskip("huggingface_hub")

REPOSITORY, COMMIT = "someone/mobilenet_v1_0.25_128", "c0ffee" + 34 * "0"
PROGRAM = "from mobilenet_cli.cli import main; main()"
CUT = 12_000_000  # bytes after which an unreliable hub hangs up; its client keeps 10 MB at a time


def weights(width: float) -> bytes:
    """A classifier under transformers' names."""
    spec = ModelSpec(width=width, classes=1001)
    probe = {"conv_stem.convolution.weight": np.zeros(0), "classifier.bias": np.zeros(1)}
    names = plan(WeightFile(Path("x"), False, probe), None).names
    shapes = MODELS[spec.architecture].tensor_shapes(spec)
    made = {names[n]: np.full(s, 0.5, np.float32) for n, s in shapes.items()}
    return save(made)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """What the hub has, what it was asked for, and how it misbehaves."""

    files: dict[str, bytes]
    unreliable: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                if hub.unreliable and len(body) > CUT:
                    hub.unreliable = False
                    self.wfile.write(body[:CUT])
                    self.close_connection = True
                else:
                    self.wfile.write(body)

        def do_GET(self) -> None:
            hub.asked.append((self.path, self.headers.get("Range")))
            if match := re.match(rf"/api/models/{REPOSITORY}(/revision/(\w+))?(\?|$)", self.path):
                if match[2] not in (None, "main", COMMIT):
                    self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
                    return
                siblings = [{"rfilename": name} for name in hub.files]
                document = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
                self.answer(200, json.dumps(document).encode(), Content_Type="application/json")
                return
            if self.path.startswith(f"/api/models/{REPOSITORY}/tree/{COMMIT}?"):
                tree = [
                    {"type": "file", "path": name, "size": len(body), "oid": git_hash(body)}
                    for name, body in hub.files.items()
                ]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
                return
            match = re.match(rf"/{REPOSITORY}/resolve/{COMMIT}/(.+)$", self.path)
            if not match or match[1] not in hub.files:
                self.answer(404, b"", X_Error_Code="EntryNotFound")
                return
            body = hub.files[match[1]]
            headers = {
                "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                "X_Repo_Commit": COMMIT,
                "Accept_Ranges": "bytes",
            }
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                start, end = int(asked[1]), int(asked[2] or len(body) - 1)
                headers["Content_Range"] = f"bytes {start}-{end}/{len(body)}"
                self.answer(206, body[start : end + 1], **headers)
            else:
                self.answer(200, body, **headers)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    config = {"image_size": 128, "hidden_act": "relu6", "tf_padding": True, "layer_norm_eps": 1e-3}
    found = Hub({"model.safetensors": weights(0.25), "config.json": json.dumps(config).encode()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()


def import_from(hub: Hub, folder: Path, *options: str, offline: bool = False):
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    own |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "import", REPOSITORY, "--json", *options],
        cwd=folder,
        env=os.environ | own,
        capture_output=True,
        text=True,
    )


def test_a_download_is_recorded_cached_and_used_offline(hub: Hub, tmp_path: Path):
    done = import_from(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["revision"] == COMMIT
    assert record["source_sha256"] == hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert (record["width"], record["resolution"]) == (0.25, 128)
    hub.asked.clear()
    again = import_from(hub, tmp_path, "--run", "again", offline=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["revision"] == COMMIT
    assert hub.asked == []


def test_a_commit_is_pinned(hub: Hub, tmp_path: Path):
    done = import_from(hub, tmp_path, "--revision", COMMIT)
    assert done.returncode == 0, done.stderr
    assert any(COMMIT in path for path, _ in hub.asked)


def test_a_revision_that_does_not_exist(hub: Hub, tmp_path: Path):
    done = import_from(hub, tmp_path, "--revision", "nosuch")
    assert done.returncode == 2
    assert f"{REPOSITORY} has no revision 'nosuch'" in done.stderr
    assert json.loads(done.stdout)["fix"] == "Pass a branch, tag or commit of it"
    assert not (tmp_path / "runs").exists()


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: Hub, tmp_path: Path):
    hub.files["model.safetensors"] = weights(1.0)
    hub.unreliable = True
    done = import_from(hub, tmp_path)
    if done.returncode:  # it may give up; then the next call goes on
        assert "cannot be downloaded" in done.stderr
        done = import_from(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    ranges = [asked for path, asked in hub.asked if path.endswith("model.safetensors") and asked]
    assert any(int(asked.removeprefix("bytes=").split("-")[0]) > 0 for asked in ranges)
    digest = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert json.loads(done.stdout)["source_sha256"] == digest


def test_a_repository_without_weights(hub: Hub, tmp_path: Path):
    del hub.files["model.safetensors"]
    done = import_from(hub, tmp_path)
    assert done.returncode == 2
    assert "has no config.json with model.safetensors or pytorch_model.bin" in done.stderr


def test_a_hub_that_does_not_answer(hub: Hub, tmp_path: Path):
    hub.url = "http://127.0.0.1:9"  # the discard port: nobody listens
    done = import_from(hub, tmp_path)
    assert done.returncode == 2
    assert "cannot be downloaded from the Hugging Face hub" in done.stderr
    assert "resolve/main/model.safetensors" in done.stderr
