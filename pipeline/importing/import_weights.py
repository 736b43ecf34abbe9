"""Somebody else's weights become a checkpoint of ours, with everything that belongs to them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save

from mobilenet_cli.data import imagenet
from mobilenet_cli.data.class_files import read_classes
from mobilenet_cli.models import find_architecture
from mobilenet_cli.models.spec import Activation, ModelSpec, check_width
from mobilenet_cli.pipeline.artifacts.artifact import Artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.facts import METADATA_KEY, Facts, versions
from mobilenet_cli.pipeline.artifacts.files import sha256_file
from mobilenet_cli.pipeline.artifacts.sidecar import is_current, read_sidecar, refuse_overwrite
from mobilenet_cli.pipeline.errors import ModelError, OptionError, StorageError, counted
from mobilenet_cli.pipeline.importing.files.hub import download, is_repository
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile, read_weights
from mobilenet_cli.pipeline.importing.layouts import (
    hugging_face,
    keras,
    keras_automatic,
    keras_v2,
    retinaface,
    ssd_tfjs,
    tf_slim,
    timm,
    torch_programs,
)
from mobilenet_cli.pipeline.importing.layouts.plan import TensorMapping, convert
from mobilenet_cli.reports.records.conversion import ImportRecord


@dataclass(frozen=True)
class Layout:
    """A layout is a way to name a network's tensors.

    Attributes:
        recognizes: is a file in this layout?
        plan: which tensor is which; takes the resolution the user asked for.
        expected: the layout in a few words, for errors.
        prepare: turns a file's tensors into such as map to ours one by one.
    """

    recognizes: Callable[[WeightFile], bool]
    plan: Callable[[WeightFile, int | None], TensorMapping]
    expected: str
    prepare: Callable[[WeightFile], WeightFile] = lambda file: file


# In the order in which they are tried: the last one matches by shape alone.
LAYOUTS = (
    Layout(retinaface.recognizes, retinaface.plan, retinaface.EXPECTED),
    Layout(ssd_tfjs.recognizes, ssd_tfjs.plan, ssd_tfjs.EXPECTED, ssd_tfjs.prepare),
    Layout(keras.recognizes, keras.plan, keras.EXPECTED),
    Layout(keras_v2.recognizes, keras_v2.plan, keras_v2.EXPECTED),
    Layout(
        keras_automatic.recognizes,
        keras_automatic.plan,
        keras_automatic.EXPECTED,
        keras_automatic.prepare,
    ),
    Layout(tf_slim.recognizes, tf_slim.plan, tf_slim.EXPECTED, tf_slim.prepare),
    Layout(hugging_face.recognizes, hugging_face.plan, hugging_face.EXPECTED),
    Layout(timm.recognizes, timm.plan, timm.EXPECTED),
    Layout(torch_programs.recognizes, torch_programs.plan, torch_programs.EXPECTED),
)


@dataclass(frozen=True)
class ImportConfig:
    """These are the settings of ``import``; None leaves a value to the file.

    Attributes:
        width: refuse a file of another width multiplier.
        resolution: side of the network's input in pixels.
        classes: a file of classes as ``read_classes`` takes it.
        activation: for layouts that do not say.
        revision: branch, tag or commit on the Hugging Face hub.
    """

    width: float | None = None
    resolution: int | None = None
    classes: Path | None = None
    activation: Activation | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.width is not None:
            check_width(self.width)
        if self.resolution is not None and self.resolution < 1:
            raise OptionError(
                f"no image has a side of {self.resolution} pixels", "Pass --resolution 224"
            )
        if self.activation not in (None, "relu", "relu6"):
            raise OptionError(f"unknown activation '{self.activation}'", "Pass relu or relu6")


@dataclass(frozen=True)
class Imported:
    """Imported weights are in memory, ready to be written as a checkpoint."""

    content: bytes
    facts: Facts
    record: ImportRecord


def read_source(source: str, config: ImportConfig) -> Imported:
    """Find, recognize and convert weights.

    Args:
        source: a file, a folder as downloaded from the Hugging Face hub, or a hub id.
        config: see ``ImportConfig``.

    Raises:
        ModelError: the weights cannot be had, read or recognized, or are of no architecture here.
        OptionError: an option contradicts the weights, or one is needed.
    """
    path, revision = Path(source), None
    if is_repository(source):
        snapshot = download(source, config.revision)
        path, revision = snapshot.weights, snapshot.commit
    elif config.revision is not None:
        raise OptionError(f"{source} is no hub repository", "Leave --revision out")
    file = read_weights(path)
    layout = recognize(file)
    file = layout.prepare(file)
    plan = _plan(layout, file, config.resolution)
    architecture = find_architecture(plan.architecture)
    architecture.check_resolution(plan.input.resolution)
    activation, notes = _activation(file, plan, config.activation)
    spec, tensors = convert(file, plan, activation)
    _check_width(file.path, spec, config.width)
    if plan.boxes is None and "classifier.weight" not in plan.names:
        notes += ("the file has no classifier; it is zero until the network is trained",)
    elif file.last and plan.boxes is None:
        notes += (f"the classifier is '{plan.names['classifier.weight']}', the graph's output",)
    outputs = len(plan.boxes.columns) if plan.boxes else spec.classes
    classes, names = plan.classes, tuple[str, ...]()
    if config.classes or not classes:
        classes, names = listed_classes(file.path, outputs, config.classes)
    facts = Facts(
        stage="import",
        parent=(sha256 := sha256_file(file.path)),
        config={"source": file.path.name, "layout": plan.layout, "revision": revision},
        versions=versions(
            "numpy", "safetensors", "h5py", "huggingface_hub", "tensorflow", "tensorflow_cpu"
        ),
        model=spec,
        input=plan.input,
        classes=classes,
        names=names,
        boxes=plan.boxes,
    )
    record = ImportRecord(
        source=source,
        source_sha256=sha256,
        revision=revision,
        layout=plan.layout,
        parameters=architecture.parameters(spec),
        outputs=spec.classes,
        notes=notes,
    )
    return Imported(save(tensors, {METADATA_KEY: facts.model_dump_json()}), facts, record)


def write_checkpoint(imported: Imported, out: Path) -> Artifact[ImportRecord]:
    """Write the checkpoint and its sidecar.

    Raises:
        StorageError: it cannot be written, or a checkpoint of other origin or options is there.
    """
    refuse_overwrite(out, [])
    facts = imported.facts
    if out.exists() and not is_current(out, facts.stage, facts.parent, facts.config):
        raise StorageError(
            f"{out} is a checkpoint of other origin", "Choose another --run, or move it away"
        )
    earlier = read_sidecar(out) if out.exists() else None
    if earlier is not None and (changed := _changed(earlier.facts, facts)):
        raise StorageError(
            f"{out} has the same weights, imported {changed}",
            "Choose another --run, or move it away",
        )
    return save_artifact(out, imported.content, facts, imported.record)


def _changed(earlier: Facts, facts: Facts) -> str:
    """Say what an earlier import of the same weights has otherwise; nothing if all is the same."""
    if earlier.input.resolution != facts.input.resolution:
        return f"at resolution {earlier.input.resolution}, not {facts.input.resolution}"
    if earlier.model != facts.model and earlier.model and facts.model:
        return f"with {earlier.model.activation}, not {facts.model.activation}"
    if (earlier.classes, earlier.names) != (facts.classes, facts.names):
        return "with other classes"
    return "with another preprocessing" if earlier.input != facts.input else ""


def run_name(facts: Facts) -> str:
    """Name the run that an import goes to by default, such as ``mobilenet_v1_0.75_224``."""
    assert facts.model is not None
    return f"{facts.model.architecture}_{facts.model.width:g}_{facts.input.resolution}"


def recognize(file: WeightFile) -> Layout:
    """Return the layout of a file's tensors.

    Raises:
        ModelError: none that is known; says what was expected and what was found.
    """
    for layout in LAYOUTS:
        if layout.recognizes(file):
            return layout
    shown = ", ".join(f"{n} {t.shape}" for n, t in list(file.tensors.items())[:3])
    raise ModelError(
        f"{file.path} has {len(file.tensors)} tensors in no known layout "
        f"({shown or 'none of floating point'})",
        "Expected one of: " + "; ".join(layout.expected for layout in LAYOUTS),
    )


def _plan(layout: Layout, file: WeightFile, resolution: int | None) -> TensorMapping:
    try:
        return layout.plan(file, resolution)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        if not (file.config or file.preprocessor):
            raise  # then it is no value of theirs
        raise ModelError(
            f"the configuration beside {file.path} is not one that is known "
            f"({type(error).__name__}: {error})",
            "Download config.json and preprocessor_config.json again",
        ) from error


def _activation(
    file: WeightFile, plan: TensorMapping, wanted: Activation | None
) -> tuple[Activation, tuple[str, ...]]:
    """Return the network's activation, and what was assumed to know it."""
    activation = plan.activation
    if wanted and activation and wanted != activation and "{activation}" not in plan.assumed:
        raise OptionError(
            f"{file.path} is a {plan.layout} file, whose network uses {activation}",
            "Leave --activation out",
        )
    if (activation := wanted or activation) is None:
        raise OptionError(
            f"{file.path} does not say whether the network uses ReLU or ReLU6",
            "Pass --activation relu or --activation relu6 as in the program it comes from",
        )
    return activation, (plan.assumed.format(activation=activation),) if plan.assumed else ()


def _check_width(path: Path, spec: ModelSpec, wanted: float | None) -> None:
    title = find_architecture(spec.architecture).title
    if wanted is not None and abs(spec.width - wanted) > 1 / 1024:
        raise OptionError(
            f"{path} is a {title} of width {spec.width:g}, not {wanted:g}",
            "Leave --width out, or choose another file",
        )


def listed_classes(
    path: Path, outputs: int, listed: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return identifiers and names of a classifier's outputs.

    Raises:
        ModelError: no list is known for this number of outputs.
        DataError: the list given cannot be read.
        OptionError: it has another length, or a class twice.
    """
    if listed is None:
        if outputs == imagenet.CLASSES:
            return imagenet.synsets(), imagenet.names()
        if outputs == imagenet.CLASSES + 1:
            background = (imagenet.BACKGROUND,)
            return background + imagenet.synsets(), background + imagenet.names()
        raise ModelError(
            f"{path} has {counted(outputs, 'output')}, not one for each of ImageNet's 1000 "
            "classes, with or without background",
            f"Pass --classes with a text file of {counted(outputs, 'line')}, one class identifier "
            "each",
        )
    lines, names = read_classes(listed)
    if len(lines) != outputs:
        raise OptionError(
            f"{listed} lists {counted(len(lines), 'class', 'classes')}, but {path} has "
            f"{counted(outputs, 'output')}",
            "Give one identifier a line, in the order of the outputs",
        )
    if twice := sorted({line for line in lines if lines.count(line) > 1 or not line}):
        raise OptionError(
            f"{listed} has the class '{twice[0]}' more than once or empty",
            "Give every output its own identifier",
        )
    return lines, names
