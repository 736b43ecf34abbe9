"""What several test files share."""

import importlib.util
import io
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

if TYPE_CHECKING:
    from mobilenet_cli.models.architecture import Network
    from mobilenet_cli.models.spec import Padding
    from mobilenet_cli.pipeline.deploying.package import Package
from mobilenet_cli.pipeline.artifacts.artifact import Artifact

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers, and what it starts, one thread of torch, to share the CPUs."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ["OMP_WAIT_POLICY"] = "passive"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of weights, images and reference results; the test is skipped without it."""
    folder = Path(os.environ.get("MOBILENET_CLI_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"the acceptance data is not at {folder} (set MOBILENET_CLI_SHARED)")
    return folder


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Make an image file's bytes: a seeded picture, or one colour."""

    def make(
        seed: int = 0,
        size: tuple[int, int] = (40, 32),
        mode: str = "RGB",
        form: str = "PNG",
        color: int | tuple[int, ...] | None = None,
        **options: object,
    ) -> bytes:
        if color is not None:
            image = Image.new(mode, size, color)
        else:
            values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
            image = Image.fromarray(values).convert(mode)
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return make


@pytest.fixture
def class_folders(tmp_path: Path, encoded: Callable[..., bytes]) -> Callable[..., Path]:
    """Write PNG files into class folders: ``class_folders({"cat": 3, "dog": 5})``."""

    def make(counts: dict[str, int], root: str = "images") -> Path:
        folder = tmp_path / root
        for label, count in counts.items():
            (folder / label).mkdir(parents=True)
            for index in range(count):
                (folder / label / f"{index:03}.png").write_bytes(encoded(seed=index))
        return folder

    return make


def save_checkpoint(path: Path, network: "Network", **facts: object) -> Artifact:
    """Save a network as a training would, and as if it had been trained on digits."""
    from mobilenet_cli.pipeline.artifacts.artifact import save_artifact
    from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes
    from mobilenet_cli.pipeline.artifacts.facts import Facts
    from mobilenet_cli.reports.records.base import Record

    known = Facts(stage="train", model=network.spec, **facts)
    return save_artifact(path, checkpoint_bytes(network.eval(), known), known, Record())


@pytest.fixture(scope="session")
def model_of() -> Callable[..., Artifact]:
    """Make a function that returns a model which knows nothing but its classes."""
    from mobilenet_cli.data.preprocess import InputSpec
    from mobilenet_cli.pipeline.artifacts.artifact import Artifact
    from mobilenet_cli.pipeline.artifacts.facts import Facts

    def make(classes: Sequence[str], names: Sequence[str] = ()) -> Artifact:
        known = Facts(stage="train", input=InputSpec(), classes=tuple(classes), names=tuple(names))
        return Artifact(Path("m"), "", known, None)

    return make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest real network, seeded and untrained: checkpoint and exported ONNX.

    Width 0.25, 32 pixels, ten classes ``0`` to ``9``.
    """
    import torch

    from mobilenet_cli.data.preprocess import InputSpec
    from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1
    from mobilenet_cli.models.spec import ModelSpec
    from mobilenet_cli.pipeline.exporting.export import ExportConfig, export

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    torch.manual_seed(0)
    spec = ModelSpec(width=0.25, classes=10)
    network = MobileNetV1(spec)
    with torch.no_grad():
        # Untrained statistics let the signal fade; one training step's worth keeps logits apart.
        network.train()(torch.rand(8, 3, 32, 32) * 2 - 1)
    checkpoint = save_checkpoint(
        folder / "model.safetensors",
        network,
        input=InputSpec(resolution=32, resize=32),
        classes=tuple("0123456789"),
        data="digits",
    )
    export(checkpoint, ExportConfig(), folder / "fp32.onnx")
    return folder


@dataclass(frozen=True)
class Chain:
    """The models of one small run, each made from the one before."""

    checkpoint: "Artifact"
    fp32: "Artifact"
    folded: "Artifact"
    int8: "Artifact"


def digits_checkpoint(
    path: Path,
    resolution: int = 32,
    padding: "Padding" = "same",
    architecture: str = "mobilenet_v1",
) -> "Artifact":
    """A width 0.25 network that tells many digits apart, made without training.

    The convolutions are random, BatchNorm's statistics are those of digits, its scales and shifts
    vary from channel to channel, and the classifier is a ridge regression on the features.
    """
    import torch

    from mobilenet_cli.data.loader import batches
    from mobilenet_cli.data.open_dataset import open_dataset
    from mobilenet_cli.data.preprocess import InputSpec
    from mobilenet_cli.models import MODELS
    from mobilenet_cli.models.spec import ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec(architecture=architecture, width=0.25, classes=10, padding=padding)
    prepared = InputSpec(resolution=resolution, resize=resolution)
    samples = open_dataset("digits", "train").samples[::5]
    images = torch.from_numpy(next(batches(samples, prepared, len(samples))).images)
    wanted = torch.nn.functional.one_hot(torch.tensor([int(s.label or 0) for s in samples]))
    network = MODELS[architecture].build(spec)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = None  # the plain average: exactly the statistics of these images
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(1.0, 2.0)
        network.train()(images)
        features = network.eval().layers(images).mean((2, 3)).double()
        mean = features.mean(0)
        centred = features - mean
        ridge = len(samples) * torch.eye(centred.shape[1])
        solution = torch.linalg.solve(
            centred.T @ centred + ridge, centred.T @ (10.0 * wanted.double() - 1)
        )
        network.classifier.weight.copy_(solution.T)
        network.classifier.bias.copy_(-mean @ solution)
    digits = tuple("0123456789")
    return save_checkpoint(path, network, input=prepared, classes=digits, data="digits")


@pytest.fixture(scope="session")
def make_checkpoint() -> "Callable[..., Artifact]":
    """``digits_checkpoint`` for networks other than the chain's."""
    return digits_checkpoint


def chain_of(checkpoint: Artifact, data: str | None, images: int) -> Chain:
    """Export, fold and quantize a checkpoint beside it, on images of a data set."""
    from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
    from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
    from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
    from mobilenet_cli.pipeline.quantizing.quantize import quantize

    folder = checkpoint.path.parent
    fp32 = export(checkpoint, ExportConfig(), folder / "fp32.onnx")
    folded = simplify(fp32, SimplifyConfig(data), folder / "folded.onnx")
    int8 = quantize(folded, QuantizeConfig(data, calib_count=images), folder / "int8.onnx")
    return Chain(checkpoint, fp32, folded, int8)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Checkpoint, fp32.onnx, folded.onnx and int8.onnx of ``digits_checkpoint``."""
    path = tmp_path_factory.mktemp("chain") / "model.safetensors"
    return chain_of(digits_checkpoint(path), None, 40)


@pytest.fixture(scope="session")
def package(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> "Package":
    """A package of the small chain: int8 for AVX2 and for newer kernels, and float."""
    from mobilenet_cli.pipeline.deploying.deploy import DeployConfig, deploy

    other = "vnni" if chain.int8.record.target == "avx2" else "avx2"
    litert = ("litert",) if importlib.util.find_spec("ai_edge_litert") else ()
    config = DeployConfig(images=8, targets=(other, *litert), top=3)
    return deploy(chain.int8, config, tmp_path_factory.mktemp("deploy") / "package")


@pytest.fixture(scope="session")
def avx2_only(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a child process takes its CPU for one that ends at AVX2."""
    if platform.machine() != "x86_64" or shutil.which("gcc") is None:
        pytest.skip("hiding AVX-512 and VNNI from a process needs gcc and an x86 CPU")
    library = tmp_path_factory.mktemp("shim") / "avx2_only.so"
    source = ROOT / "benchmarks" / "avx2_only.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library)}
    if subprocess.run(["true"], env=environment, capture_output=True).returncode == 77:
        pytest.skip(
            "this machine lets no code be rewritten, so newer instructions cannot be hidden"
        )
    return environment


class SmallGraph:
    """A small ONNX graph is built node by node; weights are seeded, and names are made up.

    Args:
        shape: of the image, which is called ``x``; the output is called ``y``.
        opset: of the default domain.
        ir_version: of the file.
        dtype: of the image, as TensorProto has it.
    """

    def __init__(
        self,
        shape: Sequence[int | str] | None = ("N", 3, 32, 32),
        opset: int = 18,
        ir_version: int = 9,
        dtype: int = onnx.TensorProto.FLOAT,
    ) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", dtype, shape)]
        self.opsets = [helper.make_opsetid("", opset)]
        self.functions: list[onnx.FunctionProto] = []
        self.ir_version = ir_version

    def name(self, kind: str) -> str:
        return f"{kind.lower()}{len(self.nodes) + len(self.constants)}"

    def constant(self, value: object, name: str = "", dtype: type = np.float32) -> str:
        """Add an initializer, and return its name."""
        name = name or self.name("constant")
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def weights(self, *shape: int) -> str:
        """Add seeded weights [outputs, ...], as large as keeps the signal's size."""
        return self.constant(self.random.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5)

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Add a node with one output, and return that."""
        output = output or self.name(operator)
        made = helper.make_node(operator, inputs, [output], f"node_{output}", **attributes)
        self.nodes.append(made)
        return output

    def conv(
        self, source: str, inputs: int, outputs: int, size: int = 3, **attributes: object
    ) -> str:
        """Add a convolution with a bias that keeps the image's size, or as the attributes say."""
        group = attributes.get("group", 1)
        weights = self.weights(outputs, inputs // group, size, size)
        bias = self.constant(self.random.normal(size=outputs) * 0.1)
        attributes.setdefault("pads", [size // 2] * 4)
        return self.node("Conv", source, weights, bias, **attributes)

    def head(self, source: str, channels: int, classes: int = 3, output: str = "y") -> str:
        """Add the average of each channel, and a linear layer."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", source))
        bias = self.constant(self.random.normal(size=classes) * 0.1)
        return self.node(
            "Gemm", flat, self.weights(classes, channels), bias, output=output, transB=1
        )

    def model(
        self, output: Sequence[int | str] | None = ("N", 3), name: str = "y"
    ) -> onnx.ModelProto:
        """Return the model, whose output has the given shape and name."""
        outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, output)]
        graph = helper.make_graph(self.nodes, "small", self.inputs, outputs, self.constants)
        return helper.make_model(
            graph,
            opset_imports=self.opsets,
            ir_version=self.ir_version,
            functions=self.functions,
        )


@pytest.fixture(scope="session")
def small_graph() -> type[SmallGraph]:
    """The builder of small ONNX graphs: ``g = small_graph(); g.head(g.conv("x", 3, 8), 8)``."""
    return SmallGraph


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The same of an untrained SSD of two classes, width 0.0625, 64 pixels, with statistics."""
    import torch

    from mobilenet_cli.data.loader import batches
    from mobilenet_cli.data.open_dataset import open_dataset
    from mobilenet_cli.data.preprocess import InputSpec
    from mobilenet_cli.models import MODELS
    from mobilenet_cli.models.boxes import BoxSpec
    from mobilenet_cli.models.spec import ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec(architecture="ssd_mobilenet_v1", width=0.0625, classes=3, padding="same")
    network = MODELS[spec.architecture].build(spec)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = None  # exactly the statistics of these images
                norm.bias.fill_(1.0)
        samples = open_dataset("digits", "train").samples[:64]
        (batch,) = batches(samples, InputSpec.stretched(64), 64)
        network.train()(torch.from_numpy(batch.images))
        for head in network.heads:
            torch.nn.init.normal_(head["scores"].weight, 0.0, 0.3)  # to be sure of some classes
    checkpoint = save_checkpoint(
        tmp_path_factory.mktemp("detector") / "model.safetensors",
        network,
        input=InputSpec.stretched(64),
        classes=("disc", "square"),
        boxes=BoxSpec(anchors=MODELS[spec.architecture].anchors(64), columns=(1, 2)),
    )
    return chain_of(checkpoint, "digits", 24)
