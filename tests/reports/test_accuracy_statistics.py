"""Intervals and tests of accuracy agree with published examples."""

from mobilenet_cli.reports.accuracy_statistics import wilson_interval


def test_wilson_interval():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263 and 15/148
    metric = wilson_interval(81, 263)
    assert (round(metric.low, 2), round(metric.high, 2)) == (25.53, 36.62)
    metric = wilson_interval(15, 148)
    assert (round(metric.low, 2), round(metric.high, 2)) == (6.24, 16.05)
    assert wilson_interval(0, 20).low == 0
    assert wilson_interval(20, 20).high == 100
