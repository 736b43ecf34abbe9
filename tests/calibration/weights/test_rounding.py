"""Weights are rounded better than to the nearest, and pairs stay within their limit."""

import numpy as np
import pytest

from mobilenet_cli.calibration.kernels import PAIR_MAX, WEIGHT_MAX, largest_pair_sum, partners
from mobilenet_cli.calibration.weights.rounding import damped, descend, round_dense, round_depthwise

SEEDS = range(6)


def problem(seed, out=12, taps=27, positions=400):
    """A layer's weights and the damped second moments of correlated, non-negative inputs."""
    generator = np.random.default_rng(seed)
    sources = max(taps // 4, 1)  # neighbouring pixels and channels say much the same
    mixing = generator.normal(size=(sources, taps)) * generator.exponential(1, taps)
    inputs = generator.normal(size=(positions, sources)) @ mixing
    inputs = np.maximum(inputs + 0.3 * generator.normal(size=inputs.shape), 0)
    weight = generator.normal(size=(out, taps)) * generator.exponential(1, (out, 1))
    return weight, np.abs(weight).max(1) / WEIGHT_MAX, damped(np.atleast_2d(np.cov(inputs.T)))


def objective(codes, weight, scale, hessian):
    """What rounding costs: the change of each output's variance, [out]."""
    off = codes * scale[:, None] - weight
    return np.einsum("ok,kl,ol->o", off, hessian, off)


def nearest(weight, scale):
    return np.clip(np.rint(weight / scale[:, None]), -WEIGHT_MAX, WEIGHT_MAX)


def pair_limited(weight):
    """The finest scale on which the weights themselves respect the limit, and the partners."""
    partner = partners(weight)
    sums = largest_pair_sum(weight, partner)
    return np.maximum(np.abs(weight).max(1) / WEIGHT_MAX, sums / PAIR_MAX), partner


def check_pairs(codes, partner):
    """Compared pair by pair in plain integers."""
    for row in codes.astype(int).tolist():
        for k, other in enumerate(partner.tolist()):
            if other >= 0:
                positive = sum(v for v in (row[k], row[other]) if v > 0)
                negative = sum(v for v in (row[k], row[other]) if v < 0)
                assert 255 * positive <= 32767
                assert 255 * negative >= -32768


@pytest.mark.parametrize("seed", SEEDS)
def test_much_better_than_nearest_and_never_worse(seed):
    weight, scale, hessian = problem(seed)
    codes = round_dense(weight, scale, hessian)
    assert np.array_equal(codes, np.rint(codes))
    assert np.abs(codes).max() <= WEIGHT_MAX
    found, plain = (objective(c, weight, scale, hessian) for c in (codes, nearest(weight, scale)))
    assert (found <= plain * (1 + 1e-9)).all()
    assert found.sum() < 0.5 * plain.sum()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("taps", [1, 2, 9, 64, 65, 131])
def test_pair_limit_is_held_for_any_number_of_taps(seed, taps):
    weight, _, hessian = problem(seed, 6, taps)
    scale, partner = pair_limited(weight)
    codes = round_dense(weight, scale, hessian, partner)
    check_pairs(codes, partner)
    assert largest_pair_sum(codes, partner).max() <= PAIR_MAX
    plain = nearest(weight, scale)
    if largest_pair_sum(plain, partner).max() <= PAIR_MAX:
        found = objective(codes, weight, scale, hessian)
        assert (found <= objective(plain, weight, scale, hessian) * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    "row",
    [
        [127.0, 127.0, 127.0, 127.0],
        [-127.0, -127.0, -127.0, -127.0],
        [127.0, -127.0, 127.0, -127.0],
        [64.5, 64.5, -64.5, -64.5],
        [127.0, 1.5, -127.0, -1.5],
        [1e9, -1e9, 1e9, 1e9],
        [0.0, 0.0, 0.0, 0.0],
    ],
)
@pytest.mark.parametrize("correlation", [0.0, 0.99, -0.3])
def test_pair_limit_is_held_when_everything_pushes_against_it(row, correlation):
    """On a scale of 1, on which many of these weights do not fit."""
    weight = np.array([row, row[::-1]])
    hessian = damped(np.full((4, 4), correlation) + (1 - correlation) * np.eye(4))
    partner = partners(weight)
    codes = round_dense(weight, np.ones(2), hessian, partner)
    check_pairs(codes, partner)
    assert np.abs(codes).max() <= WEIGHT_MAX


def test_opposite_signs_may_both_be_large():
    weight = np.array([[127.0, -127.0]])
    codes = round_dense(weight, np.ones(1), np.eye(2), partners(weight))
    assert codes.tolist() == [[127, -127]]


def test_uncorrelated_inputs_round_to_nearest():
    weight, scale, _ = problem(0)
    diagonal = np.diag(np.random.default_rng(1).uniform(0.1, 10, weight.shape[1]))
    assert np.array_equal(round_dense(weight, scale, diagonal), nearest(weight, scale))


@pytest.mark.parametrize("seed", SEEDS)
def test_best_of_all_codes_for_two_taps(seed):
    """Brute force over the 7 x 7 codes around the weights."""
    weight, scale, hessian = problem(seed, out=20, taps=2)
    weight = weight * 0.9  # so that no code is at its limit
    codes = round_dense(weight, scale, hessian)
    around = np.rint(weight / scale[:, None])
    shifts = np.array([(i, j) for i in range(-3, 4) for j in range(-3, 4)])
    least = np.min([objective(around + s, weight, scale, hessian) for s in shifts], 0)
    found = objective(codes, weight, scale, hessian)
    # coordinate descent may stop where only both codes together could do better
    assert (found <= 2 * least + 1e-12).all()
    assert np.isclose(found, least).mean() >= 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_no_single_code_could_be_better(seed):
    weight, scale, hessian = problem(seed, taps=9)
    codes = round_dense(weight, scale, hessian)
    for _ in range(20):
        codes = descend(codes, weight, scale, hessian, None)
    found = objective(codes, weight, scale, hessian)
    for k in range(weight.shape[1]):
        for shift in (-1, 1):
            other = codes.copy()
            other[:, k] = np.clip(other[:, k] + shift, -WEIGHT_MAX, WEIGHT_MAX)
            assert (objective(other, weight, scale, hessian) >= found * (1 - 1e-9)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_descent_never_climbs(seed):
    weight, scale, hessian = problem(seed)
    start = nearest(weight, scale)
    found = descend(start.copy(), weight, scale, hessian, None)
    before, after = (objective(c, weight, scale, hessian) for c in (start, found))
    assert (after <= before * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("taps", [9, 25])
def test_depthwise_channels_are_rounded_each_by_its_own_inputs(seed, taps):
    weight, scale, _ = problem(seed, 10, taps)
    hessians = np.stack([problem(100 * seed + c, 1, taps)[2] for c in range(10)])
    codes = round_depthwise(weight, scale, hessians)
    assert np.array_equal(codes, np.rint(codes))
    assert np.abs(codes).max() <= WEIGHT_MAX
    plain = nearest(weight, scale)
    for c in range(10):
        row = slice(c, c + 1)
        found = objective(codes[row], weight[row], scale[row], hessians[c])
        assert found <= objective(plain[row], weight[row], scale[row], hessians[c]) * (1 + 1e-9)
    alone = round_depthwise(weight[3:4], scale[3:4], hessians[3:4])
    assert np.array_equal(alone, codes[3:4])


@pytest.mark.parametrize("seed", SEEDS)
def test_dense_and_depthwise_agree_on_one_channel(seed):
    weight, scale, hessian = problem(seed, 1, 9)
    dense = round_dense(weight, scale, hessian)
    depthwise = round_depthwise(weight, scale, hessian[None])
    found, other = (objective(c, weight, scale, hessian) for c in (dense, depthwise))
    # they differ in the order of the taps, so not in every code
    assert found == pytest.approx(other, rel=1.0)


@pytest.mark.parametrize("positions", [0, 1, 3])
def test_inputs_that_say_nothing(positions):
    """Fewer positions than taps, or inputs that never vary: the Hessian alone is singular."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(positions, 27))
    weight, scale, _ = problem(0)
    hessian = damped(inputs.T @ inputs / max(positions, 1))
    codes = round_dense(weight, scale, hessian)
    assert np.isfinite(codes).all()
    found, plain = (objective(c, weight, scale, hessian) for c in (codes, nearest(weight, scale)))
    assert (found <= plain * (1 + 1e-9)).all()


def test_channel_without_weights():
    weight, _, hessian = problem(0)
    weight[3] = 0
    scale = np.maximum(np.abs(weight).max(1) / WEIGHT_MAX, 1e-12)
    assert (round_dense(weight, scale, hessian)[3] == 0).all()
    hessians = np.repeat(hessian[None], len(weight), 0)
    assert (round_depthwise(weight, scale, hessians)[3] == 0).all()


def test_damping_is_a_hundredth_of_the_mean_diagonal():
    hessian = np.diag([1.0, 3.0])
    assert damped(hessian) == pytest.approx(np.diag([1.02, 3.02]))
    stack = np.stack([hessian, 2 * hessian])
    assert damped(stack) == pytest.approx(np.stack([damped(hessian), damped(2 * hessian)]))
    assert np.linalg.cholesky(damped(np.zeros((3, 3)))).shape == (3, 3)
