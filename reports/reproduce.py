"""The settings that a run's files carry give the commands that make it again."""

import shlex

from pydantic import JsonValue

from mobilenet_cli.reports.records.run import ArtifactRecord, RunRecord

# Settings that are options of the command, by stage; other settings have no option.
OPTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "data",
        "model",
        "width",
        "resolution",
        "recipe",
        "epochs",
        "changes",
        "init",
        "precision",
        "qat",
        "target",
        "teacher",
        "compiled",
        "sync_norms",
        "seed",
    ),
    "import": ("width", "resolution", "classes", "activation", "revision"),
    "export": ("opset",),
    "simplify": ("data",),
    "quantize": (
        "calib_dir",
        "calib_count",
        "calibrator",
        "target",
        "cross",
        "max_drop",
        "data",
        "seed",
    ),
}
# Where the option has another name than the setting.
NAMES = {"changes": "set", "compiled": "compile"}


def commands(run: RunRecord) -> list[str]:
    """Return one shell command a stage, in the order of the chain."""
    made = [command(run, artifact) for artifact in run.artifacts]
    made += [evaluate_command(run, data) for data in dict.fromkeys(r.data for r in run.evaluations)]
    if run.bench is not None:
        made.append(bench_command(run))
    return [*filter(None, made), shlex.join(["mobilenet-cli", "report", "--run", run.run])]


def command(run: RunRecord, artifact: ArtifactRecord) -> str:
    """Return the command that makes one model file; empty for a stage without one."""
    if artifact.stage not in OPTIONS:
        return ""
    words = ["mobilenet-cli", artifact.stage]
    if artifact.stage == "import":
        words.append(str(artifact.config.get("source", "WEIGHTS")))
    words += ["--run", run.run]
    for name in OPTIONS[artifact.stage]:
        words += option(name, artifact.config.get(name))
    return shlex.join(words)


def option(name: str, value: JsonValue | None) -> list[str]:
    """Write ``--calib-dir DIR``; nothing for a setting left open, or a switch that is off."""
    flag = f"--{NAMES.get(name, name).replace('_', '-')}"
    if isinstance(value, dict):  # a recipe with all its values
        value = value.get("name")
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, list):
        return [word for item in value for word in option(name, item)]
    return [flag, f"{value:g}" if isinstance(value, float) else str(value)]


def evaluate_command(run: RunRecord, data: str) -> str:
    """Return the command that evaluates on a data set, by the name that its record gives it."""
    record = next(r for r in run.evaluations if r.data == data)
    source = data.rsplit(" (", 1)[0]  # the name ends with the split, which the command chooses
    words = ["mobilenet-cli", "evaluate", "--run", run.run, "--data", source]
    if record.provider.endswith("ExecutionProvider"):
        words += ["--provider", record.provider]
    return shlex.join(words)


def bench_command(run: RunRecord) -> str:
    """Return the command of the benchmark with the same threads and batches."""
    assert run.bench is not None  # the caller looked
    results = run.bench.results
    providers = [r.provider for r in results if r.engine == "onnxruntime"]
    words = ["mobilenet-cli", "bench", "--run", run.run]
    words += ["--threads", ",".join(map(str, sorted({r.threads for r in results})))]
    words += ["--batch", ",".join(map(str, sorted({r.batch for r in results})))]
    words += ["--provider", providers[0]] if providers else []
    for name, value in run.bench.provider_options.items():
        words += ["--provider-option", f"{name}={value}"]
    words += ["--engine", ",".join(run.bench.engines)] if run.bench.engines else []
    return shlex.join(words)
