"""These are the programs that a package brings along; they use nothing of this project.

``classify.py`` and ``detect.py`` begin alike, and share no module: each of them is copied into its
package alone, and must run there with nothing of ours beside it.
"""

from collections.abc import Mapping, Sequence
from importlib import resources

import onnx
from onnx import TensorProto

from mobilenet_cli.models.architecture import Task
from mobilenet_cli.pipeline.artifacts.facts import Facts
from mobilenet_cli.pipeline.artifacts.onnx_graph import dims_of
from mobilenet_cli.pipeline.exporting.nms import OUTPUTS
from mobilenet_cli.reports.records.deployment import VariantRecord

PAGE = ("classify.mjs", "package.mjs", "package.json", "index.html", "Dockerfile")
FILES: dict[Task, tuple[str, ...]] = {
    "classification": ("classify.py", *PAGE),
    "detection": ("detect.py",),
}
NAMES: dict[Task, str] = {"classification": "classifier", "detection": "detector"}
MAX_BATCH = 32
MAX_DELAY_US = 1000


def programs(task: Task) -> dict[str, bytes]:
    """Return the programs by their names in the package."""
    folder = resources.files(__name__)
    return {name: folder.joinpath(name).read_bytes() for name in FILES[task]}


def triton(
    variants: Sequence[VariantRecord], files: Mapping[str, bytes], facts: Facts
) -> dict[str, bytes]:
    """Return a model repository for NVIDIA Triton Inference Server, by names in the package.

    It holds the first variant that computes rightly on every CPU, for a server tries none.
    """
    everywhere = (variant for variant in variants if not variant.machines)
    model = files[next(everywhere, variants[-1]).pixels.model]
    side, name = facts.input.resolution, NAMES[facts.task]
    config = f"""# Serve it: tritonserver --model-repository triton
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH}
input {{ name: "pixels" data_type: TYPE_UINT8 dims: [ {side}, {side}, 3 ] }}
{_boxes(model) if facts.boxes else _probabilities(facts)}
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY_US} }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""
    return {
        f"triton/{name}/config.pbtxt": config.encode(),
        f"triton/{name}/labels.txt": files["labels.txt"],
        f"triton/{name}/1/model.onnx": model,
    }


def _probabilities(facts: Facts) -> str:
    return f"""output {{
  name: "probabilities"
  data_type: TYPE_FP32
  dims: [ {len(facts.classes)} ]
  label_filename: "labels.txt"
}}"""


def _boxes(model: bytes) -> str:
    """Describe final boxes, in pixels of the model's input."""
    kinds = {TensorProto.FLOAT: "TYPE_FP32", TensorProto.INT64: "TYPE_INT64"}
    lines = []
    for output in onnx.load_from_string(model).graph.output:
        if output.name in OUTPUTS:
            kind = kinds[output.type.tensor_type.elem_type]
            # Of a vector there is one number for each image.
            dims = ", ".join(map(str, dims_of(output)[1:]))
            shape = f"dims: [ {dims} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
            lines.append(f'output {{ name: "{output.name}" data_type: {kind} {shape} }}')
    return "\n".join(lines)
