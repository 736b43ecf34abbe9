"""ONNX files are read whole, never reach outside their folder, or are refused by a sentence."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.errors import ModelError


@pytest.fixture
def external(chain, tmp_path):
    """The folded model with its weights in a second file."""
    path = tmp_path / "model" / "big.onnx"
    path.parent.mkdir()
    onnx.save_model(
        onnx.load(chain.folded.path),
        path,
        save_as_external_data=True,
        location="big.data",
        size_threshold=0,
    )
    return path


def relocate(path, location):
    """Let every tensor of the model say that its data is at ``location``."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(location)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("content", [b"\xff" * 40, b"\x89PNG\r\n\x1a\n", b"hello world\n" * 9])
def test_not_onnx(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.onnx is (not )?an? "):
        load_onnx(path)


def test_empty(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is empty"):
        load_onnx(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_truncated(chain, tmp_path, share):
    content = chain.folded.path.read_bytes()
    path = tmp_path / "x.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"x\.onnx is not a"):
        load_onnx(path)


def test_missing(tmp_path):
    with pytest.raises(ModelError, match="is not readable"):
        load_onnx(tmp_path / "x.onnx")


def test_external_data_is_read(external, chain):
    whole = onnx.load(chain.folded.path)
    loaded = load_onnx(external)
    for a, b in zip(whole.graph.initializer, loaded.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def test_external_data_missing(external):
    (external.parent / "big.data").unlink()
    with pytest.raises(ModelError, match=r"keeps weights in big\.data, which is missing"):
        load_onnx(external)


@pytest.mark.parametrize("where", ["../big.data", "absolute", "symlink"])
def test_external_data_outside_its_folder(external, where):
    outside = external.parent.parent / "big.data"
    (external.parent / "big.data").rename(outside)
    if where == "symlink":
        (external.parent / "big.data").symlink_to(outside)
    else:
        relocate(external, outside if where == "absolute" else where)
    with pytest.raises(ModelError, match=r"keeps weights outside its folder"):
        load_onnx(external)


def test_external_data_too_short(external):
    data = external.parent / "big.data"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"external data of .*big\.onnx cannot be read"):
        load_onnx(external)


def test_facts_replace_earlier_ones_and_keep_foreign_entries(chain):
    model = onnx.load(chain.folded.path)
    onnx.helper.set_model_props(model, {METADATA_KEY: "old", "author": "somebody"})
    facts = Facts(stage="test", input=InputSpec(), classes=("a",))
    made = onnx.load_from_string(with_facts(model, facts))
    props = {p.key: p.value for p in made.metadata_props}
    assert props == {"author": "somebody", METADATA_KEY: facts.model_dump_json()}
    assert {p.key: p.value for p in model.metadata_props}[METADATA_KEY] == "old"  # a copy was made
