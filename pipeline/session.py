"""The only place where an inference session is created: on the provider asked for, or not at all.

ONNX Runtime lists a provider as available when its library is in the wheel, falls back to the CPU
with a log line when it cannot be started, and runs single nodes on the CPU without a word. Each of
these is an error here.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mobilenet_cli.pipeline.errors import ModelError, OptionError, ProviderError
from mobilenet_cli.pipeline.machine import usable_cpus

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """What a user needs to hear when a provider is not there."""

    install: str
    preload: bool = False  # CUDA's libraries come from Python packages and must be loaded first


PROVIDERS = {
    CPU: Provider('Install it with: pip install "mobilenet-cli[cpu]"'),
    "CUDAExecutionProvider": Provider(
        'Install it with: pip uninstall onnxruntime && pip install "mobilenet-cli[gpu]"; '
        "it needs an NVIDIA GPU and driver",
        preload=True,
    ),
    "TensorrtExecutionProvider": Provider(
        'Install it with: pip install "mobilenet-cli[gpu]" tensorrt; '
        "it needs an NVIDIA GPU and driver",
        preload=True,
    ),
}


@dataclass(frozen=True)
class SessionConfig:
    """How a model is to be run.

    Attributes:
        provider: an execution provider's full name.
        threads: intra-op threads; None takes every CPU this process may use.
        optimization: ``all`` is what is deployed; ``disabled`` runs the graph as written, in which
            an int8 model is simulated in float.
        disabled_optimizers: names of graph optimizers to leave out, such as ``ConvBNFusion``.
        provider_options: passed to the provider as they are.
        allow_fallback: let nodes that the provider cannot run go to the CPU.
        optimized_path: where to write the graph that really runs.
    """

    provider: str = CPU
    threads: int | None = None
    optimization: Literal["all", "disabled"] = "all"
    disabled_optimizers: tuple[str, ...] = ()
    provider_options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    optimized_path: Path | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"cannot run on {self.threads} threads", "Pass --threads 1 or more")


def check_provider(name: str) -> None:
    """Raise ProviderError unless the installed runtime was built with the provider."""
    import onnxruntime as ort

    available = ort.get_available_providers()
    if name in available:
        return
    near = difflib.get_close_matches(name, {*PROVIDERS, *available}, n=1, cutoff=0.4)
    known = PROVIDERS.get(name)
    raise ProviderError(
        f"{name} is not in the installed ONNX Runtime {ort.__version__}, "
        f"which has {', '.join(available)}",
        known.install if known else f"Did you mean {near[0]}" if near else "Choose one of these",
    )


def open_session(model: Path | bytes, config: SessionConfig = SessionConfig()) -> Any:
    """Create an ``onnxruntime.InferenceSession`` that runs on the provider asked for.

    Raises:
        ProviderError: the provider is missing, does not start, or would leave nodes to the CPU.
        ModelError: the runtime cannot load the model.
    """
    import onnxruntime as ort

    check_provider(config.provider)
    provider = PROVIDERS.get(config.provider)
    if provider and provider.preload and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads or usable_cpus()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # what matters is raised below; warnings would go to stderr
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if config.optimization == "all" else levels.ORT_DISABLE_ALL
    )
    if config.optimized_path:
        options.optimized_model_filepath = str(config.optimized_path)
    if config.provider != CPU and not config.allow_fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=[(config.provider, dict(config.provider_options))],
            disabled_optimizers=list(config.disabled_optimizers) or None,
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise _session_error(model, config, error) from error
    if session.get_providers()[0] != config.provider:
        raise ProviderError(
            f"ONNX Runtime could not start {config.provider} and would have used "
            f"{session.get_providers()[0]}",
            "Run 'mobilenet-cli doctor' to see which library is missing",
        )
    return session


def _session_error(model: Path | bytes, config: SessionConfig, error: Exception) -> Exception:
    name = "the model" if isinstance(model, bytes) else str(model)
    reason = " ".join(str(error).split())[:300]
    if config.provider != CPU:
        return ProviderError(
            f"{config.provider} cannot run {name} ({reason})",
            "Run 'mobilenet-cli doctor' to see what is missing, or bench another artifact",
        )
    return ModelError(f"ONNX Runtime cannot load {name} ({reason})", "Export the model again")
