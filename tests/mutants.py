"""A child process gives damaged models, weights and records to the functions behind the commands.

    python tests/mutants.py FOLDER FIRST LAST

Each number is one damaged file and one command, always the same ones.
"""

import copy
import io
import json
import struct
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import onnx
import torch
from conftest import SmallGraph
from damage import damaged_bytes, damaged_json, damaged_message, damaged_zip, try_numbers
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
from mobilenet_cli.pipeline.benchmarking.inputs import input_images, open_model
from mobilenet_cli.pipeline.benchmarking.processes.child import runner_of
from mobilenet_cli.pipeline.benchmarking.processes.job import BenchJob
from mobilenet_cli.pipeline.benchmarking.rows import Row
from mobilenet_cli.pipeline.evaluating.evaluate import EvaluateConfig, evaluate
from mobilenet_cli.pipeline.evaluating.predicting.predict import open_images, predict
from mobilenet_cli.pipeline.exporting.convert import ConvertConfig, convert_fp16
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.importing.import_onnx import read_onnx
from mobilenet_cli.pipeline.importing.import_weights import ImportConfig, read_source
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.reporting.collect import collect
from mobilenet_cli.pipeline.reporting.inspecting.inspect_file import inspect_file
from mobilenet_cli.pipeline.runtime.session import SessionConfig
from mobilenet_cli.reports.records.base import Record

SIDE, CLASSES = 8, ("0", "1", "2")


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
                read_onnx(path, ImportConfig(classes=self.bases.classes), "imagenet")
            case "simplify":
                simplify(load_artifact(path), SimplifyConfig(images, 2), out)
            case "quantize":
                quantize(load_artifact(path), QuantizeConfig(images, 2, cross=True), out)
            case "convert":
                convert_fp16(load_artifact(path), ConvertConfig(images, 2), out)
            case "bench":
                row = Row(open_model(path), SessionConfig(threads=1), 1)
                inputs, _ = input_images(row, "noise")
                runner_of(BenchJob(path, path, 1, row.session, 0), inputs)()
            case _:
                self.run_model(draw, path)

    def run_model(self, draw: Random, path: Path) -> None:
        if draw.random() < 0.5:
            evaluate(load_artifact(path), EvaluateConfig(str(self.bases.images), workers=1))
        else:
            samples = open_images([str(self.bases.images)], sys.stdin.buffer)
            list(predict(load_artifact(path), islice(samples, 1)))

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


if __name__ == "__main__":
    home = Path(sys.argv[1])
    try_numbers(Attempts(home), home, int(sys.argv[2]), int(sys.argv[3]))
