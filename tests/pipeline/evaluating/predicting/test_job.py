"""A job of very many images ends in the same rows, whatever happens to it on the way."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mobilenet_cli.cli import app
from mobilenet_cli.data.dataset import Sample
from mobilenet_cli.data.readers import remote
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.errors import DataError, ModelError, OptionError, StorageError
from mobilenet_cli.pipeline.evaluating.predicting.answering import PredictConfig
from mobilenet_cli.pipeline.evaluating.predicting.job import predict_into
from mobilenet_cli.pipeline.evaluating.predicting.predict_boxes import predict_boxes

CONFIG = PredictConfig(files=3)


@pytest.fixture(scope="module")
def model(tiny):
    return load_artifact(tiny / "fp32.onnx")


@pytest.fixture(scope="module")
def images(tmp_path_factory, encoded):
    """Eight images, in two folders, one of which is no image."""
    root = tmp_path_factory.mktemp("images")
    for number in range(8):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(seed=number) if number != 3 else b"no image")
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def rows(folder: Path) -> list[dict]:
    return pq.read_table(folder).to_pylist()


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.glob("*.parquet")}


def test_every_image_has_a_row(model, images, tmp_path):
    record = predict_into(tmp_path / "out", model, [str(images)], CONFIG)
    found = rows(tmp_path / "out")
    assert [row["key"] for row in found] == [f"a/{n}.png" for n in (0, 2, 4, 6)] + [
        f"b/{n}.png" for n in (1, 3, 5, 7)
    ]
    assert (record.parts, record.rows, record.errors, record.images) == (3, 8, 1, 8)
    for row in found:
        content = (images / row["key"]).read_bytes()
        assert row["source"] == str(images)
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        if row["key"] == "b/3.png":
            assert row["classes"] is None
            assert "is not an image" in row["error"]
        else:
            assert len(row["classes"]) == 5
            assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
            assert row["error"] is None


def test_rows_are_those_of_predict_for_single_images(model, images, tmp_path):
    out = tmp_path / "out"
    arguments = ["predict", str(model.path), str(images)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out), "--json"])
    assert done.exit_code == 2  # one is no image
    assert json.loads(done.stdout)["rows"] == 8
    lines = CliRunner().invoke(app, [*arguments, "--jsonl"]).stdout.splitlines()
    for row, line in zip(rows(out), lines, strict=True):
        single = json.loads(line)
        assert single["image"] == f"{row['source']}/{row['key']}"
        guesses = single.get("predictions", [])
        assert (row["classes"] or []) == [guess["class"] for guess in guesses]
        assert (row["probabilities"] or []) == pytest.approx([g["probability"] for g in guesses])


def test_a_second_start_does_what_is_missing(model, images, tmp_path):
    out = tmp_path / "out"
    predict_into(out, model, [str(images)], CONFIG)
    before = hashes(out)
    assert predict_into(out, model, [str(images)], CONFIG).images == 0
    (out / "part-000001.parquet").unlink()
    (out / ".part-000001.parquet.0123.tmp").write_bytes(b"of a start that was killed")
    record = predict_into(out, model, [str(images)], CONFIG)
    assert (record.images, record.rows, record.errors) == (3, 8, 1)
    assert hashes(out) == before
    assert len(list(out.iterdir())) == 4


def test_another_job_is_refused_with_the_difference(model, images, tmp_path):
    out, source = tmp_path / "out", [str(images)]
    predict_into(out, model, source, CONFIG)
    with pytest.raises(OptionError, match="--top was 5, and is 3 now"):
        predict_into(out, model, source, replace(CONFIG, top=3))
    with pytest.raises(OptionError, match="what is written was classes, and is logits now"):
        predict_into(out, model, source, replace(CONFIG, output="logits"))
    with pytest.raises(OptionError, match=f"model had the SHA-256 {model.sha256[:12]}"):
        predict_into(out, replace(model, sha256="0"), source, CONFIG)
    with pytest.raises(OptionError) as refused:
        predict_into(out, model, [f"{images}/a", f"{images}/b"], CONFIG)
    assert refused.value.what == (
        f"{out} holds another job: it also had 1 source: {images}; it did not have 2 sources: "
        f"{images}/a, {images}/b"
    )
    both = [f"{images}/a", f"{images}/b"]
    predict_into(tmp_path / "both", model, both, CONFIG)
    with pytest.raises(OptionError, match="in another order, or not as often"):
        predict_into(tmp_path / "both", model, both[::-1], CONFIG)
    (images / "new.png").touch()
    with pytest.raises(OptionError, match=r"job: since then a file in its sources has come, gone"):
        predict_into(out, model, source, CONFIG)
    (images / "new.png").unlink()
    (out / "_job.json").write_text("{}")
    with pytest.raises(StorageError, match="is no record of a job"):
        predict_into(out, model, source, CONFIG)
    (out / "_job.json").unlink()
    with pytest.raises(StorageError, match=r"has parts but no _job\.json"):
        predict_into(out, model, source, CONFIG)


def test_logits_and_embeddings(model, images, tmp_path):
    for output, size in (("logits", 10), ("embedding", 256)):
        predict_into(tmp_path / output, model, [f"{images}/a"], replace(CONFIG, output=output))
        found = rows(tmp_path / output)
        assert [len(row[output]) for row in found] == [size] * 4
    graph = onnx.load(model.path).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    features = np.array(pq.read_table(tmp_path / "embedding")["embedding"].to_pylist())
    logits = pq.read_table(tmp_path / "logits")["logits"].to_pylist()
    again = features @ weights["classifier.weight"].T + weights["classifier.bias"]
    assert again == pytest.approx(np.array(logits), abs=1e-4)


def test_a_folder_among_its_own_sources_and_standard_input_are_refused(model, images, tmp_path):
    for out in (images, images / "answers"):
        with pytest.raises(OptionError, match="would become a part of it"):
            predict_into(out, model, [str(images)], CONFIG)
    assert sorted(path.name for path in images.iterdir()) == ["a", "b"]
    with pytest.raises(OptionError, match="standard input cannot be read again"):
        predict_into(tmp_path / "out", model, ["-"], CONFIG)


def test_boxes_of_a_detector(detector, encoded, tmp_path):
    """They are those of predict for single images, and go on like other jobs."""
    members = {f"{n}.png": encoded(n, (120, 40 + 20 * n)) for n in range(4)}
    tars = [tar(tmp_path / "a.tar", members | {"broken.png": b"no image"})]
    tars.append(tar(tmp_path / "b.tar", {"0.png": encoded(7, (64, 200))}))
    out = tmp_path / "out"
    config = PredictConfig(min_score=0.05)
    predict_into(out, detector.int8, [str(path) for path in tars], config)
    found = rows(out)
    names = [f"a.tar/{name}" for name in (*members, "broken.png")]
    assert [row["key"] for row in found] == [*names, "b.tar/0.png"]
    assert "broken.png is not an image" in found.pop(4)["error"]
    samples = [
        Sample(f"{n}", None, partial(bytes, file))
        for n, file in enumerate([*members.values(), encoded(7, (64, 200))])
    ]
    for row, wanted in zip(found, predict_boxes(detector.int8, samples, 0.05), strict=True):
        assert len(wanted.boxes) > 0
        assert row["classes"] == [box.identifier for box in wanted.boxes]
        np.testing.assert_allclose(row["probabilities"], [b.probability for b in wanted.boxes])
        np.testing.assert_allclose(row["boxes"], [box.corners for box in wanted.boxes])
        assert row["error"] is None
    before = hashes(out)
    (out / "part-000001.parquet").unlink()
    predict_into(out, detector.int8, [str(path) for path in tars], config)
    assert hashes(out) == before
    with pytest.raises(OptionError, match=r"--min-score was 0\.05, and is 0\.5 now"):
        predict_into(out, detector.int8, [str(path) for path in tars], PredictConfig())


def test_shards_patterns_and_lists(model, encoded, tmp_path):
    pictures = [encoded(seed=n) for n in range(4)]
    tar(tmp_path / "s-0.tar", {"0.png": pictures[0], "0.cls": b"4", "more/1.png": pictures[1]})
    table = pa.table({"image": [pictures[2], None], "label": [1, 2]})
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "one.png").write_bytes(pictures[3])
    (tmp_path / "list.txt").write_text(
        f"{tmp_path}/one.png\n\n{tmp_path}/s-{{0..0}}.tar\nlost.png\n"
    )
    sources = [f"{tmp_path}/*.parquet", f"@{tmp_path}/list.txt"]
    record = predict_into(tmp_path / "out", model, sources, CONFIG)
    found = rows(tmp_path / "out")
    assert [(row["key"], row["error"] is None) for row in found] == [
        ("t.parquet:0:0", True),
        ("t.parquet:0:1", False),
        ("one.png", True),
        ("s-0.tar/0.png", True),
        ("s-0.tar/more/1.png", True),
        ("lost.png", False),
    ]
    assert "has no image bytes" in found[1]["error"]
    assert "lost.png does not exist" in found[5]["error"]
    wanted = [hashlib.sha256(p).hexdigest() for p in (pictures[2], pictures[3], *pictures[:2])]
    assert [row["sha256"] for row in found if row["error"] is None] == wanted
    assert record.parts == 4


def test_a_list_is_read_as_editors_write_it(model, encoded, tmp_path):
    for name in ("0.png", " 1.png"):
        (tmp_path / name).write_bytes(encoded())
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    content = f"\ufeff{tmp_path}/0.png \r\n   \r\n{tmp_path}/ 1.png\r\n"
    listed.write_bytes(content.encode())
    predict_into(out, model, [f"@{listed}"], CONFIG)
    assert [row["key"] for row in rows(out)] == ["0.png", " 1.png"]
    for content, words in (
        (b"", "names nothing"),
        (b"\n \n", "names nothing"),
        ("x.png".encode("utf-16"), "is no text in UTF-8: line 1"),
    ):
        listed.write_bytes(content)
        with pytest.raises(DataError, match=words):
            predict_into(tmp_path / "other", model, [f"@{listed}"], CONFIG)


def test_places_that_are_no_folders_and_parts_that_are_broken(model, images, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for place in ("file", "link"):
        with pytest.raises(StorageError, match=f"{place} is no folder"):
            predict_into(tmp_path / place, model, [str(images)], CONFIG)
    with pytest.raises(StorageError, match=r"since .*file.* is no folder"):
        predict_into(tmp_path / "file" / "out", model, [str(images)], CONFIG)
    predict_into(tmp_path / "out", model, [str(images)], CONFIG)
    (tmp_path / "out" / "part-000001.parquet").write_bytes(b"broken")
    with pytest.raises(ModelError, match=r"part-000001.* Delete it, and start again"):
        predict_into(tmp_path / "out", model, [str(images)], CONFIG)
    (tmp_path / "out" / "part-000001.parquet").unlink()
    assert predict_into(tmp_path / "out", model, [str(images)], CONFIG).rows == 8


def test_a_folder_is_predicted_whole(model, encoded, tmp_path):
    """Shards of two formats, and the images that lie beside them."""
    tar(tmp_path / "a.tar", {"0.png": encoded()})
    pq.write_table(pa.table({"image": [encoded()]}), tmp_path / "b.parquet")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.png").write_bytes(encoded())
    predict_into(tmp_path.with_name("out-whole"), model, [str(tmp_path)], CONFIG)
    found = [row["key"] for row in rows(tmp_path.with_name("out-whole"))]
    assert found == ["a.tar/0.png", "b.parquet:0:0", "more/c.png"]


def test_damaged_and_empty_sources(model, encoded, tmp_path):
    shard = tar(tmp_path / "cut.tar", {f"{n}.png": encoded(seed=n) for n in range(3)})
    content = shard.read_bytes()
    shard.write_bytes(content[: content.rindex(b"IDAT")])
    odd = tmp_path / "odd.tar"
    with tarfile.open(odd, "w") as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "x"
            archive.addfile(info)
        for name in ("._x.png", "x.png"):
            info = tarfile.TarInfo(name)
            info.size = len(encoded())
            archive.addfile(info, io.BytesIO(encoded()))
    (tmp_path / "void").mkdir()
    sources = [str(shard), str(tmp_path / "void"), str(odd)]
    record = predict_into(tmp_path / "out", model, sources, CONFIG)
    found = [(row["key"], row["error"]) for row in rows(tmp_path / "out")]
    assert [key for key, _ in found] == [
        "cut.tar/0.png",
        None,  # what the archive lost is known before its last image
        "cut.tar/1.png",
        None,
        "odd.tar/x.png",
    ]
    assert "is cut off within 2.png" in found[1][1]
    assert "contains no images" in found[3][1]
    assert (record.rows, record.errors) == (5, 2)
    with pytest.raises(DataError, match="void contains no images"):
        predict_into(tmp_path / "other", model, [str(tmp_path / "void")], CONFIG)
    assert not (tmp_path / "other").exists()
    with pytest.raises(DataError, match="nothing matches"):
        predict_into(tmp_path / "other", model, [f"{tmp_path}/no-*.tar"], CONFIG)
    (tmp_path / "photos.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"photos\.tar\.gz is packed.* Unpack it"):
        predict_into(tmp_path / "other", model, [str(tmp_path / "photos.tar.gz")], CONFIG)


def test_a_source_that_is_not_there_begins_no_job(model, encoded, tmp_path):
    """It is a mistake, and a job that has begun without it could not go on with it."""
    shard = tar(tmp_path / "a.tar", {"0.png": encoded()})
    listed = tmp_path / "list.txt"
    listed.write_text(f"{shard}\n{tmp_path}/lost.tar\n")
    for source in (f"{tmp_path}/lost.tar", f"{tmp_path}/lost", f"@{listed}"):
        with pytest.raises(DataError, match=r"lost(\.tar)? does not exist"):
            predict_into(tmp_path / "out", model, [str(shard), source], CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_named_twice_begins_no_job(model, images, encoded, tmp_path):
    shard = str(tar(tmp_path / "a.tar", {"0.png": encoded()}))
    for sources in ([str(images), f"{images}/a/.."], [shard, str(tmp_path)]):
        with pytest.raises(DataError, match=r"are the same|named twice"):
            predict_into(tmp_path.with_name("out-twice"), model, sources, CONFIG)


def test_a_full_disk_keeps_what_is_finished(model, images, tmp_path, monkeypatch):
    out, write = tmp_path / "out", os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # of _job.json, and of the first part, there was room
            raise OSError(28, "No space left on device")
        write(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*No space left on device"):
        predict_into(out, model, [str(images)], CONFIG)
    assert sorted(path.name for path in out.iterdir()) == ["_job.json", "part-000000.parquet"]
    assert predict_into(out, model, [str(images)], CONFIG).rows == 8


def test_options_that_contradict_each_other(model, images, tmp_path):
    for given, said in (
        (["--logits"], "for files of predictions"),
        (["--logits", "--embeddings", "--out", str(tmp_path / "x")], "either embeddings or logits"),
        (["--logits", "--top", "3", "--out", str(tmp_path / "x")], "Leave --top out"),
        (["--jsonl", "--out", str(tmp_path / "x")], "Pass either --out or --jsonl"),
        (["--jsonl", "--json"], "--json prints one document, and --jsonl one on each line"),
        (["--ray", "auto"], "Pass --out with a folder, or leave --ray out"),
    ):
        done = CliRunner().invoke(app, ["predict", str(model.path), str(images), *given])
        assert done.exit_code == 2
        assert said in done.stderr


def test_a_killed_job_goes_on(model, encoded, tmp_path):
    for number in range(60):
        (tmp_path / f"{number:02}.png").write_bytes(encoded(seed=number))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = replace(CONFIG, files=2)
    predict_into(whole, model, [f"{tmp_path}/*.png"], config)
    script = (
        "import sys; from pathlib import Path\n"
        "from mobilenet_cli.pipeline.artifacts.artifact import load_artifact\n"
        "from mobilenet_cli.pipeline.evaluating.predicting import answering, job\n"
        "out, model, source = sys.argv[1:]\n"
        "job.predict_into(Path(out), load_artifact(Path(model)), [source], "
        "answering.PredictConfig(files=2))"
    )
    arguments = [str(killed), str(model.path), f"{tmp_path}/*.png"]
    child = subprocess.Popen([sys.executable, "-c", script, *arguments])
    while not list(killed.glob("part-*.parquet")) and child.poll() is None:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(list(killed.glob("part-*.parquet"))) < 30
    predict_into(killed, model, [f"{tmp_path}/*.png"], config)
    assert hashes(killed) == hashes(whole)


class Answers(http.server.BaseHTTPRequestHandler):
    """A server whose files are whole, missing, broken, slow, or shorter than it says."""

    whole = b""

    def do_GET(self):
        name = self.path.removeprefix("/").removesuffix(".tar")
        if name in ("404", "500"):
            self.send_error(int(name))
            return
        if name == "slow":
            time.sleep(0.6)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.whole)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the reader has given up
            self.wfile.write(self.whole[:-600] if name == "short" else self.whole)

    def log_message(self, *_):
        pass


def test_what_an_address_does_not_give_is_said_and_tried_again(
    model, encoded, tmp_path, monkeypatch
):
    monkeypatch.setenv("MOBILENET_CLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    Answers.whole = tar(tmp_path / "x.tar", {"0.png": encoded(), "1.png": encoded()}).read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        source = f"http://127.0.0.1:{server.server_port}/{{a,404,500,slow,short,b}}.tar"
        record = predict_into(tmp_path / "out", model, [source], CONFIG)
        monkeypatch.setattr(remote, "TIMEOUT", 20)
        again = predict_into(tmp_path / "out", model, [source], CONFIG)
        server.shutdown()
        thread.join()
    assert (record.parts, record.rows, record.errors) == (2, 4, 4)
    said = ("404 Not Found", "500 Internal", "timed out", "it ended after")
    assert all(text in what for text, what in zip(said, record.failed, strict=True))
    assert (again.parts, again.images, len(again.failed)) == (3, 2, 3)
    assert {row["key"] for row in rows(tmp_path / "out")} >= {"a.tar/0.png", "b.tar/1.png"}
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".tar"] == []
