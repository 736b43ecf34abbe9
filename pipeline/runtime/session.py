"""Inference sessions are created here alone: on the provider asked for, or not at all.

ONNX Runtime lists a provider as available when its library is in the wheel, falls back to the CPU
with a log line when it cannot be started, and runs single nodes on the CPU without a word. Each of
these is an error here.
"""

import contextlib
import difflib
import functools
import importlib
import io
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mobilenet_cli.data.readers.files import utf8_path
from mobilenet_cli.pipeline.errors import (
    ModelError,
    OptionError,
    ProviderError,
    StorageError,
    missing_extra,
)
from mobilenet_cli.pipeline.runtime import cuda
from mobilenet_cli.pipeline.runtime.machine import usable_cpus

# The wheels tell Microsoft about sessions, from a thread of their own, unless this is set when they
# are loaded (Privacy.md in them). ORT_DISABLE_TELEMETRY=0 in the environment allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
SUFFIX = "ExecutionProvider"
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
# The simulation of a quantized model scales exact sums, and this would scale weights before them.
SCALES_WEIGHTS = "ConvMulFusion"
MOST_THREADS = 4096  # as many as the largest machines have
EXTENSIONS = "com.microsoft.extensions"  # the domain of onnxruntime-extensions' operators


@dataclass(frozen=True)
class Provider:
    """This is what we know about an execution provider.

    Attributes:
        library: file of ONNX Runtime that holds one of NVIDIA's, which are separate: whether it can
            be loaded is found out before a session is. Empty of all others.
        device: ONNX Runtime's name for its memory; empty for the host's.
        int8_target: with memory of its own, the kernel target whose int8 files it runs well.
        plugin: package that brings it as a library of its own, which ONNX Runtime is told to load;
            empty of those in ONNX Runtime itself. ``_load_plugin`` and
            ``_plugin_options`` know OpenVINO's alone.
        optional: the doctor notes that it does not start, and does not call that a problem; so for
            one that most installations lack.
    """

    library: str = ""
    device: str = ""
    int8_target: str = ""
    plugin: str = ""
    optional: bool = False


PROVIDERS = {
    CPU: Provider(),
    CUDA: Provider("libonnxruntime_providers_cuda.so", "cuda"),
    "TensorrtExecutionProvider": Provider(
        "libonnxruntime_providers_tensorrt.so", "cuda", int8_target="tensorrt", optional=True
    ),
    OPENVINO: Provider(plugin="onnxruntime_ep_openvino", optional=True),
}


@dataclass(frozen=True)
class SessionConfig:
    """These settings say how a model is to be run.

    Attributes:
        provider: an execution provider's full name.
        threads: intra-op threads; None takes every CPU this process may use.
        cpus: logical CPUs to pin them to, one each; empty leaves them to the scheduler. The first
            belongs to the thread that calls the session, which is the caller's to pin.
        optimization: ``all`` is what is deployed; ``disabled`` runs the graph as written, in which
            no node is replaced by another.
        integer_kernels: False computes a quantized model in float, with the codes that its
            definition says (``simulation``).
        disabled_optimizers: names of graph optimizers to leave out, such as ``ConvBNFusion``.
        provider_options: passed to the provider as they are.
        allow_fallback: let nodes that the provider cannot run go to the CPU.
        extensions: know the operators of onnxruntime-extensions, too.
        optimized_path: where to write the graph that really runs.
        profile_prefix: where to write a profile, which ``session.end_profiling()`` names; runs are
            slower by what it records.
    """

    provider: str = CPU
    threads: int | None = None
    cpus: tuple[int, ...] = ()
    optimization: Literal["all", "disabled"] = "all"
    integer_kernels: bool = True
    disabled_optimizers: tuple[str, ...] = ()
    provider_options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    extensions: bool = False
    optimized_path: Path | None = None
    profile_prefix: Path | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise OptionError(
                f"cannot run on {self.threads} threads", f"Pass --threads 1 to {MOST_THREADS}"
            )

    def switched_on(self, option: str, default: bool) -> bool:
        """Tell whether a provider's option, such as ``use_tf32``, is anything but 0 or false."""
        value = self.provider_options.get(option, str(default))
        return value.lower() not in ("0", "false")


def device_of(provider: str) -> str:
    """Return ONNX Runtime's name for a provider's own memory, as GPUs have it; empty for none."""
    return PROVIDERS.get(provider, Provider()).device


@functools.cache
def check_provider(name: str) -> None:
    """Raise ProviderError unless the installed runtime has the provider and it can start."""
    import onnxruntime as ort

    known = PROVIDERS.get(name)
    if known and known.library and (obstacle := cuda.obstacle(known.library)):
        raise ProviderError(f"{name} cannot run here: {obstacle[0]}", obstacle[1])
    if known and known.plugin and name not in ort.get_available_providers():
        _load_plugin(name, known.plugin)
    available = ort.get_available_providers()
    if name in available:
        return
    cure = "Install an ONNX Runtime that is built with it, or choose one of these"
    raise ProviderError(
        f"{name} is not in the installed ONNX Runtime {ort.__version__}, "
        f"which has {', '.join(available)}",
        cure if known else nearest_provider(name, {*PROVIDERS, *available}),
    )


def _load_plugin(name: str, package: str) -> None:
    import onnxruntime as ort

    try:
        library = importlib.import_module(package).get_library_path()
        ort.register_execution_provider_library(name, library)
    except ModuleNotFoundError as error:
        missing = missing_extra(error.name)
        raise ProviderError(
            f"{name} needs the package {package}, which is not installed",
            missing.fix if missing else f"Install {package}",
        ) from error
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        reason = " ".join(str(error).split())[:300]
        raise ProviderError(
            f"{name} does not start ({reason})",
            f"Install versions of {package} and onnxruntime that belong together",
        ) from error
    if name not in ort.get_available_providers():  # OpenVINO's takes Intel's processors alone
        ort.unregister_execution_provider_library(name)  # or to ask again would be another error
        found = sorted({device.device.vendor for device in ort.get_ep_devices()})
        raise ProviderError(
            f"{name} has started and takes none of this machine's processors, "
            f"which are by {', '.join(found) or 'nobody it knows'}",
            "Choose another provider; 'bench --engine openvino' runs OpenVINO without it",
        )


def _plugin_options(config: SessionConfig) -> dict[str, str]:
    """Return the options of OpenVINO's provider, which takes threads in no other way.

    It computes float32 in float32, as the file says, not in its own choice, bfloat16 on AMX; a
    ``load_config`` among the provider's options replaces both.
    """
    settings = {
        "INFERENCE_NUM_THREADS": str(config.threads or usable_cpus()),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return {"load_config": json.dumps({"CPU": settings})} | dict(config.provider_options)


def nearest_provider(name: str, known: Collection[str]) -> str:
    """Suggest a known name that resembles this one, with or without its suffix."""
    spellings = {full.removesuffix(SUFFIX).lower(): full for full in known}
    typed = name.lower()
    if not typed.endswith(SUFFIX.lower()):  # which would make any two names alike
        spellings |= {full.lower(): full for full in known}
    typed = typed.removesuffix(SUFFIX.lower())
    near = difflib.get_close_matches(typed, spellings, n=1, cutoff=0.7)
    return f"Perhaps {spellings[near[0]]} is meant" if near else "Choose one of these"


def open_session(model: Path | bytes, config: SessionConfig = SessionConfig()) -> Any:
    """Create an ``onnxruntime.InferenceSession`` that runs on the provider asked for.

    What the session raises in its runs is a ModelError or ProviderError, too.

    Raises:
        ProviderError: the provider is missing, does not start, or would leave nodes to the CPU.
        ModelError: the runtime cannot load the model.
    """
    import onnxruntime as ort

    check_provider(config.provider)
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads or usable_cpus()
    options.inter_op_num_threads = 1
    if config.cpus[1:]:
        # ONNX Runtime counts logical processors from 1, and leaves out the calling thread.
        affinities = ";".join(str(cpu + 1) for cpu in config.cpus[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    options.log_severity_level = 4  # errors are raised, and would be on stderr, too
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if config.optimization == "all" else levels.ORT_DISABLE_ALL
    )
    if config.optimized_path:
        options.optimized_model_filepath = str(config.optimized_path)
    source, unwanted = model, config.disabled_optimizers
    if not config.integer_kernels:
        source, unwanted = _simulated(model, config), (*unwanted, SCALES_WEIGHTS)
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if config.extensions:
        from onnxruntime_extensions import get_library_path

        options.register_custom_ops_library(get_library_path())
    if config.profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = str(config.profile_prefix)
    if config.provider != CPU and not config.allow_fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    chosen: dict[str, Any] = {
        "providers": [(config.provider, dict(config.provider_options))],
        "disabled_optimizers": list(unwanted) or None,
    }
    try:
        if config.provider in PROVIDERS and PROVIDERS[config.provider].plugin:
            devices = [d for d in ort.get_ep_devices() if d.ep_name == config.provider]
            options.add_provider_for_devices(devices[:1], _plugin_options(config))
            del chosen["providers"]
        readable: contextlib.AbstractContextManager[Path | bytes] = (
            utf8_path(source) if isinstance(source, Path) else contextlib.nullcontext(source)
        )
        # Standard output is for results, and ONNX Runtime prints its retries there.
        with readable as read, contextlib.redirect_stdout(io.StringIO()):
            session = _session_type()(
                read if isinstance(read, bytes) else str(read),
                options,
                **chosen,
            )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise _session_error(model, config, error, "load") from error
    session.opened = model, config
    if session.get_providers()[0] != config.provider:
        raise ProviderError(
            f"ONNX Runtime could not start {config.provider} and would have used "
            f"{session.get_providers()[0]}",
            "Run 'mobilenet-cli doctor' to see which library is missing",
        )
    return session


def _simulated(model: Path | bytes, config: SessionConfig) -> bytes:
    """Return the float model that simulates a quantized one."""
    import onnx

    from mobilenet_cli.pipeline.runtime.simulation import simulation

    try:
        loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    except Exception as error:  # protobuf's and the operating system's have no class in common
        raise _session_error(model, config, error, "load") from error
    content: bytes = simulation(loaded).SerializeToString()
    return content


@functools.cache
def _session_type() -> Any:
    """Return ONNX Runtime's session as a class whose runs end in errors of ours."""
    import onnxruntime as ort

    class Session(ort.InferenceSession):  # type: ignore[misc]  # it has no types
        """This session turns what a graph does to ONNX Runtime into one sentence."""

        opened: tuple[Path | bytes, SessionConfig]

        def run(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().run(*args, **kwargs)
            except Exception as error:
                raise _session_error(*self.opened, error, "run") from error

        def run_with_iobinding(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().run_with_iobinding(*args, **kwargs)
            except Exception as error:
                raise _session_error(*self.opened, error, "run") from error

    return Session


def _session_error(
    model: Path | bytes, config: SessionConfig, error: Exception, what: Literal["load", "run"]
) -> Exception:
    name = "the model" if isinstance(model, bytes) else str(model)
    reason = " ".join(str(error).split())[:300]
    if "fallback to CPU EP has been explicitly disabled" in reason:
        return ProviderError(
            f"{config.provider} cannot run every node of {name}, as with int8 on CUDA; "
            "some would run on the CPU",
            "Use another artifact or provider; bench takes --allow-fallback, which labels the row",
        )
    if EXTENSIONS in reason and not config.extensions:
        return ModelError(
            f"{name} needs operators of the package onnxruntime-extensions",
            "Give a model without them; of a package, its folder",
        )
    if config.optimized_path and "serialization failed" in reason:
        return StorageError(
            f"ONNX Runtime cannot write {config.optimized_path}",
            "Free some space, or set TMPDIR to a folder that has some",
        )
    if config.provider != CPU:
        return ProviderError(
            f"{config.provider} cannot run {name} ({reason})",
            "Run 'mobilenet-cli doctor' to see what is missing, or bench another artifact",
        )
    return ModelError(f"ONNX Runtime cannot {what} {name} ({reason})", "Export the model again")
