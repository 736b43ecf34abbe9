"""A package is served as people run it, and whatever they send, the server goes on."""

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.decode import decode
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import square_of_bytes
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.errors import DataError
from mobilenet_cli.pipeline.evaluating.predicting.predict import predict
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from tests.running_server import FORM, Server, form, start

for extra in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
    pytest.importorskip(extra, reason=f"{extra} is not installed (extra serve)")

INFER = "/v2/models/classifier/infer"
SIDE = 32
SAMPLES = open_dataset("digits", "val").samples[:6]


@pytest.fixture(scope="module")
def server(package, tmp_path_factory) -> Iterator[Server]:
    """A server that every test of this file asks; it must outlive them all."""
    log = tmp_path_factory.mktemp("serve") / "log"
    running = start(package.folder, log, "--max-body-mb", 2, "--max-queue", 32)
    yield running
    status, _, _ = running.ask("/v2/health/ready")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0
    assert status == 200
    told = running.lines()
    assert {line["level"] for line in told} <= {"info", "warning"}
    assert told[0]["event"] == "serving"
    assert [line["event"] for line in told[-2:]] == ["stopping", "stopped"]


@pytest.fixture(scope="module")
def expected(package) -> list[list[dict[str, Any]]]:
    """What predict says."""
    artifact = load_artifact(package.folder / package.pick().pixels.model)
    return [p.as_document()["predictions"] for p in predict(artifact, SAMPLES)]  # type: ignore[misc]


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [f["class"] for f in found] == [w["class"] for w in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-6)


def test_one_image_is_classified_as_predict_does(server, expected):
    for sample, wanted in zip(SAMPLES, expected, strict=True):
        status, answer, _ = server.ask("/classify", sample.read())
        assert status == 200
        assert_same(answer["predictions"], wanted)
    status, answer, _ = server.ask("/classify?top=2", SAMPLES[0].read())
    assert_same(answer["predictions"], expected[0][:2])


def test_a_form_is_answered_image_by_image(server, expected):
    files = [(f"{index}.png", sample.read()) for index, sample in enumerate(SAMPLES)]
    files.insert(2, ("notes.txt", b"buy milk"))
    status, answers, _ = server.ask("/classify", form(files), Content_Type=FORM)
    assert status == 200
    assert [answer["image"] for answer in answers] == [name for name, _ in files]
    assert "notes.txt is not an image" in answers.pop(2)["error"]
    for answer, wanted in zip(answers, expected, strict=True):
        assert_same(answer["predictions"], wanted)


def test_a_form_without_any_image_says_why_of_each(server):
    files = [("a.txt", b"buy milk"), ("b.png", b"")]
    status, answers, _ = server.ask("/classify", form(files), Content_Type=FORM)
    assert status == 400
    assert [a["image"] for a in answers] == ["a.txt", "b.png"]
    assert "a.txt is not an image" in answers[0]["error"]
    assert "b.png is empty" in answers[1]["error"]
    status, answer, _ = server.ask("/classify", form(files), Content_Type="multipart/form-data")
    assert (status, "has no boundary" in answer["error"]) == (400, True)


def squares(package) -> np.ndarray:
    spec = load_artifact(package.folder / "fp32" / "pixels.onnx").facts.input
    return np.stack([square_of_bytes(decode(s.read(), s.key), spec) for s in SAMPLES])


def test_tritons_client_works_unchanged(server, package, expected):
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("classifier")
    assert client.is_model_ready("classifier", "1")
    assert not client.is_model_ready("another")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    described = client.get_model_metadata("classifier")
    assert described["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3]}
    ]
    pixels = squares(package)
    found = []
    for binary in (True, False):
        given = triton.InferInput("pixels", pixels.shape, "UINT8")
        given.set_data_from_numpy(pixels, binary_data=binary)
        wanted = [
            triton.InferRequestedOutput(name, binary_data=binary)
            for name in ("probabilities", "top_classes")
        ]
        answer = client.infer("classifier", [given], outputs=wanted, request_id="abc")
        assert answer.get_response()["id"] == "abc"
        found.append(answer.as_numpy("probabilities"))
        assert found[-1].dtype == np.float32
        assert answer.as_numpy("top_classes").shape == (len(SAMPLES), 3)
    np.testing.assert_array_equal(*found)
    for row, answers in zip(found[0], expected, strict=True):
        assert row[int(answers[0]["class"])] == pytest.approx(answers[0]["probability"], abs=1e-6)
    named = triton.InferRequestedOutput("probabilities", class_count=2)
    best = client.infer("classifier", [given], outputs=[named]).as_numpy("probabilities")
    assert best.shape == (len(SAMPLES), 2)
    probability, index, label = best[0][0].decode().split(":")
    assert (index, label) == (expected[0][0]["class"], expected[0][0]["name"])
    assert float(probability) == pytest.approx(expected[0][0]["probability"], abs=1e-5)
    with pytest.raises(triton.InferenceServerException, match="no such model"):
        client.infer("another", [given])
    client.close()


def test_tensors_may_be_bytes_behind_the_json(server, package, expected):
    pixels = squares(package)
    document = {
        "inputs": [
            {
                "name": "pixels",
                "shape": pixels.shape,
                "datatype": "UINT8",
                "parameters": {"binary_data_size": pixels.size},
            }
        ],
        "outputs": [
            {"name": "top_classes", "parameters": {"binary_data": True}},
            {"name": "probabilities", "parameters": {"binary_data": True, "classification": 1}},
            {"name": "top_probabilities"},
        ],
    }
    head = json.dumps(document).encode()
    length = {"Inference_Header_Content_Length": str(len(head))}
    status, content, headers = server.ask(INFER, head + pixels.tobytes(), **length)
    assert status == 200
    end = int(headers["inference-header-content-length"])
    classes, named, shares = json.loads(content[:end])["outputs"]
    raw, count = content[end:], len(SAMPLES)
    assert classes["parameters"]["binary_data_size"] == count * 3 * 8
    found = np.frombuffer(raw, "<i8", count * 3).reshape(count, 3)
    assert named["parameters"]["binary_data_size"] == len(raw) - count * 3 * 8
    first = struct.unpack_from("<I", raw, count * 3 * 8)[0]
    label = raw[count * 3 * 8 + 4 :][:first].decode().split(":")
    assert label[1:] == [str(found[0, 0]), expected[0][0]["name"]]
    for row, best, wanted in zip(shares["data"][::3], found, expected, strict=True):
        assert (str(best[0]), row) == (wanted[0]["class"], pytest.approx(wanted[0]["probability"]))


def png_of(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    content = file.getvalue()
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def request(**changes: Any) -> bytes:
    """A JSON request of one black image, with changes to its input or the whole."""
    pixels = {
        "name": "pixels",
        "shape": [1, SIDE, SIDE, 3],
        "datatype": "UINT8",
        "data": [0] * (SIDE * SIDE * 3),
    }
    whole = {"inputs": [pixels]} | {k: v for k, v in changes.items() if k in ("outputs", "id")}
    pixels |= {k: v for k, v in changes.items() if k not in whole}
    return json.dumps(whole).encode()


HEAD = {"Inference_Header_Content_Length": "9"}
BAD: dict[str, tuple[str, bytes | None, dict[str, str], int, str]] = {
    "not an image": ("/classify", b"buy milk", {}, 400, "not an image"),
    "truncated": ("/classify", SAMPLES[0].read()[:-40], {}, 400, "cannot be decoded"),
    "huge image": ("/classify", png_of(20_000, 20_000), {}, 413, "400,000,000 pixels"),
    "no bytes": ("/classify", b"", {}, 400, "the body is empty. Send the bytes of an image"),
    "form of nothing": ("/classify", form([]), {"Content_Type": FORM}, 400, "no file"),
    "half a form": (
        *("/classify", form([("a", b"x" * 99)])[:-30]),
        *({"Content_Type": FORM}, 400, "cut off"),
    ),
    "no boundary": (
        *("/classify", form([("a", b"x")]), {"Content_Type": "multipart/form-data"}),
        *(400, "boundary"),
    ),
    "many files": ("/classify", form([("a", b"")] * 33), {"Content_Type": FORM}, 400, "32 files"),
    "top 0": ("/classify?top=0", b"x", {}, 400, "top"),
    "top of all": ("/classify?top=11", b"x", {}, 400, "?top=10"),
    "top of text": ("/classify?top=²", b"x", {}, 400, "top"),
    "large body": ("/classify", b"x" * (2 << 20 | 1), {}, 413, "2 MiB"),
    "compressed": ("/classify", b"x", {"Content_Encoding": "gzip"}, 415, "compressed"),
    "method": ("/classify", None, {}, 405, "POST"),
    "path": ("/nothing", None, {}, 404, "/classify"),
    "trailing slash": ("/classify/", b"x", {}, 404, "Ask for /classify, "),
    "base64": ("/classify", b"data:image/png;base64,iVBORw0KGgo", {}, 400, "in base64. Decode it"),
    "model": ("/v2/models/another/infer", b"{}", {}, 404, "'classifier'"),
    "version": ("/v2/models/classifier/versions/2/infer", b"{}", {}, 404, "version 1"),
    "metadata of another": ("/v2/models/another", None, {}, 404, "'classifier'"),
    "no JSON": (INFER, b"{", {}, 400, "not JSON"),
    "not UTF-8": (INFER, b"\xff\xfe\xff", {}, 400, "not JSON"),
    "deep JSON": (INFER, b"[" * 100_000, {}, 400, "nested too deeply"),
    "a list": (INFER, b"[]", {}, 400, "not a JSON object"),
    "no inputs": (INFER, b"{}", {}, 400, "'inputs' is not a list"),
    "id": (INFER, request(id=7), {}, 400, "id"),
    "name": (INFER, request(name="image"), {}, 400, "one input, 'pixels'"),
    "datatype": (INFER, request(datatype="FP32"), {}, 400, "Send UINT8"),
    "shape": (INFER, request(shape=[1, 3, SIDE, SIDE]), {}, 400, "Send [1, 32, 32, 3]"),
    "no images": (INFER, request(shape=[0, SIDE, SIDE, 3]), {}, 400, "shape"),
    "many images": (INFER, request(shape=[33, SIDE, SIDE, 3]), {}, 400, "up to 32"),
    "true as a size": (INFER, request(shape=[True, SIDE, SIDE, 3]), {}, 400, "shape"),
    "few values": (INFER, request(data=[1, 2]), {}, 400, "3072 integers"),
    "ragged": (INFER, request(data=[[1], [1, 2]]), {}, 400, "3072 integers"),
    "nested": (INFER, request(data=[[0] * 1536] * 2), {}, 400, "nested otherwise"),
    "negative": (INFER, request(data=[-1] + [0] * 3071), {}, 400, "0 to 255"),
    "floats": (INFER, request(data=[0.5] * 3072), {}, 400, "integers"),
    "large values": (INFER, request(data=[10**30] * 3072), {}, 400, "integers"),
    "no data": (INFER, request(data=None), {}, 400, "integers"),
    "output": (INFER, request(outputs=[{"name": "x"}]), {}, 400, "Ask for probabilities"),
    "output twice": (INFER, request(outputs=[{"name": "probabilities"}] * 2), {}, 400, "twice"),
    "classes": (
        *(
            INFER,
            request(outputs=[{"name": "probabilities", "parameters": {"classification": -1}}]),
        ),
        *({}, 400, "classification"),
    ),
    "header": (INFER, b"{}", HEAD, 400, "within the body"),
    "binary": (INFER, request(parameters={"binary_data_size": 9}), {}, 400, "needs 3072"),
    "parameters": (INFER, request(parameters=[]), {}, 400, "'parameters'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_a_sentence(server, name):
    path, body, headers, status, words = BAD[name]
    found, answer, _ = server.ask(path.replace("²", "%C2%B2"), body, **headers)
    assert (found, words in answer["error"]) == (status, True), answer
    assert answer["error"].endswith(".")


def test_a_gigabyte_is_refused_before_it_is_sent(server):
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + b"x")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + chunk + chunk + b"1\r\nx\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_not_waited_for():
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    from mobilenet_cli.pipeline.deploying.serving.bodies import Bodies

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(9)
        raise AssertionError

    async def scenario() -> None:
        bodies = Bodies(10, seconds=0.01)
        async with bodies.read(Request({"type": "http", "headers": []}, receive)):
            raise AssertionError

    with pytest.raises(HTTPException) as error:
        asyncio.run(scenario())
    assert (error.value.status_code, error.value.headers) == (408, {"Connection": "close"})


def test_bodies_take_no_more_memory_than_all_may():
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    from mobilenet_cli.pipeline.deploying.serving.bodies import TOGETHER, Bodies

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 10, "more_body": False}

    async def hold(bodies: Bodies, times: int) -> None:
        if times:
            async with bodies.read(Request({"type": "http", "headers": []}, receive)) as body:
                assert body == b"x" * 10
                await hold(bodies, times - 1)

    bodies = Bodies(10)
    asyncio.run(hold(bodies, TOGETHER))
    with pytest.raises(HTTPException) as error:
        asyncio.run(hold(bodies, TOGETHER + 1))
    assert error.value.status_code == 429
    assert bodies.free == 10 * TOGETHER


@pytest.mark.parametrize(
    ("raw", "begin"),
    [
        (b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", b""),
        (b"POST /classify HTTP/1.1\r\nHost", b""),
        (b"\x16\x03\x01 not HTTP\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 100_000, b""),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /v2 HTTP/1.0\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", b"HTTP/"),
    ],
)
def test_half_a_request_and_other_bytes(server, raw, begin):
    assert server.send(raw).startswith(begin)
    assert server.ask("/v2/health/live")[0] == 200


def test_what_is_no_request_is_answered_in_json(server):
    answer = server.send(b"GET /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    assert b"connection: close" in head.lower()
    assert "is not valid HTTP" in json.loads(body)["error"]


def test_one_connection_too_many_is_told_so_in_json(monkeypatch):
    import uvicorn
    from uvicorn.server import ServerState

    from mobilenet_cli.pipeline.deploying.serving import serve

    monkeypatch.setattr(serve, "CONNECTIONS", 1)
    config = uvicorn.Config(lambda *_: None, http=serve._Protocol, **serve.UVICORN)
    config.load()
    transport = Mock(is_closing=lambda: False)

    async def scenario() -> None:
        protocol = serve._Protocol(config, ServerState(), {})
        protocol.connection_made(transport)
        protocol.data_received(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.gather(*protocol.tasks)
        protocol.timeout_keep_alive_task.cancel()

    asyncio.run(scenario())
    head, _, body = b"".join(c.args[0] for c in transport.write.mock_calls).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429")
    assert "too many connections" in json.loads(body)["error"]


def test_metrics_are_prometheus_text(server):
    from prometheus_client.parser import text_string_to_metric_families

    server.ask("/classify", SAMPLES[0].read())
    status, text, headers = server.ask("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    families = {f.name: f for f in text_string_to_metric_families(text.decode())}
    counted = {
        (s.labels["path"], s.labels["status"]): s.value
        for s in families["mobilenet_requests"].samples
        if s.name.endswith("_total")
    }
    assert counted["/classify", "200"] >= 1
    assert families["mobilenet_queue_images"].samples[0].value == 0
    assert families["mobilenet_model_info"].samples[0].labels["target"]


@pytest.fixture(scope="module")
def api(package) -> Iterator[Any]:
    """The routes in this process."""
    from mobilenet_cli.pipeline.deploying.serving.app import Api
    from mobilenet_cli.pipeline.deploying.serving.config import ServeConfig
    from mobilenet_cli.pipeline.deploying.serving.metrics import Metrics
    from mobilenet_cli.pipeline.deploying.serving.served import open_served

    made = Api(
        open_served(package), ServeConfig(max_queue=2), Metrics(name="x"), ready=lambda: True
    )
    yield made
    made.close()


def call(
    api: Any, path: str, token: str | None = None, **headers: str
) -> tuple[int, dict[str, str]]:
    """Ask the application, as a server would; return the status and the headers."""
    from mobilenet_cli.pipeline.deploying.serving.app import make_app
    from mobilenet_cli.pipeline.deploying.serving.watch import Watch

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": SAMPLES[0].read(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST" if path == "/classify" else "GET",
        "path": path,
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    watched = Watch(make_app(api), api.metrics, token, stopping=lambda: False)
    asyncio.run(watched(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


def test_a_full_server_says_when_to_come_back(api):
    with api.batcher.admit(2):
        status, headers = call(api, "/classify")
        assert status == 429
        assert int(headers["retry-after"]) >= 1
    assert call(api, "/classify")[0] == 200


def test_each_thread_keeps_to_a_cpu_where_all_are_the_servers(api, monkeypatch):
    from mobilenet_cli.pipeline.deploying.serving.app import Api

    monkeypatch.setattr("mobilenet_cli.pipeline.runtime.machine.cpu_quota", lambda: None)
    both = threading.Barrier(usable_cpus())

    def kept() -> set[int]:
        both.wait(10)
        return os.sched_getaffinity(0)

    def all_kept() -> list[set[int]]:
        made = Api(api.served, api.config, api.metrics.__class__(name="x"), ready=lambda: True)
        found = [made.pool.submit(kept) for _ in range(usable_cpus())]
        made.close()
        return sorted((task.result() for task in found), key=min)

    every = os.sched_getaffinity(0)
    assert all_kept() == [{cpu} for cpu in sorted(every)]
    module = "mobilenet_cli.pipeline.deploying.serving.app.own_cpus"
    monkeypatch.setattr(module, lambda _: ())
    assert all_kept() == [every] * len(every)
    monkeypatch.setattr(module, lambda _: (10**6,) * len(every))  # went away
    assert all_kept() == [every] * len(every)


def test_a_token_is_asked_for(api):
    token = "0123456789abcdef"
    assert call(api, "/classify", token, Authorization=f"Bearer {token}")[0] == 200
    status, headers = call(api, "/classify", token, Authorization="Bearer 0123456789abcdeF")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert call(api, "/metrics", token)[0] == 401
    assert call(api, "/v2/health/ready", token)[0] == 200


def test_an_answer_does_not_wait_until_its_head_is_acknowledged():
    """Accepted connections send at once: else each answer comes 40 ms late on Linux."""
    from mobilenet_cli.pipeline.deploying.serving.config import ServeConfig
    from mobilenet_cli.pipeline.deploying.serving.serve import _listen

    with (
        _listen(ServeConfig(port=0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_sigterm_loses_no_request(package, tmp_path):
    server = start(package.folder, tmp_path / "log")
    images, answered, lost = [s.read() for s in SAMPLES], [], []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.connect()
        while connection.sock is not None:  # the server says when the connection ends
            try:
                connection.request("POST", "/classify", images[len(answered) % len(images)])
                answer = connection.getresponse()
                answer.read()
                answered.append(answer.status)
            except OSError as error:
                lost.append(error)
                break

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    while len(answered) < 40:
        threading.Event().wait(0.01)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    for thread in clients:
        thread.join()
    assert not lost
    assert set(answered) == {200}
    told = server.lines()
    assert sum(line["event"] == "request" for line in told) == len(answered)
    assert [line["signal"] for line in told if line["event"] == "stopping"] == ["SIGTERM"]
    assert told[-1] | {"time": ""} == {
        "time": "", "level": "info", "event": "stopped", "requests": len(answered)
    }  # fmt: skip


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    return result.exit_code, " ".join(result.stderr.split())


def test_what_cannot_be_served_is_refused_in_a_sentence(package, tmp_path, monkeypatch):
    folder, short = package.folder, tmp_path / "token"
    short.write_text("secret\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, words in (
            ((tmp_path,), "is not a package"),
            ((folder / "fp32" / "pixels.onnx",), "is not a package"),
            ((folder, "--port", port), f"port {port} cannot be listened on"),
            ((folder, "--port", 70_000), "no TCP port 70000"),
            ((folder, "--max-batch", 0), "--max-batch 0 serves nobody"),
            ((folder, "--max-wait-ms", -1), "cannot wait -1 ms"),
            ((folder, "--token-file", short), "openssl rand"),
            ((folder, "--token-file", tmp_path / "none"), "none does not exist"),
            ((folder, "--token-file", tmp_path), "is no file but a pipe, a folder or a device"),
        ):
            status, told = run(*arguments)
            assert (status, words in told) == (2, True), told
    manifest = json.loads((folder / "manifest.json").read_text())
    for changes, words in (
        ({"schema_version": 9}, "is of version 9"),
        ({"files": {"labels.txt": "0" * 64}}, "is not the file that was proven"),
        (
            {"variants": [v | {"machines": ["another"]} for v in manifest["variants"]]},
            "this CPU cannot run",
        ),
    ):
        monkeypatch.setattr(
            "mobilenet_cli.pipeline.deploying.package.json.loads",
            lambda _, changed=manifest | changes: changed,
        )
        status, told = run(folder)
        assert (status, words in told) == (2, True), told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PATHS = st.sampled_from(["/classify", INFER, "/v2/models/classifier", "/v2", "/metrics", "/%00"])
HEADERS = st.dictionaries(
    st.sampled_from(["Content_Type", "Inference_Header_Content_Length", "Expect", "Range"]),
    st.sampled_from([FORM, "application/json", "100", "0", "-1", "100-continue", 'a;b="c', "é"]),
    max_size=2,
)
VALID = [request(), form([("a.png", SAMPLES[0].read())]), SAMPLES[0].read()]
EDITED = st.builds(
    lambda body, at, part, cut: body[:at] + part + body[at + cut :],
    *(st.sampled_from(VALID), st.integers(0, 400), st.binary(max_size=8), st.integers(0, 4000)),
)
CHANGED = st.builds(
    lambda key, value: request(**{key: value}),
    st.sampled_from(["name", "shape", "datatype", "data", "parameters", "outputs", "id"]),
    JSON,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    path=PATHS, body=EDITED | CHANGED | JSON.map(lambda v: json.dumps(v).encode()), headers=HEADERS
)
@example(path=INFER, body=b'{"inputs": [], "outputs": 7}', headers={})
def test_whatever_is_sent_the_server_goes_on(server, path, body, headers):
    status, answer, _ = server.ask(path, body, "POST", **headers)
    assert status < 500
    if status != 200:
        assert re.search(r"\w.*\.$", answer["error"], re.DOTALL)


def test_a_provider_that_is_not_here_is_a_sentence(package):
    arguments = ["serve", str(package.folder), "--port", "0", "--provider"]
    for provider, words in (
        ("CUDAExecutionProvider", "CUDAExecutionProvider"),
        ("cuda", "Perhaps CUDAExecutionProvider is meant"),
    ):
        result = CliRunner().invoke(app, [*arguments, provider])
        assert result.exit_code == 2
        assert words in result.stderr


def test_a_bug_is_answered_as_json(api, monkeypatch):
    def broken(*_):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(type(api.served), "describe", broken)
    status, headers = call(api, "/classify")
    assert (status, headers["content-type"]) == (500, "application/json")


def test_names_of_schemes_and_codings_are_of_any_case(api):
    token = "0123456789abcdef"
    assert call(api, "/classify", token, Authorization=f"bearer {token}")[0] == 200
    assert call(api, "/classify", token, Authorization=f"Basic {token}")[0] == 401
    assert call(api, "/classify", **{"Content-Encoding": "Identity"})[0] == 200
    assert call(api, "/classify", **{"Content-Encoding": "gzip"})[0] == 415


def test_a_model_of_two_classes_names_both_unless_fewer_are_asked_for(api, monkeypatch):
    monkeypatch.setattr(api, "labels", ["cat", "dog"])
    assert (api._top(None), api._top("1"), api._top("2")) == (2, 1, 2)
    with pytest.raises(DataError, match=r"Pass \?top=1 to \?top=2"):
        api._top("3")
