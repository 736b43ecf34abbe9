"""Distances between logits are those computed by hand."""

import math

import numpy as np
import pytest

from mobilenet_cli.pipeline.runtime.proving.parity import compare, sqnr_db, within_float32_rounding


def test_equal():
    logits = np.array([[1.0, 2.0], [4.0, 3.0]], np.float32)
    parity = compare(logits, logits.copy())
    assert (parity.images, parity.max_abs_error, parity.agreement) == (2, 0.0, 1.0)
    assert parity.sqnr_db == math.inf


def test_figures_by_hand():
    reference = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)
    other = np.array([[3.0, 0.0], [0.5, 0.0]], np.float32)
    parity = compare(reference, other)
    assert parity.max_abs_error == 4.0
    assert parity.sqnr_db == pytest.approx(10 * math.log10(25 / 16.25))
    assert parity.agreement == 0.5


def test_ten_times_less_noise_is_twenty_decibels():
    generator = np.random.default_rng(0)
    signal, noise = generator.normal(size=(2, 100, 10))
    near, far = sqnr_db(signal, signal + 0.01 * noise), sqnr_db(signal, signal + 0.1 * noise)
    assert near - far == pytest.approx(20, abs=1e-9)


def test_small_differences_of_large_float32_values_are_not_lost():
    reference = np.full((1, 4), 1e8, np.float32)
    other = reference + np.float32(8)
    assert compare(reference, other).max_abs_error == 8
    # in float32 the squares would overflow nothing but lose all digits of the sum
    assert sqnr_db(reference, other) == pytest.approx(10 * math.log10(1e16 / 64))


def test_signal_of_nothing():
    zeros = np.zeros((1, 2), np.float32)
    assert sqnr_db(zeros, zeros) == math.inf
    assert sqnr_db(zeros, zeros + 1) == -math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_not_a_number_is_as_bad_as_can_be(bad, side):
    logits = [np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)]
    logits[side][1, 2] = bad
    parity = compare(*logits)
    assert (parity.max_abs_error, parity.sqnr_db, parity.agreement) == (math.inf, -math.inf, 0.0)


def test_rounding_is_relative_to_the_largest_value_but_not_to_less_than_one():
    assert within_float32_rounding(0.9e-4, np.array([0.1]))
    assert not within_float32_rounding(1.1e-4, np.array([0.1]))
    assert within_float32_rounding(0.9e-3, np.array([-10.0, 1.0]))
    assert not within_float32_rounding(math.nan, np.array([1.0]))
    assert not within_float32_rounding(math.inf, np.array([1.0]))
