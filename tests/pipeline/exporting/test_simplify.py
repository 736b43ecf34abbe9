"""All BatchNorms are folded as float64 arithmetic says, and a wrong folding is noticed."""

from collections import Counter

import numpy as np
import onnx
import onnxsim
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.errors import CheckError, DataError, ModelError, StorageError
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, check_folding, simplify
from mobilenet_cli.pipeline.runtime.session import open_session


def tensors_of(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.fixture
def onnxsim_returns(monkeypatch):
    """Let the simplifier's result be changed before the stage sees it."""
    real = onnxsim.simplify

    def install(change):
        def fake(model, **options):
            made, ok = real(model, **options)
            return change(made) or made, ok

        monkeypatch.setattr(onnxsim, "simplify", fake)

    return install


def edit_tensor(model, name, edit):
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    edit(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def test_27_to_0(chain):
    operators = [node.op_type for node in onnx.load(chain.folded.path).graph.node]
    assert operators.count("BatchNormalization") == 0
    assert operators.count("Conv") == 27
    assert "Pad" not in operators  # TensorFlow's padding is the convolutions' own now
    record = chain.folded.record
    assert (record.batch_norms_before, record.batch_norms_after) == (27, 0)
    assert record.nodes_after == len(operators)
    assert record.nodes_before == len(onnx.load(chain.fp32.path).graph.node)


def test_every_channel_against_the_checkpoint_in_float64(chain):
    """The folding is done here from the checkpoint itself, not from the exported graph."""
    weights = {k: v.astype(np.float64) for k, v in load_file(chain.checkpoint.path).items()}
    model = onnx.load(chain.folded.path)
    folded = tensors_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    epsilon = chain.checkpoint.facts.model.bn_epsilon
    checked = 0
    for index, node in enumerate(convolutions):
        layer = f"layers.{index}"
        gamma, beta, mean, variance = (
            weights[f"{layer}.bn.{n}"] for n in ("weight", "bias", "running_mean", "running_var")
        )
        for channel, kernel in enumerate(weights[f"{layer}.conv.weight"]):
            scale = gamma[channel] / np.sqrt(variance[channel] + epsilon)
            np.testing.assert_allclose(
                folded[node.input[1]][channel], kernel * scale, rtol=1e-6, atol=0
            )
            terms = abs(beta[channel]) + abs(mean[channel] * scale)
            bias = beta[channel] - mean[channel] * scale
            assert abs(folded[node.input[2]][channel] - bias) <= 1e-6 * terms
            checked += 1
    assert chain.folded.record.channels_checked == checked > 2000
    assert 0 <= chain.folded.record.max_weight_error <= 1e-6
    gemm = model.graph.node[-1]
    assert np.array_equal(
        folded[gemm.input[1]], load_file(chain.checkpoint.path)["classifier.weight"]
    )


def test_equal_on_real_images(chain):
    samples = open_dataset("digits", "val").samples[:20]
    images = next(batches(samples, chain.folded.facts.input, 20)).images
    before, after = (
        open_session(a.path).run(None, {"input": images})[0] for a in (chain.fp32, chain.folded)
    )
    assert np.ptp(before) > 1
    assert np.abs(before - after).max() < 1e-4
    assert chain.folded.record.images_from == "digits"
    assert chain.folded.record.images == 16
    assert chain.folded.record.max_abs_error < 1e-4


def test_same_bytes_twice(chain, tmp_path):
    again = simplify(chain.fp32, SimplifyConfig(), tmp_path / "again.onnx")
    assert again.path.read_bytes() == chain.folded.path.read_bytes()


@pytest.mark.parametrize(
    ("part", "cure"),
    [("folded", r"Go on with 'mobilenet-cli quantize .*'"), ("int8", "int8 model")],
)
def test_what_is_folded_already_is_led_on(chain, tmp_path, part: str, cure: str):
    with pytest.raises(ModelError, match=rf"no BatchNormalization to fold\. .*{cure}"):
        simplify(getattr(chain, part), SimplifyConfig(), tmp_path / "x.onnx")


def test_images_of_another_folder(chain, class_folders, tmp_path):
    folder = str(class_folders({"a": 3, "b": 2}))
    made = simplify(chain.fp32, SimplifyConfig(data=folder, images=4), tmp_path / "x.onnx")
    assert (made.record.images_from, made.record.images) == (folder, 4)


def test_missing_images(chain, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        simplify(chain.fp32, SimplifyConfig(data=str(tmp_path / "no")), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_already_simplified(chain, tmp_path):
    with pytest.raises(ModelError, match=r"no BatchNormalization to fold\. .* quantize"):
        simplify(chain.folded, SimplifyConfig(), tmp_path / "x.onnx")


def test_quantized_model(chain, tmp_path):
    with pytest.raises(ModelError, match="no BatchNormalization to fold"):
        simplify(chain.int8, SimplifyConfig(), tmp_path / "x.onnx")


def test_output_that_differs_is_refused_and_located(chain, tmp_path, onnxsim_returns):
    """A changed classifier escapes the check of folded kernels; the logits tell."""
    gemm = onnx.load(chain.folded.path).graph.node[-1]

    def perturb(values):
        values[4] += 0.5

    onnxsim_returns(lambda m: edit_tensor(m, gemm.input[2], perturb))
    with pytest.raises(
        CheckError, match=r"logits are up to 0\.5 away .* part at 'logits', which differs by 0\.5"
    ):
        simplify(chain.fp32, SimplifyConfig(), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_graphs_part_where_they_really_part(chain, tmp_path, onnxsim_returns):
    """A bound of 3 in the place of 6 behind the fifth convolution, found by that tensor's name."""
    clips = [n for n in onnx.load(chain.folded.path).graph.node if n.op_type == "Clip"]
    culprit = clips[4].output[0]

    def lower(model):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
        next(n for n in model.graph.node if n.output[0] == culprit).input[2] = "one"

    onnxsim_returns(lower)
    with pytest.raises(CheckError, match=f"part at '{culprit}'"):
        simplify(chain.fp32, SimplifyConfig(), tmp_path / "x.onnx")


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_wrong_channel_is_refused_and_named(chain, tmp_path, onnxsim_returns, what):
    conv = [n for n in onnx.load(chain.folded.path).graph.node if n.op_type == "Conv"][6]

    def perturb(values):
        values[4] *= np.float32(1.0001)

    onnxsim_returns(lambda m: edit_tensor(m, conv.input[1 if what == "weight" else 2], perturb))
    with pytest.raises(CheckError, match=r"channel 4 of '.*' was folded wrongly: off by \S+"):
        simplify(chain.fp32, SimplifyConfig(), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_nan_in_a_folded_kernel_is_refused(chain, tmp_path, onnxsim_returns):
    conv = next(n for n in onnx.load(chain.folded.path).graph.node if n.op_type == "Conv")

    def perturb(values):
        values[2] = np.nan

    onnxsim_returns(lambda m: edit_tensor(m, conv.input[1], perturb))
    with pytest.raises(CheckError, match="channel 2 of"):
        simplify(chain.fp32, SimplifyConfig(), tmp_path / "x.onnx")


def test_simplifier_that_folds_nothing(chain, tmp_path, onnxsim_returns):
    onnxsim_returns(lambda _: onnx.load(chain.fp32.path))
    with pytest.raises(CheckError, match="left 27 of 27 BatchNormalization"):
        simplify(chain.fp32, SimplifyConfig(), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_simplifier_that_drops_a_convolution(chain):
    before = onnx.load(chain.fp32.path)
    after = onnx.load(chain.folded.path)
    first = next(n for n in after.graph.node if n.op_type == "Conv")
    after.graph.node.remove(first)
    with pytest.raises(CheckError, match="has 26 convolutions of 27"):
        check_folding(before, after)


def test_batch_norm_without_convolution(chain, tmp_path):
    model = onnx.load(chain.fp32.path)
    norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    conv = next(n for n in model.graph.node if n.output[0] == norm.input[0])
    conv.output[0] = "between"
    model.graph.node.insert(
        list(model.graph.node).index(norm),
        onnx.helper.make_node("Relu", ["between"], [norm.input[0]]),
    )
    path = tmp_path / "odd.onnx"
    path.write_bytes(with_facts(model, chain.fp32.facts))
    made = simplify(load_artifact(path), SimplifyConfig(), tmp_path / "x.onnx")
    operators = [node.op_type for node in onnx.load(made.path).graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Conv") == 28  # the normalization is a depthwise one of one pixel


@pytest.mark.parametrize("rows", [True, False], ids=["transB", "plain"])
def test_batch_norms_of_every_place(small_graph, chain, tmp_path, rows):
    """On the image, before a convolution, behind a Gemm, and behind the ReLU of one or two."""
    g = small_graph()

    def norm(source, channels):
        values = [g.random.uniform(0.5, 1.5, channels) for _ in range(4)]
        return g.node("BatchNormalization", source, *map(g.constant, values))

    x = g.conv(norm("x", 3), 3, 8)
    x = g.conv(g.node("Relu", norm(g.node("Relu", x), 8)), 8, 8)
    x = g.node("Flatten", g.node("GlobalAveragePool", x))
    weights = g.weights(6, 8) if rows else g.weights(8, 6)
    x = norm(g.node("Gemm", x, weights, transB=int(rows)), 6)
    x = norm(g.node("Relu", x), 6)
    x = g.node("Relu", g.node("Gemm", x, g.weights(10, 6), g.constant(np.zeros(10)), transB=1))
    x = norm(g.node("Gemm", norm(x, 10), g.weights(10, 10), transB=int(rows)), 10)
    x = norm(g.node("Relu", x), 10)
    parts = [g.node("Gemm", x, g.weights(10, 10), g.constant([[n]])) for n in range(2)]
    g.node("Add", *parts, output="y")
    facts = chain.fp32.facts.model_copy(update={"model": None})
    path = tmp_path / "norms.onnx"
    path.write_bytes(with_facts(g.model(("N", 10)), facts))
    made = simplify(load_artifact(path), SimplifyConfig(), tmp_path / "folded.onnx")
    operators = Counter(node.op_type for node in onnx.load(made.path).graph.node)
    assert operators["BatchNormalization"] == 0
    assert operators["Conv"] == 4
    assert operators["Gemm"] == 5
    assert not operators["Mul"]
    assert made.record.batch_norms_before == 7


def test_output_over_input(chain):
    with pytest.raises(StorageError, match="is the input"):
        simplify(chain.fp32, SimplifyConfig(), chain.fp32.path)
