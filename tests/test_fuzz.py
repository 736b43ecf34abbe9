"""Damaged files must import or be refused by a sentence: never crash, never run, never hang.

A few examples a run; ``make fuzz`` tries many more (``MOBILENET_CLI_FUZZ`` examples a test). What
was found is kept below as ``example``, or in the tests of the module that was mended.
"""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from mobilenet_cli.data.preprocess import InputSpec, prepare
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.errors import DataError, MobilenetError
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.import_weights import ImportConfig, read_source
from mobilenet_cli.pipeline.importing.layouts.hugging_face import plan as hugging_face
from mobilenet_cli.pipeline.importing.layouts.keras import plan as keras
from mobilenet_cli.pipeline.importing.layouts.plan import LAYERS, NORM_PARTS, TensorMapping
from mobilenet_cli.pipeline.importing.layouts.timm import plan as timm

SPEC = ModelSpec(width=8 / 1024, classes=2)  # eight channels everywhere: files of 60 kB
FUZZ = settings(
    max_examples=int(os.environ.get("MOBILENET_CLI_FUZZ", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize="MOBILENET_CLI_FUZZ" not in os.environ,
)
# Anywhere in the file, or in its first bytes, where the headers are.
EDITS = st.lists(
    st.tuples(st.one_of(st.integers(0, 1 << 20), st.integers(0, 4096)), st.integers(0, 255)),
    max_size=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def tensors_of(plan: Any, stem: str) -> dict[str, np.ndarray]:
    """A file's tensors in a layout, with plausible values."""
    probe = {stem: np.zeros((8, 3, 3, 3), np.float32), "classifier.bias": np.zeros(2)}
    made: TensorMapping = plan(WeightFile(Path("x"), False, probe), None)
    shapes = MODELS[SPEC.architecture].tensor_shapes(SPEC)
    return {made.names[name]: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}


def hdf5() -> bytes:
    h5py = pytest.importorskip("h5py")
    probe = {"conv1/kernel": np.zeros(0), "conv_preds/bias": np.zeros(2)}
    names = keras(WeightFile(Path("x"), False, probe), None).names
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for ours, shape in MODELS[SPEC.architecture].tensor_shapes(SPEC).items():
            if len(shape) == 4:
                depthwise = int(ours.split(".")[1]) % 2
                shape = tuple(shape[i] for i in ((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)))
            elif ours == "classifier.weight":
                shape = (1, 1, *shape[::-1])
            layer, part = names[ours].split("/")
            file[f"{layer}/{layer}/{part}:0"] = np.full(shape, 0.5, np.float32)
    return content.getvalue()


def pickled() -> bytes:
    content = io.BytesIO()
    tensors = tensors_of(timm, "conv_stem.weight")
    torch.save({name: torch.from_numpy(t) for name, t in tensors.items()}, content)
    return content.getvalue()


FILES = {
    "h5": hdf5(),
    "pth": pickled(),
    "safetensors": save(tensors_of(hugging_face, "conv_stem.convolution.weight")),
}


@pytest.fixture
def classes(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\n")
    return tmp_path / "classes.txt"


def attempt(folder: Path, content: bytes, classes: Path) -> bool:
    """Import; True if it worked, False if it was refused by a sentence."""
    file = folder / "weights"
    file.write_bytes(content)
    try:
        imported = read_source(str(file), ImportConfig(classes=classes))
    except MobilenetError:
        return False
    assert imported.facts.model is not None
    assert imported.facts.model.width == SPEC.width
    return True


def damage(content: bytes, edits: list[tuple[int, int]], keep: float) -> bytes:
    """Overwrite bytes and cut the end off."""
    damaged = bytearray(content)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    return bytes(damaged[: max(1, int(len(damaged) * keep))])


@pytest.mark.parametrize("form", FILES)
def test_undamaged_files_import(tmp_path, classes, form):
    assert attempt(tmp_path, FILES[form], classes)


@pytest.mark.parametrize("form", FILES)
@FUZZ
@given(edits=EDITS, keep=st.sampled_from([1.0, 1.0, 0.999, 0.5, 0.01]))
def test_damaged_files(tmp_path, classes, form, edits, keep):
    attempt(tmp_path, damage(FILES[form], edits, keep), classes)


@FUZZ
@given(
    name=st.integers(0, LAYERS * (1 + len(NORM_PARTS)) + 1),
    dtype=st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X"]),
    shape=st.lists(st.integers(-1, 1 << 40), max_size=5),
    offsets=st.lists(st.integers(-1, 1 << 40), max_size=3),
)
def test_damaged_safetensors_header(tmp_path, classes, name, dtype, shape, offsets):
    content = FILES["safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    entry = header[sorted(header)[name % len(header)]]
    entry |= {"dtype": dtype} | ({"shape": shape} if shape else {})
    entry |= {"data_offsets": offsets} if offsets else {}
    text = json.dumps(header).encode()
    attempt(tmp_path, struct.pack("<Q", len(text)) + text + content[8 + length :], classes)


CONFIG_KEYS = st.sampled_from(
    ["image_size", "layer_norm_eps", "hidden_act", "tf_padding", "architecture", "pretrained_cfg"]
)
PREPROCESSOR_KEYS = st.sampled_from(["crop_size", "size", "resample", "image_mean", "image_std"])
TIMM_KEYS = st.sampled_from(["input_size", "crop_pct", "interpolation", "mean", "std"])
SIZES = st.dictionaries(st.sampled_from(["height", "shortest_edge"]), JSON)


@FUZZ
@given(
    form=st.sampled_from(["safetensors", "pth"]),
    config=st.dictionaries(CONFIG_KEYS, JSON | st.dictionaries(TIMM_KEYS, JSON)),
    preprocessor=st.dictionaries(PREPROCESSOR_KEYS, JSON | SIZES),
)
@example(form="pth", config={"pretrained_cfg": {"crop_pct": 1e-308}}, preprocessor={})
@example(form="safetensors", config={"layer_norm_eps": float("nan")}, preprocessor={})
@example(form="safetensors", config={}, preprocessor={"image_mean": []})
def test_any_configuration(tmp_path, classes, form, config, preprocessor):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    attempt(tmp_path, FILES[form], classes)


IMAGES = {}
for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
    picture = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    Image.fromarray(noise).save(picture, form)
    IMAGES[form] = picture.getvalue()


@pytest.mark.parametrize("form", IMAGES)
@FUZZ
@given(edits=EDITS, keep=st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5]))
def test_damaged_images(form, edits, keep):
    try:
        made = prepare(damage(IMAGES[form], edits, keep), "x", InputSpec(resolution=32, resize=32))
    except DataError:
        return
    assert made.shape == (3, 32, 32)


MUTANTS_PER_PROCESS = 5000


@pytest.mark.parametrize(("script", "kinds"), [("mutants.py", 14), ("data_mutants.py", 40)])
def test_mutants(tmp_path, script, kinds):
    """No file ends a process, lets it hang or grow, or shows a traceback, wherever it is given."""
    count = int(os.environ.get("MOBILENET_CLI_FUZZ", "6")) * kinds
    findings, number = [], 0
    while number < count:
        last = min(count, number + MUTANTS_PER_PROCESS)
        command = [sys.executable, Path(__file__).with_name(script), tmp_path, str(number)]
        child = subprocess.run([*command, str(last)], capture_output=True, text=True)
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        findings += [line for line in lines if "number" in line]
        number = lines[-1].get("done", 0) if lines else 0
        if child.returncode:
            number = int((tmp_path / "at").read_text()) + 1
            findings.append({"number": number - 1, "ended with": child.returncode})
    assert not findings
