"""RetinaFace of torch: the published face detector, and what is wrong with a file of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenet_cli.models import MODELS
from mobilenet_cli.models.spec import ModelSpec
from mobilenet_cli.pipeline.artifacts.checkpoint import load_network
from mobilenet_cli.pipeline.errors import ModelError, OptionError
from mobilenet_cli.pipeline.importing.import_weights import (
    ImportConfig,
    read_source,
    write_checkpoint,
)
from mobilenet_cli.pipeline.importing.layouts import retinaface


def test_the_published_detector_gives_the_golden_outputs(shared: Path, tmp_path: Path) -> None:
    source = str(shared / "detect" / "mobilenet0.25_Final.pth")
    imported = read_source(source, ImportConfig())
    assert imported.facts.model == ModelSpec(
        architecture="retinaface_mobilenet_v1",
        width=0.25,
        classes=2,
        bn_epsilon=1e-5,
        activation="relu",
    )
    assert imported.facts.input.channels == "BGR"
    assert imported.facts.input.resolution == 640
    assert "landmarks are left out" in imported.record.notes[0]
    network = load_network(write_checkpoint(imported, tmp_path / "model.safetensors"))
    golden = np.load(shared / "detect" / "retinaface_golden.npz")
    with torch.inference_mode():  # on images that are not square, too
        boxes, scores = network(torch.from_numpy(golden["random_input"]))
    np.testing.assert_allclose(boxes[0], golden["boxes"], atol=1e-4)
    np.testing.assert_allclose(scores[0].softmax(-1)[:, 1], golden["face_probability"], atol=1e-4)
    with pytest.raises(OptionError, match="a multiple of 32"):
        read_source(source, ImportConfig(resolution=300))


def test_a_file_that_lacks_something_is_told(tmp_path: Path) -> None:
    spec = ModelSpec(architecture="retinaface_mobilenet_v1", width=0.25, classes=2)
    state = MODELS[spec.architecture].build(spec).state_dict()
    theirs = retinaface.plan(retinaface.WeightFile(tmp_path, False, {}), None).names
    made = {name: state[ours] for ours, name in theirs.items()}
    torch.save(
        made | {"LandmarkHead.0.conv1x1.weight": torch.zeros(20, 64, 1, 1)}, tmp_path / "a.pth"
    )
    assert read_source(str(tmp_path / "a.pth"), ImportConfig()).facts.classes == ("face",)
    del made["ssh2.conv7x7_3.0.weight"]
    torch.save(made, tmp_path / "b.pth")
    with pytest.raises(ModelError, match=r"lacks 'ssh2\.conv7x7_3\.0\.weight'"):
        read_source(str(tmp_path / "b.pth"), ImportConfig())
