"""Artifacts are written whole or not at all, and know where they came from."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts import artifact as artifact_module
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact, load_with_record, save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts, versions
from mobilenet_cli.pipeline.artifacts.files import sha256_file, write_atomically
from mobilenet_cli.pipeline.artifacts.sidecar import is_current, refuse_overwrite, sidecar_path
from mobilenet_cli.pipeline.errors import ModelError, StorageError
from mobilenet_cli.reports.records.base import Record
from mobilenet_cli.reports.records.conversion import ExportRecord
from mobilenet_cli.reports.records.quantization import QuantizeRecord

FACTS = Facts(
    stage="export",
    parent="ab" * 32,
    config={"opset": 18, "data": None},
    versions={"onnx": "1.20"},
    model=ModelSpec(width=0.25, classes=2, padding="same"),
    input=InputSpec(resolution=64, resize=80, mean=(0.1, 0.2, 0.3), channels="BGR"),
    classes=("cat", "dog"),
    names=("Katze", "Hund"),
    data="digits",
)
RECORD = ExportRecord(
    opset=18, operators={"Conv": 27}, batch_norms=27, max_abs_error=0.0, batches_checked=(1, 2, 7)
)


def save(path: Path, content: bytes = b"model") -> None:
    save_artifact(path, content, FACTS, RECORD)


def current(path: Path, **changed: object) -> bool:
    return is_current(
        path, **{"stage": "export", "parent": "ab" * 32, "config": FACTS.config} | changed
    )


def test_write_creates_folders_replaces_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        write_atomically(path, b"new")
    assert str(path) in caught.value.what
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_beyond_what_is_allowed(tmp_path):
    script = (
        "import resource, signal; from pathlib import Path\n"
        "from mobilenet_cli.pipeline.artifacts.artifact import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        f"write_atomically(Path({str(tmp_path / 'file')!r}), b'x' * 100)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "StorageError" in done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert not (tmp_path / "file").exists()


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("")
    for place in ("runs/file", "runs/a/b/file"):
        with pytest.raises(StorageError, match=r"cannot write .*file, since .*runs is no folder"):
            write_atomically(tmp_path / place, b"x")


def test_devices_and_pipes_are_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"x")
    assert os.read(reader, 9) == b"x"
    os.close(reader)
    assert pipe.is_fifo()
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write_atomically(link, b"x")
    assert (link.is_symlink(), Path(os.devnull).is_char_device()) == (True, True)
    assert sorted(tmp_path.iterdir()) == [link, pipe]


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_descriptor_is_written_to(tmp_path, kind):
    """A link in /dev would be replaced for every program."""
    code = (
        "from pathlib import Path\n"
        "from mobilenet_cli.pipeline.artifacts.files import write_atomically\n"
        "write_atomically(Path('/dev/stdout'), b'x')\n"
    )
    command = [sys.executable, "-c", code]
    if kind == "pipe":
        assert subprocess.run(command, capture_output=True, check=True).stdout == b"x"
    else:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
        assert (tmp_path / "out").read_bytes() == b"x"
    assert Path("/dev/stdout").is_symlink()


def test_a_folder_where_the_file_should_be(tmp_path):
    for place in (tmp_path, Path("/"), Path()):
        with pytest.raises(StorageError, match="is a folder"):
            write_atomically(place, b"x")


def test_what_a_dead_writer_left_goes_and_what_a_living_one_has_stays(tmp_path):
    """A writer is told from a dead one by its lock: process numbers repeat in containers."""
    path = tmp_path / "fp32.onnx"
    abandoned, living, other = (
        tmp_path / name for name in (".fp32.onnx.1.tmp", ".fp32.onnx.2.tmp", ".folded.onnx.1.tmp")
    )
    for file in (abandoned, living, other):
        file.write_bytes(b"half")
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_atomically(path, b"x")
    assert set(tmp_path.iterdir()) == {path, living, other}


def test_two_writers_of_one_process_number(tmp_path):
    """As in two containers that share a folder, in both of which the program is process 1."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from mobilenet_cli.pipeline.artifacts.artifact import write_atomically\n"
        "os.getpid = lambda: 1\n"
        "for _ in range(60):\n"
        f"    write_atomically(Path({str(tmp_path / 'file')!r}), sys.argv[1].encode() * 100_000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "file").exists():
            content = (tmp_path / "file").read_bytes()
            assert content in (b"a" * 100_000, b"b" * 100_000)
            seen.add(content[:1])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = (
        "import os, signal; from pathlib import Path\n"
        "from mobilenet_cli.pipeline.artifacts.artifact import write_atomically\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_atomically(Path({str(path)!r}), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2  # the temporary file is there, and goes away with
    write_atomically(path, b"newer")
    assert list(tmp_path.iterdir()) == [path]


def test_sidecar_tells_hash_facts_and_record(tmp_path):
    path = tmp_path / "fp32.onnx"
    save(path)
    document = json.loads((tmp_path / "fp32.onnx.json").read_text())
    assert document["sha256"] == sha256_file(path)
    assert Facts.model_validate(document["facts"]) == FACTS
    assert ExportRecord.model_validate(document["record"]) == RECORD


@pytest.mark.parametrize("stage", ["checkpoint", "fp32", "folded", "int8"])
def test_artifact_survives_being_loaded(chain, stage):
    made = getattr(chain, stage)
    assert load_with_record(made.path, type(made.record)) == made
    assert load_artifact(made.path) == replace(made, record=None)


def test_facts_travel_inside_the_file(chain, tmp_path):
    alone = tmp_path / "lone.onnx"
    alone.write_bytes(chain.int8.path.read_bytes())
    loaded = load_artifact(alone)
    assert loaded.facts == chain.int8.facts
    with pytest.raises(ModelError, match="no record of what its stage measured"):
        load_with_record(alone, QuantizeRecord)  # which is in the sidecar only


def test_each_artifact_names_its_parent(chain):
    made = [chain.checkpoint, chain.fp32, chain.folded, chain.int8]
    assert [a.facts.parent for a in made] == [None, *(a.sha256 for a in made[:-1])]
    assert [a.facts.stage for a in made] == ["train", "export", "simplify", "quantize"]


def test_record_of_another_file_is_not_taken(chain, tmp_path):
    path = tmp_path / "fp32.onnx"
    path.write_bytes(chain.folded.path.read_bytes())
    sidecar_path(path).write_bytes(sidecar_path(chain.fp32.path).read_bytes())
    with pytest.raises(ModelError, match=r"fp32\.onnx has no record"):
        load_with_record(path, ExportRecord)


def test_record_of_another_kind_is_not_taken(chain):
    with pytest.raises(ModelError, match="Make it again with 'mobilenet-cli export'"):
        load_with_record(chain.fp32.path, QuantizeRecord)


def test_unknown_facts_survive_and_missing_ones_take_defaults():
    later = FACTS.model_dump(mode="json") | {"schema_version": 2, "colour": "blue"}
    del later["names"]
    facts = Facts.model_validate_json(json.dumps(later))
    assert facts.names == ()
    assert facts.model_dump()["colour"] == "blue"
    assert facts.input == FACTS.input
    assert facts.model == FACTS.model


def test_convention_is_left_out_where_it_is_what_files_before_had():
    assert "convention" not in json.loads(FACTS.model_dump_json())["input"]
    spec = replace(FACTS.input, convention="torchvision")
    facts = FACTS.model_copy(update={"input": spec})
    assert Facts.model_validate_json(facts.model_dump_json()).input == spec
    assert facts.model_dump()["input"]["mean"] == (0.1, 0.2, 0.3)


def test_is_current(tmp_path):
    path = tmp_path / "fp32.onnx"
    assert not current(path)
    save(path)
    assert current(path)
    assert not current(path, stage="simplify")
    assert not current(path, parent="cd" * 32)
    assert not current(path, config={"opset": 19, "data": None})


def test_is_current_compares_what_json_keeps(tmp_path):
    facts = FACTS.model_copy(update={"config": {"batches": [1, 2]}})
    save_artifact(tmp_path / "x", b"", facts, Record())
    assert current(tmp_path / "x", config={"batches": (1, 2)})


def test_is_current_after_a_kill_between_file_and_sidecar(tmp_path):
    path = tmp_path / "fp32.onnx"
    save(path, b"first")
    write_atomically(path, b"second")  # the sidecar of "first" is still there
    assert not current(path)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"facts": 3, "sha256": 1}', b"\xff"]
)
def test_damaged_sidecar_means_not_current(tmp_path, damage):
    path = tmp_path / "fp32.onnx"
    save(path)
    sidecar_path(path).write_bytes(damage)
    assert not current(path)


def test_sidecar_without_its_file(tmp_path):
    path = tmp_path / "fp32.onnx"
    save(path)
    path.unlink()
    assert not current(path)


def test_missing_model(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_artifact(tmp_path / "none.onnx")


def test_safetensors_that_is_not_one(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xfe\x01\x02" * 10)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_artifact(path)


def test_foreign_model_needs_preprocessing(tmp_path, chain):
    import onnx

    model = onnx.load(chain.folded.path)
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="does not say how its input is prepared"):
        load_artifact(path)
    spec = InputSpec(resolution=32, resize=32)
    loaded = load_artifact(path, spec)
    assert (loaded.facts.input, loaded.facts.stage) == (spec, "foreign")


def test_facts_that_cannot_be_read(tmp_path, chain):
    import onnx

    model = onnx.load(chain.folded.path)
    onnx.helper.set_model_props(model, {"mobilenet_cli": '{"stage": 3}'})
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"facts inside .* cannot be read"):
        load_artifact(path)


def test_input_may_not_be_overwritten(tmp_path):
    path = tmp_path / "a"
    save(path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(StorageError, match="is the input"):
        refuse_overwrite(tmp_path / "sub" / ".." / "a", [path])
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(StorageError, match="is the input"):
        refuse_overwrite(link, [path])


def test_only_what_this_tool_made_is_overwritten(tmp_path):
    path = tmp_path / "a"
    refuse_overwrite(path, [])
    path.write_text("mine")
    with pytest.raises(StorageError, match="was not made by this tool"):
        refuse_overwrite(path, [])
    save(path)
    refuse_overwrite(path, [tmp_path / "other"])
    sidecar_path(tmp_path / "b").write_text("mine")
    with pytest.raises(StorageError, match=r"b\.json, where the facts of b belong, was not made"):
        refuse_overwrite(tmp_path / "b", [])


def test_versions_leave_out_what_is_not_installed():
    found = versions("numpy", "no-such-distribution")
    assert found["numpy"][0].isdigit()
    assert "no-such-distribution" not in found


def test_a_model_that_cannot_be_written_leaves_both_files(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    facts = Facts(stage="export", input=InputSpec(resolution=32, resize=32), classes=())
    save_artifact(path, b"old", facts, Record())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    real = artifact_module.write_atomically

    def full(target, content):
        if content == b"new":
            raise StorageError("the disk is full", "Free some space")
        real(target, content)

    monkeypatch.setattr(artifact_module, "write_atomically", full)
    with pytest.raises(StorageError, match="the disk is full"):
        save_artifact(path, b"new", facts.model_copy(update={"data": "other"}), Record())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(StorageError):
        save_artifact(tmp_path / "first.onnx", b"new", facts, Record())
    assert not (tmp_path / "first.onnx.json").exists()
