"""These charts show what quantization did to each layer."""

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.reports.charts.chart import COLORS, Chart, Json, axes, log_axis, plain, series
from mobilenet_cli.reports.records.quantization import LayerRecord, QuantizeRecord
from mobilenet_cli.reports.records.run import RunRecord

WEIGHTED = ("Conv", "Gemm")  # operators whose weights are compared


def sqnr_chart(run: RunRecord) -> Chart | None:
    """Draw the signal to quantization noise of each layer's output."""
    layers = [
        (name, layer.sqnr_db)
        for name, layer in zip(layer_names(run), quantized_layers(run), strict=True)
        if layer.sqnr_db is not None
    ]
    if not layers:
        return None
    worst = min(layers, key=lambda layer: layer[1])
    return Chart(
        "sqnr",
        "Signal to quantization noise by layer",
        f"{counted(len(layers), 'layer')} between {worst[1]:.1f} and "
        f"{max(v for _, v in layers):.1f} dB; the worst is {worst[0]}.",
        [
            {
                "type": "bar",
                "name": "SQNR",
                "x": [plain(name) for name, _ in layers],
                "y": [value for _, value in layers],
                "marker": {"color": COLORS[0]},
                "hovertemplate": "%{x}: %{y:.1f} dB<extra></extra>",
            }
        ],
        axes("layer, in order of computation", "SQNR, dB", showlegend=False)
        | {"xaxis": layer_axis()},
        ("layer", "SQNR dB"),
        [[name, f"{value:.1f}"] for name, value in layers],
    )


def quantized_layers(run: RunRecord) -> list[LayerRecord]:
    """Return the layer records of ``quantize``."""
    records = filter(None, (artifact.measured(QuantizeRecord) for artifact in run.artifacts))
    return [layer for record in records for layer in record.layers]


def layer_names(run: RunRecord) -> list[str]:
    """Call the quantized layers as the weights' table does, where both have the same layers.

    The others are called by their operator and place, for bars of one name would be stacked.
    """
    layers, names = quantized_layers(run), iter(run.weights)
    weighted = [layer.operator in WEIGHTED for layer in layers]
    if sum(weighted) != len(run.weights):
        return [layer.name for layer in layers]
    pairs = zip(layers, weighted, strict=True)
    return [
        next(names).layer if known else f"{layer.operator} {place}"
        for place, (layer, known) in enumerate(pairs, 1)
    ]


def layer_axis() -> Json:
    """Make an axis of layers by name, in the order of the network."""
    return {
        "title": {"text": "layer, in order of computation"},
        "type": "category",
        "tickangle": -60,
        "nticks": 40,
    }


def weights_chart(run: RunRecord) -> Chart | None:
    """Draw the largest weight of each layer, in float and in int8, on a logarithmic axis."""
    if not run.weights:
        return None
    layers = [plain(w.layer) for w in run.weights]
    largest = [
        ("float", [max(abs(w.low), abs(w.high)) for w in run.weights]),
        ("int8", [max(abs(w.quantized_low), abs(w.quantized_high)) for w in run.weights]),
    ]
    data = [
        series(
            *(index, name, layers, values, "lines+markers"),
            line={"width": 1},
            marker={"size": 8},
            hovertemplate="%{x}: %{y:.3g}",
        )
        for index, (name, values) in enumerate(largest)
    ]
    widest = max(run.weights, key=lambda w: w.high - w.low)
    values = [value for _, found in largest for value in found if value > 0] or [1.0]
    return Chart(
        "weights",
        "Weights before and after quantization",
        f"Largest magnitude among the weights of {counted(len(layers), 'layer')}, in float and as "
        f"the int8 codes stand for them; the widest in float is {widest.layer}. Equalization moves "
        "scale between neighbouring layers, so ranges may differ where the function does not.",
        data,
        {"xaxis": layer_axis(), "yaxis": log_axis("largest weight", values)},
        ("layer", "float from", "to", "int8 from", "to"),
        [
            [w.layer, *(f"{v:.4f}" for v in (w.low, w.high, w.quantized_low, w.quantized_high))]
            for w in run.weights
        ],
    )
