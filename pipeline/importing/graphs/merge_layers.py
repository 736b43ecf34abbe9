"""What stands beside a layer becomes a part of it; each transformation changes a graph in place.

What comes out has the operators that later stages know: a product with weights is one Gemm, and
scales and shifts are in the weights of a convolution.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mobilenet_cli.pipeline.importing.graphs.graph_passes import (
    TO_ROWS,
    add_constant,
    array_of,
    dims_of,
    is_transpose,
)

LOWEST = -1e30  # what is padded with this or less is never a maximum


def merge_matrix_products(graph: ir.Model) -> None:
    """Write the product of a matrix and weights, and a bias behind it, as one Gemm."""
    for node in list(graph.graph):
        weight = array_of(node.inputs[1]) if node.op_type == "MatMul" else None
        if weight is None or (weight.ndim, len(dims_of(node.inputs[0]))) != (2, 2):
            continue
        wide, end, inputs = weight.shape[1], node, list(node.inputs)
        uses = list(node.outputs[0].uses())
        if len(uses) == 1 and uses[0].node.op_type == "Add":
            add, position = uses[0]
            bias = array_of(add.inputs[1 - position])
            if bias is not None and bias.shape in ((), (1,), (wide,), (1, 1), (1, wide)):
                row = np.broadcast_to(bias.reshape(-1), wide)
                end, inputs = add, [*inputs, add_constant(graph, add, row)]
        gemm = ir.node("Gemm", inputs, name=end.name)
        ir.convenience.replace_nodes_and_values(
            graph.graph, end, [end], [gemm], end.outputs, gemm.outputs
        )
    RemoveUnusedNodesPass()(graph)


def merge_factors(graph: ir.Model) -> None:
    """Put the factors of a Gemm into its weights and its bias."""
    for node in graph.graph:
        arrays = [array_of(value) for value in node.inputs[1:]] if node.op_type == "Gemm" else []
        factors = ("alpha", "beta")[: len(arrays)]
        if not factors or any(array is None for array in arrays):
            continue
        for position, (name, array) in enumerate(zip(factors, arrays, strict=True), start=1):
            given = node.attributes.get(name)
            if array is not None and given is not None and given.as_float() != 1:
                del node.attributes[name]
                scaled = array.astype(np.float32) * np.float32(given.as_float())
                made = add_constant(graph, node, scaled)
                node.replace_input_with(position, made)


def merge_affine(graph: ir.Model) -> None:
    """Put what scales or shifts the channels behind a layer into its weights and bias.

    Layers are convolutions of maps, matrix products, and BatchNormalization, whose weights are one
    for each channel.
    """
    for node in list(graph.graph):
        rank = {"Conv": 4, "Gemm": 2, "BatchNormalization": 1}.get(node.op_type)
        weight, bias, *_ = (*(array_of(value) for value in node.inputs[1:3]), None, None)
        if weight is None or weight.ndim != rank or (len(node.inputs) > 2 and bias is None):
            continue
        if node.op_type == "Gemm" and not _is_plain(node):
            continue
        axis = 1 if node.op_type == "Gemm" and not _is_turned(node) else 0
        wide = weight.shape[axis]
        rows = node.op_type == "Gemm" or len(dims_of(node.outputs[0])) == 2
        scaled = weight.astype(np.float64)
        shifted = np.zeros(wide) if bias is None else _spread(bias, wide)
        end = node
        while step := _affine(end, wide, rows):
            end, scale, shift = step
            scaled *= np.expand_dims(scale, [n for n in range(weight.ndim) if n != axis])
            shifted = shifted * scale + shift
        if end is not node:
            inputs = [
                node.inputs[0],
                add_constant(graph, end, scaled.astype(np.float32)),
                add_constant(graph, end, shifted.astype(np.float32)),
                *node.inputs[3:],
            ]
            made = ir.node(node.op_type, inputs, node.attributes, name=node.name)
            ir.convenience.replace_nodes_and_values(
                graph.graph, end, [end], [made], end.outputs, made.outputs
            )
    RemoveUnusedNodesPass()(graph)


def merge_scales(graph: ir.Model) -> None:
    """Put what scales the channels in front of convolutions into their weights.

    The simplifier does the same, where its proof would miss that.
    """
    for node in reversed(list(graph.graph)):
        arrays = [array_of(value) for value in node.inputs] if node.op_type == "Mul" else []
        scale = next((array for array in arrays if array is not None), None)
        readers = list(node.outputs[0].uses())
        if scale is None or not readers or node.outputs[0].is_graph_output():
            continue
        weights = [_scaled_inputs(reader, position, scale) for reader, position in readers]
        if any(weight is None for weight in weights) or len(dims_of(node.outputs[0])) != 4:
            continue
        source = node.inputs[next(i for i, array in enumerate(arrays) if array is None)]
        for (reader, _), weight in zip(readers, weights, strict=True):
            reader.replace_input_with(0, source)
            reader.replace_input_with(1, add_constant(graph, reader, np.asarray(weight)))
    RemoveUnusedNodesPass()(graph)


def _scaled_inputs(
    node: ir.Node, position: int, scale: NDArray[np.generic]
) -> NDArray[np.float32] | None:
    """Return a convolution's weights times the scale of its input's channels, if it has these."""
    weight = array_of(node.inputs[1]) if node.op_type == "Conv" and position == 0 else None
    if weight is None or weight.ndim != 4 or scale.ndim > 4:
        return None
    channels = weight.shape[1] * _groups(node)
    if scale.size != 1 and scale.shape[-3:] != (channels, 1, 1):
        return None
    each = np.broadcast_to(scale.astype(np.float64).reshape(-1), channels)
    scaled = weight.astype(np.float64) * _of_inputs(node, each)
    return scaled.astype(np.float32)


def _groups(conv: ir.Node) -> int:
    group = conv.attributes.get("group")
    return group.as_int() if group is not None else 1


def _of_inputs(conv: ir.Node, each: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lay a number of each input channel beside the weights that read it, [out, in, 1, 1]."""
    outputs, groups = dims_of(conv.inputs[1])[0], _groups(conv)
    rows = np.repeat(each.reshape(groups, -1), int(str(outputs)) // groups, axis=0)
    return rows[:, :, None, None]


def merge_affine_rows(graph: ir.Model) -> None:
    """Put what scales or shifts the columns of rows that only products read into these.

    ``(x s + t) W + b = x (s W) + (t W + b)``: of a normalization in front of the classifier.
    """
    for node in reversed(list(graph.graph)):
        positions = [n for n, value in enumerate(node.inputs) if array_of(value) is None]
        dims = dims_of(node.outputs[0])
        wide = dims[1] if len(dims) == 2 and len(positions) == 1 else None
        step = _affine_step(node, positions[0], wide, rows=True) if isinstance(wide, int) else None
        source = node.inputs[positions[0]] if positions else None
        readers = list(node.outputs[0].uses())
        if step is None or not readers or dims_of(source)[1:] != dims[1:]:
            continue
        plain = all(position == 0 and _is_plain(reader) for reader, position in readers)
        if plain and not node.outputs[0].is_graph_output():
            for reader, _ in readers:
                _put_in_front(graph, reader, *step)
                reader.replace_input_with(0, source)
            graph.graph.remove(node, safe=True)  # else what it reads would have two readers
    RemoveUnusedNodesPass()(graph)


def _is_plain(node: ir.Node) -> bool:
    """Tell whether a node is ``x W + b`` with constant weights, the same for each row."""
    arrays = [array_of(value) for value in node.inputs[1:]] if node.op_type == "Gemm" else []
    if not arrays or any(array is None for array in arrays):
        return False
    factors = (node.attributes.get(name) for name in ("alpha", "beta"))
    if any(factor is not None and factor.as_float() != 1 for factor in factors):
        return False
    turned = node.attributes.get("transA")
    wide = dims_of(node.inputs[1])[0 if _is_turned(node) else 1]
    fits = all(array is not None and array.size in (1, wide) for array in arrays[1:])
    return fits and (turned is None or not turned.as_int())


def _is_turned(gemm: ir.Node) -> bool:
    """Tell whether a product's weights are [out, in]."""
    turned = gemm.attributes.get("transB")
    return turned is not None and bool(turned.as_int())


def _spread(array: NDArray[np.generic], wide: int) -> NDArray[np.float64]:
    """Return a number for each channel of an array that has so many, or one for all."""
    return np.broadcast_to(array.reshape(-1).astype(np.float64), wide)


def merge_affine_maps(graph: ir.Model) -> None:
    """Make a layer of what scales and shifts the channels of a map, ``s x + t``.

    So tf2onnx writes a BatchNormalization that follows no convolution. Where all that reads it are
    convolutions without padding, ``W (s x + t) + b = (W s) x + (W t + b)``; the zeros around a
    map are no zeros before it, so for others it is a depthwise convolution of one pixel.
    """
    for node in list(graph.graph):
        positions = [n for n, value in enumerate(node.inputs) if array_of(value) is None]
        dims = dims_of(node.outputs[0])
        channels = dims[1] if len(dims) == 4 and len(positions) == 1 else None
        first = None
        if isinstance(channels, int):
            first = _affine_step(node, positions[0], channels, rows=False)
        source = node.inputs[positions[0]] if positions else None
        if first is None or not isinstance(channels, int) or dims_of(source)[1:] != dims[1:]:
            continue
        (scale, shift), end = first, node
        while step := _affine(end, channels):
            end, by, plus = step
            scale, shift = scale * by, shift * by + plus
        if end is node or (np.ptp(scale) == 0 and np.ptp(shift) == 0):
            continue  # a number for all channels, as of an activation's formula
        readers = list(end.outputs[0].uses())
        alone = not end.outputs[0].is_graph_output()
        if alone and readers and all(_is_unpadded(reader, n) for reader, n in readers):
            for reader, _ in readers:
                _put_in_front(graph, reader, scale, shift)
                reader.replace_input_with(0, source)
            continue
        inputs = [
            source,
            add_constant(graph, end, scale.astype(np.float32)[:, None, None, None]),
            add_constant(graph, end, shift.astype(np.float32)),
        ]
        made = ir.node("Conv", inputs, {"group": channels}, name=end.name)
        made.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1, 1])
        ir.convenience.replace_nodes_and_values(
            graph.graph, end, [end], [made], end.outputs, made.outputs
        )
    RemoveUnusedNodesPass()(graph)


def _is_unpadded(node: ir.Node, position: int) -> bool:
    """Tell whether a node is a convolution of constant weights that sees nothing around its map."""
    if node.op_type != "Conv" or position != 0:
        return False
    if any(array_of(value) is None for value in node.inputs[1:] if value is not None):
        return False
    pads, automatic = node.attributes.get("pads"), node.attributes.get("auto_pad")
    none = pads is None or not any(pads.as_ints())
    return none and (automatic is None or automatic.as_string() in ("NOTSET", "VALID"))


def _put_in_front(
    graph: ir.Model, layer: ir.Node, scale: NDArray[np.float64], shift: NDArray[np.float64]
) -> None:
    """Let a product, or a convolution without padding, scale and shift the channels it reads."""
    weight, bias = (array_of(value) for value in (*layer.inputs, None)[1:3])
    assert weight is not None
    wide = weight.astype(np.float64)
    if layer.op_type == "Gemm":
        scales, shifts = (each if _is_turned(layer) else each[:, None] for each in (scale, shift))
        summed: tuple[int, ...] = (1 if _is_turned(layer) else 0,)
    else:
        scales, shifts, summed = _of_inputs(layer, scale), _of_inputs(layer, shift), (1, 2, 3)
    added = (wide * shifts).sum(summed)
    total = added if bias is None else added + bias.reshape(-1)
    layer.resize_inputs(3)
    layer.replace_input_with(2, add_constant(graph, layer, total.astype(np.float32)))
    layer.replace_input_with(1, add_constant(graph, layer, (wide * scales).astype(np.float32)))


def _affine(
    node: ir.Node, channels: int, rows: bool = False
) -> tuple[ir.Node, NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the one reader of a node with its scale and shift of each channel, if it has these."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    step = _affine_step(*uses[0], channels, rows)
    return (uses[0].node, *step) if step else None


def _affine_step(
    reader: ir.Node, position: int, channels: int, rows: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the scale and shift of each channel of what a node reads, if it makes only these.

    Channels are the columns of rows, or else the planes of maps.
    """
    if reader.op_type not in ("Add", "Sub", "Mul", "Div") or len(reader.inputs) != 2:
        return None
    array = array_of(reader.inputs[1 - position])
    if array is None or array.ndim > (2 if rows else 4):
        return None
    each = array.shape[-1:] == (channels,) if rows else array.shape[-3:] == (channels, 1, 1)
    if array.size != 1 and not (each and array.size == channels):
        return None
    value = _spread(array, channels)
    ones, zeros = np.ones(channels), np.zeros(channels)
    if reader.op_type == "Mul":
        return value, zeros
    if reader.op_type == "Div":
        return (1 / value, zeros) if position == 0 and value.all() else None
    if reader.op_type == "Add":
        return ones, value
    return (ones, -value) if position == 0 else (-ones, value)


def merge_lowest_pads(graph: ir.Model) -> None:
    """Put what a Pad adds in front of a MaxPool into its pads, where no maximum can be that.

    So programs write TensorFlow's "same" padding: with minus infinity, or the lowest float32.
    """
    for node in graph.graph:
        pad = node.inputs[0].producer() if node.op_type == "MaxPool" and node.inputs[0] else None
        if pad is None or pad.op_type != "Pad" or not _has_plain_windows(node):
            continue
        widths, value, axes = (array_of(given) for given in (*pad.inputs[1:], None, None)[:3])
        if widths is None or value is None or value.item() > LOWEST:
            continue
        before, after = all_widths = np.zeros((2, 4), np.int64)
        all_widths[:, range(4) if axes is None else axes] = widths.reshape(2, -1)
        own, kernel = node.attributes.get("pads"), node.attributes["kernel_shape"].as_ints()
        pads = np.concatenate([before[2:], after[2:]]) + (own.as_ints() if own else 0)
        outside = all_widths[:, :2].any() or all_widths.min() < 0
        if not outside and (pads < [*kernel, *kernel]).all():  # each window has a value of the map
            node.attributes["pads"] = ir.AttrInt64s("pads", pads.tolist())
            node.replace_input_with(0, pad.inputs[0])
    RemoveUnusedNodesPass()(graph)


def _has_plain_windows(pool: ir.Node) -> bool:
    """Tell whether a pool's windows are of neighbours, and lie where its pads say."""
    automatic, apart = (pool.attributes.get(name) for name in ("auto_pad", "dilations"))
    placed = automatic is None or automatic.as_string() == "NOTSET"
    return placed and (apart is None or set(apart.as_ints()) == {1})


def name_map_means(graph: ir.Model) -> None:
    """Write the mean or maximum of a map as a global pool, with a Flatten where it needs one."""
    for node in list(graph.graph):
        pool = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}.get(node.op_type)
        if pool is None or len(node.inputs) < 2 or len(dims_of(node.inputs[0])) != 4:
            continue
        (source, over), keep = node.inputs, node.attributes.get("keepdims")
        maker = source.producer() if source is not None else None
        axes, flat = array_of(over), keep is not None and not keep.as_int()
        last = maker is not None and is_transpose(maker, TO_ROWS)
        if axes is None or sorted(axes % 4) != ([1, 2] if last else [2, 3]) or (last and not flat):
            continue
        made = [ir.node(pool, maker.inputs if maker and last else [source], name=node.name)]
        if flat:
            made[0].outputs[0].name = f"{node.outputs[0].name}/map"
            made.append(ir.node("Flatten", made[0].outputs))
        ir.convenience.replace_nodes_and_values(
            graph.graph, node, [node], made, node.outputs, made[-1].outputs
        )


def scale_resizes(graph: ir.Model) -> None:
    """Let Resize have a scale for each axis instead of sizes, or of some axes only.

    ONNX Runtime turns the scales of four axes with their map when it brings channels last; with
    fewer sizes or scales than axes it makes a graph that does not load.
    """
    for node in graph.graph:
        cuts = node.attributes.get("coordinate_transformation_mode")
        whole = cuts is None or cuts.as_string() != "tf_crop_and_resize"
        scales = _scales(node) if node.op_type == "Resize" and whole else None
        if scales is not None:
            node.resize_inputs(3)
            node.replace_input_with(2, add_constant(graph, node, scales))
            for name in ("axes", "keep_aspect_ratio_policy"):
                node.attributes.pop(name, None)


def _scales(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the scale of each of four axes; None where it has them, or they are not known."""
    before, after = (dims_of(value)[2:] for value in (node.inputs[0], node.outputs[0]))
    known = [size for size in (*before, *after) if isinstance(size, int)]
    given, sizes = (array_of(value) for value in (*node.inputs, None, None)[2:4])
    axes = node.attributes.get("axes")
    resized = [axis % 4 for axis in axes.as_ints()] if axes is not None else [0, 1, 2, 3]
    if len(known) != 4 or (axes is None and given is not None):
        return None
    scales = np.ones(4)
    if given is not None and given.size:
        scales[resized] = given
    elif sizes is not None:
        scales[2:] = np.divide(known[2:], known[:2])
        policy = node.attributes.get("keep_aspect_ratio_policy")
        if policy is not None and policy.as_string() != "stretch":  # the file's sizes are limits
            shape = np.array([1, 1, *known[:2]])
            ratios = sizes / shape[resized]
            scales[resized] = ratios.min() if policy.as_string() == "not_larger" else ratios.max()
    found = scales.astype(np.float32)
    lost = np.floor(found[2:] * np.array(known[:2], np.float32)) < known[2:]
    found[2:] = np.where(lost, np.nextafter(found[2:], np.float32(np.inf)), found[2:])
    return found


def name_sigmoids(graph: ir.Model) -> None:
    """Write ``1 / (1 + exp(-x))`` and ``exp(x) / (1 + exp(x))`` as a Sigmoid, which they are."""
    for node in list(graph.graph):
        found = _logits_of_sigmoid(node)
        if found is None:
            continue
        source, opposite = found
        made = [ir.node("Neg", [source])] if opposite else []
        for negated in made:
            negated.outputs[0].name = f"{node.outputs[0].name}/opposite"
        made.append(ir.node("Sigmoid", made[0].outputs if made else [source], name=node.name))
        ir.convenience.replace_nodes_and_values(
            graph.graph, node, [node], made, node.outputs, made[-1].outputs
        )
    RemoveUnusedNodesPass()(graph)


def _logits_of_sigmoid(node: ir.Node) -> tuple[ir.Value | None, bool] | None:
    """Return what a node makes a sigmoid of, and whether of its opposite; None of any other."""
    once = _beside(node.outputs[0], "Mul", 1)  # torch writes 1 / x as a Reciprocal times 1
    maker = once.producer() if once is not None else node
    above = None
    if maker is None or maker.op_type not in ("Reciprocal", "Div"):
        return None
    if maker.op_type == "Div" and not _is_number(maker.inputs[0], 1):
        above = maker.inputs[0]
    grown = _beside(maker.inputs[-1], "Add", 1)
    power = grown.producer() if grown is not None else None
    if power is None or power.op_type != "Exp" or above not in (None, grown):
        return None
    (source,) = power.inputs
    if above is not None:
        return source, False
    maker = source.producer() if source is not None else None
    negated = maker.inputs[0] if maker and maker.op_type == "Neg" else _beside(source, "Mul", -1)
    return (source, True) if negated is None else (negated, False)


def _beside(value: ir.Value | None, operator: str, number: float) -> ir.Value | None:
    """Return what a sum or product has beside this number; None where it is no such one."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != operator:
        return None
    first, second = maker.inputs
    if _is_number(second, number):
        return first
    return second if _is_number(first, number) else None


def _is_number(value: ir.Value | None, number: float) -> bool:
    """Tell whether a tensor is this number, which changes no shape."""
    array = array_of(value)
    return array is not None and array.size == 1 and array.item() == number
