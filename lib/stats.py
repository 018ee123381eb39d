"""How sure a number is. Pure: arrays in, numbers out.

Means carry a bootstrap interval (BCa: Efron, 1987); the median and other quantiles an interval between
order statistics, which supposes nothing about the distribution (David and Nagaraja, Order Statistics,
2003, section 7.1). A quantile for which the sample is too small has no upper end, and is not shown.
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

LEVEL = 0.95
RESAMPLES = 2000
MIN_SAMPLES = 20  # below this a series is called too small, whatever its spread


@dataclass(frozen=True)
class Estimate:
    """A value with its interval at LEVEL, in the unit of the data; NaN ends where there is none.

    n: the number of samples behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def scaled(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.n)


def _clean(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return values[np.isfinite(values)]


def mean(values, seed: int = 0) -> Estimate:
    """Mean with a BCa bootstrap interval."""
    x = _clean(values)
    if len(x) < 2 or np.ptp(x) == 0:
        value = float(x.mean()) if len(x) else math.nan
        end = value if len(x) > 1 else math.nan
        return Estimate(value, end, end, len(x))
    result = scipy_stats.bootstrap(
        (x,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, rng=np.random.default_rng(seed)
    )
    low, high = result.confidence_interval
    return Estimate(float(x.mean()), float(low), float(high), len(x))


def rate_mean(rates, seed: int = 0) -> Estimate:
    """The mean of rates as work over time, 1 / mean(1 / rate): a fast request does not count more than a slow
    one of the same work. Interval as for `mean`."""
    x = _clean(rates)
    e = mean(1 / x[x > 0], seed)
    return Estimate(1 / e.value, 1 / e.high, 1 / e.low, e.n)


def quantile(values, q: float) -> Estimate:
    """Quantile q in (0, 1) with the narrowest-rank interval whose coverage is at least LEVEL.

    The rank of the true quantile among n samples is binomial(n, q). Where the sample holds no rank that
    is high (or low) enough, that end is NaN: p99 needs about 370 samples for both ends.
    """
    x = np.sort(_clean(values))
    n = len(x)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    tail = (1 - LEVEL) / 2
    lower = int(scipy_stats.binom.ppf(tail, n, q)) - 1  # P(rank <= lower) < tail; 0-based index of x
    upper = int(scipy_stats.binom.ppf(1 - tail, n, q))
    low = float(x[lower]) if lower >= 0 else math.nan
    high = float(x[upper]) if upper < n else math.nan
    return Estimate(float(np.quantile(x, q)), low, high, n)


def summary(values) -> dict[str, Estimate]:
    """The rows of a results table: mean, median, min, max, p95, p99. Min and max are what was seen and
    have no interval; a percentile without both ends is left NaN, so that no table shows it as a finding."""
    x = _clean(values)
    rows = {"mean": mean(x), "median": quantile(x, 0.5)}
    for name, extreme in (("min", np.min), ("max", np.max)):
        rows[name] = Estimate(float(extreme(x)) if len(x) else math.nan, math.nan, math.nan, len(x))
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        found = quantile(x, q)
        carried = math.isfinite(found.low) and math.isfinite(found.high)
        rows[name] = found if carried else Estimate(math.nan, math.nan, math.nan, len(x))
    return rows


def share(correct: int, n: int) -> Estimate:
    """correct / n with Wilson's score interval (E. B. Wilson, 1927); 0 to 1 where n is 0."""
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    interval = scipy_stats.binomtest(correct, n).proportion_ci(LEVEL, method="wilson")
    return Estimate(correct / n, float(interval.low), float(interval.high), n)


def trend(values) -> tuple[float, float]:
    """Spearman's rank correlation of a series with its order, and its p-value: is there a drift?"""
    x = _clean(values)
    if len(x) < 3 or np.ptp(x) == 0:
        return 0.0, 1.0
    result = scipy_stats.spearmanr(np.arange(len(x)), x)
    return float(result.statistic), float(result.pvalue)


def verdict(values, failed: int, sent: int) -> str:
    """What speaks against a series, from the series alone; "valid" when nothing does.

    errors: more than 1 % of the requests failed. too few samples: fewer than MIN_SAMPLES answers.
    unstable: the values drift with time (Spearman |rho| > 0.3 and p < 0.001).
    """
    x = _clean(values)
    if sent and failed / sent > 0.01:
        return f"errors: {failed} of {sent} requests failed"
    if len(x) < MIN_SAMPLES:
        return f"too few samples: {len(x)}, at least {MIN_SAMPLES} are needed"
    rho, p = trend(x)
    if abs(rho) > 0.3 and p < 0.001:
        return f"unstable: it {'rises' if rho > 0 else 'falls'} during the series (rank correlation {rho:.2f})"
    return "valid"
