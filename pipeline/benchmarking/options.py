"""The options of ``bench`` that are lists or numbers written as text."""

from mobilenet_cli.pipeline.errors import OptionError
from mobilenet_cli.pipeline.runtime.machine import usable_cpus


def parse_batches(text: str) -> tuple[int, ...]:
    """``1,8,32`` as batch sizes.

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
    """``1,all`` as thread counts, each once; ``all`` is every CPU this process may use.

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


def parse_options(pairs: list[str]) -> dict[str, str]:
    """``use_tf32=0`` and the like as a provider's options.

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


def parse_percent(text: str) -> float:
    """``5%`` or ``5`` as 0.05.

    Raises:
        OptionError: not a number of at least zero.
    """
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise OptionError(f"'{text}' is not a percentage", "Write it like --max-slowdown 5%")
    return value
