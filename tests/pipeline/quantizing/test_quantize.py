"""The int8 model is integer in the graph that runs, close to float, and refused where it is not."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenet_cli.calibration import integer_network
from mobilenet_cli.calibration.ranges.calibrators import CALIBRATORS
from mobilenet_cli.calibration.weights import reconstruct
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.errors import (
    CheckError,
    DataError,
    ModelError,
    OptionError,
    StorageError,
)
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate
from mobilenet_cli.pipeline.quantizing import calibration_images, quantizer
from mobilenet_cli.pipeline.quantizing.calibration_images import choose_images
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.float_layers import DropMeter
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.proving.integer_kernels import pairs_saturate
from mobilenet_cli.pipeline.runtime.proving.parity import compare
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.reports.records.base import Record

FEW = QuantizeConfig(calib_count=12)
SIMULATED = SessionConfig(integer_kernels=False)


def tensors_of(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def held_out_images(count=60):
    samples = open_dataset("digits", "val").samples[:count]
    return next(batches(samples, InputSpec(resolution=32, resize=32), count)).images


def logits(model, config=None):
    session = open_session(model, config or SessionConfig())
    return session.run(None, {session.get_inputs()[0].name: held_out_images()})[0]


def integer_and_float(path):
    """Nodes by type of the graph that really runs."""
    optimized = path.with_suffix(".optimized")
    open_session(path, SessionConfig(optimized_path=optimized))
    operators = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    optimized.unlink()
    return operators


def edited(artifact, path, edit):
    """A copy of a model whose initializers were changed: ``edit`` gets and changes the arrays."""
    model = onnx.load(artifact.path)
    tensors = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    edit(tensors, model)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name], tensor.name))
    return save_artifact(path, with_facts(model, artifact.facts), artifact.facts, Record())


def foreign(path, nodes, constants, outputs=10):
    """A model of another program: ``nodes`` from ``x`` [N, 3, 32, 32] to ``y``."""
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in nodes],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    facts = Facts(
        stage="foreign",
        input=InputSpec(resolution=32, resize=32),
        classes=tuple("0123456789"),
        data="digits",
    )
    return save_artifact(path, with_facts(model, facts), facts, Record())


def weights(generator, *shape):
    return (generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def vgg(path):
    """Dense 3x3 convolutions of odd channel counts, TensorFlow's padding, two products."""
    g = np.random.default_rng(0)
    same = {"auto_pad": "SAME_UPPER"}
    nodes = [
        ("Conv", ["x", "w1", "b1"], "c1", same),
        ("Relu", ["c1"], "r1", {}),
        ("MaxPool", ["r1"], "p1", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", ["p1", "w2", "b2"], "c2", same | {"strides": [2, 2]}),
        ("Relu", ["c2"], "r2", {}),
        ("Conv", ["r2", "w3"], "c3", {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ("Relu", ["c3"], "r3", {}),
        (
            "MaxPool",
            ["r3"],
            "p3",
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        ),
        ("Flatten", ["p3"], "f", {}),
        ("Gemm", ["f", "w4", "b4"], "g1", {"transB": 1}),
        ("Relu", ["g1"], "r4", {}),
        ("Gemm", ["r4", "w5", "b5"], "y", {"transB": 1}),
    ]
    constants = {
        "w1": weights(g, 7, 3, 3, 3), "b1": weights(g, 7),
        "w2": weights(g, 13, 7, 3, 3), "b2": weights(g, 13),
        "w3": weights(g, 11, 13, 3, 3),
        "w4": weights(g, 19, 11 * 16), "b4": weights(g, 19),
        "w5": weights(g, 10, 19), "b5": weights(g, 10),
    }  # fmt: skip
    return foreign(path, nodes, constants)


def slim(path):
    """Depthwise 5x5, global pooling, a product stored as [in, out]."""
    g = np.random.default_rng(1)
    nodes = [
        ("Conv", ["x", "w1", "b1"], "c1", {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ("Clip", ["c1", "low", "high"], "r1", {}),
        ("Conv", ["r1", "w2", "b2"], "c2", {"group": 9, "pads": [2, 2, 2, 2]}),
        ("Clip", ["c2", "low", "high"], "r2", {}),
        ("Conv", ["r2", "w3", "b3"], "c3", {}),
        ("Relu", ["c3"], "r3", {}),
        ("GlobalAveragePool", ["r3"], "p", {}),
        ("Flatten", ["p"], "f", {}),
        ("Gemm", ["f", "w4", "b4"], "y", {"transB": 0}),
    ]
    constants = {
        "low": np.float32(0), "high": np.float32(6),
        "w1": weights(g, 9, 3, 3, 3), "b1": weights(g, 9),
        "w2": weights(g, 9, 1, 5, 5), "b2": weights(g, 9),
        "w3": weights(g, 21, 9, 1, 1), "b3": weights(g, 21),
        "w4": np.ascontiguousarray(weights(g, 10, 21).T), "b4": weights(g, 10),
    }  # fmt: skip
    return foreign(path, nodes, constants)


def convolutional(path):
    """No matrix product: the last convolution is pooled and flattened into the logits."""
    g = np.random.default_rng(3)
    nodes = [
        ("Conv", ["x", "w1", "b1"], "c1", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Relu", ["c1"], "r1", {}),
        ("Conv", ["r1", "w2", "b2"], "c2", {"pads": [1, 1, 1, 1]}),
        ("GlobalAveragePool", ["c2"], "p", {}),
        ("Flatten", ["p"], "y", {}),
    ]
    constants = {
        "w1": weights(g, 8, 3, 3, 3), "b1": weights(g, 8),
        "w2": weights(g, 10, 8, 3, 3), "b2": weights(g, 10),
    }  # fmt: skip
    return foreign(path, nodes, constants)


def mixed(path):
    """What has no integer form here: Tanh and Mul between floats, and Softmax."""
    g = np.random.default_rng(2)
    nodes = [
        ("Conv", ["x", "w1", "b1"], "c1", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Tanh", ["c1"], "s1", {}),
        ("Mul", ["c1", "s1"], "m1", {}),
        ("Conv", ["m1", "w2", "b2"], "c2", {"pads": [1, 1, 1, 1]}),
        ("Add", ["c2", "m1"], "a2", {}),
        ("Relu", ["a2"], "r2", {}),
        ("AveragePool", ["r2"], "p", {"kernel_shape": [16, 16]}),
        ("Flatten", ["p"], "f", {}),
        ("Gemm", ["f", "w3", "b3"], "l", {"transB": 1}),
        ("Softmax", ["l"], "y", {"axis": 1}),
    ]
    constants = {
        "w1": weights(g, 8, 3, 3, 3), "b1": weights(g, 8),
        "w2": weights(g, 8, 8, 3, 3), "b2": weights(g, 8),
        "w3": weights(g, 10, 8) * 4, "b3": weights(g, 10),
    }  # fmt: skip
    return foreign(path, nodes, constants)


def test_whole_graph_is_integer(chain):
    operators = integer_and_float(chain.int8.path)
    assert operators["QLinearConv"] == 27
    assert operators["QGemm"] == 1
    assert operators["QLinearAveragePool"] == 1
    assert operators["QuantizeLinear"] == 1  # of the image
    for operator in ("Conv", "Gemm", "Clip", "DequantizeLinear", "AveragePool", "MatMul"):
        assert operators[operator] == 0
    assert operators["Pad"] <= 1  # of the image's channels, for some targets
    assert chain.int8.record.operators == dict(operators)
    assert chain.int8.record.float_layers == ()


def test_accuracy_is_kept_on_images_that_were_not_calibrated_on(chain):
    plain, integer = (evaluate(a, EvaluateConfig()) for a in (chain.folded, chain.int8))
    assert plain.top1_correct > 0.6 * plain.images  # or it would not mean much
    assert abs(plain.top1_correct - integer.top1_correct) <= 0.02 * plain.images
    parity = compare(logits(chain.folded.path), logits(chain.int8.path))
    assert parity.sqnr_db > 18
    assert parity.agreement > 0.9


def test_record_says_what_was_measured(chain):
    record = chain.int8.record
    samples = {s.key: s for s in open_dataset("digits", "train").samples}
    assert record.images == len(record.calibration) == 40
    for image in record.calibration:
        content = samples[image.key].read()
        assert image.sha256 == hashlib.sha256(content).hexdigest()
    assert Counter(samples[i.key].label for i in record.calibration) == dict.fromkeys(
        "0123456789", 4
    )
    assert (record.leakage, record.leakage_checked) == ((), "digits (val)")
    assert record.bad_images == ()
    assert record.weight_bits == 8
    assert [layer.operator for layer in record.layers[-3:]] == [
        "AveragePool",
        "Reshape",
        "Gemm",
    ]
    assert all(layer.sqnr_db > 10 for layer in record.layers)
    assert record.seconds > 0
    assert record.peak_rss_mb > 50

    calibrated = [samples[i.key] for i in record.calibration]
    images = next(batches(calibrated, chain.int8.facts.input, 40)).images
    expected, found = (
        open_session(a.path).run(None, {"input": images})[0] for a in (chain.folded, chain.int8)
    )
    parity = compare(expected, found)
    assert record.sqnr_db == pytest.approx(parity.sqnr_db, abs=0.01)
    assert record.agreement == parity.agreement
    assert record.max_abs_error == pytest.approx(parity.max_abs_error, rel=1e-3)


def test_more_images_than_codes_are_held_of(chain, tmp_path, monkeypatch):
    """Biases took means over all images for those of the first ones, of the first classes."""
    digits = open_dataset("digits", "train").samples
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for number, sample in enumerate([s for s in digits if s.label == str(label)][:8]):
            (tmp_path / str(label) / f"{number}.png").write_bytes(sample.read())
    config = QuantizeConfig(str(tmp_path), calib_count=80)
    usual = quantize(chain.folded, config, tmp_path / "usual.onnx").record
    for room in (calibration_images, integer_network, quantizer):
        monkeypatch.setattr(room, "RECONSTRUCTION_IMAGES", 20)
    few = quantize(chain.folded, config, tmp_path / "few.onnx").record
    assert few.images == usual.images == 80
    assert few.sqnr_db > usual.sqnr_db - 2
    held = choose_images(chain.folded, str(tmp_path), 80, 0).held
    assert [sample.label for sample in held] == [str(n // 2) for n in range(20)]


def test_same_bytes_twice(chain, tmp_path):
    made = [quantize(chain.folded, FEW, tmp_path / f"{n}.onnx") for n in "ab"]
    assert made[0].sha256 == made[1].sha256
    other = quantize(chain.folded, QuantizeConfig(calib_count=12, seed=1), tmp_path / "c.onnx")
    assert other.sha256 != made[0].sha256


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_batch_size_does_not_matter(tmp_path, monkeypatch, calibrator):
    """13 images: 5 + 5 + 3, 13 at once, or one by one."""
    source = slim(tmp_path / "float.onnx")
    config = QuantizeConfig(calib_count=13, calibrator=calibrator)
    made = []
    for size in (5, 13, 1):
        monkeypatch.setattr(calibration_images, "BATCH", size)
        monkeypatch.setattr(calibration_images, "RANGE_BATCH", size)
        made.append(quantize(source, config, tmp_path / f"{size}.onnx"))
    assert len({a.sha256 for a in made}) == 1
    assert made[0].record.calibrator == calibrator
    assert made[0].record.sqnr_db > 15


def test_batch_size_does_not_matter_to_deep_networks(chain, tmp_path, monkeypatch):
    made = []
    for size, values in ((5, 1), (13, 1 << 24)):
        monkeypatch.setattr(reconstruct, "MOST_VALUES", values)  # 1: one image at a time
        monkeypatch.setattr(calibration_images, "BATCH", size)
        monkeypatch.setattr(calibration_images, "RANGE_BATCH", size)
        config = QuantizeConfig(calib_count=13, calibrator="mse")
        made.append(quantize(chain.folded, config, tmp_path / f"{size}.onnx").sha256)
    assert made[0] == made[1]


def test_of_large_images_fewer_are_run_at_once():
    sides = (32, 224, 225, 320, 512, 1024)
    found = [calibration_images.at_once(8, InputSpec.stretched(side)) for side in sides]
    assert found == [8, 8, 7, 3, 1, 1]


@pytest.mark.parametrize("calibrator", sorted(CALIBRATORS.keys() - {"minmax"}))
def test_range_methods_keep_a_deep_narrow_network(chain, tmp_path, calibrator):
    """Each layer's clipping adds to that of all before it: 28 of them in a row."""
    config = QuantizeConfig(calib_count=40, calibrator=calibrator)
    made = quantize(chain.folded, config, tmp_path / "int8.onnx")
    assert made.record.sqnr_db > 15
    assert made.record.agreement > 0.9


def test_range_methods_differ(tmp_path):
    source = slim(tmp_path / "float.onnx")
    scales = set()
    for calibrator in CALIBRATORS:
        config = QuantizeConfig(calib_count=12, calibrator=calibrator)
        made = quantize(source, config, tmp_path / f"{calibrator}.onnx")
        scales.add(tuple(layer.scale for layer in made.record.layers))
    assert len(scales) == len(CALIBRATORS)


@pytest.mark.parametrize("build", [vgg, slim, convolutional])
def test_other_topologies_become_integer(tmp_path, build):
    source = build(tmp_path / "float.onnx")
    made = quantize(source, QuantizeConfig(calib_count=24), tmp_path / "int8.onnx")
    operators = integer_and_float(made.path)
    expected = Counter(node.op_type for node in onnx.load(source.path).graph.node)
    assert operators["QLinearConv"] == expected["Conv"]
    assert operators["QGemm"] == expected["Gemm"]
    assert operators["Conv"] + operators["Gemm"] + operators["Relu"] + operators["Clip"] == 0
    assert operators["QuantizeLinear"] == 1
    assert made.record.float_layers == ()
    parity = compare(logits(source.path), logits(made.path))
    assert parity.sqnr_db > 20
    assert parity.agreement > 0.9
    assert made.record.kernels_equal


def test_sums_and_joined_maps_that_run_in_integers_are_not_listed_as_float(tmp_path):
    g = np.random.default_rng(2)
    window = {"pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "w1"], "c1", {"strides": [2, 2], **window}),
        ("Conv", ["c1", "w2"], "c2", window),
        ("Add", ["c1", "c2"], "a", {}),
        ("Conv", ["a", "w2"], "c3", window),
        ("Concat", ["a", "c3"], "j", {"axis": 1}),
        ("Conv", ["j", "w3"], "c4", window),
        ("Sigmoid", ["c4"], "s", {}),
        ("Conv", ["s", "w2"], "c5", window),
        ("Sin", ["c5"], "n", {}),
        ("Conv", ["n", "w2"], "c6", window),
        ("GlobalAveragePool", ["c6"], "p", {}),
        ("Flatten", ["p"], "f", {}),
        ("Gemm", ["f", "w4"], "y", {"transB": 1}),
    ]
    constants = {
        "w1": weights(g, 8, 3, 3, 3), "w2": weights(g, 8, 8, 3, 3),
        "w3": weights(g, 8, 16, 3, 3), "w4": weights(g, 10, 8) * 4,
    }  # fmt: skip
    source = foreign(tmp_path / "float.onnx", nodes, constants)
    made = quantize(source, QuantizeConfig(calib_count=16), tmp_path / "int8.onnx")
    operators = integer_and_float(made.path)
    integer = ("QLinearAdd", "QLinearConcat", "QLinearSigmoid")
    assert [operators[name] for name in integer] == [1, 1, 1]
    assert operators["Sin"] == 1
    assert made.record.float_layers == ("n",)


def test_images_that_leave_the_first_dimension_are_refused(tmp_path):
    g = np.random.default_rng(2)
    nodes = [
        ("Conv", ["x", "w1"], "c", {"strides": [2, 2]}),
        ("Transpose", ["c"], "t", {"perm": [1, 0, 2, 3]}),
        ("Transpose", ["t"], "u", {"perm": [1, 0, 2, 3]}),
        ("GlobalAveragePool", ["u"], "p", {}),
        ("Flatten", ["p"], "f", {}),
        ("Gemm", ["f", "w2"], "y", {"transB": 1}),
    ]
    constants = {"w1": weights(g, 8, 3, 3, 3), "w2": weights(g, 10, 8)}
    source = foreign(tmp_path / "float.onnx", nodes, constants)
    with pytest.raises(ModelError, match="the Transpose node that makes 't' moves the images"):
        quantize(source, QuantizeConfig(calib_count=16), tmp_path / "int8.onnx")


def test_what_has_no_integer_form_stays_float_and_is_listed(tmp_path):
    source = mixed(tmp_path / "float.onnx")
    made = quantize(source, QuantizeConfig(calib_count=24), tmp_path / "int8.onnx")
    assert made.record.float_layers == ("s1", "m1", "y")
    operators = integer_and_float(made.path)
    assert operators["QLinearConv"] == 2
    assert operators["Conv"] == 0
    assert operators["Gemm"] == 0
    assert compare(logits(source.path), logits(made.path)).sqnr_db > 18


@pytest.mark.parametrize("build", [None, vgg])
def test_tensorrt_wants_symmetric_signed_codes(chain, tmp_path, build):
    source = build(tmp_path / "float.onnx") if build else chain.folded
    config = QuantizeConfig(calib_count=24, target="tensorrt")
    made = quantize(source, config, tmp_path / "trt.onnx")
    zero_points = {k: v for k, v in tensors_of(made.path).items() if k.endswith("zero_point")}
    assert len(zero_points) > 10
    for name, value in zero_points.items():
        assert not value.any(), name
        assert value.dtype == (np.int32 if "bias" in name else np.int8)
    expected = compare(logits(source.path), logits(made.path, SIMULATED))
    assert expected.sqnr_db > 12
    assert made.record.kernel_sqnr_db is None  # no CPU can prove it
    assert not made.record.kernels_equal


def biases(path):
    """Integer biases and what they stand for, by layer."""
    tensors = tensors_of(path)
    found = {}
    for name, codes in tensors.items():
        if name.endswith("_bias_codes"):
            scale = tensors[name.replace("_codes", "_scale")]
            found[name.removesuffix("_bias_codes")] = (codes, codes * scale.astype(np.float64))
    return found


@pytest.mark.parametrize("layer", [1, 2, 25])
def test_dead_channels_do_not_overflow(chain, tmp_path, layer):
    """Folding a dead channel leaves next to no weights beside an ordinary, or huge, bias."""
    conv = [n for n in onnx.load(chain.folded.path).graph.node if n.op_type == "Conv"][layer]

    def kill(tensors, _):
        weight, bias = (tensors[name] for name in conv.input[1:])
        weight[0], bias[0] = 0, 1e6
        weight[1], bias[1] = 0, -1e6
        weight[2] *= np.float32(1e-9)
        bias[2] = 2.5
        weight[3], bias[3] = 0, 0
        weight[4] *= np.float32(1e-30)
        bias[4] = -0.5

    source = edited(chain.folded, tmp_path / "dead.onnx", kill)
    made = quantize(source, QuantizeConfig(calib_count=24), tmp_path / "int8.onnx")
    for codes, _ in biases(made.path).values():
        assert np.abs(codes.astype(np.int64)).max() < 2**30
    for name, value in tensors_of(made.path).items():
        if name.endswith("_scale"):
            assert (value > 0).all()
            assert np.isfinite(value).all()
    parity = compare(logits(source.path), logits(made.path))
    assert parity.sqnr_db > 12
    assert made.record.kernels_equal


def test_one_image(chain, tmp_path):
    made = quantize(chain.folded, QuantizeConfig(calib_count=1), tmp_path / "x.onnx")
    assert made.record.images == 1
    assert integer_and_float(made.path)["QLinearConv"] == 27


@pytest.mark.parametrize("count", [0, -3])
def test_no_images_wanted(chain, tmp_path, count):
    with pytest.raises(OptionError, match=f"cannot calibrate on {count} images"):
        quantize(chain.folded, QuantizeConfig(calib_count=count), tmp_path / "x.onnx")


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (10, 200, 90)])
def test_images_of_one_colour(chain, tmp_path, encoded, color):
    """Little can be learnt from them: a model or a clear sentence, and never a crash."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.png").write_bytes(encoded(color=color))
    made = quantize(chain.folded, QuantizeConfig(calib_dir=str(folder)), tmp_path / "x.onnx")
    assert np.isfinite(logits(made.path)).all()
    assert made.record.agreement == 1.0


def test_empty_folder(chain, tmp_path):
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no images"):
        quantize(
            chain.folded, QuantizeConfig(calib_dir=str(tmp_path / "void")), tmp_path / "x.onnx"
        )


def test_missing_folder(chain, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        quantize(chain.folded, QuantizeConfig(calib_dir=str(tmp_path / "no")), tmp_path / "x.onnx")


def test_no_folder_and_no_training_data(chain, tmp_path):
    facts = chain.folded.facts.model_copy(update={"data": None})
    source = save_artifact(
        tmp_path / "f.onnx", with_facts(onnx.load(chain.folded.path), facts), facts, Record()
    )
    with pytest.raises(DataError, match=r"no images to calibrate with\. Pass --calib-dir"):
        quantize(source, FEW, tmp_path / "x.onnx")


def test_unreadable_images_are_left_out_and_named(chain, tmp_path, class_folders):
    folder = class_folders({"1": 3, "2": 3})
    (folder / "1" / "001.png").write_text("no image")
    made = quantize(chain.folded, QuantizeConfig(calib_dir=str(folder)), tmp_path / "x.onnx")
    assert made.record.bad_images == ("1/001.png",)
    assert made.record.images == 5
    for image in folder.glob("*/*.png"):
        image.write_text("no image")
    with pytest.raises(DataError, match=r"no image of .* can be read: 6 images tried, such as: "):
        quantize(chain.folded, QuantizeConfig(calib_dir=str(folder)), tmp_path / "x.onnx")


def test_shards_that_are_lacking_are_told_once(small_model, tmp_path, encoded):
    for number in (0, 2):
        with tarfile.open(tmp_path / f"train-{number:05}-of-00003.tar", "w") as archive:
            for seed in range(3):
                content = encoded(seed=10 * number + seed)
                member = tarfile.TarInfo(f"{number}{seed}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    calibration = choose_images(small_model, str(tmp_path), 8, 0)
    assert len(calibration) == 6
    assert calibration.bad == (f"{tmp_path} lacks 1 file of 3: train-00001-of-00003",)


def test_flat_folder(chain, tmp_path, class_folders):
    folder = class_folders({"all": 4}) / "all"
    made = quantize(chain.folded, QuantizeConfig(calib_dir=str(folder)), tmp_path / "x.onnx")
    assert made.record.images == 4


@pytest.mark.parametrize("value", [-np.inf, np.inf])  # NaN is refused when it is read
def test_weights_that_are_no_numbers(chain, tmp_path, value):
    def spoil(tensors, model):
        conv = [n for n in model.graph.node if n.op_type == "Conv"][4]
        tensors[conv.input[1]][1, 0, 0, 0] = value

    source = edited(chain.folded, tmp_path / "f.onnx", spoil)
    with pytest.raises((DataError, ModelError), match="NaN or infini"):
        quantize(source, FEW, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("value", [-np.inf, np.inf])  # NaN is refused when it is read
def test_answers_that_are_no_numbers(chain, tmp_path, value):
    """The last tensor gets no codes; it is looked at all the same."""

    def spoil(tensors, model):
        tensors[model.graph.node[-1].input[-1]].flat[1] = value

    source = edited(chain.folded, tmp_path / "f.onnx", spoil)
    with pytest.raises((DataError, ModelError), match="NaN or infini"):
        quantize(source, FEW, tmp_path / "x.onnx")


def test_activations_that_overflow(tmp_path):
    source = vgg(tmp_path / "f.onnx")

    def blow_up(tensors, _):
        tensors["w1"] *= np.float32(1e30)
        tensors["w2"] *= np.float32(1e30)

    source = edited(source, tmp_path / "g.onnx", blow_up)
    with pytest.raises(DataError, match="is NaN or infinite on the calibration images"):
        quantize(source, FEW, tmp_path / "x.onnx")


def test_fixed_batch_size(tmp_path):
    source = slim(tmp_path / "float.onnx")

    def fix(_, model):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(ModelError, match="batch size of the model is fixed at 1"):
        quantize(edited(source, tmp_path / "fixed.onnx", fix), FEW, tmp_path / "x.onnx")


def test_batch_norms_left(chain, tmp_path):
    with pytest.raises(ModelError, match="simplify"):
        quantize(chain.fp32, FEW, tmp_path / "x.onnx")


def test_quantized_already(chain, tmp_path):
    with pytest.raises(ModelError, match=r"int8\.onnx cannot be quantized, .* quantized already"):
        quantize(chain.int8, FEW, tmp_path / "x.onnx")


def test_checkpoint_in_the_place_of_a_model(chain, tmp_path):
    with pytest.raises(ModelError, match=r"is a checkpoint\. Export it first"):
        quantize(chain.checkpoint, FEW, tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"calibrator": "magic"}, "unknown calibrator 'magic'"),
        ({"target": "z80"}, "unknown target 'z80'"),
    ],
)
def test_unknown_options(options, problem):
    with pytest.raises(OptionError, match=problem):
        QuantizeConfig(**options)


def test_input_is_not_overwritten(chain):
    with pytest.raises(StorageError, match="is the input"):
        quantize(chain.folded, FEW, chain.folded.path)


def test_leakage_is_found_by_content(chain, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    train, val = (open_dataset("digits", split).samples for split in ("train", "val"))
    for index, sample in enumerate([*train[:6], val[0], val[5]]):
        (folder / f"{index}.png").write_bytes(sample.read())
    made = quantize(chain.folded, QuantizeConfig(calib_dir=str(folder)), tmp_path / "x.onnx")
    assert sorted(made.record.leakage) == ["6.png", "7.png"]
    assert made.record.leakage_checked == "digits (val)"


@pytest.mark.parametrize("moment", [0.0, 0.4, 0.9])
def test_interrupted_leaves_nothing(chain, tmp_path, moment):
    def progress(done, total, note=""):
        assert note
        if done >= moment * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(chain.folded, FEW, tmp_path / "x.onnx", progress)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_where_it_said(chain, tmp_path):
    calls = []

    def progress(done, total, note=""):
        assert note
        calls.append((done, total))

    quantize(chain.folded, FEW, tmp_path / "x.onnx", progress)
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert len({t for _, t in calls}) == 1
    assert calls[-1][1] - 1 <= calls[-1][0] <= calls[-1][1]


def test_sessions_of_quantize_do_not_import_torch(chain, tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from mobilenet_cli.pipeline.artifacts.artifact import load_artifact\n"
        "from mobilenet_cli.pipeline.quantizing.quantize import quantize\n"
        "from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig\n"
        "source, out = map(Path, sys.argv[1:])\n"
        "quantize(load_artifact(source), QuantizeConfig(calib_count=2), out)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, chain.folded.path, tmp_path / "x.onnx"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


CHILD = """
import json, sys
from pathlib import Path
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.errors import CheckError
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig

source, out, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
try:
    made = quantize(load_artifact(source), QuantizeConfig(**options), out)
    print(made.record.model_dump_json())
except CheckError as error:
    print(json.dumps({"refused": str(error)}))
"""


def on_avx2(environment, source, out, **options):
    """Quantize in a process whose kernels are those of a CPU without VNNI."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, source.path, out, json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def loud(tmp_path):
    """A model whose largest weights are neighbours under full activations."""
    source = vgg(tmp_path / "float.onnx")

    def align(tensors, _):
        for name in ("w2", "w3", "w4", "w5"):
            tensors[name] = np.abs(tensors[name]) / 4
        tensors["b1"] += 3

    return edited(source, tmp_path / "loud.onnx", align)


def test_auto_holds_weights_to_what_avx2_can_add(avx2_only, chain, loud, tmp_path):
    for source in (chain.folded, loud):
        out = tmp_path / "auto.onnx"
        record = on_avx2(avx2_only, source, out, calib_count=24)
        assert record["target"] == "avx2"
        assert record["pairs_limited"]
        assert record["kernels_equal"]
        assert all(layer["kernel_error"] == 0 for layer in record["layers"])
        assert record["sqnr_db"] > 15


def test_saturating_model_is_refused_and_its_layers_named(avx2_only, loud, tmp_path):
    out = tmp_path / "vnni.onnx"
    found = on_avx2(avx2_only, loud, out, calib_count=24, target="vnni")
    assert "saturate in" in found["refused"]
    assert "r2 (" in found["refused"]
    assert "Use --target avx2" in found["refused"]
    assert not out.exists()


def test_saturating_model_for_another_machine(avx2_only, loud, tmp_path):
    out = tmp_path / "vnni.onnx"
    record = on_avx2(avx2_only, loud, out, calib_count=24, target="vnni", cross=True)
    assert record["kernel_sqnr_db"] is None
    assert record["sqnr_db"] > 20  # simulated
    assert load_artifact(out).facts.config["target"] == "vnni"
    # Its kit knows on which kernels it is wrong.
    proof = [sys.executable, "-I", tmp_path / record["kit"] / "prove.py"]
    done = subprocess.run(proof, env=avx2_only, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert "r2" in found["wrong"]
    assert found["layers"]["r2"] > 1
    if not pairs_saturate():
        assert subprocess.run(proof, capture_output=True).returncode == 0


def test_result_that_is_another_function_is_refused(chain, tmp_path, monkeypatch):
    """As if the writer had mixed up two layers' scales."""
    from mobilenet_cli.calibration import integer_network as stage

    real = stage.write_qdq

    def wrong(*arguments):
        model = real(*arguments)
        scale = next(t for t in model.graph.initializer if t.name == "logits_weight_scale")
        scale.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(scale), scale.name))
        return model

    monkeypatch.setattr(stage, "write_qdq", wrong)
    with pytest.raises(CheckError, match="is not the float model's function"):
        quantize(chain.folded, FEW, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


# --- layers in float --------------------------------------------------------------------------


@pytest.mark.parametrize("topology", [vgg, slim])
def test_the_fewest_layers_stay_float(topology, tmp_path, monkeypatch):
    """Two layers must join before the limit is met; the meter is ours, all else is real."""
    drops = iter([3.0, 1.0, 0.2])
    monkeypatch.setattr(DropMeter, "drop", lambda *_: next(drops))
    source = topology(tmp_path / "f.onnx")
    config = replace(FEW, max_drop=0.3)
    made = quantize(source, config, tmp_path / "x.onnx")
    plain = quantize(source, FEW, tmp_path / "plain.onnx")
    kept = [layer.name for layer in made.record.kept_float]
    assert len(set(kept)) == 2
    assert [layer.drop for layer in made.record.kept_float] == [1.0, 0.2]
    assert all(layer.p50_ms > 0 < layer.slowdown for layer in made.record.kept_float)
    assert (made.record.drop, made.record.max_drop) == (0.2, 0.3)
    assert made.record.drop_images == 359
    count = {"Conv": "QLinearConv", "Gemm": "QGemm"}
    integer = [sum(m.record.operators.get(o, 0) for o in count.values()) for m in (made, plain)]
    assert integer[0] == integer[1] - 2
    assert made.record.sqnr_db > 20
    assert compare(logits(source.path), logits(made.path)).sqnr_db > 20


def test_no_layer_stays_float_where_int8_is_good_enough(chain, tmp_path):
    made = quantize(chain.folded, replace(FEW, max_drop=100.0), tmp_path / "x.onnx")
    assert made.record.kept_float == ()
    assert made.record.drop_data == "digits (val)"
    plain = quantize(chain.folded, FEW, tmp_path / "plain.onnx")
    assert made.record.operators == plain.record.operators


@pytest.mark.parametrize(
    "options",
    [{"max_drop": -0.1}, {"max_drop": float("nan")}, {"max_drop": 0.3, "target": "tensorrt"}],
)
def test_limits_that_make_no_sense(options):
    with pytest.raises(OptionError, match="--max-drop"):
        QuantizeConfig(**options)


def test_a_limit_needs_labels(chain, class_folders, tmp_path):
    flat = class_folders({"all": 4}) / "all"
    with pytest.raises(DataError, match="have no labels"):
        quantize(chain.folded, replace(FEW, max_drop=0.3, data=str(flat)), tmp_path / "x.onnx")
