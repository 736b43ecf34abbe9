"""This is the layout of RetinaFace in torch, by biubug6: ``body.stage1.0.0.weight``, ...

Its landmarks are left out: boxes and scores are what a detector gives here.
"""

from dataclasses import replace

from mobilenet_cli.data.preprocess import InputSpec
from mobilenet_cli.models import MODELS
from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.pipeline.importing.files.weight_files import WeightFile
from mobilenet_cli.pipeline.importing.layouts.plan import TensorMapping, layer_names, torch_norm

EXPECTED = "RetinaFace in torch: body.stage1.0.0.weight, fpn.output1.0.weight, ..."
ARCHITECTURE = "retinaface_mobilenet_v1"
RESOLUTION = 640
STAGES = (6, 6, 2)  # blocks of body.stage1 to 3; the first one is a plain convolution
LANDMARKS = "LandmarkHead."
# Of the programs' test_widerface.py: BGR less these means, and IoU 0.4.
NORMALIZATION, OVERLAP = "bgr 104,117,123/1", 0.4
FACE = BoxSpec(anchors=(), scores="softmax", columns=(1,), max_overlap=OVERLAP)
CONTEXT = {
    "3x3": "conv3X3",
    "5x5_1": "conv5X5_1",
    "5x5_2": "conv5X5_2",
    "7x7_2": "conv7X7_2",
    "7x7_3": "conv7x7_3",
}


def recognizes(file: WeightFile) -> bool:
    """Tell whether the file has the first layer and the pyramid of that network."""
    return {"body.stage1.0.0.weight", "fpn.output1.0.weight"} <= file.tensors.keys()


def plan(file: WeightFile, resolution: int | None) -> TensorMapping:
    """Return the names and conventions of that network, for any resolution; 640 by default."""
    names: dict[str, str] = {}

    def add(ours: str, kernel: str, norm: str) -> None:
        names.update(layer_names(ours, f"{kernel}.weight", torch_norm(norm)))

    layer = 0
    for stage, blocks in enumerate(STAGES, 1):
        for block in range(blocks):
            theirs = f"body.stage{stage}.{block}"
            add(f"layers.{layer}", f"{theirs}.0", f"{theirs}.1")
            if layer:
                add(f"layers.{layer + 1}", f"{theirs}.3", f"{theirs}.4")
            layer += 2 if layer else 1
    for index in range(len(STAGES)):
        parts = {f"pyramid.{index}.lateral": f"fpn.output{index + 1}"}
        if index < len(STAGES) - 1:
            parts[f"pyramid.{index}.merge"] = f"fpn.merge{index + 1}"
        parts |= {f"context.{index}.{o}": f"ssh{index + 1}.{t}" for o, t in CONTEXT.items()}
        for ours, theirs in parts.items():
            add(ours, f"{theirs}.0", f"{theirs}.1")
        for ours, theirs in (("boxes", "BboxHead"), ("scores", "ClassHead")):
            for part in ("weight", "bias"):
                names[f"heads.{index}.{ours}.{part}"] = f"{theirs}.{index}.conv1x1.{part}"
    side = resolution or RESOLUTION
    return TensorMapping(
        layout="RetinaFace",
        architecture=ARCHITECTURE,
        names=names,
        padding="symmetric",
        bn_epsilon=1e-5,
        activation="relu",
        assumed="landmarks are left out; a detector gives boxes and scores here",
        input=InputSpec.stretched(side, NORMALIZATION),
        boxes=replace(FACE, anchors=MODELS[ARCHITECTURE].anchors(side)),
        classes=("face",),
        unused=tuple(name for name in file.tensors if name.startswith(LANDMARKS)),
    )
