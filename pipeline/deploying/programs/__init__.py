"""These are the programs that a package brings along; they use nothing of this project."""

from collections.abc import Mapping, Sequence
from importlib import resources

from mobilenet_cli.reports.records.deployment import VariantRecord

FILES = ("classify.py", "classify.mjs", "package.mjs", "package.json", "index.html", "Dockerfile")
TRITON = "triton/classifier"
MAX_BATCH = 32
MAX_DELAY_US = 1000


def programs() -> dict[str, bytes]:
    """Return the programs by their names in the package."""
    folder = resources.files(__name__)
    return {name: folder.joinpath(name).read_bytes() for name in FILES}


def triton(
    variants: Sequence[VariantRecord], files: Mapping[str, bytes], side: int, classes: int
) -> dict[str, bytes]:
    """Return a model repository for NVIDIA Triton Inference Server, by names in the package.

    It holds the first variant that computes rightly on every CPU, for a server tries none.
    """
    everywhere = (variant for variant in variants if not variant.machines)
    variant = next(everywhere, variants[-1])
    config = f"""# Serve it: tritonserver --model-repository triton
name: "classifier"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH}
input {{ name: "pixels" data_type: TYPE_UINT8 dims: [ {side}, {side}, 3 ] }}
output {{
  name: "probabilities"
  data_type: TYPE_FP32
  dims: [ {classes} ]
  label_filename: "labels.txt"
}}
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY_US} }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""
    return {
        f"{TRITON}/config.pbtxt": config.encode(),
        f"{TRITON}/labels.txt": files["labels.txt"],
        f"{TRITON}/1/model.onnx": files[variant.pixels.model],
    }
