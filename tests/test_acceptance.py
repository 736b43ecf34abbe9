"""The project's figures for int8, on real weights and images; minutes, so not in `make test`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mobilenet_cli.data.loader import batches
from mobilenet_cli.data.open_dataset import open_dataset
from mobilenet_cli.pipeline.exporting.export import ExportConfig, export
from mobilenet_cli.pipeline.exporting.simplify import SimplifyConfig, simplify
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    write_checkpoint,
)
from mobilenet_cli.pipeline.runtime.proving.parity import compare
from mobilenet_cli.pipeline.runtime.session import open_session

pytestmark = pytest.mark.slow

# The default command, in a process of its own: its CPU, and its peak memory.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from mobilenet_cli.pipeline.artifacts.artifact import load_artifact
from mobilenet_cli.pipeline.quantizing.quantize import quantize
from mobilenet_cli.pipeline.quantizing.config import QuantizeConfig
from mobilenet_cli.pipeline.runtime.session import SessionConfig, open_session

source, out, images, options = sys.argv[1:]
made = quantize(load_artifact(Path(source)), QuantizeConfig(**json.loads(options)), Path(out))
values = np.load(images, mmap_mode="r")
for name, exact in (("kernels", False), ("simulated", True)):
    session = open_session(made.path, SessionConfig(integer_kernels=not exact))
    parts = (values[i : i + 10] for i in range(0, len(values), 10))
    rows = [session.run(None, {"input": part})[0] for part in parts]
    np.save(f"{out}.{name}.npy", np.concatenate(rows))
print(made.record.model_dump_json())
"""


@pytest.fixture(scope="module", params=["mobilenet_7_5_224_tf.h5"])
def folded(request, shared, tmp_path_factory):
    """A published network, imported, exported and folded: width 0.75, unless a test asks others."""
    folder = tmp_path_factory.mktemp("acceptance")
    weights = read_source(str(shared / "weights" / request.param), ImportConfig())
    checkpoint = write_checkpoint(weights, folder / "model.safetensors")
    exported = export(checkpoint, ExportConfig(), folder / "fp32.onnx")
    calibration = str(shared / "imagenet/train")
    return simplify(exported, SimplifyConfig(data=calibration), folder / "folded.onnx")


@pytest.fixture(scope="module")
def validation(shared, folded):
    """Prepared images as a file, their labels, and the float logits."""
    samples = open_dataset(str(shared / "imagenet/val"), "all").samples
    spec = folded.facts.input
    path = folded.path.with_name("images.npy")
    shape = (len(samples), 3, spec.resolution, spec.resolution)
    images = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    session = open_session(folded.path)
    expected = []
    for batch in batches(samples, spec, 10):
        images[list(batch.indices)] = batch.images
        expected.append(session.run(None, {"input": batch.images})[0])
    labels = np.array([folded.facts.classes.index(s.label) for s in samples])
    return path, labels, np.concatenate(expected)


def run_default(shared, folded, validation, out, environment, **options):
    options = {"calib_dir": str(shared / "imagenet/train")} | options
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folded.path, out, validation[0], json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def figures(validation, out, name):
    """Loss of top-1 in points, and parity with float, on the validation images."""
    _, labels, expected = validation
    found = np.load(f"{out}.{name}.npy")
    right = [int((logits.argmax(1) == labels).sum()) for logits in (expected, found)]
    parity = compare(expected, found)
    return 100 * (right[0] - right[1]) / len(labels), parity


def test_default_command_without_vnni(shared, folded, validation, avx2_only, tmp_path):
    out = tmp_path / "int8.onnx"
    record = run_default(shared, folded, validation, out, avx2_only)
    assert record["target"] == "avx2"
    assert record["images"] == 256
    assert record["leakage"] == []
    loss, parity = figures(validation, out, "kernels")
    assert loss <= 0.3
    assert parity.agreement >= 0.975
    assert parity.sqnr_db >= 24
    assert record["peak_rss_mb"] <= 1200


def test_all_eight_bits_simulated(shared, folded, validation, tmp_path):
    out = tmp_path / "int8.onnx"
    run_default(shared, folded, validation, out, dict(os.environ), target="vnni", cross=True)
    _, parity = figures(validation, out, "simulated")
    assert parity.agreement >= 0.975
    assert parity.sqnr_db >= 26


@pytest.mark.parametrize("folded", ["mobilenet_v2-b0353104.pth"], indirect=True)
@pytest.mark.parametrize("target", ["avx2", "vnni"])
def test_residual_streams_in_int8(shared, folded, validation, avx2_only, tmp_path, target):
    """MobileNetV2; what is made for VNNI is simulated, which is what its kernels compute."""
    out = tmp_path / "int8.onnx"
    cross = target == "vnni"
    environment = dict(os.environ) if cross else avx2_only
    record = run_default(shared, folded, validation, out, environment, target=target, cross=cross)
    assert record["kernels_equal"] != cross
    _, parity = figures(validation, out, "simulated" if cross else "kernels")
    labels = validation[1]
    right = (np.load(f"{out}.simulated.npy").argmax(1) == labels).sum()
    assert right >= 515
    assert parity.agreement >= 0.965
    assert parity.sqnr_db >= 21.4
    if not cross:
        kernels, simulated = (np.load(f"{out}.{name}.npy") for name in ("kernels", "simulated"))
        assert np.array_equal(kernels, simulated)


def test_memory_is_bounded_whatever_the_number_of_images(shared, folded, validation, tmp_path):
    peaks = [
        run_default(
            shared, folded, validation, tmp_path / f"{n}.onnx", dict(os.environ), calib_count=n
        )["peak_rss_mb"]
        for n in (100, 400)
    ]
    assert max(peaks) <= 1200
