"""ONNX files are read whole, never reach outside their folder, or are refused by a sentence."""

import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx, with_facts
from mobilenet_cli.pipeline.errors import CheckError, ModelError
from mobilenet_cli.pipeline.exporting.convert import ConvertConfig, convert_fp16
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session


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
    with pytest.raises(ModelError, match=r"x.onnx does not exist"):
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


def test_what_does_not_pass_the_full_check_is_not_written(chain):
    model = onnx.load(chain.folded.path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11
    with pytest.raises(CheckError, match="that test has made does not pass onnx's check"):
        with_facts(model, Facts(stage="test", input=InputSpec(), classes=("a",)))


@pytest.mark.parametrize("part", ["fp32", "folded", "int8", "fp16"])
def test_what_stages_write_runs_in_another_runtime(chain, tmp_path, part):
    """The other one is onnx's own, whose integer operators are those of operator set 19."""
    if part == "fp16":
        path = convert_fp16(chain.folded, ConvertConfig(images=2), tmp_path / "fp16.onnx").path
    else:
        path = getattr(chain, part).path
    model = load_onnx(path)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    expected = open_session(path, SessionConfig(integer_kernels=False)).run(None, {"input": image})
    if part == "int8":
        model = onnx.version_converter.convert_version(model, 19)
    found = ReferenceEvaluator(model).run(None, {"input": image})
    scale = np.abs(expected[0]).max()
    assert np.abs(found[0] - expected[0]).max() < scale * {"int8": 0.05, "fp16": 0.02}.get(
        part, 1e-5
    )
