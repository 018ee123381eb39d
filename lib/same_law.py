"""Do two sets of samples come from the same distribution? Pure.

For sampled answers: two runs at a temperature above 0 say different things, and only the shares in which they say them can be
compared.
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

SHOWN = 0.01  # p below which the two are said to differ
POWER = 0.9
RARE = 10  # outcomes seen less often are taken together
REDRAWS = 4000


@dataclass(frozen=True)
class SameLaw:
    """Do two sets of samples come from the same distribution? p: of the permutation test on the summed chi-square of all
    prompts. smallest: the probability that would have to move from the likeliest outcome to the next, on every prompt, to be
    found with POWER. n: samples in each set. outcomes: how many were told apart. varied: whether any prompt had more than one at all."""

    p: float
    smallest: float
    n: tuple[int, int]
    outcomes: int
    varied: bool = False

    def __str__(self):
        if math.isnan(self.p):
            return (f"nearly every sample is another, and none came {RARE} times, so that there are no shares to compare" if self.varied else
                    "every sample is the same, so that there is nothing to compare")
        differ = "come from different distributions" if self.p < SHOWN else "are not shown to come from different distributions"
        power = (f"had {self.smallest:.0%} of the probability moved from the likeliest outcome to the next, that would have been seen with a "
                 f"chance of {POWER:.0%}" if math.isfinite(self.smallest) else "there are too few samples to see anything")
        return f"they {differ} (p = {self.p:.2g}, {self.n[0]} and {self.n[1]} samples); {power}"


def same_law(one: dict[str, list], two: dict[str, list], seed: int = 1) -> SameLaw:
    """one, two: prompt -> its sampled outcomes (anything hashable), single and batched.

    The permutations are drawn as counts: who belongs to which set is exchangeable, so the counts of the first are
    multivariate hypergeometric. Outcomes seen less than RARE times are one.
    """
    rng, observed, redrawn, found = np.random.default_rng(seed), 0.0, np.zeros(REDRAWS), []
    for prompt in one:
        counts = _counts(one[prompt], two.get(prompt, []))
        if counts.shape[1] < 2 or not counts.sum(axis=1).all():
            continue
        totals, first = counts.sum(axis=0), int(counts[0].sum())
        observed += _chi_square(counts[:1], totals)[0]
        redrawn += _chi_square(rng.multivariate_hypergeometric(totals, first, size=REDRAWS), totals)
        found.append(counts)
    p = (1 + int((redrawn >= observed - 1e-9).sum())) / (1 + REDRAWS) if found else math.nan
    return SameLaw(p, _smallest_shift(found), (sum(map(len, one.values())), sum(map(len, two.values()))),
                   sum(counts.shape[1] for counts in found), any(len({*map(str, one[p]), *map(str, two.get(p, []))}) > 1 for p in one))


def _counts(one: list, two: list) -> np.ndarray:
    """Two rows of counts, a column an outcome, the rare ones in one."""
    outcomes, codes = np.unique([*map(str, one), *map(str, two)], return_inverse=True)
    counts = np.array([np.bincount(part, minlength=len(outcomes)) for part in np.split(codes, [len(one)])])
    rare = counts.sum(axis=0) < RARE
    counts, rest = counts[:, ~rare], counts[:, rare].sum(axis=1)
    return np.column_stack([counts, rest]) if rest.any() else counts


def _chi_square(first: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Pearson's statistic of a 2 × k table for rows of first counts, given the column totals."""
    size, n = first.sum(axis=1, keepdims=True), totals.sum()
    expected = totals * size / n
    return ((first - expected) ** 2 / expected).sum(axis=1) * n / (n - size[:, 0])


def _smallest_shift(found: list[np.ndarray]) -> float:
    """By the noncentral chi-square distribution (Cohen, Statistical Power Analysis, 1988, chapter 7)."""
    freedom = sum(counts.shape[1] - 1 for counts in found)
    if not freedom:
        return math.nan
    critical = scipy_stats.chi2.ppf(1 - SHOWN, freedom)
    per_square = 0.0
    for counts in found:
        a, b = counts.sum(axis=1)
        likeliest = np.sort(counts.sum(axis=0) / (a + b))[::-1][:2]
        per_square += a * b / (a + b) * (1 / likeliest).sum()
    shifts = np.linspace(0.001, 1, 1000)
    enough = scipy_stats.ncx2.sf(critical, freedom, per_square * shifts**2) >= POWER
    return float(shifts[enough.argmax()]) if enough.any() else math.nan
