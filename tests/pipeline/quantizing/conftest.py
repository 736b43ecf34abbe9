"""What the tests of proof kits share."""

import pytest

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.pipeline.artifacts.artifact import save_artifact
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.reports.records.base import Record

CLASSES = tuple("0123456789")
FEW = QuantizeConfig(calib_count=8, target="avx2", cross=True)  # right on every x86 CPU, and ARM


@pytest.fixture(scope="session")
def small_model(small_graph, tmp_path_factory):
    """A dense, a depthwise and a pointwise convolution, and a classifier of their average."""
    g = small_graph()
    first = g.node("Relu", g.conv("x", 3, 8, strides=[2, 2]))
    depthwise = g.node("Relu", g.conv(first, 8, 8, group=8))
    g.head(g.node("Relu", g.conv(depthwise, 8, 16, size=1)), 16, len(CLASSES))
    model = g.model(output=("N", len(CLASSES)))
    facts = Facts(stage="foreign", input=InputSpec(resolution=32, resize=32), classes=CLASSES)
    facts = facts.model_copy(update={"data": "digits"})
    path = tmp_path_factory.mktemp("source") / "folded.onnx"
    return save_artifact(path, with_facts(model, facts), facts, Record())


@pytest.fixture(scope="session")
def crossed(small_model, tmp_path_factory):
    """The model with a kit for AVX2."""
    return quantize(small_model, FEW, tmp_path_factory.mktemp("kit") / "int8.onnx")
