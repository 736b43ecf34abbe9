"""The options of the commands, each described once, by the name of the parameter that takes it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


def run_names() -> list[str]:
    """List the runs, for shells that complete."""
    return sorted(folder.name for folder in Path("runs").glob("*") if folder.is_dir())


def names_in(module: str, table: str) -> Callable[[], list[str]]:
    """Return what lists the keys of a table for shells that complete; only that imports it."""
    return lambda: list(getattr(importlib.import_module(f"mobilenet_cli.{module}"), table))


def option(
    flag: str, text: str, complete: Callable[[], list[str]] | None = None, **more: Any
) -> Any:
    """Describe an option: its flag, its help, and what a shell may complete it with."""
    return typer.Option(flag, help=text, autocompletion=complete, **more)


RECIPE_NAMES = names_in("pipeline.training.recipes", "RECIPES")
MODEL_NAMES = names_in("models", "MODELS")
CALIBRATOR_NAMES = names_in("calibration.ranges.calibrators", "CALIBRATORS")
TARGET_NAMES = names_in("calibration.kernels", "TARGETS")
PROVIDER_NAMES = names_in("pipeline.runtime.session", "PROVIDERS")
ENGINE_NAMES = names_in("pipeline.benchmarking.engines", "ENGINES")
# Every option once, by the name of the parameter that takes it.
OPTIONS: dict[str, Any] = {
    "accuracy": option("--accuracy", "With --scenario, measure top-1 instead of time."),
    "activation": option("--activation", "Activation, relu or relu6, if the file does not tell."),
    "all_runs": option("--history", "List every run under runs/, oldest first."),
    "allow_fallback": option("--allow-fallback", "Let the CPU run what the provider cannot."),
    "as_json": option("--json", "Print one JSON document and nothing else."),
    "baseline": option("--baseline", "An earlier bench.json to compare the medians with."),
    "batch": option("--batch", "Images in each benchmark run; several sizes, as in 1,8,32."),
    "bench_data": option("--data", "Input images, or noise; training images by default."),
    "calib_count": option("--calib-count", "Number of calibration images, of all classes alike."),
    "calib_dir": option("--calib-dir", "Images to calibrate on; training images by default."),
    "calibrator": option(
        "--calibrator", "Method for ranges: minmax, percentile, entropy, mse.", CALIBRATOR_NAMES
    ),
    "changes": option("--set", "Change a value of the recipe, as in batch=32; repeatable."),
    "checkpoint": option("--checkpoint", "A checkpoint outside the runs."),
    "class_map": option(
        "--map", "File with lines 'class of the images,class of the model', where they differ."
    ),
    "classes": option("--classes", "File with a class identifier a line; ImageNet's by default."),
    "cluster": option("--ray", "Use a Ray cluster: its address, or auto for this machine's."),
    "compare": option("--compare", "Put runs side by side, the first against the rest."),
    "compile_rows": option("--compiled", "Also run checkpoints through torch.compile."),
    "compiled": option("--compile", "Train through torch.compile, which takes a minute."),
    "cross": option("--cross", "Quantize for another machine, which then runs the proof kit."),
    "data": option("--data", "Images to train on: digits, a folder, shards or an address."),
    "debug": option("--debug", "Show the traceback of an error."),
    "embeddings": option("--embeddings", "With --out, write the features before the classifier."),
    "engines": option("--engine", "Also run by: openvino, litert, ncnn.", ENGINE_NAMES),
    "epochs": option("--epochs", "Passes over the images, as 10 or 0.1; by default the recipe's."),
    "file": typer.Argument(help="An ONNX file, a checkpoint, or a training.pt."),
    "folder": option("--out", "Folder for parquet files, a part each; a second start goes on."),
    "fp16": option("--fp16", "Convert to half precision; input and output stay float32."),
    "host": option("--host", "Address to listen on; by default only this machine can connect."),
    "init": option("--init", "Checkpoint to start from; new classes get a new classifier."),
    "into": option("--into", "Also bring the marked tables of a Markdown file up to date."),
    "json_lines": option("--jsonl", "Print a JSON document on each line, as answers come."),
    "kit": typer.Argument(help="A folder that quantize --cross has made."),
    "keep_float": option("--keep-float", "Keep a layer in float, as --tune names it; repeatable."),
    "labelled": option("--data", "Labelled images; by default those held out from training."),
    "list_recipes": option("--list-recipes", "Show the recipes and their values, and leave."),
    "logits": option("--logits", "With --out, write the logits of all classes."),
    "max_batch": option("--max-batch", "Most images that the model takes at a time."),
    "max_body_mb": option("--max-body-mb", "Largest body of a request in MiB."),
    "max_drop": option(
        "--max-drop",
        "Keep the fewest layers in float by which top-1 or AP drops no more than so many points, "
        "such as 0.3. This quantizes again and again, for minutes.",
    ),
    "max_pixels": option("--max-pixels", "Most pixels of an encoded image."),
    "max_queue": option("--max-queue", "Most images at a time; more are told to come back."),
    "max_slowdown": option("--max-slowdown", "Exit with 1 when a row is slower than that."),
    "max_wait_ms": option("--max-wait-ms", "Milliseconds that images wait to fill a batch."),
    "model": typer.Argument(help="A model file; by default the right one of the run."),
    "models": typer.Argument(help="Model files; by default all of the run."),
    "multiplier": option("--width", "Width multiplier above 0; 1.0 or that of --init by default."),
    "new_run": option("--run", "Folder to make under runs/; by default the options name it."),
    "normalization": option(
        "--normalization",
        "How an .onnx file wants pixels: inception (-1..1), imagenet, 0..1, 0..255, or mean/std.",
    ),
    "architecture": option(
        "--model",
        "Architecture: mobilenet_v1, mobilenet_v2, or a detector, ssd_mobilenet_v1, "
        "ssdlite_mobilenet_v1 or retinaface_mobilenet_v1.",
        MODEL_NAMES,
    ),
    "markdown": option("--markdown", "Print tables as Markdown, as it is where they are piped."),
    "nms": option("--nms", "Give a detector's .onnx file final boxes instead of raw outputs."),
    "draw": option("--draw", "Folder for pictures in which a detector's boxes are drawn."),
    "min_score": option("--min-score", "Least probability of a box, 0 to 1; 0.5 by default."),
    "opset": option("--opset", "ONNX operator set to write."),
    "out": option("--out", "File or folder to write; by default it goes into the run."),
    "package": typer.Argument(help="A folder that deploy has made."),
    "port": option("--port", "TCP port to listen on; 0 takes a free one."),
    "precision": option("--precision", "Precision of training: fp32, bf16 or, on a GPU, fp16."),
    "images": option("--data", "Images to compare on; training images by default."),
    "provider": option(
        "--provider", "Execution provider of ONNX Runtime, by its full name.", PROVIDER_NAMES
    ),
    "provider_options": option("--provider-option", "For the provider: use_tf32=0; repeatable."),
    "qat": option("--qat", "Train through the grids of quantize, from the weights of --init."),
    "recipe": option(
        "--recipe", "Recipe to train by; by default quick, or finetune with --init.", RECIPE_NAMES
    ),
    "resolution": option("--resolution", "Side of the input in pixels; by default 224, digits 32."),
    "resume": option("--resume", "Insist that an interrupted training with these options goes on."),
    "revision": option("--revision", "Branch, tag or commit on the hub."),
    "run": option("--run", "Folder under runs/; by default the newest that fits.", run_names),
    "runs": typer.Argument(help="Runs to compare.", autocompletion=run_names),
    "scaled": option("--scaled", "With --out, decode JPEGs no larger than they are needed."),
    "scenario": option("--scenario", "Run MLPerf LoadGen: single-stream, offline or server."),
    "seconds": option("--seconds", "Longest time in seconds to spend on timing one row."),
    "seed": option("--seed", "Seed for all random numbers: weights, order, augmentation."),
    "server_qps": option("--server-qps", "With --scenario server, send so many queries a second."),
    "sources": typer.Argument(
        help="A model file, unless the run has it; then images, folders, shards, patterns of them, "
        "@FILE with a list, or -."
    ),
    "strict": option("--strict", "Stop at an image that cannot be read."),
    "sync_norms": option("--sync-norms", "Take BatchNorm statistics over all processes, on GPUs."),
    "target": option(
        "--target",
        "Kernels that int8 is for: auto (this CPU), avx2, avx512, vnni, amx, arm64, tensorrt.",
        TARGET_NAMES,
    ),
    "task": option("--task", "What the network is for: classify, or detect, which finds boxes."),
    "teacher": option("--teacher", "A model whose logits are part of the loss."),
    "tensorboard": option("--tensorboard", "Also write curves for TensorBoard, into the run."),
    "threads": option("--threads", "Threads of each operator; several counts, as in 1,all."),
    "targets": option(
        "--target", "Quantize for these kernels too, or write for litert; repeatable.", TARGET_NAMES
    ),
    "token_file": option("--token-file", "File with a token that clients must send (Bearer)."),
    "top": option("--top", "Number of most probable classes to name; predict takes 5.", min=1),
    "weights": typer.Argument(
        help="Weights of Keras, torch, TensorFlow or safetensors, a folder or an id of the Hugging "
        "Face hub (google/mobilenet_v1_1.0_224), or any float classifier as .onnx."
    ),
    "tune": option("--tune", "Find which layers are faster in float here, and keep those so."),
    "width": option("--width", "Take the newest run of this width multiplier."),
    "width_check": option("--width", "Refuse weights of another width multiplier."),
}
