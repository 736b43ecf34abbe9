"""Here it is decided which tensors become codes, and on which grid each of them."""

import numpy as np

from mobilenet_cli.calibration.graph.parse import GraphStep, Network
from mobilenet_cli.calibration.grid import Grid, asymmetric, symmetric
from mobilenet_cli.calibration.kernels import Target
from mobilenet_cli.calibration.part_ties import part_ties
from mobilenet_cli.calibration.tensor_statistics import Statistics

GATES = {"Sigmoid", "HardSigmoid"}  # from 0 to 1, so that 8 bits are enough for a factor


def coded_tensors(network: Network) -> list[str]:
    """List the tensors that become codes: what integer steps read and make.

    Logits of a matrix product stay float: its kernel accumulates in int32 and can give them
    directly, without one more rounding.
    """
    coded: dict[str, None] = {}
    for step in network.steps:
        if step.kind in ("linear", "pool"):
            coded |= dict.fromkeys(step.inputs)
            if step.output not in network.outputs or step.node.op_type == "Conv":
                coded[step.output] = None
    makers = {step.output: step for step in network.steps}
    for step in network.steps:
        gates = _gates(step, makers)
        if gates and step.output in coded:
            coded |= dict.fromkeys((*step.inputs, *gates))
    for step in network.steps:  # renaming codes keeps them codes
        if step.kind == "shape" and step.inputs[0] in coded:
            coded |= dict.fromkeys(step.outputs)
    return list(coded)


def _gates(step: GraphStep, makers: dict[str, GraphStep]) -> list[str]:
    """Return what a product is gated by, as by squeeze-and-excitation, up to the gate itself.

    Codes are multiplied faster than floats: such products take two thirds of the time.
    """
    for name in step.inputs if step.node.op_type == "Mul" and len(step.inputs) == 2 else ():
        followed = [name]
        while (maker := makers.get(followed[-1])) is not None and maker.kind == "shape":
            followed.append(maker.inputs[0])
        if maker is not None and maker.node.op_type in GATES:
            return followed
    return []


def seen_ranges(network: Network, statistics: Statistics) -> dict[str, tuple[float, float]]:
    """Return each tensor's range on the images, 0 included, within its activation's bounds.

    Scaling channels leaves it as it is: none is scaled beyond the largest.
    """
    limits = {step.output: (step.low, step.high) for step in network.steps}
    ranges = {}
    for name, low in statistics.low.items():
        floor, ceiling = limits.get(name, (-np.inf, np.inf))
        ranges[name] = (
            float(max(min(low.min(), 0.0), floor)),
            float(min(max(statistics.high[name].max(), 0.0), ceiling)),
        )
    return ranges


def choose_grids(
    network: Network, ranges: dict[str, tuple[float, float]], target: Target
) -> dict[str, Grid]:
    """Choose each tensor's grid; steps that only rename or select codes keep their input's.

    Sums of codes have grids on which all kernels agree.
    """
    unsigned = target.activations == "uint8"
    grids = {
        name: asymmetric(*limits) if unsigned else symmetric(*limits)
        for name, limits in ranges.items()
    }
    for step in network.steps:
        read = [grids[name] for name in step.inputs if name in grids]
        if step.node.op_type == "Add" and len(read) == 2 and step.output in grids:
            grids[step.output] = part_ties(read[0], read[1], grids[step.output])
        renames = step.kind == "shape" or step.node.op_type == "MaxPool"
        if renames and step.inputs[0] in grids:
            grids |= {name: grids[step.inputs[0]] for name in step.outputs if name in grids}
    return grids
