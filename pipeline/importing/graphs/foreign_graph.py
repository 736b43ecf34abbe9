"""What a graph of another program takes, and why it cannot be taken, is said in one sentence."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from mobilenet_cli.pipeline.artifacts.onnx_graph import PASSED, PICKED, all_nodes
from mobilenet_cli.pipeline.errors import ModelError, OptionError

SIDE = 224  # where the model takes any size
BATCH = "batch"  # the name of the first dimension
STANDARD = ("", "ai.onnx")
FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}  # ONNX Runtime's own, and what they consist of
RECURRENT = {"LSTM", "GRU", "RNN"}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
CONTROL_FLOW = {"If", "Loop", "Scan"}
DECISIONS = {"ArgMax", "ArgMin", "TopK", "Hardmax", "OneHot", "NonZero", "Round", "Sign"}
DECISIONS |= {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "NonMaxSuppression"}
LOGITS_ALONE = "Export it with the logits of one set of classes as its only output"
# They compute with codes; a DequantizeLinear of weights alone is gone when these are looked for.
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger"}
QUANTIZED |= {"MatMulInteger", "MatMulNBits", "MatMulBnb4"}
QUANTIZED_NAMES = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "Dequantize")
CROPS = b"tf_crop_and_resize"
FLOAT_MODEL = (
    "Import the float model that it was made from, and quantize that; 'mobilenet-cli bench' takes "
    "this file as it is"
)
WITHOUT_FLOW = "Export the classifier without loops and branches"


@dataclass(frozen=True)
class ImageInput:
    """This is how a graph takes its image.

    Attributes:
        name: of the input.
        batch: the number of images, where the file fixes it; None where it is free.
        channels: 1 or 3.
        side: in pixels.
        channels_last: the image is [batch, side, side, channels].
        takes_bytes: pixels are uint8.
    """

    name: str
    batch: int | None
    channels: int
    side: int
    channels_last: bool
    takes_bytes: bool


def refused(path: Path, what: str, error: Exception | None = None, fix: str = "") -> ModelError:
    """Return the error for a graph that cannot be taken.

    Args:
        path: of the file.
        what: the end of a sentence that begins with "cannot be imported: ".
        error: what a library said.
        fix: what helps, where more is known than what any classifier should be.
    """
    reason = f" ({' '.join(str(error).split())[:200]})" if error else ""
    return ModelError(
        f"{path} cannot be imported: {what}{reason}",
        fix
        or "Export the classifier again, from one float32 image to its logits, with standard "
        "operators and with its weights inside",
    )


def refuse_before(path: Path, model: onnx.ModelProto) -> None:
    """Refuse what no pass over the graph can mend.

    Raises:
        ModelError: operators of a later standard, inputs that nothing makes, or values that are no
            tensors.
    """
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in STANDARD and opset.version > newest:
            raise ModelError(
                f"{path} has operator set {opset.version}, and the installed onnx "
                f"{onnx.__version__} knows them up to {newest}",
                "Install a newer onnx, or export the model with an older operator set",
            )
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            kind = value.type.WhichOneof("value").removesuffix("_type").replace("_", " ")
            raise refused(path, f"'{value.name}' is a {kind}, not a tensor")
    made = {""} | {v.name for v in graph.input} | {t.name for t in graph.initializer}
    made |= {t.values.name for t in graph.sparse_initializer}
    made |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            if name not in made:
                raise refused(path, f"{described(node)} reads '{name}', which is missing")


def refuse_operators(path: Path, model: onnx.ModelProto) -> None:
    """Refuse operators that no stage can take.

    Raises:
        ModelError: one is of another domain, recurrent, random, or of sequences.
    """
    for node in all_nodes(model.graph):
        if node.domain not in STANDARD:
            _refuse_quantized(path, node)
            raise refused(
                path, f"{described(node)} is of the domain '{node.domain}', outside the standard"
            )
        if node.op_type in RECURRENT:
            raise refused(path, f"{described(node)} is recurrent")
        if node.op_type in RANDOM:
            raise refused(path, f"{described(node)} draws random numbers")
        sequences = "Sequence" in node.op_type and node.op_type != "ReverseSequence"
        if sequences or node.op_type.startswith("Optional"):
            raise refused(
                path,
                f"{described(node)} works on sequences",
                fix="Export it with tensors alone, as torch.onnx.export(..., dynamo=True) does",
            )


def _refuse_quantized(path: Path, node: onnx.NodeProto) -> None:
    if node.op_type in QUANTIZED or node.op_type.startswith(QUANTIZED_NAMES):
        raise refused(path, f"it is quantized already, by {described(node)}", fix=FLOAT_MODEL)


def refuse_leftovers(path: Path, model: onnx.ModelProto) -> None:
    """Refuse what should have gone when everything was computed that does not need the image.

    Raises:
        ModelError: there is control flow, training or computing with codes, or the images leave
            the first dimension.
    """
    values = {value.name: value.type.tensor_type for value in model.graph.value_info}
    for node in all_nodes(model.graph):
        if node.op_type in CONTROL_FLOW:
            what = f"{described(node)} is control flow that depends on the image"
            raise refused(path, what, fix=WITHOUT_FLOW)
        _refuse_quantized(path, node)
        trained = any(a.name == "training_mode" and a.i for a in node.attribute)
        if node.op_type == "Dropout" or (node.op_type == "BatchNormalization" and trained):
            raise refused(
                path,
                f"{described(node)} is in training mode",
                fix="Export the classifier in inference mode, which in torch is model.eval()",
            )
        if any(a.name == "coordinate_transformation_mode" and a.s == CROPS for a in node.attribute):
            raise refused(path, f"{described(node)} cuts the map and resizes it at once")
        for made in (values[name] for name in node.output if name in values):
            if BATCH in [dim.dim_param for dim in made.shape.dim[1:]]:
                raise refused(path, f"{described(node)} moves the images to another dimension")


def refuse_decisions(path: Path, model: onnx.ModelProto) -> None:
    """Refuse an output that says what was decided, and no longer how much speaks for each class.

    Raises:
        ModelError: it is an index, the largest of the answers, or a mark for the class chosen.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(model.graph.output[0].name)
    while node is not None and node.op_type in PASSED | PICKED:
        node = makers.get(node.input[0])
    if node is not None and node.op_type in DECISIONS:
        raise refused(
            path,
            f"its output '{model.graph.output[0].name}' is what {described(node)} decides, not a "
            "number for each class",
            fix=LOGITS_ALONE,
        )


def described(node: onnx.NodeProto) -> str:
    """Name a node as people find it: by its name, or by what it makes."""
    name = node.name or next(filter(None, node.output), "")
    return f"the {node.op_type} node '{name}'"


def type_name(elem_type: int) -> str:
    """Return a tensor type as numpy calls it."""
    name: str = onnx.TensorProto.DataType.Name(elem_type)
    return {"float": "float32", "double": "float64"}.get(name.lower(), name.lower())


def image_input(path: Path, model: onnx.ModelProto, wanted: int | None) -> ImageInput:
    """Find the image among a graph's inputs.

    Args:
        path: of the file, for errors.
        model: without initializers among its inputs.
        wanted: the side that the user asks for.

    Raises:
        ModelError: there is not one input, or it is no batch of images of float32 or uint8.
        OptionError: the file's images have another side, or are not square.
    """
    inputs = list(model.graph.input)
    if len(inputs) != 1:
        names = ", ".join(f"'{value.name}'" for value in inputs[:5]) or "none"
        what = f"it has {len(inputs)} inputs ({names}) instead of one image"
        raise refused(path, what, fix="Export it with the image as its only input")
    tensor = inputs[0].type.tensor_type
    shape = [max(d.dim_value, 0) for d in tensor.shape.dim]  # 0: any
    said = " x ".join(str(size or "?") for size in shape) or "of no known shape"
    if tensor.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        what = f"its input '{inputs[0].name}' is {type_name(tensor.elem_type)}, not float32"
        raise refused(path, what)
    if len(shape) != 4:
        raise refused(
            path,
            f"its input '{inputs[0].name}' is {said}, not one of [batch, 3, side, side]",
        )
    last = shape[1] not in (1, 3) and (shape[3] in (1, 3) or _is_transposed(model))
    channels = (shape[3] if last else shape[1]) or _read_channels(model) or 3
    height, width = shape[1:3] if last else shape[2:]
    if channels not in (1, 3):
        raise refused(
            path,
            f"its input '{inputs[0].name}' is {said}, with {channels} channels instead of 1 or 3",
        )
    if height != width or (wanted and height and wanted != height):
        raise OptionError(
            f"{path} takes images of {height or 'any'} x {width or 'any'} pixels",
            "Leave --resolution out, or export the model for square images of that side",
        )
    return ImageInput(
        name=inputs[0].name,
        batch=shape[0] or None,
        channels=channels,
        side=wanted or height or SIDE,
        channels_last=last,
        takes_bytes=tensor.elem_type == onnx.TensorProto.UINT8,
    )


def _is_transposed(model: onnx.ModelProto) -> bool:
    """Tell whether an image of unknown dimensions is brought to channels first, then convolved."""
    first = next((n for n in model.graph.node if n.op_type in ("Conv", "Transpose")), None)
    return first is not None and [list(a.ints) for a in first.attribute] == [[0, 3, 1, 2]]


def _read_channels(model: onnx.ModelProto) -> int | None:
    """Return how many channels the first convolution reads, which is what the image has."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and (dims := weights.get(node.input[1])):
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(dims[1] * groups)
    return None
