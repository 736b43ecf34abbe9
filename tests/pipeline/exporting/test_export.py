"""The exported graph is clean, equal to torch, and holds every weight."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY
from mobilenet_cli.pipeline.artifacts.sidecar import sidecar_path
from mobilenet_cli.pipeline.errors import CheckError, ModelError, OptionError, StorageError
from mobilenet_cli.pipeline.exporting import export as stage
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session


def rewrite(checkpoint, path, change, facts=None):
    """A checkpoint whose tensors were changed by somebody."""
    tensors = load_file(checkpoint.path)
    change(tensors)
    save_file(tensors, path, {METADATA_KEY: (facts or checkpoint.facts).model_dump_json()})
    return load_artifact(path)


def test_all_batch_norms_and_nothing_but_operators(chain):
    graph = onnx.load(chain.fp32.path).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["BatchNormalization"] == 27
    assert operators["Conv"] == 27
    assert operators["Clip"] == 27
    assert operators["Gemm"] == 1
    assert operators.keys() <= {
        "Pad", "Conv", "BatchNormalization", "Clip", "AveragePool", "Reshape", "Gemm",
    }  # fmt: skip
    assert chain.fp32.record.operators == dict(operators)
    assert chain.fp32.record.batch_norms == 27


def test_interface(chain):
    model = onnx.load(chain.fp32.path)
    (images,), (logits,) = model.graph.input, model.graph.output
    shapes = [
        [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in (images, logits)
    ]
    assert (images.name, logits.name) == ("input", "logits")
    assert isinstance(shapes[0][0], str)  # the batch
    assert shapes[0][1:] == [3, 32, 32]
    assert shapes[1][1:] == [10]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert chain.fp32.record.opset == 18


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
@pytest.mark.parametrize("optimization", ["all", "disabled"])
def test_equal_to_torch(chain, batch, optimization):
    session = open_session(chain.fp32.path, SessionConfig(optimization=optimization))
    images = np.random.default_rng(batch).uniform(-1, 1, (batch, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = load_network(chain.checkpoint)(torch.from_numpy(images)).numpy()
    assert np.ptp(expected) > 1
    assert np.abs(session.run(None, {"input": images})[0] - expected).max() < 1e-4
    assert chain.fp32.record.batches_checked == (1, 2, 7)
    assert 0 <= chain.fp32.record.max_abs_error < 1e-4


def test_single_file(chain):
    model = onnx.load(chain.fp32.path, load_external_data=False)
    assert all(not t.external_data for t in model.graph.initializer)


def test_nothing_of_this_machine_is_inside(chain):
    content = chain.fp32.path.read_bytes()
    places = {
        str(Path(stage.__file__).resolve().parents[2]),
        str(Path(torch.__file__).parents[1]),
        str(Path.home()),
        "/tmp",
    }
    assert [p for p in places if len(p) > 2 and p.encode() in content] == []
    assert b".py" not in content


def test_same_bytes_twice(chain, tmp_path):
    again = export(chain.checkpoint, ExportConfig(), tmp_path / "again.onnx")
    assert again.path.read_bytes() == chain.fp32.path.read_bytes()


@pytest.mark.parametrize(
    ("padding", "resolution"), [("symmetric", 32), ("same", 45), ("symmetric", 45)]
)
def test_paddings_and_odd_resolutions(make_checkpoint, tmp_path, padding, resolution):
    checkpoint = make_checkpoint(tmp_path / "m.safetensors", resolution, padding)
    made = export(checkpoint, ExportConfig(), tmp_path / "m.onnx")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, resolution, resolution))
    images = images.astype(np.float32)
    with torch.inference_mode():
        expected = load_network(checkpoint)(torch.from_numpy(images)).numpy()
    assert np.abs(open_session(made.path).run(None, {"input": images})[0] - expected).max() < 1e-4
    pads = sum(node.op_type == "Pad" for node in onnx.load(made.path).graph.node)
    if padding == "symmetric":
        assert pads == 0  # a convolution's own padding will do
    else:
        assert (made.facts.model, made.facts.input) == (
            checkpoint.facts.model,
            checkpoint.facts.input,
        )


def test_missing_tensor(chain, tmp_path):
    damaged = rewrite(
        chain.checkpoint, tmp_path / "x.safetensors", lambda t: t.pop("layers.3.bn.bias")
    )
    with pytest.raises(ModelError, match=r"lacks the tensor 'layers\.3\.bn\.bias'"):
        export(damaged, ExportConfig(), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_tensor_too_many(chain, tmp_path):
    odd = rewrite(
        chain.checkpoint,
        tmp_path / "x.safetensors",
        lambda t: t.update({"stowaway": np.zeros(1, np.float32)}),
    )
    with pytest.raises(ModelError, match="unknown tensor 'stowaway'"):
        export(odd, ExportConfig(), tmp_path / "x.onnx")


def test_another_width(chain, tmp_path):
    wider = chain.checkpoint.facts.model_copy(update={"model": ModelSpec(width=0.5, classes=10)})
    other = rewrite(chain.checkpoint, tmp_path / "x.safetensors", lambda _: None, wider)
    with pytest.raises(ModelError, match=r"width 0\.5 needs"):
        export(other, ExportConfig(), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"width": 100.0}, "width 100 needs"),
        ({"classes": 2_000_000}, r"\(2000000, 256\)"),
        (
            {"architecture": "mobilenet_v9"},
            r"architecture 'mobilenet_v9', which .*x\.safetensors names, is not known",
        ),
    ],
)
def test_no_network_is_built_for_facts_that_do_not_fit(
    chain, tmp_path, monkeypatch, claim, message
):
    def build(_):
        raise AssertionError("this may take more memory than there is")

    monkeypatch.setitem(MODELS, "mobilenet_v1", replace(MODELS["mobilenet_v1"], build=build))
    facts = chain.checkpoint.facts
    spec = replace(facts.model, **claim)
    lying = facts.model_copy(update={"model": spec})
    file = rewrite(chain.checkpoint, tmp_path / "x.safetensors", lambda _: None, lying)
    with pytest.raises(ModelError, match=message):
        load_network(file)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number(chain, tmp_path, value):
    def spoil(tensors):
        tensors["classifier.weight"][3, 5] = value

    spoilt = rewrite(chain.checkpoint, tmp_path / "x.safetensors", spoil)
    with pytest.raises(ModelError, match=r"NaN or infinity in 'classifier\.weight'"):
        export(spoilt, ExportConfig(), tmp_path / "x.onnx")


def test_onnx_in_the_place_of_a_checkpoint(chain, tmp_path):
    with pytest.raises(ModelError, match="is not a checkpoint"):
        export(chain.fp32, ExportConfig(), tmp_path / "x.onnx")


def test_truncated_checkpoint(chain, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(chain.checkpoint.path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_artifact(path)


def tampered(monkeypatch, change):
    """Let the conversion return a graph that ``change`` was applied to."""
    convert = stage._convert

    def perturbed(*arguments):
        model = convert(*arguments)
        change(model)
        return model

    monkeypatch.setattr(stage, "_convert", perturbed)


def set_tensor(model, name, edit):
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    edit(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def test_changed_weight_is_refused(chain, tmp_path, monkeypatch):
    """By one unit in the last place: no comparison of logits would notice."""

    def nudge(values):
        values[0, 0, 0, 0] = np.nextafter(values[0, 0, 0, 0], np.float32(9))

    tampered(monkeypatch, lambda m: set_tensor(m, "layers.4.conv.weight", nudge))
    with pytest.raises(
        CheckError, match=r"does not hold the checkpoint's 'layers\.4\.conv\.weight'"
    ):
        export(chain.checkpoint, ExportConfig(), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_changed_function_is_refused(chain, tmp_path, monkeypatch):
    """Every tensor is right, and an attribute is not."""

    def other_epsilon(model):
        norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
        next(a for a in norm.attribute if a.name == "epsilon").f = 0.1

    tampered(monkeypatch, other_epsilon)
    with pytest.raises(
        CheckError, match=r"at batch 1 the exported model's logits are up to \S+ away"
    ):
        export(chain.checkpoint, ExportConfig(), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_unclean_graph_is_refused(chain, tmp_path, monkeypatch):
    def detour(model):
        model.graph.node[-1].output[0] = "before"
        model.graph.node.append(onnx.helper.make_node("Identity", ["before"], ["logits"]))

    tampered(monkeypatch, detour)
    with pytest.raises(CheckError, match="graph contains Identity"):
        export(chain.checkpoint, ExportConfig(), tmp_path / "x.onnx")


@pytest.mark.parametrize("opset", [-1, 0, 13, 10**20])
def test_an_opset_that_cannot_be_written_is_refused(chain, tmp_path, opset, capfd):
    """torch leaves the graph in its own operator set, and says so in its log alone."""
    with pytest.raises(OptionError, match=f"operator set {opset}"):
        export(chain.checkpoint, ExportConfig(opset=opset), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_a_folder_is_not_written_over(chain, tmp_path):
    for out in (tmp_path, Path("/"), Path()):
        with pytest.raises(StorageError, match="is a folder"):
            export(chain.checkpoint, ExportConfig(), out)


def test_another_opset(chain, tmp_path):
    made = export(chain.checkpoint, ExportConfig(opset=20), tmp_path / "x.onnx")
    assert onnx.load(made.path).opset_import[0].version == 20
    assert made.record.opset == 20


def test_somebody_elses_file_is_not_overwritten(chain, tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_text("mine")
    with pytest.raises(StorageError, match="was not made by this tool"):
        export(chain.checkpoint, ExportConfig(), path)
    assert path.read_text() == "mine"
    assert not sidecar_path(path).exists()
