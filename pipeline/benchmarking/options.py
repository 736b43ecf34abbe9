"""The options of ``bench`` that people write as text."""

from collections.abc import Sequence
from pathlib import Path

from mobilenet_cli.pipeline.benchmarking.bench import BenchConfig
from mobilenet_cli.pipeline.benchmarking.processes.job import ONNX_RUNTIME
from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.session import CPU, check_provider

MAX_SLOWDOWN = "5%"


def bench_config(
    provider: str,
    threads: str,
    batch: str,
    seconds: float,
    provider_options: Sequence[str] = (),
    engines: str | None = None,
    allow_fallback: bool = False,
    data: str | None = None,
    compiled: bool = False,
    scenario: str | None = None,
    accuracy: bool = False,
    server_qps: float | None = None,
) -> BenchConfig:
    """Read the options of a benchmark.

    The last two are read elsewhere; they belong to a scenario.

    Raises:
        OptionError: a text cannot be read, a value is outside its domain, or an option lacks the
            one that it belongs to.
        ProviderError: the provider is missing, which is told before any file is looked for.
    """
    if accuracy and not scenario:
        raise OptionError("--accuracy is for --scenario", "Measure top-1 with 'evaluate'")
    if server_qps is not None and scenario != "server":
        raise OptionError("--server-qps is for --scenario server", "Leave it out")
    if provider_options and provider == CPU:
        raise OptionError(f"{CPU} takes no --provider-option", "Leave it out, or pass --provider")
    names = [name.strip() for name in (engines or "").split(",")]
    config = BenchConfig(
        provider=provider,
        threads=parse_threads(threads),
        batches=parse_batches(batch),
        seconds=seconds,
        provider_options=parse_options(provider_options),
        engines=tuple(dict.fromkeys([ONNX_RUNTIME, *filter(None, names)])),
        allow_fallback=allow_fallback,
        data=data,
        compiled=compiled,
    )
    check_provider(provider)
    return config


def parse_batches(text: str) -> tuple[int, ...]:
    """Read batch sizes written as ``1,8,32``.

    Raises:
        OptionError: something else than whole numbers separated by commas.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"'{text}' is not a list of batch sizes", "Write it like --batch 1,8,32"
        ) from error


def parse_threads(text: str) -> tuple[int, ...]:
    """Read thread counts written as ``1,all``, each once; ``all`` is every CPU that may be used.

    Raises:
        OptionError: something else than whole numbers or ``all``, separated by commas.
    """
    try:
        counts = [usable_cpus() if p.strip() == "all" else int(p) for p in text.split(",")]
    except ValueError as error:
        raise OptionError(
            f"'{text}' is not a list of thread counts", "Write it like --threads 1,all"
        ) from error
    return tuple(dict.fromkeys(counts))


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """Read a provider's options, each written as ``use_tf32=0``.

    Raises:
        OptionError: a pair without a key or ``=``.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise OptionError(
                f"'{pair}' is not a provider option", "Write it like --provider-option use_tf32=0"
            )
        options[key] = value
    return options


def slowdown_of(text: str | None, baseline: Path | None) -> float:
    """Return the slowdown that is allowed, as a fraction.

    Raises:
        OptionError: as ``parse_percent``, or there is nothing to compare with.
    """
    allowed = parse_percent(text or MAX_SLOWDOWN)
    if text is not None and baseline is None:
        raise OptionError("--max-slowdown is for --baseline", "Pass an earlier bench.json with it")
    return allowed


def parse_percent(text: str) -> float:
    """Read a percentage written as ``5%`` or ``5``, which is 0.05.

    Raises:
        OptionError: not a number of at least zero, or a fraction without a percent sign, which may
            be meant as a fraction of one.
    """
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise OptionError(f"'{text}' is not a percentage", "Write it like --max-slowdown 5%")
    if 0 < value < 0.01 and not text.strip().endswith("%"):
        raise OptionError(
            f"'{text}' is less than one percent",
            f"Write --max-slowdown {value * 10_000:g}% if that was meant, or {value * 100:g}%",
        )
    return value
