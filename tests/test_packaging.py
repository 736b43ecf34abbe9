"""What is in the wheel: these files and no others, under one import name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ["*.py", "*.toml", "*.md", "LICENSE", "py.typed", "*.html.j2", "*.css", "*.js"]
FILES = """
calibration/__init__.py
calibration/calibrators.py
calibration/channels_last.py
calibration/entropy.py
calibration/equalize.py
calibration/grid.py
calibration/histogram.py
calibration/kernels.py
calibration/minmax.py
calibration/mse.py
calibration/network.py
calibration/observe.py
calibration/percentile.py
calibration/plan.py
calibration/qdq.py
calibration/qoperator.py
calibration/reconstruct.py
calibration/reuse.py
calibration/rounding.py
calibration/select.py
calibration/settled.py
calibration/shape_for_kernels.py
calibration/widen.py
cli.py
data/__init__.py
data/augment.py
data/crop.py
data/dataset.py
data/datasets.py
data/digits.py
data/files.py
data/folder.py
data/imagenet.py
data/loader.py
data/order.py
data/parquet.py
data/preprocess.py
data/remote.py
data/shards.py
data/split.py
data/tfrecord.py
data/training.py
data/webdataset.py
models/__init__.py
models/mobilenet_v1.py
models/network.py
models/spec.py
pipeline/__init__.py
pipeline/adopt.py
pipeline/artifact.py
pipeline/bench.py
pipeline/bench_child.py
pipeline/bench_profile.py
pipeline/bench_rows.py
pipeline/bench_worker.py
pipeline/calibration_images.py
pipeline/chain.py
pipeline/checkpoint.py
pipeline/compare.py
pipeline/convert.py
pipeline/cuda.py
pipeline/doctor.py
pipeline/errors.py
pipeline/evaluate.py
pipeline/export.py
pipeline/fake_quantize.py
pipeline/hub.py
pipeline/inspect_state.py
pipeline/inspection.py
pipeline/layer_sizes.py
pipeline/integer_network.py
pipeline/integer_proof.py
pipeline/layout.py
pipeline/layout_hugging_face.py
pipeline/layout_keras.py
pipeline/layout_slim.py
pipeline/layout_timm.py
pipeline/layout_torch.py
pipeline/loadgen.py
pipeline/machine.py
pipeline/mixed.py
pipeline/onnx_file.py
pipeline/optimizer.py
pipeline/parity.py
pipeline/pictures.py
pipeline/predict.py
pipeline/predictor.py
pipeline/probe.py
pipeline/progress.py
pipeline/qat.py
pipeline/quantize.py
pipeline/quantize_config.py
pipeline/ranges.py
pipeline/recipes.py
pipeline/regression.py
pipeline/report.py
pipeline/roofline.py
pipeline/runs.py
pipeline/session.py
pipeline/simplify.py
pipeline/target.py
pipeline/teacher.py
pipeline/team.py
pipeline/tensorboard.py
pipeline/tensorflow_files.py
pipeline/timing.py
pipeline/torch_bench.py
pipeline/train.py
pipeline/train_config.py
pipeline/train_held.py
pipeline/train_images.py
pipeline/train_job.py
pipeline/train_log.py
pipeline/train_state.py
pipeline/train_step.py
pipeline/weight_files.py
pipeline/weight_ranges.py
pipeline/weights.py
py.typed
reports/__init__.py
reports/answers.py
reports/card.py
reports/charts.py
reports/base.html.j2
reports/compare.html.j2
reports/compare.py
reports/compare_html.py
reports/embed.py
reports/html.py
reports/latency.py
reports/macros.html.j2
reports/markdown.py
reports/page.css
reports/page.html.j2
reports/page.js
reports/paired.py
reports/records.py
reports/reproduce.py
reports/schema.py
reports/summary.py
reports/tables.py
reports/text.py
"""
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


def test_the_wheel_holds_exactly_these_files(tmp_path: Path):
    # Of a copy: what setuptools finds in build/ from earlier would get into the wheel.
    copy = tmp_path / "source"
    copy.mkdir()
    for folder in (".", "calibration", "data", "models", "pipeline", "reports", "tests"):
        for pattern in SOURCES:
            for file in (ROOT / folder).glob(pattern):
                (copy / folder).mkdir(exist_ok=True)
                shutil.copy(file, copy / folder)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run(
        [*build, "--wheel-dir", str(tmp_path), str(copy)], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    found = set(zipfile.ZipFile(wheel).namelist())
    about = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    expected = {f"mobilenet_cli/{name}" for name in FILES.split()}
    assert found == expected | {f"{about}/{name}" for name in METADATA}
