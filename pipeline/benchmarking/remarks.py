"""Remarks say what a reader must know about a measured row, each with its cure."""

from collections import Counter
from collections.abc import Mapping

from mobilenet_cli.models.boxes import BoxSpec
from mobilenet_cli.pipeline.benchmarking.processes.operator_profile import Inside
from mobilenet_cli.pipeline.errors import counted
from mobilenet_cli.pipeline.runtime.machine import usable_cpus
from mobilenet_cli.pipeline.runtime.session import SessionConfig
from mobilenet_cli.reports.records.latency import is_integer

# How many of these an integer network has: one at each end, and images are turned channels last.
INTEGER_ENDS = {"QuantizeLinear": 1, "DequantizeLinear": 1, "Transpose": 1}
FLOAT_LEFTOVERS = ("Clip", "Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "BatchNormalization")


def remarks_on(
    session: SessionConfig,
    operators: Mapping[str, int],
    inside: Inside,
    boxes: BoxSpec | None = None,
    chosen: bool = False,
) -> tuple[str, ...]:
    """Return what a reader must know about the row, each remark with its cure.

    Args:
        session: how it was run.
        operators: nodes by type in the graph that ran.
        inside: what was seen while it ran.
        boxes: of a detector, each of whose heads leaves the integers by itself.
        chosen: layers were kept in float on purpose.
    """
    remarks = []
    if (session.threads or 1) > usable_cpus():
        remarks.append(
            f"oversubscribed: {session.threads} threads take turns on "
            f"{counted(usable_cpus(), 'CPU')}, "
            f"so they are not pinned. Give --threads {usable_cpus()} or fewer."
        )
    provider = session.provider
    elsewhere = Counter(where for _, where in inside.nodes if where != provider)
    if elsewhere:
        count = ", ".join(f"{n} on {where}" for where, n in elsewhere.items())
        remarks.append(
            f"not all nodes ran on {provider}: {count}. Bench another artifact to avoid it."
        )
    left = float_leftovers(operators, 2 * len(boxes.anchors) if boxes else 1)
    if left and not chosen:
        count = ", ".join(f"{n} {operator}" for operator, n in left.items())
        remarks.append(
            f"this model is not fully integer: {count}. Make it with 'mobilenet-cli quantize', "
            "which quantizes every layer and leaves clamping to the quantizers."
        )
    return tuple(remarks)


def float_leftovers(operators: Mapping[str, int], heads: int = 1) -> dict[str, int]:
    """Count the nodes of a quantized model's graph that an integer network does not need.

    Args:
        operators: nodes by type.
        heads: layers that leave the integers; each may have a DequantizeLinear.
    """
    if not is_integer(operators) and "DequantizeLinear" not in operators:
        return {}
    ends = INTEGER_ENDS | {"DequantizeLinear": heads}
    extra = {name: operators.get(name, 0) - allowed for name, allowed in ends.items()}
    extra |= {name: operators.get(name, 0) for name in FLOAT_LEFTOVERS}
    return {name: count for name, count in extra.items() if count > 0}
