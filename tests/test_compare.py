"""No difference is found where there is none, one that is there is found, and "not shown" is told from "equal"."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import stats
from lib.compare import cliffs_delta, compare
from test_stats import LAWS, allowed, resembling

DRAWS = 300


def interleaved(rng, rounds: int, each: int, rho: float, drift: float, factor: float):
    """One server over time, A B B A in each round, values about 10 with spread 1 and neighbours correlated by
    rho, rising by `drift` over the whole; B takes `factor` as long -> (a, b, their rounds)."""
    n = rounds * 4 * each
    x = 10 + resembling(rng, n, rho) + drift * np.linspace(0, 1, n)
    is_b = np.tile(np.repeat([False, True, True, False], each), rounds)
    label = np.repeat(np.arange(rounds), 4 * each)
    return x[~is_b], x[is_b] * factor, (label[~is_b], label[is_b])


def shares(comparisons) -> dict[str, int]:
    verdicts = [c.verdict for c in comparisons]
    return {v: verdicts.count(v) for v in set(verdicts)}


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("law", ["normal", "lognormal", "cache", "AR 0.4", "AR 0.6"])
def test_no_difference_is_found_between_equal_series(law, n):
    make = LAWS[law][0]
    rng = np.random.default_rng(1)
    found = shares(compare(make(rng, n), make(rng, n)) for _ in range(DRAWS))
    assert found.get("faster", 0) + found.get("slower", 0) <= allowed(0.06, DRAWS)[1]


@pytest.mark.parametrize("drift", [0, 5])
@pytest.mark.parametrize("rounds, each, rho", [(5, 5, 0.0), (5, 5, 0.6), (10, 10, 0.4)])
def test_no_difference_is_found_over_rounds_whatever_drifts(rounds, each, rho, drift):
    rng = np.random.default_rng(2)
    cases = (interleaved(rng, rounds, each, rho, drift, 1) for _ in range(1000))
    found = shares(compare(a, b, paired_rounds=labels) for a, b, labels in cases)
    wrong = found.get("faster", 0) + found.get("slower", 0)
    assert allowed(0.035, 1000)[0] <= wrong <= allowed(0.06, 1000)[1]


def test_rounds_find_under_drift_what_whole_series_cannot():
    rng = np.random.default_rng(3)
    cases = [interleaved(rng, 10, 10, 0.4, 5, 1.05) for _ in range(100)]
    assert shares(compare(a, b, paired_rounds=labels) for a, b, labels in cases).get("slower", 0) >= allowed(0.9, 100)[0]
    assert shares(compare(a, b) for a, b, _ in cases).get("slower", 0) < 50


def test_a_difference_of_5_percent_is_found_from_400_samples():
    rng = np.random.default_rng(4)
    pairs = [(10 + resembling(rng, 400, 0.4), 10.5 + 1.05 * resembling(rng, 400, 0.4)) for _ in range(60)]
    assert shares(compare(a, b) for a, b in pairs).get("slower", 0) >= allowed(0.95, 60)[0]


@pytest.mark.parametrize("law, factor", [("normal", 1.03), ("lognormal", 1.3), ("AR 0.4", 0.97)])
def test_the_interval_of_the_ratio_covers(law, factor):
    make = LAWS[law][0]
    rng = np.random.default_rng(5)
    found = [compare(make(rng, 60), make(rng, 60) * factor) for _ in range(DRAWS)]
    assert sum(c.ratio.low <= factor <= c.ratio.high for c in found) >= allowed(0.94, DRAWS)[0]
    assert sum(c.median_ratio.low <= factor <= c.median_ratio.high for c in found) >= allowed(0.94, DRAWS)[0]


def test_equal_is_told_from_not_shown():
    rng = np.random.default_rng(6)
    tight = compare(rng.normal(10, 0.3, 400), rng.normal(10, 0.3, 400))
    assert tight.verdict == "equivalent within 2 %" and tight.equivalent and tight.needed is None
    loose = compare(rng.normal(10, 3, 40), rng.normal(10, 3, 40))
    assert loose.verdict == "no difference shown" and not loose.equivalent and loose.needed > 100


def test_a_true_difference_at_the_margin_is_rarely_called_equivalent():
    """Two one-sided tests at 2.5 %: no more often than that."""
    rng = np.random.default_rng(7)
    wrong = sum(compare(rng.normal(10, 0.5, 100), rng.normal(10.2, 0.5, 100)).equivalent for _ in range(DRAWS))
    assert wrong <= allowed(0.025, DRAWS)[1]


def test_a_difference_too_small_to_matter_is_shown_as_both():
    rng = np.random.default_rng(8)
    found = compare(rng.normal(100, 1, 1000), rng.normal(100.6, 1, 1000))
    assert found.verdict == "slower" and found.equivalent


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_as_many_more_samples_as_needed_mostly_decide(factor):
    rng = np.random.default_rng(9)
    decided = tried = 0
    for _ in range(60):
        first = compare(rng.normal(10, 3, 60), rng.normal(10 * factor, 3 * factor, 60), smallest=0.1)
        if first.needed:
            n = 60 + first.needed
            tried += 1
            decided += compare(rng.normal(10, 3, n), rng.normal(10 * factor, 3 * factor, n), smallest=0.1).needed is None
    assert tried > 20 and decided >= allowed(0.8, tried)[0]


def test_as_many_more_rounds_as_needed_mostly_decide():
    rng = np.random.default_rng(10)
    decided = tried = 0
    for _ in range(100):
        a, b, labels = interleaved(rng, 8, 5, 0.3, 0, 1)
        more = compare(a, b, paired_rounds=labels).needed
        if more:
            a, b, labels = interleaved(rng, 8 + more, 5, 0.3, 0, 1)
            tried += 1
            decided += compare(a, b, paired_rounds=labels).needed is None
    assert tried > 50 and decided >= allowed(0.75, tried)[0]


@pytest.mark.parametrize("better, word", [("lower", "slower"), ("higher", "faster"), (None, "higher")])
def test_the_word_follows_from_what_is_good(better, word):
    rng = np.random.default_rng(11)
    a, b = rng.normal(10, 1, 50), rng.normal(15, 1, 50)
    assert compare(a, b, better=better).verdict == word
    assert compare(b, a, better=better).verdict == {"slower": "faster", "faster": "slower", "higher": "lower"}[word]


@pytest.mark.parametrize("a, b, delta", [([1, 2, 3], [4, 5], 1), ([4, 5], [1, 2, 3], -1), ([1, 2], [1, 2], 0), ([1, 2, 3], [2], 0), ([1, 1, 3], [2], 1 / 3)])
def test_cliffs_delta_counts_pairs(a, b, delta):
    assert cliffs_delta(a, b) == pytest.approx(delta)


def test_a_round_that_one_series_lacks_is_left_out():
    found = compare([10, 10, 20, 99], [11, 22, 5], paired_rounds=([0, 0, 1, 2], [0, 1, 3]))
    assert found.ratio.n == 2 and found.ratio.value == pytest.approx(1.1) and found.unit == "rounds"


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 values with 2 round labels"):
        compare([1, 2, 3], [1, 2, 3], paired_rounds=([0, 1], [0, 1, 2]))
    with pytest.raises(ValueError, match="smallest"):
        compare([1, 2], [1, 2], smallest=0)


@pytest.mark.parametrize("a, b", [([], []), ([1.0], [2.0]), ([], [1.0, 2.0]), ([math.nan] * 3, [1.0, 2.0]), ([-1.0, -2.0], [1.0, 2.0]), ([0.0, 0.0], [0.0, 0.0])])
def test_what_has_no_ratio_shows_no_difference(a, b):
    for rounds in (None, (range(len(a)), range(len(b)))):
        found = compare(a, b, paired_rounds=rounds)
        assert found.verdict == "no difference shown" and found.needed is None and not found.equivalent


positive = st.lists(st.floats(1e-3, 1e6) | st.just(math.nan), max_size=40)


@given(positive, positive)
@settings(max_examples=30)
def test_the_comparison_turned_round_is_the_inverse(a, b):
    for rounds in (None, (np.arange(len(a)) // 4, np.arange(len(b)) // 4)):
        forth = compare(a, b, paired_rounds=rounds)
        back = compare(b, a, paired_rounds=rounds and rounds[::-1])
        assert forth.effect == pytest.approx(-back.effect, nan_ok=True)
        assert forth.ratio.value == pytest.approx(1 / back.ratio.value, nan_ok=True)
        if rounds:  # the bootstraps of two whole series draw from other seeds
            assert forth.ratio.low == pytest.approx(1 / back.ratio.high, rel=1e-6, nan_ok=True)
        assert not forth.ratio.low > forth.ratio.value * (1 + 1e-9) and not forth.ratio.high < forth.ratio.value * (1 - 1e-9)


@given(positive, positive, st.integers(-20, 20))
@settings(max_examples=30)
def test_the_comparison_does_not_depend_on_the_unit_nor_on_what_is_not_a_number(a, b, power):
    other = compare([v * 2.0**power for v in a] + [math.nan], [math.inf] + [v * 2.0**power for v in b])
    assert repr(compare(a, b).verdict) == repr(other.verdict)
    assert compare(a, b).ratio.low == pytest.approx(other.ratio.low, rel=1e-6, nan_ok=True)


def test_constant_series_are_compared_without_an_interval():
    assert compare([5.0] * 5, [5.0] * 5).verdict == "equivalent within 2 %"
    assert compare([5.0] * 5, [6.0] * 5).verdict == "slower"
    assert stats.mean([5.0] * 5).low == 5.0
