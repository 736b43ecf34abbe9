"""A model for another machine comes with a proof kit, by which that machine proves its kernels.

The kit is a folder: each step of the network as a model, with inputs and what the simulation made
of them; the whole model with images and the simulation's outputs; ``prove.py`` and its twin for
JavaScript, which need nothing of this project; and ``kit.json``, which describes them all and has
their hashes.
"""

import hashlib
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mobilenet_cli.pipeline.artifacts.files import write_atomically
from mobilenet_cli.pipeline.errors import ModelError, StorageError
from mobilenet_cli.pipeline.quantizing.proof import KIT_IMAGES, SIMULATED
from mobilenet_cli.pipeline.quantizing.quantizer import QuantizedModel, Quantizer
from mobilenet_cli.pipeline.runtime import proving
from mobilenet_cli.pipeline.runtime.proving import prove as program
from mobilenet_cli.pipeline.runtime.session import open_session
from mobilenet_cli.reports.records.proof import KitPart, KitRecord, KitTensor, ProofRecord

MANIFEST = "kit.json"
PROGRAMS = ("prove.py", "prove.mjs")


def kit_folder(model: Path) -> Path:
    """Return the folder of the kit that belongs to a model file.

    Raises:
        StorageError: there is something else.
    """
    folder = model.with_name(f"{model.stem}-kit")
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise StorageError(
            f"{folder} exists and is no proof kit", "Move it, or choose another --out"
        )
    return folder


def write_kit(folder: Path, quantizer: Quantizer, made: QuantizedModel) -> None:
    """Write the kit of a quantized model, in place of an earlier one.

    Raises:
        StorageError: the folder cannot be written.
    """
    source = resources.files(proving)
    files = {name: source.joinpath(name).read_bytes() for name in PROGRAMS}
    files["model.onnx"] = made.content

    def tensor(values: NDArray[Any]) -> KitTensor:
        # A step's output is read again by the next, and lies in one file.
        file = f"tensors/{hashlib.sha256(values.tobytes()).hexdigest()[:16]}.bin"
        files[file] = values.tobytes()
        return KitTensor(file=file, dtype=values.dtype.name, shape=values.shape)

    layers = []
    for number, proof in enumerate(made.proofs):
        file = f"layers/{number:02}.onnx"
        files[file] = proof.model
        layers.append(
            KitPart(
                name=proof.step.output,
                model=file,
                inputs={name: tensor(values) for name, values in proof.inputs.items()},
                outputs={proof.step.output: tensor(proof.simulated)},
            )
        )
    images = np.concatenate(list(quantizer.calibration.first_batches(KIT_IMAGES)))
    session = open_session(made.content, SIMULATED)
    image, names = session.get_inputs()[0].name, [o.name for o in session.get_outputs()]
    simulated = dict(zip(names, session.run(names, {image: images}), strict=True))
    manifest = KitRecord(
        target=quantizer.config.target,
        onnxruntime=quantizer.facts.versions["onnxruntime"],
        layers=tuple(layers),
        model=KitPart(
            name="model",
            model="model.onnx",
            inputs={image: tensor(images)},
            outputs={name: tensor(values) for name, values in simulated.items()},
        ),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    # The manifest comes last: until it is there, the folder is no kit.
    write_atomically(folder / MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())


def prove_kit(folder: Path) -> ProofRecord:
    """Prove this machine's kernels by a kit, with the program that lies in kits.

    Raises:
        ModelError: the kit is damaged, of another version, or cannot be run here.
    """
    try:
        return ProofRecord.model_validate(program.prove(folder))
    except program.UnusableError as error:
        raise ModelError(*error.args) from error
    except ValidationError as error:
        raise ModelError(f"{folder / MANIFEST} is damaged", "Copy the kit again") from error
