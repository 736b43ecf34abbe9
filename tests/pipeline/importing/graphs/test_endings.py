"""The output of foreign classifiers is told to be logits or probabilities, in whatever form."""

from pathlib import Path

import numpy as np
import pytest

from mobilenet_cli.pipeline.artifacts.onnx_graph import output_kind
from mobilenet_cli.pipeline.errors import ModelError
from mobilenet_cli.pipeline.importing.graphs.normalize_graph import Normalized, normalize_graph

FILE = Path("other.onnx")
PERCENT = ("the outputs, which were probabilities times 100, are the probabilities",)


def graph(small_graph, heads: int = 1):
    """Return a graph without its ending, and its logits."""
    g = small_graph()
    x = g.node("Relu", g.conv("x", 3, 8))
    return g, *(g.head(x, 8, output=f"logits{number}") for number in range(heads))


def normalized(g) -> Normalized:
    """Normalize a graph; that its answers stay what they were is proven there."""
    return normalize_graph(FILE, g.model(None), None)


def refusal(g) -> str:
    with pytest.raises(ModelError) as caught:
        normalized(g)
    return f"{caught.value.what}. {caught.value.fix}"


@pytest.mark.parametrize(
    "form", ["tanh", "shifted tanh", "relu6", "clip", "ramp", "opposite", "maximum"]
)
def test_chances_written_in_any_way_are_probabilities(small_graph, form: str):
    g, logits = graph(small_graph)
    half, one = g.constant(0.5), g.constant(1.0)
    bent = g.node("Tanh", g.node("Mul", logits, half)) if "tanh" in form else logits
    if form == "tanh":
        g.node("Mul", g.node("Add", bent, one), half, output="y")
    elif form == "shifted tanh":
        g.node("Add", g.node("Mul", half, bent), half, output="y")
    elif form == "relu6":
        above = g.node("Add", logits, g.constant(3.0))
        cut = g.node("Clip", above, g.constant(0.0), g.constant(6.0))
        g.node("Div", cut, g.constant(6.0), output="y")
    elif form == "clip":
        g.node("Clip", logits, g.constant(0.0), one, output="y")
    elif form == "ramp":
        rising = g.node("Add", g.node("Mul", logits, g.constant(0.2)), half)
        g.node("Min", g.node("Max", rising, g.constant(0.0)), one, output="y")
    elif form == "opposite":
        g.node("Sub", one, g.node("Sigmoid", logits), output="y")
    else:
        g.node("Max", g.node("Sigmoid", logits), g.node("HardSigmoid", logits), output="y")
    assert output_kind(normalized(g).model.graph) == "sigmoid"


@pytest.mark.parametrize("percent", [False, True])
@pytest.mark.parametrize(("activation", "kind"), [("Sigmoid", "sigmoid"), ("Softmax", "softmax")])
def test_the_mean_of_several_heads_is_probabilities(
    small_graph, activation: str, kind: str, percent: bool
):
    g, *logits = graph(small_graph, heads=3)
    mean = g.node(
        "Mean", *(g.node(activation, part) for part in logits), output="" if percent else "y"
    )
    if percent:
        g.node("Mul", g.constant(100.0), mean, output="y")
    made = normalized(g)
    assert output_kind(made.model.graph) == kind
    assert made.notes == (PERCENT if percent else ())


@pytest.mark.parametrize("reduction", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
def test_heads_that_are_stacked_in_front_of_the_images_are_joined(small_graph, reduction: str):
    """Of ``torch.stack(answers).mean(0)``."""
    g, *logits = graph(small_graph, heads=3)
    first = g.constant([0], dtype=np.int64)
    chances = [g.node("Sigmoid", part) for part in logits]
    stack = g.node("Concat", *(g.node("Unsqueeze", part, first) for part in chances), axis=0)
    joined = g.node(reduction, stack, first, keepdims=0)
    g.node("Div", joined, g.constant(3.0 if reduction == "ReduceSum" else 1.0), output="y")
    made = normalized(g).model.graph
    assert output_kind(made) == "sigmoid"
    assert "Concat" not in {node.op_type for node in made.node}


@pytest.mark.parametrize("form", ["Identity", "LogSoftmax", "wide clip", "relu6", "scaled"])
def test_what_can_leave_the_unit_is_logits(small_graph, form: str):
    g, logits = graph(small_graph)
    if form == "wide clip":
        g.node("Clip", logits, g.constant(-50.0), g.constant(50.0), output="y")
    elif form == "relu6":
        g.node("Clip", logits, g.constant(0.0), g.constant(6.0), output="y")
    elif form == "scaled":  # a cosine, as of ArcFace
        norm = g.node("ReduceL2", logits, g.constant([1], dtype=np.int64))
        g.node("Mul", g.node("Div", logits, norm), g.constant(30.0), output="y")
    else:
        g.node(form, logits, output="y")
    assert output_kind(normalized(g).model.graph) == "logits"


@pytest.mark.parametrize("form", ["Tanh", "Softsign", "embedding"])
def test_what_cannot_leave_the_unit_is_refused(small_graph, form: str):
    g, logits = graph(small_graph)
    if form == "embedding":
        norm = g.node("ReduceL2", logits, g.constant([1], dtype=np.int64))
        g.node("Div", logits, norm, output="y")
    else:
        g.node(form, logits, output="y")
    assert "its output 'y' cannot leave -1..1, like a Tanh or an embedding" in refusal(g)


@pytest.mark.parametrize("form", ["Log", "Softplus"])
def test_logarithms_of_chances_are_refused(small_graph, form: str):
    g, logits = graph(small_graph)
    if form == "Log":
        g.node("Log", g.node("Sigmoid", logits), output="y")
    else:
        g.node("Neg", g.node("Softplus", g.node("Neg", logits)), output="y")
    assert "'y' is the logarithms of probabilities that do not sum to 1" in refusal(g)


@pytest.mark.parametrize("form", ["ArgMax", "TopK", "Hardmax", "threshold"])
def test_decisions_are_refused(small_graph, form: str):
    g, logits = graph(small_graph)
    kind = form
    if form == "ArgMax":
        g.node("Cast", g.node("ArgMax", logits, axis=1, keepdims=0), to=1, output="y")
    elif form == "TopK":
        g.node("TopK", g.node("Softmax", logits), g.constant([2], dtype=np.int64), output="y")
        g.nodes[-1].output.append("indices")
    elif form == "Hardmax":
        g.node("Hardmax", logits, output="y")
    else:
        kind = "Greater"
        above = g.node("Greater", g.node("Sigmoid", logits), g.constant(0.5))
        g.node("Cast", above, to=1, output="y")
    said = refusal(g)
    assert f"its output 'y' is what the {kind} node" in said
    assert "with the logits of one set of classes" in said
