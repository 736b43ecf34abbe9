"""What is in the wheel: these files and no others, under one import name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = """
calibration/__init__.py
calibration/choose_grids.py
calibration/graph/__init__.py
calibration/graph/channels_last.py
calibration/graph/parse.py
calibration/graph/shape_for_kernels.py
calibration/graph/widen_channels.py
calibration/graph/write_qdq.py
calibration/grid.py
calibration/integer_network.py
calibration/kernels.py
calibration/ranges/__init__.py
calibration/ranges/calibrators.py
calibration/ranges/entropy.py
calibration/ranges/histogram.py
calibration/ranges/minmax.py
calibration/ranges/mse.py
calibration/ranges/percentile.py
calibration/select_images.py
calibration/tensor_statistics.py
calibration/weights/__init__.py
calibration/weights/equalize.py
calibration/weights/input_moments.py
calibration/weights/reconstruct.py
calibration/weights/reuse_dead_channels.py
calibration/weights/rounding.py
calibration/weights/trained_weights.py
__main__.py
cli.py
data/__init__.py
data/augment.py
data/crop.py
data/dataset.py
data/decode.py
data/epoch_order.py
data/imagenet.py
data/loader.py
data/open_dataset.py
data/parts.py
data/preprocess.py
data/readers/__init__.py
data/readers/digits.py
data/readers/files.py
data/readers/folder.py
data/readers/parquet.py
data/readers/remote.py
data/readers/shards.py
data/readers/tar.py
data/readers/tfrecord.py
data/readers/webdataset.py
data/split.py
data/training_batches.py
models/__init__.py
models/architecture.py
models/boxes.py
models/classifier_torch.py
models/conv_layers.py
models/conv_norm_torch.py
models/detections.py
models/detector_torch.py
models/mobilenet_v1.py
models/mobilenet_v1_torch.py
models/mobilenet_v2.py
models/mobilenet_v2_torch.py
models/spec.py
models/ssd.py
models/ssd_torch.py
pipeline/__init__.py
pipeline/artifacts/__init__.py
pipeline/artifacts/artifact.py
pipeline/artifacts/checkpoint.py
pipeline/artifacts/facts.py
pipeline/artifacts/file_kinds.py
pipeline/artifacts/files.py
pipeline/artifacts/onnx_checks.py
pipeline/artifacts/onnx_file.py
pipeline/artifacts/onnx_graph.py
pipeline/artifacts/package_folder.py
pipeline/artifacts/runs.py
pipeline/artifacts/sidecar.py
pipeline/benchmarking/__init__.py
pipeline/benchmarking/baseline.py
pipeline/benchmarking/bench.py
pipeline/benchmarking/child.py
pipeline/benchmarking/inputs.py
pipeline/benchmarking/job.py
pipeline/benchmarking/mlperf.py
pipeline/benchmarking/operator_profile.py
pipeline/benchmarking/options.py
pipeline/benchmarking/remarks.py
pipeline/benchmarking/roofline.py
pipeline/benchmarking/rows.py
pipeline/benchmarking/torch_runner.py
pipeline/benchmarking/worker.py
pipeline/chain.py
pipeline/deploying/__init__.py
pipeline/deploying/card.py
pipeline/deploying/deploy.py
pipeline/deploying/image.py
pipeline/deploying/package.py
pipeline/deploying/pixels.py
pipeline/deploying/probabilities.py
pipeline/deploying/probe.py
pipeline/deploying/programs/Dockerfile
pipeline/deploying/programs/__init__.py
pipeline/deploying/programs/classify.mjs
pipeline/deploying/programs/classify.py
pipeline/deploying/programs/index.html
pipeline/deploying/programs/package.json
pipeline/deploying/programs/package.mjs
pipeline/errors.py
pipeline/evaluating/__init__.py
pipeline/evaluating/evaluate.py
pipeline/evaluating/labels.py
pipeline/evaluating/predict.py
pipeline/evaluating/records.py
pipeline/exporting/__init__.py
pipeline/exporting/affine_norms.py
pipeline/exporting/convert.py
pipeline/exporting/export.py
pipeline/exporting/simplify.py
pipeline/importing/__init__.py
pipeline/importing/foreign_graph.py
pipeline/importing/hub.py
pipeline/importing/import_model.py
pipeline/importing/import_onnx.py
pipeline/importing/import_weights.py
pipeline/importing/layouts/__init__.py
pipeline/importing/layouts/hugging_face.py
pipeline/importing/layouts/keras.py
pipeline/importing/layouts/keras_automatic.py
pipeline/importing/layouts/keras_v2.py
pipeline/importing/layouts/plan.py
pipeline/importing/layouts/ssd_tfjs.py
pipeline/importing/layouts/tf_slim.py
pipeline/importing/layouts/timm.py
pipeline/importing/layouts/torch_programs.py
pipeline/importing/normalize_graph.py
pipeline/importing/tensorflow_files.py
pipeline/importing/tensorflow_js.py
pipeline/importing/weight_files.py
pipeline/inspecting/__init__.py
pipeline/inspecting/foreign_weights.py
pipeline/inspecting/inspect_file.py
pipeline/inspecting/layer_sizes.py
pipeline/inspecting/training_state.py
pipeline/progress.py
pipeline/predicting/__init__.py
pipeline/predicting/answering.py
pipeline/predicting/job.py
pipeline/predicting/manifest.py
pipeline/predicting/rows.py
pipeline/quantizing/__init__.py
pipeline/quantizing/calibration_images.py
pipeline/quantizing/config.py
pipeline/quantizing/float_layers.py
pipeline/quantizing/proof.py
pipeline/quantizing/quantize.py
pipeline/quantizing/quantizer.py
pipeline/reporting/__init__.py
pipeline/reporting/collect.py
pipeline/reporting/compare.py
pipeline/reporting/gallery.py
pipeline/reporting/report.py
pipeline/reporting/report_warnings.py
pipeline/reporting/weight_ranges.py
pipeline/runtime/__init__.py
pipeline/runtime/cuda.py
pipeline/runtime/doctor.py
pipeline/runtime/integer_kernels.py
pipeline/runtime/machine.py
pipeline/runtime/parity.py
pipeline/runtime/predictor.py
pipeline/runtime/probe_images.py
pipeline/runtime/session.py
pipeline/runtime/stream.py
pipeline/runtime/tensor_values.py
pipeline/runtime/timing.py
pipeline/runtime/torch_kernels.py
pipeline/stopping.py
pipeline/training/__init__.py
pipeline/training/augmentation.py
pipeline/training/config.py
pipeline/training/distillation.py
pipeline/training/distributed.py
pipeline/training/fake_quantize.py
pipeline/training/interruption.py
pipeline/training/learner.py
pipeline/training/log.py
pipeline/training/optimizer.py
pipeline/training/qat.py
pipeline/training/recipes.py
pipeline/training/setup.py
pipeline/training/state.py
pipeline/training/step.py
pipeline/training/tensorboard.py
pipeline/training/train.py
pipeline/training/validation.py
py.typed
reports/__init__.py
reports/accuracy_statistics.py
reports/answers.py
reports/charts/__init__.py
reports/charts/chart.py
reports/charts/comparison_charts.py
reports/charts/run_charts.py
reports/compare.py
reports/compare_html.py
reports/embed.py
reports/html.py
reports/latency_tables.py
reports/markdown.py
reports/meant.py
reports/model_card.py
reports/options.py
reports/records/__init__.py
reports/records/accuracy.py
reports/records/base.py
reports/records/conversion.py
reports/records/deployment.py
reports/records/inspection.py
reports/records/latency.py
reports/records/prediction.py
reports/records/quantization.py
reports/records/run.py
reports/records/training.py
reports/reproduce.py
reports/schema.py
reports/summary.py
reports/tables.py
reports/templates/base.html.j2
reports/templates/compare.html.j2
reports/templates/macros.html.j2
reports/templates/page.css
reports/templates/page.html.j2
reports/templates/page.js
reports/terminal.py
"""
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


def test_the_wheel_holds_exactly_these_files(tmp_path: Path):
    # Of a copy: what setuptools finds in build/ from earlier would get into the wheel.
    copy = tmp_path / "source"
    copy.mkdir()
    for folder in ("calibration", "data", "models", "pipeline", "reports", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__main__.py", "cli.py", "py.typed", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
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
