"""A target's integer kernels can add only so much without saturating.

x86 CPUs without VNNI multiply unsigned activations by signed weights with ``vpmaddubsw``: two
neighbouring products are added in 16 bits, and a sum beyond [-32768, 32767] is cut off without a
word (Intel SDM vol. 2, PMADDUBSW). ONNX Runtime packs the taps of a dense convolution or matrix
product in the order kernel row, kernel column, input channel, and pairs taps 2j and 2j + 1.
Measured with single pairs of weights 127 under full activations: exactly these pairs saturate;
depthwise convolutions, which widen first, never do.

So a pair is safe when the weights of equal sign in it add up to at most ``32767 / 255 = 128``,
and single weights may use all of [-127, 127]; halving every weight is not needed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenet_cli.calibration.grid import CodeType

WEIGHT_MAX = 127  # symmetric: -128 is not used
PAIR_MAX = 128  # 255 * 128 = 32640 fits into 16 bits with sign, 255 * 129 does not


@dataclass(frozen=True)
class Target:
    """A target is what an int8 model is made for.

    Attributes:
        activations: code type of activations.
        pairs_saturate: pairs of weights must be kept within ``PAIR_MAX``.
        cpu: ONNX Runtime's CPU kernels are what it runs on, so a CPU can prove it.
        direct: convolutions take input channels in fours (``shape_for_kernels``).
        tiles: AMX multiplies matrices.
    """

    activations: CodeType
    pairs_saturate: bool
    cpu: bool = True
    direct: bool = False
    tiles: bool = False


TARGETS: dict[str, Target] = {
    "avx2": Target("uint8", pairs_saturate=True),
    "avx512": Target("uint8", pairs_saturate=True),
    "vnni": Target("uint8", pairs_saturate=False, direct=True),
    "amx": Target("uint8", pairs_saturate=False, direct=True, tiles=True),
    "arm64": Target("uint8", pairs_saturate=False),
    "tensorrt": Target("int8", pairs_saturate=False, cpu=False),
}


def packing_order(weight: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the positions of the taps ``weight[o].ravel()`` in the order of the kernels.

    Args:
        weight: [out, in, kernel rows, kernel columns] or [out, in].
    """
    taps = np.arange(weight[0].size)
    if weight.ndim == 2:
        return taps
    return taps.reshape(weight.shape[1:]).transpose(1, 2, 0).ravel()


def partners(weight: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return for each tap of ``weight[o].ravel()`` the tap it is added to, or -1 for none."""
    order = packing_order(weight)
    partner = np.full(len(order), -1)
    even = len(order) // 2 * 2
    partner[order[0:even:2]] = order[1:even:2]
    partner[order[1:even:2]] = order[0:even:2]
    return partner


def largest_pair_sum(taps: NDArray[np.floating], partner: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the largest magnitude [out] that equal-signed pairs of taps [out, K] add up to."""
    other = np.where(partner >= 0, taps[:, partner], 0.0)
    same = np.where(np.sign(other) == np.sign(taps), np.abs(taps) + np.abs(other), np.abs(taps))
    sums: NDArray[np.float64] = same.max(1)
    return sums
