"""A line is found again, outliers do not turn it, and its interval covers."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import fit


@given(st.floats(-50, 50), st.floats(-1000, 1000))
def test_an_exact_line_is_found_exactly(slope, intercept):
    x = np.array([1.0, 2.0, 4.0, 8.0])
    line = fit.line(x, intercept + slope * x)
    assert line.slope.value == pytest.approx(slope, abs=1e-6) and line.intercept == pytest.approx(intercept, abs=1e-6)
    assert np.allclose(line.residuals, 0, atol=1e-6) and line.at(16.0) == pytest.approx(intercept + 16 * slope, abs=1e-5)


def test_slow_requests_do_not_turn_it():
    rng = np.random.default_rng(1)
    x = np.repeat(np.arange(1, 7) * 100.0, 8)
    y = 20 + 0.5 * x + rng.normal(0, 2, len(x))
    y[[3, 20, 47]] += 900
    line = fit.line(x, y)
    assert line.slope.value == pytest.approx(0.5, abs=0.02) and line.slope.low < 0.5 < line.slope.high


def test_its_interval_covers():
    rng = np.random.default_rng(2)
    x = np.repeat(np.arange(1, 7) * 1.0, 5)
    lines = [fit.line(x, 3 * x + rng.exponential(2, len(x))) for _ in range(300)]
    assert 0.90 < np.mean([line.slope.low <= 3 <= line.slope.high for line in lines]) <= 1.0


def test_a_bend_is_named():
    x = np.repeat(np.arange(1, 8) * 1.0, 4)
    noise = np.random.default_rng(3).normal(0, 0.1, len(x))
    assert [fit.line(x, y + noise).bend for y in (x**2, x, -(x**2))] == [1, 0, -1]


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0], [np.nan, 1.0]])
def test_without_two_different_x_there_is_no_line(x):
    line = fit.line(x, np.ones(len(x)))
    assert np.isnan(line.slope.value) and np.isnan(line.intercept) and line.bend == 0
