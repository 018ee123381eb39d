"""Is one series faster than another, and how sure is that? Pure: arrays in, numbers out.

Two ways, by how the series were measured:

- Interleaved, with `paired_rounds`: A B B A, A B B A, … A machine warms, throttles and is shared; whatever
  changes slowly meets both halves of a round alike and cancels in the round's ratio, and the spread between
  rounds shows all that did not cancel. Always to be preferred. Let a round be a whole A B B A, in which even a
  steady drift cancels; five rounds or more, for an interval from few is wide: with two rounds
  Student's t is 12.7, with five 2.8, with ten 2.3.
- One after the other, without: each series counts as many samples as stats.effective_n finds in it. That allows
  for neighbours in time resembling each other, but not for what changed between the two series, which no
  statistics can tell from the difference that is sought.

Simulated rates of false and missed differences are in tests/test_compare.py.
"""
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats as scipy_stats

from lib import stats
from lib.stats import NORMAL_95, TAIL, Estimate

# `needed` counts on these chances: 90 % to show a difference that is as large as the smallest of interest, and
# 80 % to show equivalence where there is no difference (half of the remaining 20 % beyond either margin).
NORMAL_90 = float(scipy_stats.norm.ppf(0.9))
WORDS = {"lower": ("faster", "slower"), "higher": ("slower", "faster"), None: ("lower", "higher")}


@dataclass(frozen=True)
class Comparison:
    """Series b against series a. Ratios are b / a, no unit.

    ratio: of the means (with rounds, the geometric mean of the rounds' ratios), with its interval. The verdict
        is about this one.
    median_ratio: the same of the medians. Where the two disagree, the slow requests make the difference.
    effect: Cliff's delta, P(b > a) - P(b < a) for one sample of each, -1 to 1: 0 is no difference,
        1 is every b above every a (Cliff, Psychological Bulletin 114, 1993).
    verdict: "faster" or "slower" ("lower" or "higher") when the interval does not hold 1; else "equivalent
        within 2 %" when it lies within the margin; else "no difference shown": there may be one.
    equivalent: the interval lies wholly within 1 / (1 + smallest) to 1 + smallest, whatever the verdict. A
        difference can be shown and also be shown to be too small to matter. As two one-sided tests (Schuirmann,
        J. Pharmacokin. Biopharm. 15, 1987) at 2.5 % each: stricter than the usual 5 %.
    needed: how many more of `unit` ("rounds", or "samples" in each series) would probably decide; None where it
        is decided or where there is no interval. A true difference between none and `smallest`
        can stay undecided however many are added.
    smallest: the smallest difference of interest, relative.
    """

    ratio: Estimate
    median_ratio: Estimate
    effect: float
    verdict: str
    equivalent: bool
    needed: int | None
    unit: str
    smallest: float


def compare(a, b, *, paired_rounds=None, better: Literal["lower", "higher"] | None = "lower", smallest: float = 0.02,
            seed: int = 0) -> Comparison:
    """Compare series b with series a, in the same unit and each in the order of measuring.

    paired_rounds: (the round of each value of a, the round of each value of b), any labels; a round that one
        of them lacks is left out. Per-round means can be given as the series, with range(k) for both.
    better: what is good: "lower" for times, "higher" for rates; None for the words "lower" and "higher".
    smallest: the smallest relative difference of interest; the margin of equivalence.
    Values have to be positive on average, or there is no ratio: NaN, and "no difference shown".
    """
    if smallest <= 0:
        raise ValueError(f"smallest is a relative difference above 0, not {smallest}")
    if paired_rounds is None:
        ratio = ratio_of(stats.mean(a, seed), stats.mean(b, seed + 1))
        medians = ratio_of(stats.quantile(a, 0.5), stats.quantile(b, 0.5))
    else:
        ratio, medians = (_ratio_over_rounds(a, b, paired_rounds, of) for of in (np.mean, np.median))
    margin = math.log1p(smallest)
    known = ratio.low > 0 and math.isfinite(ratio.high)
    equivalent = known and -margin < math.log(ratio.low) and math.log(ratio.high) < margin
    lower, higher = WORDS[better]
    needed = None
    if known and (ratio.high < 1 or ratio.low > 1):
        verdict = lower if ratio.high < 1 else higher
    elif equivalent:
        verdict = f"equivalent within {100 * smallest:g} %"
    else:
        verdict = "no difference shown"
        needed = _needed(ratio, margin, paired_rounds is not None) if known else None
    unit = "samples" if paired_rounds is None else "rounds"
    return Comparison(ratio, medians, cliffs_delta(a, b), verdict, equivalent, needed, unit, smallest)


def cliffs_delta(a, b) -> float:
    """P(b > a) - P(b < a) over all pairs of samples, -1 to 1; NaN if either is empty."""
    a, b = np.sort(stats.finite(a)), stats.finite(b)
    if not len(a) or not len(b):
        return math.nan
    above = np.searchsorted(a, b, "left") + np.searchsorted(a, b, "right") - len(a)  # a's below minus a's above
    return float(above.mean() / len(a))


def ratio_of(a: Estimate, b: Estimate) -> Estimate:
    """b / a of independent estimates. The distances of their ends add in squares, as logarithms (Zou and Donner,
    Statistics in Medicine 27, 2008), so that skewed intervals stay skewed."""
    n = min(a.n, b.n)
    value = b.value / a.value if a.value > 0 and b.value > 0 else math.nan
    if not (a.low > 0 and b.low > 0 and math.isfinite(a.high) and math.isfinite(b.high)):
        return Estimate(value, math.nan, math.nan, n)
    down = math.hypot(math.log(b.value / b.low), math.log(a.high / a.value))
    up = math.hypot(math.log(b.high / b.value), math.log(a.value / a.low))
    return Estimate(value, value * _exp(-down), value * _exp(up), n)


def _ratio_over_rounds(a, b, rounds, of) -> Estimate:
    """The geometric mean of the rounds' ratios b / a, with Student's t interval of their logarithms."""
    a, b = (_by_round(values, labels, of) for values, labels in zip((a, b), rounds, strict=True))
    logs = np.array([math.log(b[r] / a[r]) if a[r] > 0 and b[r] > 0 else math.nan for r in a if r in b])
    k = len(logs)
    centre = float(logs.mean()) if k else math.nan
    half = float(scipy_stats.t.ppf(1 - TAIL, k - 1) * logs.std(ddof=1)) / math.sqrt(k) if k > 1 else math.nan
    return Estimate(_exp(centre), _exp(centre - half), _exp(centre + half), k)


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)


def _by_round(values, labels, of) -> dict:
    values, labels = np.asarray(values, dtype=float), np.asarray(labels)
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} values with {len(labels)} round labels")
    values, labels = values[np.isfinite(values)], labels[np.isfinite(values)]
    return {r: float(of(values[labels == r])) for r in np.unique(labels)}


def _needed(ratio: Estimate, margin: float, rounds: bool) -> int:
    """How many more pairs bring the interval, which shrinks with sqrt(n), to where it decides."""
    n = ratio.n
    quantile = float(scipy_stats.t.ppf(1 - TAIL, n - 1)) if rounds else NORMAL_95
    error = math.log(ratio.high / ratio.low) / 2 / quantile
    total = n * (error * (NORMAL_95 + NORMAL_90) / margin) ** 2
    if rounds:
        total += 2  # so few that Student's t still matters (Guenther, Am. Stat. 35, 1981)
    return max(1, math.ceil(total - n))
