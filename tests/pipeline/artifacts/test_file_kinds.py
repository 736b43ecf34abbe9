"""Files that are no models are recognised by what is in them, and sent where they belong."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.file_kinds import kind_of
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.evaluating.predicting.predict import tell_model
from mobilenet_cli.pipeline.importing.import_model import import_model
from mobilenet_cli.pipeline.importing.import_weights import ImportConfig


def zipped(member: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, "content")
    return file.getvalue()


def archived() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("0001.jpg"))
    return file.getvalue()


# What is in a file, and what the sentence about it says.
FILES = {
    "empty.onnx": (b"", "is empty"),
    "text.onnx": (b"not a model\n", "a text file"),
    "page.onnx": (b"<!DOCTYPE html><html></html>", "a web page"),
    "pointer.onnx": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "settings.json": (b'{"a": 1}\n', "a JSON document"),
    "list.json": (b"[1, 2]\n", "a JSON document"),
    "graph.pbtxt": (b'# a graph\nnode {\n  name: "x"\n}\n', "a protocol buffer written as text"),
    "model.textproto": (b"ir_version: 8\ngraph {\n}\n", "an ONNX model written as text"),
    "model.pbtxt": (b"ir_version: 8\ngraph {\n}\n", "an ONNX model written as text"),
    "weights.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "mobilenet-cli import weights.h5"),
    "weights.pth": (zipped("archive/data.pkl"), "mobilenet-cli import weights.pth"),
    "old.pth": (b"\x80\x02}q\x00.", "mobilenet-cli import old.pth"),
    "frozen.pb": (b"\n\x07\n\x01x\x12\x02Op", "mobilenet-cli import frozen.pb"),
    "weights.bin": (b"\x10\0\0\0\0\0\0\0" + b'{"x":{}}' + bytes(8), "a safetensors file"),
    "model.keras": (zipped("model.weights.h5"), "import its model.weights.h5"),
    "other.zip": (zipped("photo.jpg"), "a zip archive"),
    "cut.zip": (zipped("photo.jpg")[:-9], "cut off"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
    "shard.tar": (archived(), "a tar archive"),
    "weights.tar.gz": (b"\x1f\x8b\x08" + bytes(20), "gunzip"),
    "rows.parquet": (b"PAR1" + bytes(20), "Pass it as --data"),
    "array.npy": (b"\x93NUMPY" + bytes(20), "a NumPy array"),
    "paper.pdf": (b"%PDF-1.7\n", "a PDF document"),
    "photo.jpg": (b"\xff\xd8\xff\xe0" + bytes(20), "mobilenet-cli predict photo.jpg"),
    "photo.onnx": (b"\x89PNG\r\n\x1a\n" + bytes(20), "mobilenet-cli predict photo.onnx"),
    "photo.safetensors": (b"\x89PNG\r\n\x1a\n" + bytes(20), "mobilenet-cli predict"),
    "noise.onnx": (b"\xfe\x01\x02" * 9, "not a readable ONNX file"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_sent_where_it_belongs(name: str):
    content, expected = FILES[name]
    Path(name).write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_artifact(Path(name))
    assert name in str(error.value)
    assert expected in str(error.value)


def test_an_onnx_file_is_read_whatever_its_name_ends_in(chain):
    Path("model.json").write_bytes(chain.int8.path.read_bytes())
    assert kind_of(Path("model.json")) is None
    assert load_artifact(Path("model.json")).facts.stage == "quantize"


def test_the_record_beside_a_model_is_not_the_model(chain):
    Path("int8.onnx").write_bytes(chain.int8.path.read_bytes())
    Path("int8.onnx.json").write_text("{}")
    with pytest.raises(ModelError, match=r"Name int8\.onnx itself"):
        load_artifact(Path("int8.onnx.json"))


def test_a_text_of_a_model_names_the_line_that_converts_it(chain):
    onnx.save(onnx.load(chain.folded.path), "model.textproto")
    with pytest.raises(ModelError) as error:
        load_artifact(Path("model.textproto"))
    line = error.value.fix.removeprefix("Convert it with ")
    exec(line, {"onnx": onnx})
    assert load_artifact(Path("model.onnx")).facts.stage == "simplify"


@pytest.mark.parametrize("name", ["weights.h5", "weights.pth", "model.tflite", "model.textproto"])
def test_weights_of_other_programs_are_no_images(name: str, encoded: Callable[..., bytes]):
    Path("photo.png").write_bytes(encoded())
    Path(name).write_bytes(FILES[name][0])
    with pytest.raises(OptionError, match=f"{name} is .*, not an image"):
        tell_model([name, "photo.png"])


@pytest.mark.parametrize("name", ["photo.jpg", "model.tflite", "paper.pdf", "settings.json"])
def test_import_says_what_a_file_is(name: str):
    Path(name).write_bytes(FILES[name][0])
    with pytest.raises(ModelError, match=f"{name} is a"):
        import_model(name, ImportConfig(), None, None)


def test_a_checkpoint_of_this_tool_needs_no_import_nor_does_its_run(chain):
    for source in (chain.checkpoint.path, chain.checkpoint.path.parent):
        with pytest.raises(OptionError, match=r"needs no import.* export --checkpoint"):
            import_model(str(source), ImportConfig(), None, None)


def test_a_folder_is_no_file_and_the_files_in_it_are_named(chain):
    with pytest.raises(ModelError, match="is a folder, not a model file"):
        load_artifact(Path())
    with pytest.raises(ModelError, match=r"is a folder.* such as .*model"):
        load_artifact(chain.checkpoint.path.parent)
    Path("config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is a folder.*mobilenet-cli import"):
        load_artifact(Path())


def test_a_path_with_a_slip_gets_the_file_that_is_near():
    Path("folded.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"does not exist. Perhaps folded\.onnx is meant"):
        load_artifact(Path("floded.onnx"))
    with pytest.raises(ModelError, match="Check the path"):
        load_artifact(Path("something/else.onnx"))


def test_a_pipe_in_place_of_a_model_exists():
    os.mkfifo("model.onnx")
    with pytest.raises(ModelError, match=r"model\.onnx is no file but a pipe or a device"):
        load_artifact(Path("model.onnx"))
