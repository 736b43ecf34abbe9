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
ENGINE_NAMES = names_in("pipeline.benchmarking.processes.engines", "ENGINES")
# Every option once, by the name of the parameter that takes it.
OPTIONS: dict[str, Any] = {
    "accuracy": option("--accuracy", "With --scenario, measure top-1 instead of time."),
    "activation": option("--activation", "Activation, relu or relu6, if the file does not tell."),
    "all_runs": option("--history", "List every run under runs/, oldest first."),
    "allow_fallback": option("--allow-fallback", "Let the CPU run what the provider cannot run."),
    "as_json": option("--json", "Print one JSON document and nothing else."),
    "baseline": option("--baseline", "An earlier bench.json to compare the medians with."),
    "batch": option("--batch", "Images in each run of the model; several sizes as 1,8,32."),
    "bench_data": option("--data", "Images to run on, or noise; by default the training images."),
    "calib_count": option("--calib-count", "Number of images to calibrate on, from all classes."),
    "calib_dir": option("--calib-dir", "Images to calibrate on; by default the training images."),
    "calibrator": option(
        "--calibrator", "Method for ranges: minmax, percentile, entropy, mse.", CALIBRATOR_NAMES
    ),
    "changes": option("--set", "Change a value of the recipe, as in batch=32; repeatable."),
    "checkpoint": option("--checkpoint", "A checkpoint that is not in a run."),
    "class_map": option(
        "--map", "File with lines 'class of the images,class of the model', where they differ."
    ),
    "classes": option(
        "--classes",
        "File with the classes, one a line, or JSON, YAML or CSV; by default ImageNet's.",
    ),
    "cluster": option("--ray", "Use a Ray cluster: its address, or auto for this machine's."),
    "compare": option("--compare", "Put runs side by side, the first against the rest."),
    "compile_rows": option("--compiled", "Also run checkpoints through torch.compile."),
    "compiled": option("--compile", "Train through torch.compile, which takes a minute."),
    "cross": option("--cross", "Quantize for another machine, on which the proof kit is then run."),
    "data": option("--data", "Images to train on: digits, a folder, shards or an address."),
    "debug": option("--debug", "Show the traceback of an error."),
    "embeddings": option("--embeddings", "With --out, write features instead of classes."),
    "engines": option("--engine", "Engines to compare: openvino, litert, ncnn.", ENGINE_NAMES),
    "epochs": option("--epochs", "Passes over the images, 10 or 0.1; by default the recipe's."),
    "file": typer.Argument(help="An ONNX file, a checkpoint, or a training.pt."),
    "folder": option("--out", "Folder for answers as parquet files; a second start goes on."),
    "fp16": option("--fp16", "Convert to half precision; input and output stay float32."),
    "host": option("--host", "Address to listen on; by default only this machine can connect."),
    "init": option("--init", "Checkpoint to start from; other classes get a new classifier."),
    "into": option("--into", "Also bring the marked tables of a Markdown file up to date."),
    "jpeg": option("--jpeg", "Also write models that take JPEG files, decoded in the graph."),
    "json_lines": option("--jsonl", "Print a line of JSON as soon as an image is answered."),
    "kit": typer.Argument(help="A folder that quantize --cross has made."),
    "keep_float": option("--keep-float", "Keep a layer in float, as --tune names it; repeatable."),
    "labelled": option("--data", "Labelled images; by default those held out from training."),
    "list_recipes": option("--list-recipes", "Show the recipes and their values, and do no more."),
    "logits": option("--logits", "With --out, write the logits of all classes."),
    "max_batch": option("--max-batch", "Most images that one run of the model takes."),
    "max_body_mb": option("--max-body-mb", "Largest body of a request in MiB."),
    "max_drop": option(
        "--max-drop",
        "Let top-1 or AP drop by at most so many points, such as 0.3: keep the fewest layers in "
        "float that this takes. It quantizes again and again, for minutes.",
    ),
    "max_pixels": option("--max-pixels", "Most pixels that an encoded image may have."),
    "max_queue": option("--max-queue", "Most images at a time; further requests must try again."),
    "max_slowdown": option(
        "--max-slowdown", "With --baseline, exit with 1 if a row got slower by more; 5% by default."
    ),
    "max_wait_ms": option("--max-wait-ms", "Milliseconds that images may wait to fill a batch."),
    "model": typer.Argument(help="A model file; by default the one of the run that is needed."),
    "models": typer.Argument(help="Model files; by default all those of the run."),
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
    "markdown": option("--markdown", "Print Markdown tables, which a pipe gets in any case."),
    "nms": option("--nms", "Give a detector's .onnx file final boxes instead of raw outputs."),
    "draw": option("--draw", "Folder for pictures in which a detector's boxes are drawn."),
    "min_score": option("--min-score", "Least probability of a box, 0 to 1; 0.5 by default."),
    "opset": option("--opset", "ONNX operator set to write."),
    "out": option("--out", "File or folder to write; by default it is in the run's folder."),
    "package": typer.Argument(help="A folder that deploy has made."),
    "port": option("--port", "TCP port to listen on; 0 takes a free one."),
    "precision": option("--precision", "Precision of training: fp32, bf16 or, on a GPU, fp16."),
    "images": option("--data", "Images to compare on; by default the training images."),
    "provider": option(
        "--provider", "Execution provider of ONNX Runtime, by its full name.", PROVIDER_NAMES
    ),
    "provider_options": option("--provider-option", "An option such as use_tf32=0; repeatable."),
    "qat": option("--qat", "Train through the int8 grids of quantize, from --init."),
    "recipe": option(
        "--recipe", "Recipe to train by; by default quick, or finetune with --init.", RECIPE_NAMES
    ),
    "resolution": option("--resolution", "Side of the input in pixels; by default 224, digits 32."),
    "resume": option("--resume", "Go on with an interrupted training, which there must be."),
    "revision": option("--revision", "Branch, tag or commit on the hub."),
    "run": option("--run", "Folder under runs/; by default the newest one that fits.", run_names),
    "runs": typer.Argument(help="Runs to compare.", autocompletion=run_names),
    "scaled": option("--scaled", "With --out, decode JPEGs faster, and large ones scaled down."),
    "scenario": option("--scenario", "Run MLPerf LoadGen: single-stream, offline or server."),
    "seconds": option("--seconds", "Longest time in seconds to spend on timing one row."),
    "seed": option(
        "--seed",
        "Seed for all random numbers: weights, order, augmentation.",
        min=0,
        max=2**63 - 1,
    ),
    "server_qps": option("--server-qps", "With --scenario server, the queries to send a second."),
    "sources": typer.Argument(
        help="A model file, or none for the run's; then images, folders, shards, patterns as "
        "'*.jpg', @FILE or @- with a list of these, or - for standard input."
    ),
    "strict": option("--strict", "Stop at the first image that cannot be read."),
    "sync_norms": option("--sync-norms", "On GPUs, share BatchNorm statistics among processes."),
    "target": option(
        "--target",
        "Kernels that int8 is for: auto (this CPU), avx2, avx512, vnni, amx, arm64, tensorrt.",
        TARGET_NAMES,
    ),
    "task": option("--task", "What the network is for: classify, or detect, which finds boxes."),
    "teacher": option("--teacher", "A model whose logits become a part of the loss."),
    "tensorboard": option("--tensorboard", "Also write curves for TensorBoard, into the run."),
    "threads": option("--threads", "Threads within an operator; several counts are written 1,all."),
    "targets": option(
        "--target", "Also quantize for these, or write for litert; repeatable.", TARGET_NAMES
    ),
    "token_file": option("--token-file", "File with a token that clients must send (Bearer)."),
    "top": option("--top", "Number of most probable classes to name; predict takes 5.", min=1),
    "weights": typer.Argument(
        help="Weights of Keras, torch, TensorFlow or safetensors, a folder or an id of the Hugging "
        "Face hub (google/mobilenet_v1_1.0_224), or any float classifier as .onnx."
    ),
    "tune": option("--tune", "Find the layers that are faster in float here, and keep those so."),
    "width": option("--width", "Take the newest run of this width multiplier."),
    "width_check": option("--width", "Refuse weights of another width multiplier."),
}
