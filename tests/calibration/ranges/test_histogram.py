"""Histograms count every value once, however the values come in batches."""

import numpy as np
import pytest

from mobilenet_cli.calibration.ranges.histogram import BINS, Histogram, count_values


def test_each_value_is_counted_in_its_bin():
    low, high = -2.0, 6.0
    width = (high - low) / BINS
    bins = np.random.default_rng(0).integers(0, BINS, 5000)
    values = (low + width * (bins + 0.5)).astype(np.float32)
    assert np.array_equal(count_values(values, low, high), np.bincount(bins, minlength=BINS))


def test_like_numpy_but_for_rounding_at_the_edges():
    values = np.random.default_rng(1).normal(size=(3, 4, 50, 50)).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    found = count_values(values, low, high)
    expected = np.histogram(values, BINS, (low, high))[0]
    assert found.sum() == values.size
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() <= 5


def test_counts_add_up_whatever_the_batches():
    values = np.random.default_rng(2).normal(size=1000).astype(np.float32)
    whole = count_values(values, -4.0, 4.0)
    parts = sum(count_values(part, -4.0, 4.0) for part in np.array_split(values, 7))
    assert np.array_equal(whole, parts)


def test_what_lies_outside_goes_to_the_ends():
    counts = count_values(np.array([-50, -1, 1, 70], np.float32), -1.0, 1.0)
    assert (counts[0], counts[-1], counts.sum()) == (2, 2, 4)


@pytest.mark.parametrize("value", [0.0, 1e-42, 1e-30])
def test_tensor_of_one_value(value):
    """Zero throughout, as behind a dead layer, or too small for float32 to divide by."""
    counts = count_values(np.array([0, value, value], np.float32), 0.0, value)
    assert counts.sum() == 3


def test_edges_and_centres():
    histogram = Histogram(-1.0, 3.0, np.zeros(4, np.int64))
    assert histogram.edges.tolist() == [-1, 0, 1, 2, 3]
    assert histogram.centers.tolist() == [-0.5, 0.5, 1.5, 2.5]
