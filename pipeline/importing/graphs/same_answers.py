"""A graph that was brought into standard form is proven to answer as the file it came from does.

Both get the same seeded noise, as batches of 1, 2 and 7 images.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.pipeline.importing.graphs.foreign_graph import ImageInput, described, refused
from mobilenet_cli.pipeline.importing.graphs.graph_passes import TO_ROWS
from mobilenet_cli.pipeline.runtime.proving.parity import compare, within_float32_rounding
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.pipeline.runtime.tensor_values import EXACT, tensor_values

BATCHES = (1, 2, 7)
IN_FLOAT32 = "Export it in float32, or import the float32 file that it was made from"
WIDENING = 0.05  # of the largest answer: what rounding to float16 or bfloat16 may move an answer by
NUMPY_TYPES = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
FREE_SIDE = (
    "Pass --resolution with the side of the images that it was made for, which {side} may not be"
)


def noise(image: ImageInput) -> NDArray[np.float32]:
    """Return seeded noise, [images, channels, side, side]: bytes, or of mean 0 and variance 1."""
    random = np.random.default_rng(0)
    shape = (BATCHES[-1], image.channels, image.side, image.side)
    values = random.integers(0, 256, shape) if image.takes_bytes else random.normal(size=shape)
    return values.astype(np.float32)


def noise_for_the_original(image: ImageInput) -> NDArray[np.generic]:
    """Return the noise in the layout and type that the file takes, in whole batches of its own."""
    size = image.batch or 1
    images = noise(image)
    images = np.concatenate([images, images[: -len(images) % size]])
    if image.channels_last:
        images = images.transpose(TO_ROWS)
    return images.astype(np.uint8 if image.takes_bytes else np.float32)


def answers_of_the_original(
    path: Path, original: onnx.ModelProto, image: ImageInput
) -> NDArray[np.float32]:
    """Run the file as it is on as many images as the largest of ``BATCHES``, one batch at a time.

    Returns:
        Its outputs, [images, classes] or with dimensions of one besides.

    Raises:
        ModelError: it does not run, or its output is no classifier's.
    """
    size = image.batch or 1
    images = noise_for_the_original(image)
    if len(original.graph.output) != 1:
        names = ", ".join(f"'{value.name}'" for value in original.graph.output[:5])
        raise refused(
            path,
            f"it has {len(original.graph.output)} outputs ({names}) instead of one",
            fix="Export it with its logits as the only output",
        )
    try:
        session = open_session(original.SerializeToString(), EXACT)
        outputs = [
            session.run(None, {image.name: images[i : i + size]})[0]
            for i in range(0, len(images), size)
        ]
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        sides = [dim.dim_value for dim in original.graph.input[0].type.tensor_type.shape.dim[1:]]
        fix = "" if image.side in sides else FREE_SIDE.format(side=image.side)
        raise refused(path, "ONNX Runtime cannot run it", error, fix) from error
    if size == 1 and outputs[0].ndim == 1 and outputs[0].size > 1:
        outputs = [row[None] for row in outputs]  # squeeze() drops the batch where it is one
    name, shape = original.graph.output[0].name, list(outputs[0].shape)
    wide = [length for length in shape[1:] if length != 1]
    if shape[:1] == [size] and not wide:
        raise refused(
            path,
            f"its output '{name}' is one number for each image, telling one class from the rest",
            fix="Export it with an output for each class: with the logits [0, x] of two classes in "
            "place of one logit x",
        )
    if shape[:1] != [size] or len(wide) != 1:
        raise refused(path, f"its output '{name}' is {shape}, not one of [batch, classes]")
    if outputs[0].dtype != np.float32:
        raise refused(path, f"its output '{name}' is {outputs[0].dtype}, not float32 logits")
    answers = np.concatenate(outputs)[: BATCHES[-1]]
    if not np.isfinite(answers).all():
        raise refused(
            path,
            f"its output '{name}' is NaN or infinite on noise{_not_finite(original)}",
            fix="Check the file's weights, and export the trained classifier again",
        )
    return answers


def moved_by_widening(
    path: Path, original: onnx.ModelProto, image: ImageInput, answers: NDArray[np.float32]
) -> float:
    """Tell how far the answers of a file, of float16 say, are from those of its graph in float32.

    Raises:
        ModelError: they are so far that it is another function, or it does not run.
    """
    images = noise_for_the_original(image)
    size = image.batch or 1
    try:
        session = open_session(original.SerializeToString(), EXACT)
        given = images.astype(NUMPY_TYPES.get(session.get_inputs()[0].type, images.dtype))
        rows = [
            session.run(None, {image.name: given[i : i + size]})[0]
            for i in range(0, len(given), size)
        ]
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise refused(path, "ONNX Runtime cannot run it", error, IN_FLOAT32) from error
    found = np.stack(rows).astype(np.float32).reshape(len(images), -1)[: len(answers)]
    expected = answers.reshape(len(answers), -1)
    off = float(np.abs(found - expected).max())
    if not off <= WIDENING * max(1.0, float(np.abs(expected).max())):  # NaN is not
        raise refused(
            path,
            f"what it computes in fewer bits is up to {off:.2g} away from the same in float32",
            fix=IN_FLOAT32,
        )
    return off


def _not_finite(model: onnx.ModelProto) -> str:
    """Name the first weight with a NaN or infinity, if there is one."""
    for tensor in model.graph.initializer:
        single = tensor.data_type == onnx.TensorProto.FLOAT
        if single and not np.isfinite(numpy_helper.to_array(tensor)).all():
            return f", and so are values of its weight '{tensor.name}'"
    return ""


def prove_same(
    path: Path, made: onnx.ModelProto, image: ImageInput, answers: NDArray[np.float32]
) -> None:
    """Compare what was made with the answers of the original, at several sizes of the batch.

    Raises:
        ModelError: they differ, or a node does not take several images at once or mixes them.
    """
    images = noise(image)
    expected = answers.reshape(len(answers), -1)
    try:
        onnx.checker.check_model(made, full_check=True)
        session = open_session(made.SerializeToString(), EXACT)
    except Exception as error:  # of several libraries
        raise refused(path, "it cannot be brought into standard form", error) from error
    for size in BATCHES:
        try:
            found = session.run(None, {image.name: images[:size]})[0]
        except Exception as error:  # as above
            raise refused(
                path, f"it does not run on {counted(size, 'image')} at once", error
            ) from error
        if len(found) != size:
            raise refused(
                path, f"it gives {counted(len(found), 'answer')} for {counted(size, 'image')}"
            )
        off = compare(expected[:size], found).max_abs_error
        if not within_float32_rounding(off, expected):
            if size > 1:
                _refuse_mixing(path, made, images)
            raise refused(
                path,
                f"on {counted(size, 'image')} at once its logits are up to {off:.2g} away "
                "from the file's",
            )
    _refuse_moved(path, made, images)


def _refuse_mixing(path: Path, made: onnx.ModelProto, images: NDArray[np.float32]) -> None:
    """Refuse the first node that makes something else of an image when another comes with it.

    Raises:
        ModelError: there is such a node.
    """
    nodes = list(made.graph.node)
    names = [node.output[0] for node in nodes]
    alone, together = (tensor_values(made, names, images[:size]) for size in (1, 2))
    for node, one, two in zip(nodes, alone, together, strict=True):
        first = two[: len(one)] if one.ndim else two
        if first.shape != one.shape or not np.allclose(one, first, rtol=1e-3, atol=1e-5):
            raise refused(
                path,
                f"{described(node)} mixes the images of a batch",
                fix="Export the classifier in inference mode, with each image by itself",
            )


def _refuse_moved(path: Path, made: onnx.ModelProto, images: NDArray[np.float32]) -> None:
    """Refuse a node whose output has no rows of its own for each image: nothing could be measured.

    Raises:
        ModelError: there is such a node.
    """
    shapes = onnx.ModelProto()
    shapes.CopyFrom(made)
    depending, nodes = {made.graph.input[0].name}, []
    for node in made.graph.node:
        if depending.intersection(node.input):
            depending.update(node.output)
            nodes.append(node)
    names = [f"{node.output[0]}/shape_of_it" for node in nodes]
    shapes.graph.node.extend(
        helper.make_node("Shape", [node.output[0]], [name])
        for node, name in zip(nodes, names, strict=True)
    )
    for node, shape in zip(nodes, tensor_values(shapes, names, images), strict=True):
        if not len(shape) or shape[0] % len(images):
            depends = node.op_type in ("Shape", "Size")
            done = "counts the images" if depends else "moves the images to another dimension"
            raise refused(path, f"{described(node)} {done}")
