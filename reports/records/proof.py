"""These are the records of proofs on other machines: a kit's manifest, and what it has proven."""

from mobilenet_cli.reports.records.base import Record


class KitTensor(Record):
    """A tensor of a kit lies in a file as raw values, little-endian, the last axis fastest.

    Attributes:
        file: relative to the kit.
        dtype: of the values, as NumPy names it.
        shape: of the tensor.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]


class KitPart(Record):
    """A part of a kit is a model with what it must make of given inputs.

    Attributes:
        name: of the tensor that a layer makes; ``model`` for the whole.
        model: the ONNX file, relative to the kit.
        inputs: by the names of the model's inputs.
        outputs: what the simulation makes of them, by the names of the model's outputs.
    """

    name: str
    model: str
    inputs: dict[str, KitTensor]
    outputs: dict[str, KitTensor]


class KitRecord(Record):
    """A kit's manifest describes the proofs of a quantized model, and lists its files.

    Attributes:
        target: the kernels that the model is made for.
        onnxruntime: the version whose simulation it was made with.
        layers: in the order of computation.
        model: the whole model.
        files: SHA-256 of every file, by its name relative to the kit.
    """

    target: str
    onnxruntime: str
    layers: tuple[KitPart, ...]
    model: KitPart
    files: dict[str, str]


class ProofRecord(Record):
    """A proof says whether a machine's kernels compute a model as its definition says.

    Attributes:
        target: the kernels that the model is made for.
        model: SHA-256 of the model.
        device: the system, the CPU's architecture, and the version of ONNX Runtime.
        right: no layer is wrong, and the whole model is close enough to its simulation.
        layers: by name, the largest difference in codes, of which 1 is a tie rounded the other
            way; of layers that stay float 0, or None where they differ by more than rounding.
        wrong: the names of the layers that differ by more.
        model_sqnr_db: of the whole model's outputs against the simulation's; None where all are
            equal, or one is not a number.
    """

    target: str
    model: str
    device: str
    right: bool
    layers: dict[str, float | None]
    wrong: tuple[str, ...]
    model_sqnr_db: float | None
