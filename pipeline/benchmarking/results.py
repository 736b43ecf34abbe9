"""What a benchmark measured of each row becomes a result of its record."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.pipeline.artifacts.onnx_graph import multiply_adds
from mobilenet_cli.pipeline.benchmarking.processes.job import ONNX_RUNTIME
from mobilenet_cli.pipeline.benchmarking.processes.operator_profile import Inside
from mobilenet_cli.pipeline.benchmarking.remarks import remarks_on
from mobilenet_cli.pipeline.benchmarking.rows import Row
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.predictor import provider_name
from mobilenet_cli.pipeline.runtime.proving.parity import Parity, compare
from mobilenet_cli.pipeline.runtime.timing import Timing, ratio
from mobilenet_cli.reports.records.latency import (
    FROZEN,
    UNFUSED,
    BenchResult,
    Ratio,
    Roofline,
    is_integer,
)

TOP_OPERATORS = 10
# Least signal-to-noise ratio of a row's logits to the model's definition, float and integer: sums
# in another order are 100 dB and more away, ties rounded the other way 33 to 37 dB, kernels that
# saturate below 20.
RIGHT_DB = {False: 60.0, True: 25.0}
EQUAL_DB = 200.0  # what stands for no difference at all, as JSON has no infinity


@dataclass(frozen=True)
class Measured:
    """A measured row is what its worker yielded.

    Attributes:
        row: what ran.
        answers: logits [images, classes] less their mean; None where nothing is compared.
        defined: the same by the model's definition, of ONNX Runtime's plain rows alone.
    """

    row: Row
    timing: Timing
    cold_start_ms: float
    peak_rss_mb: float
    inside: Inside
    answers: NDArray[np.float64] | None = None
    defined: NDArray[np.float64] | None = None


def reference_of(rows: Sequence[Row]) -> int:
    """Return the index of the row to compare with: the folded one, or else the first."""
    folded = (i for i, row in enumerate(rows) if row.artifact.facts.stage == "simplify")
    return next(folded, 0)


def results_of(
    measured: Sequence[Measured], first: int, roofline: Roofline | None
) -> list[BenchResult]:
    """Summarize the rows of a group, whose first has the index ``first`` in the record."""
    reference = first + reference_of([made.row for made in measured])
    defined = {m.row.artifact.path: m for m in measured if m.defined is not None}
    return [
        result_of(made, reference, roofline, defined.get(made.row.artifact.path))
        for made in measured
    ]


def result_of(
    measured: Measured, reference: int, roofline: Roofline | None, plain: Measured | None
) -> BenchResult:
    """Summarize one row.

    Args:
        measured: the row.
        reference: the index of the row to compare its latency with.
        roofline: of this processor; None on a GPU.
        plain: ONNX Runtime's row of the same file, if answers were compared.
    """
    row, timing, inside = measured.row, measured.timing, measured.inside
    low, high = timing.interval()
    percentiles_ms = tuple(timing.percentile(q) / 1e6 for q in range(101))
    operators = _operators(inside)
    integer = is_integer(_operators(plain.inside) if plain else operators)
    closeness = closeness_of(measured, plain)
    right = None if closeness is None else closeness.sqnr_db >= RIGHT_DB[integer]
    ours = row.engine == ONNX_RUNTIME
    return BenchResult(
        model=str(row.artifact.path),
        sha256=row.artifact.sha256,
        stage=row.artifact.facts.stage,
        variant=row.variant,
        direction=row.direction,
        engine=row.ran_by,
        provider=provider_name(row.artifact, row.session.provider) if ours else row.engine,
        threads=row.session.threads or usable_cpus(),
        cpus=row.session.cpus,
        batch=row.batch,
        p50_ms=percentiles_ms[50],
        p90_ms=percentiles_ms[90],
        p99_ms=percentiles_ms[99],
        min_ms=percentiles_ms[0],
        low_ms=low / 1e6,
        high_ms=high / 1e6,
        runs=len(timing.runs),
        blocks=len(timing.blocks),
        images_per_second=1e9 * row.batch / timing.percentile(50),
        cold_start_ms=measured.cold_start_ms,
        peak_rss_mb=measured.peak_rss_mb,
        size_mb=row.artifact.path.stat().st_size / 2**20,
        operators=operators,
        operator_ms=dict(list(inside.milliseconds.items())[:TOP_OPERATORS]),
        nodes_by_provider=dict(Counter(provider for _, provider in inside.nodes)),
        remarks=remarks_on(
            *(row.session, operators, inside, row.artifact.facts.boxes),
            chosen="keep_float" in row.artifact.facts.config,
        )
        if ours
        else (),
        limit_ms=limit_ms(row, integer, roofline),
        reference=reference,
        percentiles_ms=percentiles_ms,
        noisy=not timing.settled(),
        batch_norms_fused=not row.artifact.is_checkpoint and row.variant != UNFUSED,
        frozen_statistics=row.variant == FROZEN,
        sqnr_db=closeness.sqnr_db if closeness else None,
        agreement=closeness.agreement if closeness else None,
        right=right,
    )


def _operators(inside: Inside) -> dict[str, int]:
    return dict(Counter(operator for operator, _ in inside.nodes).most_common())


def closeness_of(measured: Measured, plain: Measured | None) -> Parity | None:
    """Compare a row's answers with the model's definition, in at most ``EQUAL_DB``."""
    if plain is None or plain.defined is None or measured.answers is None:
        return None
    if measured.answers.shape != plain.defined.shape:
        return Parity(len(plain.defined), float("inf"), -EQUAL_DB, 0.0)
    parity = compare(plain.defined, measured.answers)
    return replace(parity, sqnr_db=float(np.clip(parity.sqnr_db, -EQUAL_DB, EQUAL_DB)))


def limit_ms(row: Row, integer: bool, roofline: Roofline | None) -> float | None:
    """Return the roofline's bound in milliseconds; None without one, and for forward-backward."""
    products = multiply_adds(row.artifact)
    if roofline is None or products is None or row.direction != "forward":
        return None
    rate = roofline.int8_gmacs if integer else roofline.fp32_gmacs
    size = row.artifact.path.stat().st_size
    return max(products * row.batch / rate, size / roofline.gb_per_s) / 1e6


def ratios_of(timings: Sequence[Timing], offset: int) -> list[Ratio]:
    """Return the ratios of all ordered pairs of interleaved rows, the first of index ``offset``."""
    return [
        Ratio(row=offset + row, reference=offset + reference, value=value, low=low, high=high)
        for row, reference in itertools.permutations(range(len(timings)), 2)
        for value, low, high in [ratio(timings[row], timings[reference])]
    ]
