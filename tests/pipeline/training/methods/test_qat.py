"""Training through the grids of ``quantize``, and from a teacher."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mobilenet_cli.calibration.grid import Grid
from mobilenet_cli.calibration.kernels import partners
from mobilenet_cli.calibration.weights.trained_weights import grid_of
from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes, load_network
from mobilenet_cli.pipeline.artifacts.onnx_file import load_onnx
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.progress import silent
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.proof import SIMULATED
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.runtime.proving.parity import sqnr_db
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session
from mobilenet_cli.pipeline.training import setup
from mobilenet_cli.pipeline.training.config import TrainConfig
from mobilenet_cli.pipeline.training.methods.distillation import distillation_loss, open_teacher
from mobilenet_cli.pipeline.training.methods.fake_quantize import (
    FakeQuantized,
    fold_into,
    layers_of,
    on_grid,
    round_to_grid,
)
from mobilenet_cli.pipeline.training.methods.qat import Grids, quantized_start
from mobilenet_cli.pipeline.training.setup import resolve
from mobilenet_cli.pipeline.training.train import Trainer, train
from mobilenet_cli.reports.records.base import Record

# Torch adds real numbers in float32, as the file's definition says; a simulation adds codes.
AS_WRITTEN = SessionConfig(optimization="disabled")


@pytest.fixture(scope="module")
def images(chain):
    """Ten digits [10, 3, 32, 32]."""
    samples = open_dataset("digits", "val").samples[:10]
    return next(batches(samples, chain.folded.facts.input, 10)).images


@pytest.fixture(scope="module")
def starts():
    """Quantize each start once; most of the seconds here would be torch's export."""
    made: dict[object, Grids] = {}

    def start(source, data, settings, progress=silent):
        key = (source.sha256, data, settings)
        if key not in made:
            made[key] = quantized_start(source, data, settings, progress)
        return made[key]

    return start


@pytest.fixture(scope="module")
def learned(chain, tmp_path_factory):
    """Train once for each target; give the checkpoint."""
    made: dict[str, Artifact] = {}

    def learn(target):
        if target not in made:
            folder = tmp_path_factory.mktemp(target)
            init = str(chain.checkpoint.path)
            config = TrainConfig(data="digits", init=init, qat=True, target=target, epochs=0.2)
            with pytest.MonkeyPatch.context() as patch:  # keep it, also if the start is better
                patch.setattr(Trainer, "best_epoch", lambda _: 1)
                made[target] = train(config, folder / "model.safetensors")
        return made[target]

    return learn


@pytest.fixture(scope="module")
def folded(learned):
    """Export and fold what was trained once for each target; give the graph."""
    made: dict[str, Artifact] = {}

    def fold(target):
        if target not in made:
            checkpoint = learned(target)
            folder = checkpoint.path.parent
            fp32 = export(checkpoint, ExportConfig(), folder / "fp32.onnx")
            made[target] = simplify(fp32, SimplifyConfig(), folder / "folded.onnx")
        return made[target]

    return fold


@pytest.fixture(autouse=True)
def start_once(starts, monkeypatch):
    """Training takes its start from there."""
    monkeypatch.setattr(setup, "quantized_start", starts)


def test_pairs_stay_within_what_kernels_add():
    """Codes 100 and 101 are neighbours in one row, 100 and -100 in the other."""
    weight = torch.tensor([[1.0, 1.01, 0.5], [1.0, -1.0, 0.5]])
    scale = torch.tensor([0.01, 0.01])
    partner = torch.from_numpy(partners(np.zeros((1, 3))))
    codes = (round_to_grid(weight, scale, partner) / 0.01).round()
    assert codes.tolist() == [[63.0, 64.0, 50.0], [100.0, -100.0, 50.0]]
    assert round_to_grid(weight, scale)[0].tolist() == pytest.approx([1.0, 1.01, 0.5])


def test_weights_on_a_grid_are_recognised():
    taps = np.array([[0.3, -0.9, 12.7], [0.0, 0.0, 0.0], [0.25, 0.5, 0.75], [0.1, 0.17, 1.0]])
    step = grid_of(taps)
    assert step.tolist() == pytest.approx([0.1, 1.0, 0.25, 0.01])
    assert grid_of(np.array([[1.0, np.pi]])).tolist() == [0.0]


def test_weights_on_no_grid_are_refused(chain, tmp_path):
    grids = (Grid(0.02, 0),) * 30
    source = replace(chain.folded, facts=chain.folded.facts.model_copy(update={"grids": grids}))
    with pytest.raises(ModelError, match="are on no grid of 8 bits"):
        quantize(source, QuantizeConfig(calib_count=8), tmp_path / "int8.onnx")
    config = QuantizeConfig(calib_count=8, target="tensorrt")
    with pytest.raises(ModelError, match="grids of uint8 codes, and the target has int8"):
        quantize(source, config, tmp_path / "int8.onnx")


def test_rounding_lets_gradients_through():
    weight = torch.tensor([[0.3, -1.0, 0.26]], requires_grad=True)
    rounded = round_to_grid(weight, torch.tensor([0.5]))
    assert rounded.tolist() == [[0.5, -1.0, 0.5]]
    rounded.sum().backward()
    assert weight.grad.tolist() == [[1.0, 1.0, 1.0]]


def test_training_starts_from_what_quantize_makes(chain, images, tmp_path):
    """Where training starts is what ``quantize`` makes of the checkpoint.

    Where torch and ONNX Runtime add floats in different orders, a value in the middle of two codes
    goes another way and costs its image all but 25 dB; most images have no such value.
    Of the targets, ``avx2`` leaves narrow layers as they are; ``vnni`` rounds their channels up.
    """
    settings = QuantizeConfig(calib_count=40, target="avx2", cross=True)
    start = quantized_start(chain.checkpoint, "digits", settings)
    network = fold_into(load_network(chain.checkpoint), start)
    with torch.inference_mode():
        found = FakeQuantized(network, start)(torch.from_numpy(images)).numpy()
    made = quantize(chain.folded, settings, tmp_path / "int8.onnx")
    expected = open_session(made.path, AS_WRITTEN).run(None, {"input": images})[0]
    assert np.median([sqnr_db(*pair) for pair in zip(expected, found, strict=True)]) > 100


TARGETS = ["vnni", *(pytest.param(t, marks=pytest.mark.slow) for t in ("avx2", "tensorrt"))]


@pytest.mark.parametrize("target", TARGETS)
def test_the_checkpoint_has_the_grids_that_it_was_trained_through(chain, starts, learned, target):
    made = learned(target)
    assert made.record.epochs == 0.2
    settings = QuantizeConfig(calib_count=256, target=target, cross=True)
    assert made.facts.grids == starts(chain.checkpoint, "digits", settings).coded


@pytest.mark.parametrize("target", TARGETS)
def test_quantize_makes_what_was_trained(chain, starts, learned, folded, images, tmp_path, target):
    """Through export and simplify, the int8 model is the network that learned, to its ties."""
    made, graph = learned(target), folded(target)
    settings = QuantizeConfig(calib_count=40, target=target, cross=True)
    int8 = quantize(graph, settings, tmp_path / "int8.onnx")
    assert int8.record.calibrator == "training"

    start = starts(chain.checkpoint, "digits", replace(settings, calib_count=256))
    assert made.facts.grids == graph.facts.grids
    constants = {t.name: numpy_helper.to_array(t) for t in load_onnx(int8.path).graph.initializer}
    written = {float(v) for name, v in constants.items() if name.endswith("_scale") and v.ndim == 0}
    assert {grid.scale for grid in start.coded} <= written

    codes = layer_codes(int8.path, images)
    with torch.inference_mode():
        for index, layer in enumerate(layers_of(load_network(made))):
            before, after = start.activations[index : index + 2]
            inputs = codes[index][:, : layer.conv.in_channels]  # without the fourth of an image
            x = torch.from_numpy(before.dequantize(inputs))
            found = after.quantize(layer(x).numpy()).astype(int)
            apart = found - codes[index + 1][:, : found.shape[1]]  # nor what fills a sixteen
            assert np.abs(apart).max() <= 1
            assert (apart != 0).mean() < 0.02  # ties


def test_residual_sums_have_grids_of_their_own(make_checkpoint, starts, images, tmp_path):
    """Of a MobileNetV2 quantize makes what was trained, sums included."""
    source = make_checkpoint(tmp_path / "v2.safetensors", architecture="mobilenet_v2")
    settings = QuantizeConfig(calib_count=16, target="vnni", cross=True)
    start = starts(source, "digits", settings)
    learned = FakeQuantized(fold_into(load_network(source), start), start)
    with torch.inference_mode():
        found = learned(torch.from_numpy(images)).numpy()
    facts = source.facts.model_copy(update={"grids": start.coded})
    content = checkpoint_bytes(on_grid(learned), facts)
    made = save_artifact(tmp_path / "model.safetensors", content, facts, Record())
    exported = export(made, ExportConfig(), tmp_path / "fp32.onnx")
    folded = simplify(exported, SimplifyConfig(), tmp_path / "folded.onnx")
    int8 = quantize(folded, settings, tmp_path / "int8.onnx")
    assert int8.record.calibrator == "training"
    expected = open_session(int8.path, SIMULATED).run(None, {"input": images})[0]
    assert sqnr_db(expected, found) > 20  # ties are rounded either way, and 52 layers follow


def layer_codes(path, images):
    """Codes of the input and of each convolution's output, as the simulated int8 model has them."""
    model = load_onnx(path)
    codes = [
        node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.output[0].endswith("_real")
    ][:28]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in codes)
    return open_session(model.SerializeToString(), SIMULATED).run(codes, {"input": images})


def test_weights_for_other_kernels_are_refused(folded, tmp_path):
    settings = QuantizeConfig(calib_count=8, target="avx2", cross=True)
    with pytest.raises(ModelError, match="were trained for other kernels"):
        quantize(folded("vnni"), settings, tmp_path / "int8.onnx")


def test_grids_that_were_trained_are_not_chosen_anew(chain, tmp_path):
    facts = chain.folded.facts.model_copy(update={"grids": (Grid(0.01, 0),)})
    source = replace(chain.folded, facts=facts)
    with pytest.raises(OptionError, match="was trained on its grids"):
        quantize(source, QuantizeConfig(calibrator="mse"), tmp_path / "int8.onnx")
    with pytest.raises(ModelError, match="was trained on 1 grids, and 30 tensors"):
        quantize(source, QuantizeConfig(), tmp_path / "int8.onnx")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"init": None}, "--qat goes on from a trained network"),
        ({"resolution": 64}, "is for 32 pixels"),
        ({"precision": "fp16"}, "float32 or bfloat16"),
        ({"target": "z80"}, "unknown target"),
        ({"qat": False, "target": "vnni"}, "--target is for --qat"),
    ],
)
def test_what_cannot_be_trained_through_grids(chain, options, problem):
    given = {"data": "digits", "init": str(chain.checkpoint.path), "qat": True} | options
    with pytest.raises(OptionError, match=problem):
        resolve(TrainConfig(**given))


def test_other_classes_need_fine_tuning_first(chain, class_folders, tmp_path):
    data = class_folders({"cat": 8, "dog": 8})
    config = TrainConfig(data=str(data), init=str(chain.checkpoint.path), qat=True)
    with pytest.raises(ModelError, match="was not trained on the 2 classes"):
        train(config, tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", ["checkpoint", "fp32"])
def test_a_teacher_sees_the_students_images_as_its_own(chain, images, kind):
    """The student's images are of another size, normalization and order of channels."""
    artifact = getattr(chain, kind)
    student = InputSpec(
        resolution=64, resize=64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels="BGR"
    )
    order = artifact.facts.classes[::-1]
    teacher = open_teacher(artifact, student, order, torch.device("cpu"))
    own = torch.from_numpy(images)
    unit = torch.nn.functional.interpolate(own, scale_factor=2) * 0.5 + 0.5
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (student.mean, student.std))
    theirs = (unit.flip(1) - mean) / std
    with torch.inference_mode():
        expected = load_network(chain.checkpoint)(own).flip(1)
        found = teacher.logits(theirs)
    assert found.shape == (10, 10)
    assert sqnr_db(expected.numpy(), found.numpy()) > 15  # two rows of pixels are interpolated


def test_a_teacher_of_other_classes_is_refused(chain):
    with pytest.raises(OptionError, match="does not know 1 of the 2 classes, such as 'cat'"):
        open_teacher(chain.fp32, chain.fp32.facts.input, ("1", "cat"), torch.device("cpu"))


def test_agreeing_with_the_teacher_costs_nothing():
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    assert float(distillation_loss(logits, logits + 3.0, 2.0)) == pytest.approx(0.0, abs=1e-6)
    # KL of softmax([0, 0]) from softmax([log 3, 0]), at temperature 1
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    apart = distillation_loss(torch.zeros(1, 2), torch.tensor([[np.log(3), 0.0]]), 1.0)
    assert float(apart) == pytest.approx(expected)


@pytest.fixture
def small(class_folders) -> TrainConfig:
    data = class_folders({"cat": 12, "dog": 12})
    changes = ("batch=8", "rotation=0", "zoom=0", "shift=0", "freeze_norms=1")
    return TrainConfig(
        data=str(data), width=0.25, resolution=32, recipe="quick", epochs=1, changes=changes
    )


def weights(path: Path) -> torch.Tensor:
    network = load_network(load_artifact(path))
    return torch.nn.utils.parameters_to_vector(network.parameters())


def test_a_teacher_changes_what_is_learned(small, tmp_path):
    alone = train(small, tmp_path / "a" / "model.safetensors").path
    taught = replace(small, teacher=str(alone))
    made = train(taught, tmp_path / "b" / "model.safetensors")
    assert not torch.equal(weights(alone), weights(made.path))
    assert made.facts.config["teacher_sha256"] == load_artifact(alone).sha256


def test_a_batch_in_parts_gives_the_same_step(small, tmp_path):
    """BatchNorm's statistics are fixed, so that parts are independent."""
    whole = train(small, tmp_path / "a" / "model.safetensors").path
    parts = replace(small, changes=(*small.changes, "accumulate=4"))
    found = weights(train(parts, tmp_path / "b" / "model.safetensors").path)
    assert torch.allclose(found, weights(whole), atol=1e-3)
    assert not torch.equal(found, weights(whole))


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"sync_norms": True}])
def test_what_needs_a_gpu_says_so(small, tmp_path, options):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(OptionError, match="needs a GPU, and torch finds none"):
        train(replace(small, **options), tmp_path / "model.safetensors")


@pytest.mark.slow
def test_learning_through_grids_is_resumed_where_it_stopped(chain, tmp_path):
    config = TrainConfig(data="digits", init=str(chain.checkpoint.path), qat=True, epochs=0.2)
    whole = train(config, tmp_path / "a" / "model.safetensors")
    out = tmp_path / "b" / "model.safetensors"
    asked: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        train(config, out, stop=lambda: bool(asked.append(True)) or len(asked) == 3)
    made = train(replace(config, resume=True), out)
    assert made.sha256 == whole.sha256


def qat(chain, rate: float) -> TrainConfig:
    changes = (f"learning_rate={rate}", "ema=0", "warmup=0")
    init = str(chain.checkpoint.path)
    return TrainConfig(data="digits", init=init, qat=True, epochs=1, changes=changes)


def test_training_that_makes_it_worse_keeps_the_start(chain, tmp_path):
    config = qat(chain, 0.3)
    (tmp_path / "best.safetensors").write_bytes(b"of an earlier training")
    made = train(config, tmp_path / "model.safetensors")
    (epoch,) = map(json.loads, (tmp_path / "train.jsonl").read_text().splitlines())
    assert epoch["top1"] < made.record.top1 == made.record.start_top1
    assert made.record.kept_epoch == 0
    assert torch.equal(weights(made.path), weights(chain.checkpoint.path))
    assert not (tmp_path / "best.safetensors").exists()
    # Without grids of its own, quantize makes of it what it makes of the start.
    assert made.facts.grids == chain.checkpoint.facts.grids


def test_training_that_helps_is_kept(chain, tmp_path):
    """A noisy classifier has much to learn, whatever the order in which a CPU adds."""
    network, facts = load_network(chain.checkpoint), chain.checkpoint.facts
    *_, classifier = (parameter for parameter in network.parameters() if parameter.ndim > 1)
    noise = torch.randn(classifier.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classifier += classifier.std() * noise
    content = checkpoint_bytes(network, facts)
    init = save_artifact(tmp_path / "noisy.safetensors", content, facts, Record())
    config = replace(qat(chain, 1e-4), init=str(init.path))
    made = train(config, tmp_path / "model.safetensors")
    assert made.record.kept_epoch == 1
    assert made.record.top1 > made.record.start_top1
    assert not (tmp_path / "best.safetensors").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch's compiler uses what torch deprecates
def test_compiled_training_takes_the_same_steps(small, tmp_path):
    """Half a minute of compiling."""
    eager = train(small, tmp_path / "a" / "model.safetensors")
    compiled = train(replace(small, compiled=True), tmp_path / "b" / "model.safetensors")
    assert torch.allclose(weights(eager.path), weights(compiled.path), atol=1e-3)
    assert compiled.facts.config["compiled"] is True
