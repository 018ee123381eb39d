"""How sure a number is. Pure: arrays in, numbers out, in the unit of the data. Not finite values are left out.

A series stands in the order in which it was measured, and neighbours in time resemble each other: lag-1
autocorrelations of 0.4 are common in latencies, and an interval that supposes independence then covers 80 %
where it says 95 %. So every interval here is that of `effective_n` samples: of the bootstrap (BCa: Efron, Better
bootstrap confidence intervals, JASA 82, 1987) for means, between order statistics, which suppose nothing about
the distribution (David and Nagaraja, Order Statistics, 2003, section 7.1), for the median and other quantiles.
A quantile for which the sample is too small has no upper end, and is not shown.

Simulated coverage of the 95 % intervals of the mean is in tests/test_stats.py. Comparisons are in lib/compare.py.
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

LEVEL = 0.95
RESAMPLES = 2000
LEAST_EFFECTIVE = 3.0  # fewer cannot be told from a series: where it is reached, the truth may lie below
MIN_SAMPLES = 20  # below this a series is called too small, whatever its spread
TAIL = (1 - LEVEL) / 2
NORMAL_95 = float(scipy_stats.norm.ppf(1 - TAIL))  # 1.96
LARGE = 10_000  # from here on the bootstrap would only spend time: its closed form is as good
FIRST_LOOK, LOOK_GROWTH = 50, 1.5  # when `narrow_enough` looks: at 50 samples, 75, 112, 168, …


@dataclass(frozen=True)
class Estimate:
    """A value with its interval at LEVEL, in the unit of the data; NaN ends where there is none.

    n: the number of samples behind it. effective_n: as many independent ones would say as much; None where
    order plays no part.
    """

    value: float
    low: float
    high: float
    n: int
    effective_n: float | None = None

    def scaled(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.n, self.effective_n)


def finite(values) -> np.ndarray:
    """The finite values, in their order: what has no value is no sample."""
    values = np.asarray(values, dtype=float)
    return values[np.isfinite(values)]


def effective_n(values, fitted: int = 1) -> float:
    """How many independent samples would fix the mean of this series as well: n / tau, between 3 and n.

    tau = 1 + 2 * (sum of the autocorrelations), the larger of two estimates: that of an AR(1) process with the
    lag-1 correlation freed of its bias (Marriott and Pope, Biometrika 41, 1954), best in short series, and the
    initial monotone sequence (Geyer, Statistical Science 7, 1992), which sees slower waves too.
    Where the lag-1 correlation is below its standard error, 1 / sqrt(n), none is shown and n is the answer;
    an alternating series, too, counts as n. `fitted`: parameters taken out of the series: 1 its mean, 2 a line.
    """
    x = finite(values)
    n = len(x)
    if n < 8 or np.ptp(x) == 0:
        return float(n)
    x = x - x.mean()
    spectrum = np.abs(np.fft.rfft(x / np.abs(x).max(), 2 * n)) ** 2  # padded: no wrapping round
    r = np.fft.irfft(spectrum)[: n // 4 * 2]
    r /= r[0]
    lag1 = min((n * r[1] + fitted) / (n - fitted - 2), 0.95)
    if lag1 < 1 / math.sqrt(n):
        return float(n)
    pairs = r[0::2] + r[1::2]
    ends = np.flatnonzero(pairs <= 0)
    waves = 2 * float(np.minimum.accumulate(pairs[: ends[0] if len(ends) else None]).sum()) - 1
    waves /= max(1 - fitted * waves / n, 0.5)  # what was fitted took its share of the slowest waves along
    return max(n / max((1 + lag1) / (1 - lag1), waves), LEAST_EFFECTIVE)


def _bca(x: np.ndarray, seed: int) -> tuple[float, float]:
    """Ends of the BCa interval of the mean of independent x. scipy's keeps an n * n jackknife; that of a mean
    has a closed form. Large n: Hall, The Bootstrap and Edgeworth Expansion, 1992: the same to the
    second order."""
    n, centre = len(x), x.mean()
    deviations = (x - centre) / np.abs(x - centre).max()
    lean = float((deviations**3).sum() / (deviations**2).sum() ** 1.5) / 6  # the acceleration
    if n > LARGE:
        shift = lean * (2 * NORMAL_95**2 + 1)
        error = x.std() / math.sqrt(n)
        return centre + error * (shift - NORMAL_95), centre + error * (shift + NORMAL_95)
    rng = np.random.default_rng(seed)
    means = np.concatenate([x[rng.integers(0, n, (100, n))].mean(axis=1) for _ in range(RESAMPLES // 100)])
    bias = float(scipy_stats.norm.ppf(np.clip((np.mean(means < centre) + np.mean(means <= centre)) / 2, 0.01, 0.99)))
    ends = bias + np.array([-NORMAL_95, NORMAL_95])
    low, high = np.quantile(means, scipy_stats.norm.cdf(bias + ends / (1 - lean * ends)))
    return float(low), float(high)


def mean(values, seed: int = 0) -> Estimate:
    """Mean of a series in the order of measuring, with the BCa bootstrap interval of `effective_n` samples.

    The bootstrap gives the interval's shape; its ends move away from the mean by the factor between
    Student's t for effective_n samples and the normal for n: for n = effective_n that is Hesterberg's expanded
    interval (What teachers should know about the bootstrap, Am. Stat. 69, 2015). Where all values are
    positive the factor works on the logarithm, so that a latency's interval holds no negative ones.
    """
    x = finite(values)
    if len(x) < 2 or np.ptp(x) == 0:
        value = float(x.mean()) if len(x) else math.nan
        end = value if len(x) > 1 else math.nan
        return Estimate(value, end, end, len(x), float(len(x)))
    effective = effective_n(x)
    wider = float(scipy_stats.t.ppf(1 - TAIL, effective - 1)) / NORMAL_95 * math.sqrt(len(x) / effective)
    wider *= math.sqrt(len(x) / (len(x) - 1))  # the bootstrap's spread is that of the sample, not of the law
    centre, (low, high) = float(x.mean()), _bca(x, seed)
    if x.min() > 0:
        with np.errstate(all="ignore"):  # values hundreds of magnitudes apart: an end of 0 or infinity
            low, high = (float(centre * (np.float64(end) / centre) ** wider) for end in (low, high))
    else:
        low, high = centre + (low - centre) * wider, centre + (high - centre) * wider
    return Estimate(centre, low, high, len(x), effective)


def rate_mean(rates, seed: int = 0) -> Estimate:
    """The mean of rates as work over time, 1 / mean(1 / rate): a fast request does not count more than a slow
    one of the same work. Interval as for `mean`. Rates that are not positive are left out."""
    x = finite(rates)
    e = mean(1 / x[x > 0], seed)
    low, high = (1 / end if end else math.nan for end in (e.high, e.low))
    return Estimate(1 / e.value, low, high, e.n, e.effective_n)


def samples_needed(q: float) -> int:
    """How many independent samples the interval of quantile q in (0, 1) needs to have both ends: 368 for p99.

    The least n at which less than (1 - LEVEL) / 2 of all samples lie wholly on one side of the quantile.
    """
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
    return math.ceil(math.log(TAIL) / math.log(max(q, 1 - q)))


def quantile(values, q: float) -> Estimate:
    """Quantile q in (0, 1) with the narrowest-rank interval whose coverage is at least LEVEL.

    The rank of the true quantile among n samples is binomial(n, q). In a dependent series it spreads as among the
    effective_n of "lies below the quantile" (Sen, J. Multivariate Analysis 2, 1972), and the
    ranks are scaled up from there. Few samples lie above a p99, and two of them side by side are soon chance:
    the series counts as dependent only where its values show it, too. Where the sample holds no rank that is
    high (or low) enough, that end is NaN: see `samples_needed`.
    """
    x = finite(values)
    n = len(x)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, 0.0)
    value = float(np.quantile(x, q))
    below = (x < value).astype(float) + (x <= value)  # ties with the quantile stand in the middle
    m = int(max(effective_n(below), effective_n(x)))
    x = np.sort(x)
    lower = math.floor(scipy_stats.binom.ppf(TAIL, m, q) * n / m) - 1  # 0-based index of x
    upper = math.ceil(scipy_stats.binom.ppf(1 - TAIL, m, q) * n / m)
    low = float(x[lower]) if lower >= 0 else math.nan
    high = float(x[upper]) if upper < n else math.nan
    return Estimate(value, low, high, n, float(m))


def narrow_enough(values, relative: float) -> bool:
    """May a series stop: does the interval of its mean lie within ± `relative` (0.02: 2 %) of it?

    To be asked as often as one likes, with all values so far. Who looks after each value stops at the luckiest
    look, and the interval covers less than it says. So only the looks at FIRST_LOOK samples and at each number
    LOOK_GROWTH times larger count: between looks the answer stays what it was. And a narrow interval is
    not believed before it stands on 30 effective samples (Glynn and Whitt, Ann. Appl. Prob. 2, 1992: such stopping
    is valid in the limit of narrow intervals). The interval at the stop covers 93 to 96 %, as simulated.
    """
    x, look = finite(values), float(FIRST_LOOK)
    if len(x) < FIRST_LOOK:
        return False
    while int(look * LOOK_GROWTH) <= len(x):
        look *= LOOK_GROWTH
    e = mean(x[: int(look)])
    return e.effective_n >= 30 and max(e.high - e.value, e.value - e.low) <= relative * abs(e.value)


def summary(values) -> dict[str, Estimate]:
    """The rows of a results table: mean, median, min, max, p95, p99. Min and max are what was seen and
    have no interval; a percentile without both ends is left NaN, so that no table shows it as a finding."""
    x = finite(values)
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


def variation(values) -> float:
    """Coefficient of variation, standard deviation / mean, no unit; NaN for less than two values or mean 0."""
    x = finite(values)
    return float(x.std(ddof=1) / abs(x.mean())) if len(x) > 1 and x.mean() else math.nan


def trend(values) -> tuple[float, float]:
    """Spearman's rank correlation of a series with its order, and its p-value: is there a drift?

    A series that wanders without going anywhere must not be called drifting, so the p-value is that of
    `effective_n` samples, taken from the ranks once their trend is removed, as Hamed and Rao (J. Hydrology 204,
    1998) correct the Mann-Kendall test.
    """
    x = finite(values)
    n = len(x)
    if n < 3 or np.ptp(x) == 0:
        return 0.0, 1.0
    ranks, order = scipy_stats.rankdata(x), np.arange(n)
    rho = float(np.clip(np.corrcoef(order, ranks)[0, 1], -1, 1))
    m = max(effective_n(ranks - rho * ranks.std() / order.std() * order, fitted=2), 3.0)
    t = abs(rho) * math.sqrt((m - 2) / max(1 - rho**2, 1e-300))
    return rho, max(float(2 * scipy_stats.t.sf(t, m - 2)), 2 / math.factorial(min(n, 20)))  # no rarer than an order is
