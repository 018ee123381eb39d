"""A straight line through measured points, with its interval and what it leaves over. Pure."""
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from lib import stats
from lib.stats import Estimate


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x. residuals: y minus the line, in the order of the points. explained: the share of the
    spread of y (mean absolute deviation from its median) that the line takes away, 0 to 1."""

    slope: Estimate
    intercept: float
    residuals: np.ndarray
    explained: float
    bend: int  # +1: the points bend upwards off the line, -1: downwards, 0: no bend is shown

    def at(self, x):
        return self.intercept + self.slope.value * np.asarray(x, dtype=float)


def line(x, y) -> Line:
    """Theil and Sen's line (Sen, JASA 63, 1968): the slope is the median of the slopes between all pairs of points, its
    95 % interval lies between two order statistics of them. A latency's outliers lie on one side and are no reason for
    another slope; least squares would follow them. NaN where there are not two different x."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(np.unique(x)) < 2:
        nan = float("nan")
        return Line(Estimate(nan, nan, nan, len(x)), nan, np.full(len(x), nan), nan, 0)
    slope, _, low, high = scipy_stats.theilslopes(y, x, stats.LEVEL)
    intercept = float(np.median(y - slope * x))
    residuals = y - intercept - slope * x
    spread = np.abs(y - np.median(y)).mean()
    explained = max(0.0, 1 - np.abs(residuals).mean() / spread) if spread else 1.0
    return Line(Estimate(float(slope), float(low), float(high), len(x)), intercept, residuals, float(explained),
                _bend(x, residuals))


def _bend(x, residuals) -> int:
    """Do the residuals rise (+1) or fall (-1) towards both ends? Spearman's rank correlation with the distance from the
    middle, p < 0.001."""
    away = np.abs(x - (x.min() + x.max()) / 2)
    if len(np.unique(x)) < 3 or np.ptp(away) == 0 or np.ptp(residuals) == 0:
        return 0
    rho, p = scipy_stats.spearmanr(away, residuals)
    return int(np.sign(rho)) if p < 0.001 else 0
