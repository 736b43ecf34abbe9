"""Every range method gives ranges that lie within what was seen, scale with it, and hold zero."""

import math

import numpy as np
import pytest

from mobilenet_cli.calibration.grid import asymmetric
from mobilenet_cli.calibration.ranges import entropy as entropy_method
from mobilenet_cli.calibration.ranges import mse as mse_method
from mobilenet_cli.calibration.ranges.calibrators import CALIBRATORS
from mobilenet_cli.calibration.ranges.histogram import BINS, Histogram, count_values


def histogram_of(values):
    values = np.asarray(values, np.float32)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return Histogram(low, high, count_values(values, low, high))


def samples(kind, size=200_000):
    generator = np.random.default_rng(3)
    return {
        "normal": lambda: generator.normal(size=size),
        "laplace": lambda: generator.laplace(size=size),
        "uniform": lambda: generator.uniform(-1, 2, size),
        "relu": lambda: np.maximum(generator.normal(size=size), 0),
        "relu6": lambda: np.clip(generator.normal(2, 3, size), 0, 6),
        "outlier": lambda: np.append(generator.normal(size=size), [60.0, -45.0]),
        "negative": lambda: -np.abs(generator.normal(size=size)),
        "constant": lambda: np.full(size, 0.7),
        "zero": lambda: np.zeros(size),
    }[kind]()


KINDS = ["normal", "laplace", "uniform", "relu", "relu6", "outlier", "negative", "constant", "zero"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALIBRATORS)
def test_ranges_lie_within_what_was_seen_and_hold_zero(name, kind):
    histogram = histogram_of(samples(kind))
    low, high = CALIBRATORS[name](histogram)
    assert histogram.low <= low <= 0 <= high <= histogram.high * (1 + 1e-12)
    assert (high > low) == (kind != "zero")


@pytest.mark.parametrize("name", CALIBRATORS)
def test_scaling_the_values_scales_the_range(name):
    histogram = histogram_of(samples("laplace", 20_000))
    scaled = Histogram(histogram.low * 8, histogram.high * 8, histogram.counts)
    assert CALIBRATORS[name](scaled) == pytest.approx([8 * v for v in CALIBRATORS[name](histogram)])


@pytest.mark.parametrize("name", CALIBRATORS)
def test_mirroring_the_values_mirrors_the_range(name):
    histogram = histogram_of(samples("relu", 20_000))
    mirrored = Histogram(-histogram.high, -histogram.low, histogram.counts[::-1])
    width = (histogram.high - histogram.low) / BINS
    low, high = CALIBRATORS[name](mirrored)
    # an exact 0 is known to the methods at the lower end only
    tolerance = 0.05 * histogram.high if name == "mse" else 2 * width
    assert (-high, -low) == pytest.approx(CALIBRATORS[name](histogram), abs=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_minmax_is_what_was_seen(kind):
    values = samples(kind).astype(np.float32)
    assert CALIBRATORS["minmax"](histogram_of(values)) == (
        min(values.min(), 0),
        max(values.max(), 0),
    )


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "outlier"])
def test_percentile_is_the_quantile(kind):
    values = samples(kind)
    histogram = histogram_of(values)
    width = (histogram.high - histogram.low) / BINS
    low, high = CALIBRATORS["percentile"](histogram)
    left_out = values.size // 10_000
    ordered = np.sort(values)
    assert low == pytest.approx(ordered[left_out], abs=1.01 * width)
    assert high == pytest.approx(ordered[-1 - left_out], abs=1.01 * width)


def test_percentile_clips_the_share_that_it_names():
    values = samples("laplace")
    low, high = CALIBRATORS["percentile"](histogram_of(values))
    assert ((values < low) | (values > high)).mean() <= 2.02e-4


def test_percentile_keeps_the_end_of_a_relu():
    low, high = CALIBRATORS["percentile"](histogram_of(samples("relu6")))
    assert (low, high) == (0.0, pytest.approx(6))


def plain_divergence(counts, cut, levels=entropy_method.TWO_SIDED):
    """Slides 36 to 38 of Migacz, bin by bin."""
    p = [float(c) for c in counts[:cut]]
    members = [[] for _ in range(levels)]
    for i in range(cut):
        members[i * levels // cut].append(i)
    p[-1] += sum(counts[cut:])
    q = [0.0] * cut
    for group in members:
        occupied = [i for i in group if p[i] > 0]
        for i in occupied:
            q[i] = sum(counts[j] for j in group) / len(occupied)
    if any(pi > 0 and qi == 0 for pi, qi in zip(p, q, strict=True)):
        return math.inf
    return sum(
        pi / sum(p) * math.log((pi / sum(p)) / (qi / sum(q)))
        for pi, qi in zip(p, q, strict=True)
        if pi > 0
    )


@pytest.mark.parametrize(
    ("cut", "levels"),
    [(128, 128), (129, 128), (150, 128), (255, 128), (256, 128), (300, 128), (300, 256)],
)
@pytest.mark.parametrize("seed", range(3))
def test_divergence_is_the_published_one(cut, levels, seed):
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.exponential(2, 300)).astype(float)
    expected = plain_divergence(counts, cut, levels)
    assert entropy_method.divergence(counts, cut, levels) == pytest.approx(expected, abs=1e-12)


def test_divergence_of_what_needs_no_merging_is_none():
    assert entropy_method.divergence(np.arange(1.0, 129.0), 128, 128) == pytest.approx(0, abs=1e-15)


def test_entropy_takes_the_least_divergent_cut():
    histogram = histogram_of(samples("laplace"))
    low, high = CALIBRATORS["entropy"](histogram)
    largest = max(-histogram.low, histogram.high)
    counts = np.histogram(np.abs(samples("laplace")), BINS, (0, largest))[0]
    counts[0] = counts[1]  # zeros are represented exactly, and do not count
    cuts = np.unique(np.linspace(128, BINS, entropy_method.CANDIDATES).astype(int))
    found = round(max(-low, high) / largest * BINS)
    assert found in cuts
    # its histogram spreads values evenly within bins of both signs; the values themselves differ
    least = min(plain_divergence(counts, int(cut)) for cut in cuts)
    assert plain_divergence(counts, found) <= 1.3 * least


def test_entropy_is_not_misled_by_the_zeros_of_a_relu():
    values = np.random.default_rng(0).uniform(0, 6, 200_000).astype(np.float32)
    zeros = np.zeros(len(values), np.float32)
    low, high = CALIBRATORS["entropy"](histogram_of(np.concatenate([values, zeros])))
    assert (low, high) == (0.0, pytest.approx(6, rel=0.02))


def test_entropy_leaves_out_an_outlier_and_keeps_a_uniform_range():
    low, high = CALIBRATORS["entropy"](histogram_of(samples("outlier")))
    assert high < 12
    low, high = CALIBRATORS["entropy"](histogram_of(samples("uniform")))
    assert low == pytest.approx(-1, abs=0.02)
    assert high == pytest.approx(2, abs=0.02)


def true_error(values, low, high):
    grid = asymmetric(low, high)
    return float(np.mean((values - grid.dequantize(grid.quantize(values))) ** 2))


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "relu", "relu6", "outlier"])
def test_mse_range_has_nearly_the_least_error_of_all_factors(kind):
    """Measured by quantizing the values themselves."""
    values = samples(kind, 50_000).astype(np.float32)
    histogram = histogram_of(values)
    low, high = CALIBRATORS["mse"](histogram)
    factors = mse_method.FACTORS
    least = min(true_error(values, histogram.low * f, histogram.high * f) for f in factors)
    assert true_error(values, low, high) <= 1.1 * least


def test_mse_of_a_uniform_range_is_all_of_it():
    histogram = histogram_of(samples("uniform"))
    assert CALIBRATORS["mse"](histogram) == (histogram.low, histogram.high)


def test_expected_error_is_the_measured_one():
    values = samples("normal").astype(np.float32)
    histogram = histogram_of(values)
    for factor in (0.4, 0.6, 0.9):
        measured = true_error(values, histogram.low * factor, histogram.high * factor)
        expected = mse_method.expected_error(histogram, factor) / values.size
        assert expected == pytest.approx(measured, rel=0.05)
