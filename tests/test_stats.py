"""An interval covers as often as it says, and no quantile is shown that the sample cannot carry."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as known

from lib import stats

DRAWS = 400
SLACK = 3.3 * math.sqrt(0.95 * 0.05 / DRAWS)  # a sound interval fails this once in a thousand runs; the seeds are fixed


@pytest.mark.parametrize("law", [known.norm(10, 2), known.expon(scale=3), known.lognorm(0.8)], ids=["normal", "exponential", "lognormal"])
def test_mean_interval_covers(law):
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(DRAWS):
        e = stats.mean(law.rvs(60, random_state=rng), seed)
        hits += e.low <= law.mean() <= e.high
    # BCa is an approximation: on skewed laws and small samples it is known to cover somewhat less
    assert hits / DRAWS > 0.95 - SLACK - (0.04 if law.stats("s") > 1 else 0.01)


@pytest.mark.parametrize("q, n", [(0.5, 25), (0.5, 100), (0.95, 200), (0.99, 500)])
def test_quantile_interval_covers(q, n):
    rng = np.random.default_rng(2)
    law = known.lognorm(0.8)
    hits = sum(e.low <= law.ppf(q) <= e.high for e in (stats.quantile(law.rvs(n, random_state=rng), q) for _ in range(DRAWS)))
    assert hits / DRAWS > 0.95 - SLACK


@pytest.mark.parametrize("n, carried", [(20, False), (100, False), (367, False), (368, True), (1000, True)])
def test_p99_is_shown_only_when_the_sample_carries_it(n, carried):
    p99 = stats.summary(np.random.default_rng(0).exponential(size=n))["p99"]
    assert math.isfinite(p99.value) is carried


def test_p95_is_not_shown_from_25_samples():
    assert math.isnan(stats.summary(np.random.default_rng(0).exponential(size=25))["p95"].value)


numbers = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200)


@given(numbers)
@settings(max_examples=40)
def test_summary_is_ordered_and_inside_the_data(values):
    rows = stats.summary(values)
    p95 = stats.quantile(values, 0.95).value
    assert rows["min"].value <= rows["median"].value <= p95 * (1 + 1e-9) <= rows["max"].value * (1 + 1e-6)
    mean = rows["mean"]
    assert rows["min"].value * (1 - 1e-9) <= mean.value <= rows["max"].value * (1 + 1e-9)
    assert all(e.n == len(values) for e in rows.values())


def test_nan_and_nothing_are_no_samples():
    assert stats.mean([math.nan, 3.0, 5.0]).n == 2
    assert all(math.isnan(e.value) and e.n == 0 for e in stats.summary([]).values())


def test_same_seed_same_interval():
    values = np.random.default_rng(3).exponential(size=50)
    assert stats.mean(values, 7) == stats.mean(values, 7)


def test_verdicts_name_what_speaks_against_a_series():
    rng = np.random.default_rng(4)
    steady = rng.normal(10, 1, 100)
    assert stats.verdict(steady, 0, 100) == "valid"
    assert stats.verdict(steady, 5, 105).startswith("errors: 5 of 105")
    assert stats.verdict(steady[:10], 0, 10).startswith("too few samples: 10")
    assert stats.verdict(steady + np.linspace(0, 8, 100), 0, 100).startswith("unstable: it rises")


def test_a_steady_series_is_rarely_called_unstable():
    rng = np.random.default_rng(5)
    wrong = sum(stats.verdict(rng.lognormal(0, 0.5, 100), 0, 100) != "valid" for _ in range(500))
    assert wrong <= 5


@pytest.mark.parametrize("correct, n, low, high", [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (0, 0, 0.0, 1.0)])
def test_wilson_interval_matches_published_values(correct, n, low, high):
    found = stats.share(correct, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


def test_the_mean_of_rates_is_work_over_time():
    """100 tokens at 50/s and 100 at 100/s take 3 s together: 66.7/s, not 75."""
    assert stats.rate_mean([50, 100]).value == pytest.approx(200 / 3)
