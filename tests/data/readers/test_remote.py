"""Shards at an address: fetched once, gone on with where a transfer broke, or refused."""

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mobilenet_cli.data.open_dataset import held_out, open_dataset
from mobilenet_cli.data.readers import remote
from mobilenet_cli.data.readers.remote import expand, local_copy
from mobilenet_cli.pipeline.errors import DataError


@dataclass
class Server:
    """Files by path, what was asked for, and how many transfers to break in the middle."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    breaks: int = 0
    busy: int = 0
    shift: int = 0
    says_length: bool = True
    kind: str = "application/x-tar"


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    state = Server()
    monkeypatch.setenv("MOBILENET_CLI_CACHE", str(tmp_path / "cache"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            tag = f'"{hash(content)}"'
            start = 0
            if wanted and self.headers.get("If-Range") == tag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if state.busy:
                state.busy -= 1
                self.send_response(429)
                self.send_header("Retry-After", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                span = f"bytes {start + state.shift}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
            if state.says_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", state.kind)
            self.send_header("ETag", tag)
            self.end_headers()
            body = content[start:]
            if state.breaks:
                state.breaks -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    state.address = f"http://127.0.0.1:{listening.server_port}"
    yield state
    listening.shutdown()
    thread.join()
    listening.server_close()


def tar(images: list[bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, image in enumerate(images):
            for name, content in ((f"{number}.png", image), (f"{number}.cls", b"%d" % number)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_shards_are_fetched_once_and_read_like_files(server, encoded):
    images = [encoded(seed=i) for i in range(3)]
    server.files = {"/a-00.tar": tar(images), "/a-01.tar": tar(images[:2])}
    source = f"{server.address}/a-{{00..01}}.tar"
    dataset = open_dataset(source, "all")
    assert [s.read() for s in dataset.samples] == images + images[:2]
    assert dataset.classes == ("0", "1", "2")
    assert dataset.name == f"{source} (all)"
    assert len(open_dataset(source, "all").samples) == 5
    assert sorted(server.asked) == [("/a-00.tar", None), ("/a-01.tar", None)]


def test_some_files_of_a_set_may_be_named(server, encoded):
    server.files = {f"/a-0000{n}-of-00064.tar": tar([encoded()] * 2) for n in range(2)}
    dataset = open_dataset(f"{server.address}/a-0000{{0..1}}-of-00064.tar", "all")
    assert (len(dataset.samples), dataset.lost) == (4, ())


def test_fetching_says_how_far_it_is(server, encoded):
    server.files = {f"/a-{i}.tar": tar([encoded(seed=i)] * 200) for i in range(2)}
    source, seen = f"{server.address}/a-{{0..1}}.tar", []
    local_copy(source, lambda *report: seen.append(report))
    assert {total for _, total, _ in seen} == {2}
    assert {done for done, _, _ in seen} <= {0, 1}
    megabytes = sum(map(len, server.files.values())) / 1e6
    assert seen[-1][2] == f"{megabytes:,.0f} MB" != "0 MB"
    seen.clear()
    local_copy(source, lambda *report: seen.append(report))
    assert not seen  # all is there


def test_names_are_splits_at_an_address_too(server, encoded):
    server.files = {
        "/d/train.tar": tar([encoded(seed=i) for i in range(3)]),
        "/d/val.tar": tar([encoded()]),
    }
    source = f"{server.address}/d/{{train,val}}.tar"
    assert len(open_dataset(source, "train").samples) == 3
    assert len(held_out(source, None).samples) == 1


def test_broken_transfer_goes_on_where_it_stopped(server, encoded):
    content = tar([encoded()])
    server.files, server.breaks = {"/x.tar": content}, 2
    folder = local_copy(f"{server.address}/x.tar")
    assert (folder / "x.tar").read_bytes() == content
    half = len(content) // 2
    quarters = half + (len(content) - half) // 2
    assert server.asked == [
        ("/x.tar", None),
        ("/x.tar", f"bytes={half}-"),
        ("/x.tar", f"bytes={quarters}-"),
    ]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "x.tar"]


def test_interrupted_download_is_kept_for_the_next_attempt(server, encoded, monkeypatch):
    content = tar([encoded()])
    server.files, server.breaks = {"/x.tar": content}, 1
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with pytest.raises(DataError, match=r"x\.tar cannot be fetched \(it ended after .* bytes\)"):
        local_copy(f"{server.address}/x.tar")
    folder = local_copy(f"{server.address}/x.tar")
    assert (folder / "x.tar").read_bytes() == content
    assert server.asked[1] == ("/x.tar", f"bytes={len(content) // 2}-")


def test_file_that_changed_meanwhile_is_fetched_anew(server, encoded, monkeypatch):
    server.files, server.breaks = {"/x.tar": tar([encoded()])}, 1
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with pytest.raises(DataError):
        local_copy(f"{server.address}/x.tar")
    server.files["/x.tar"] = tar([encoded(seed=1)])
    folder = local_copy(f"{server.address}/x.tar")
    assert (folder / "x.tar").read_bytes() == server.files["/x.tar"]


def test_file_that_is_not_there(server):
    with pytest.raises(DataError, match=r"no\.tar cannot be fetched \(404 Not Found\)"):
        open_dataset(f"{server.address}/no.tar", "all")
    assert len(server.asked) == 1


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENET_CLI_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/x.tar cannot be fetched .*refused"):
        open_dataset("http://127.0.0.1:9/x.tar", "all")


def test_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MOBILENET_CLI_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set MOBILENET_CLI_CACHE"):
        local_copy(f"{server.address}/x.tar")


def test_braces():
    assert list(expand("a-{008..010}.{x,y}")) == [
        f"a-{number}.{end}" for number in ("008", "009", "010") for end in "xy"
    ]
    assert list(expand("plain.tar")) == ["plain.tar"]
    with pytest.raises(DataError, match=r"\{z\} in a\{z\} is neither a range nor a list"):
        list(expand("a{z}"))


def test_files_of_one_name_are_not_one_file(server, encoded):
    for place, folder in enumerate(("a", "b")):
        server.files[f"/{folder}/000000.tar"] = tar(
            [encoded(seed=10 * place + i) for i in range(3)]
        )
    dataset = open_dataset(f"{server.address}/{{a,b}}/000000.tar", "all")
    assert len(dataset.samples) == 6
    assert len({sample.read() for sample in dataset.samples}) == 6


def test_folders_that_are_splits_stay_splits(server):
    addresses = [f"{server.address}/{split}/0000.parquet" for split in ("train", "validation")]
    assert sorted(remote.file_names(addresses).values()) == [
        "train-0000.parquet",
        "validation-0000.parquet",
    ]
    same = [f"{server.address}/x.tar?part={part}" for part in (1, 2)]
    assert len(set(remote.file_names(same).values())) == 2


def test_a_busy_server_is_waited_for(server, encoded):
    server.files["/x.tar"] = tar([encoded()])
    server.busy = 2
    assert len(open_dataset(f"{server.address}/x.tar", "all").samples) == 1


@pytest.mark.parametrize(
    ("state", "problem"),
    [({"kind": "text/html"}, "a page of HTML"), ({"says_length": False}, "it ended after")],
)
def test_what_cannot_be_trusted_is_not_kept(server, encoded, tmp_path, state, problem):
    server.files["/x.tar"] = tar([encoded()])
    for name, value in state.items():
        setattr(server, name, value)
    with pytest.raises(DataError, match=problem):
        open_dataset(f"{server.address}/x.tar", "all")
    assert list((tmp_path / "cache").rglob("x.tar")) == []


def test_another_range_than_was_asked_for_is_not_appended(server, encoded):
    server.files["/x.tar"] = tar([encoded()])
    server.breaks, server.shift = 1, 7
    assert len(open_dataset(f"{server.address}/x.tar", "all").samples) == 1


@pytest.mark.parametrize(
    "braces", ["{0..999999999}", "{00000..99999}-{0..9}", "{0..99999999999999999999}"]
)
def test_endless_lists_of_addresses_are_refused(braces):
    with pytest.raises(DataError, match=r"stands for more than|neither a range nor a list"):
        list(expand(f"https://example.org/{braces}.tar"))
