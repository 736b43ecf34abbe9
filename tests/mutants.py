"""A child process gives damaged models, weights and records to the functions behind the commands.

    python tests/mutants.py FOLDER FIRST LAST

Each number is one damaged file and one command, always the same ones. What is no sentence of ours
is printed as a line of JSON; a crash or a hang ends the process, and FOLDER/at tells where.
"""

import copy
import faulthandler
import io
import json
import random
import struct
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import torch
from conftest import SmallGraph
from google.protobuf.message import Message
from PIL import Image
from safetensors.numpy import save

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models.mobilenet_v1_torch import MobileNetV1
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact, save_artifact
from mobilenet_cli.pipeline.artifacts.checkpoint import checkpoint_bytes, load_network
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_file import with_facts
from mobilenet_cli.pipeline.artifacts.runs import Run
from mobilenet_cli.pipeline.benchmarking.child import onnx_runner
from mobilenet_cli.pipeline.benchmarking.inputs import input_images, open_model
from mobilenet_cli.pipeline.benchmarking.job import BenchJob
from mobilenet_cli.pipeline.benchmarking.rows import Row
from mobilenet_cli.pipeline.errors import MobilenetError
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate
from mobilenet_cli.pipeline.evaluating.predict import open_sources, predict
from mobilenet_cli.pipeline.exporting.convert import ConvertConfig, convert_fp16
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.importing.import_onnx import OnnxImportConfig, read_onnx
from mobilenet_cli.pipeline.importing.import_weights import ImportConfig, read_source
from mobilenet_cli.pipeline.inspecting.inspect_file import inspect_file
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.reporting.collect import collect
from mobilenet_cli.pipeline.runtime.session import SessionConfig
from mobilenet_cli.reports.records.base import Record

SIDE, CLASSES = 8, ("0", "1", "2")
HANG_SECONDS, PEAK_MB = 60, 1500
NUMBERS = (0, 1, -1, 2, 7, 16, 99, 255, 2**16, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
REALS = (0.0, -1.0, 1e-300, 1e38, 1e308, float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "\0", "a\0b", "\x1b[31mx", "\xb2", "9" * 5000, "../../x", "/etc/passwd", "x" * 70000)
OPERATORS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas()}))
Random = random.Random


# -- ways to damage --------------------------------------------------------------------------------


def damaged_bytes(draw: Random, content: bytes) -> bytes:
    """Overwrite some bytes, or cut, double or drop a part."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(min(len(made), draw.choice((64, 2048, 1 << 30))))
        length = draw.choice((1, 1, 2, 4, 8, 300))
        match draw.randrange(5):
            case 0:
                made[at : at + length] = draw.randbytes(length)
            case 1:
                made[at : at + 1] = bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF))])
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = made[at : at + length]
            case _:
                del made[at + 1 + draw.randrange(len(made)) :]
        if not made:
            return b""
    return bytes(made)


def messages(message: Message) -> Iterator[Message]:
    """Yield a message and all in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for inside in value if field.is_repeated else [value]:
                yield from messages(inside)


def alter(draw: Random, message: Message) -> None:
    """Change one field somewhere in a message: in a graph a name, a size, an operator, a node."""
    inside = list(messages(message))
    target = draw.choice(inside)
    fields = [field for field, _ in target.ListFields()]
    field = draw.choice(fields if fields and draw.random() < 0.7 else target.DESCRIPTOR.fields)
    held = getattr(target, field.name)
    if draw.random() < 0.1:
        target.ClearField(field.name)
    elif field.message_type:
        same = [m for m in inside if m.DESCRIPTOR is field.message_type]
        new = copy.deepcopy(draw.choice(same)) if same else None
        if not field.is_repeated:
            if new is not None:
                held.CopyFrom(new)
        elif held and draw.random() < 0.5:
            del held[draw.randrange(len(held))]
        elif new is not None:
            held.extend([new] * draw.choice((1, 1, 2, 50)))
    else:
        value = new_value(draw, field, inside)
        try:
            if not field.is_repeated:
                setattr(target, field.name, value)
            elif held and draw.random() < 0.7:
                held[draw.randrange(len(held))] = value
            else:
                held.extend([value] * draw.choice((1, 1, 3)))
        except (ValueError, TypeError):  # out of the field's range
            target.ClearField(field.name)


def new_value(draw: Random, field: Any, inside: list[Message]) -> object:
    """Return a value of a field's type: an extreme one, or one that is somewhere else."""
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return draw.randbytes(draw.choice((0, 1, 4, 7, 32, 4096)))
        if field.name == "op_type":
            return draw.choice(OPERATORS)
        names = [n for m in inside for n in (*getattr(m, "input", ()), *getattr(m, "output", ()))]
        return draw.choice([*(n for n in names if isinstance(n, str)), *TEXTS])
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return draw.choice(REALS)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return draw.random() < 0.5
    return draw.choice(NUMBERS + tuple(range(24)))


def damaged_message(draw: Random, message: Message) -> bytes:
    """Return a message with a few fields changed, as bytes."""
    made = copy.deepcopy(message)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        alter(draw, made)
    return made.SerializeToString()


def damaged_json(draw: Random, document: Any) -> bytes:
    """Return a JSON document with one value changed or missing, or its text damaged."""
    box: Any = {"document": copy.deepcopy(document)}
    at, key = box, "document"
    while isinstance(at[key], dict | list) and at[key] and draw.random() < 0.9:
        at = at[key]
        key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
    if draw.random() < 0.2:
        del at[key]
    else:
        nested: Any = 0
        for _ in range(300):
            nested = [nested]
        at[key] = draw.choice(
            (None, True, [], {}, nested, document, *NUMBERS, *REALS, *TEXTS, 10**400)
        )
    text = json.dumps(box.get("document", {})).encode()
    return damaged_bytes(draw, text) if draw.random() < 0.2 else text


def damaged_zip(draw: Random, content: bytes) -> bytes:
    """Damage the members of a zip archive, whose checksums stay right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        chosen = draw.choice([names[0], draw.choice(names)])  # the first is the pickle
        for name in names:
            data = old.read(name)
            new.writestr(name, damaged_bytes(draw, data) if name == chosen and data else data)
    return made.getvalue()


# -- what is damaged -------------------------------------------------------------------------------


def facts(stage: str, **more: Any) -> Facts:
    """Return the facts of a small model."""
    spec = InputSpec(resolution=SIDE, resize=SIDE)
    return Facts(stage=stage, input=spec, classes=CLASSES, names=CLASSES, **more)


def small_model(norm: bool) -> onnx.ModelProto:
    """Return a network of each kind of operator that the stages know."""
    graph = SmallGraph(("N", 3, SIDE, SIDE))
    before = graph.conv("x", 3, 8)
    if norm:
        parts = [graph.constant(np.full(8, value)) for value in (1.5, 0.1, 0.2, 1.1)]
        before = graph.node("BatchNormalization", before, *parts)
    first = graph.node("Clip", before, graph.constant(0.0), graph.constant(6.0))
    second = graph.node("Relu", graph.conv(first, 8, 8, 3, group=8))
    added = graph.node("Add", first, second)
    graph.head(graph.node("MaxPool", added, kernel_shape=[2, 2], strides=[2, 2]), 8)
    return graph.model()


class Bases:
    """These are the undamaged files, in a run's folder and as bytes."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder / "run")
        self.images = folder / "images"
        self.classes = folder / "classes.txt"
        if not self.classes.exists():
            self._make()
        self.models = {
            path.name: onnx.load(path) for path in (self.run.fp32, self.run.folded, self.run.int8)
        }
        self.checkpoint = self.run.checkpoint.read_bytes()
        network = load_network(load_artifact(self.run.checkpoint))
        state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
        new, old = io.BytesIO(), io.BytesIO()
        torch.save(state, new)
        torch.save(state, old, _use_new_zipfile_serialization=False)
        self.pth, self.legacy = new.getvalue(), old.getvalue()
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            for number, (name, tensor) in enumerate(state.items()):
                packed = {"compression": "gzip"} if number % 2 else {}
                file.create_dataset(f"{name}/{name}/kernel:0", data=tensor.numpy(), **packed)
            file.attrs["model_config"] = json.dumps({"config": {"layers": []}})
        self.h5 = content.getvalue()
        self.safetensors = save({name: tensor.numpy() for name, tensor in state.items()})
        self.records = {
            path.name: json.loads(path.read_bytes()) for path in self.run.folder.glob("*.json")
        }

    def _make(self) -> None:
        noise = np.random.default_rng(0)
        for label in CLASSES:
            (self.images / label).mkdir(parents=True)
            for number in range(2):
                pixels = noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                Image.fromarray(pixels).save(self.images / label / f"{number}.png")
        torch.manual_seed(0)
        spec = ModelSpec(width=8 / 1024, classes=3)
        known = facts("train", model=spec, data=str(self.images))
        network = MobileNetV1(spec).eval()
        save_artifact(self.run.checkpoint, checkpoint_bytes(network, known), known, Record())
        known = facts("export", data=str(self.images))
        content = with_facts(small_model(norm=True), known)
        exported = save_artifact(self.run.fp32, content, known, Record())
        folded = simplify(exported, SimplifyConfig(), self.run.folded)
        quantize(folded, QuantizeConfig(calib_count=4), self.run.int8)
        self.classes.write_text("\n".join(CLASSES))


# -- damage and command, by number -----------------------------------------------------------------


class Attempts:
    """An attempt gives one damaged file to one command, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases = Bases(folder)
        self.kinds: tuple[Callable[[Random], None], ...] = (
            *(self.onnx_structure,) * 6,
            self.onnx_bytes,
            self.facts_of_onnx,
            self.checkpoint,
            self.safetensors,
            self.torch_file,
            self.hdf5,
            self.configuration,
            self.sidecar_or_record,
        )

    def __call__(self, number: int) -> None:
        draw = Random(number)
        self.kinds[number % len(self.kinds)](draw)

    def write(self, name: str, content: bytes) -> Path:
        """Write a damaged file."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def onnx_structure(self, draw: Random) -> None:
        name, model = draw.choice(list(self.bases.models.items()))
        self.take_onnx(draw, self.write(name, damaged_message(draw, model)))

    def onnx_bytes(self, draw: Random) -> None:
        name = draw.choice(list(self.bases.models))
        content = damaged_bytes(draw, (self.bases.run.folder / name).read_bytes())
        self.take_onnx(draw, self.write(name, content))

    def facts_of_onnx(self, draw: Random) -> None:
        name, model = draw.choice(list(self.bases.models.items()))
        made = copy.deepcopy(model)
        entry = made.metadata_props[0]
        entry.value = damaged_json(draw, json.loads(entry.value)).decode(errors="replace")
        self.take_onnx(draw, self.write(name, made.SerializeToString()))

    def take_onnx(self, draw: Random, path: Path) -> None:
        """Give an ONNX file to one of the commands that take such."""
        images, out = str(self.bases.images), self.folder / "out.onnx"
        match draw.choice(("inspect", "import", "simplify", "quantize", "run", "convert", "bench")):
            case "inspect":
                inspect_file(path)
            case "import":
                read_onnx(path, OnnxImportConfig("imagenet", classes=self.bases.classes))
            case "simplify":
                simplify(load_artifact(path), SimplifyConfig(images, 2), out)
            case "quantize":
                quantize(load_artifact(path), QuantizeConfig(images, 2, cross=True), out)
            case "convert":
                convert_fp16(load_artifact(path), ConvertConfig(images, 2), out)
            case "bench":
                row = Row(open_model(path), SessionConfig(threads=1), 1)
                inputs, _ = input_images(row, "noise")
                onnx_runner(BenchJob(path, path, 1, row.session, 0), inputs)()
            case _:
                self.run_model(draw, path)

    def run_model(self, draw: Random, path: Path) -> None:
        if draw.random() < 0.5:
            evaluate(load_artifact(path), EvaluateConfig(str(self.bases.images), workers=1))
        else:
            _, samples = open_sources([str(path), str(self.bases.images)], sys.stdin.buffer)
            list(predict(load_artifact(path), samples[:1]))

    def checkpoint(self, draw: Random) -> None:
        content = damaged_safetensors(draw, self.bases.checkpoint)
        path = self.write("model.safetensors", content)
        if draw.random() < 0.5:
            inspect_file(path)
        else:
            self.run_model(draw, path)

    def safetensors(self, draw: Random) -> None:
        self.import_weights("w.safetensors", damaged_safetensors(draw, self.bases.safetensors))

    def torch_file(self, draw: Random) -> None:
        match draw.randrange(3):
            case 0:
                content = damaged_zip(draw, self.bases.pth)
            case 1:
                content = damaged_bytes(draw, self.bases.pth)
            case _:
                content = damaged_bytes(draw, self.bases.legacy)
        self.import_weights("w.pth", content)

    def hdf5(self, draw: Random) -> None:
        self.import_weights("w.h5", damaged_bytes(draw, self.bases.h5))

    def configuration(self, draw: Random) -> None:
        document = {
            "image_size": 32,
            "layer_norm_eps": 0.001,
            "hidden_act": "relu6",
            "tf_padding": True,
            "architecture": "mobilenetv1_100",
            "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 0.9, "mean": [0.5, 0.5, 0.5]},
            "crop_size": {"height": 32, "width": 32},
            "size": {"shortest_edge": 36},
            "image_mean": [0.5, 0.5, 0.5],
        }
        for name in ("config.json", "preprocessor_config.json"):
            self.write(name, damaged_json(draw, document))
        try:
            self.import_weights("w.safetensors", self.bases.safetensors)
        finally:
            for name in ("config.json", "preprocessor_config.json"):
                (self.folder / name).unlink()

    def import_weights(self, name: str, content: bytes) -> None:
        config = ImportConfig(classes=self.bases.classes, activation="relu6")
        read_source(str(self.write(name, content)), config)

    def sidecar_or_record(self, draw: Random) -> None:
        name, document = draw.choice(list(self.bases.records.items()))
        path = self.bases.run.folder / name
        whole = path.read_bytes()
        path.write_bytes(damaged_json(draw, document))
        try:
            collect(self.bases.run)
        finally:
            path.write_bytes(whole)


def damaged_safetensors(draw: Random, content: bytes) -> bytes:
    """Damage the header of a safetensors file, its facts, or anything."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    known = header.get("__metadata__")
    match draw.randrange(3):
        case 0:
            return damaged_bytes(draw, content)
        case 1 if known:
            inside = json.loads(known["mobilenet_cli"])
            known["mobilenet_cli"] = damaged_json(draw, inside).decode(errors="replace")
            text = json.dumps(header).encode()
        case _:
            text = damaged_json(draw, header)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def peak_mb() -> float:
    """Read this process's peak; ``ru_maxrss`` would start from the parent's, which fork copies."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(folder: Path, first: int, last: int) -> None:
    """Try the numbers from ``first`` to before ``last``."""
    attempts = Attempts(folder)
    sentences = 0
    with (folder / "at").open("w") as at:
        for number in range(first, last):
            at.seek(0)
            at.write(f"{number:12}")
            at.flush()
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            try:
                attempts(number)
            except (MobilenetError, OSError):
                sentences += 1
            except Exception:
                print(json.dumps({"number": number, "traceback": traceback.format_exc()}))
            faulthandler.cancel_dump_traceback_later()
            peak = peak_mb()
            if peak > PEAK_MB:
                print(json.dumps({"number": number, "traceback": f"peak of {peak:.0f} MB"}))
                break
    print(json.dumps({"done": number + 1, "sentences": sentences, "peak_mb": round(peak)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
