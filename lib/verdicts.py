"""May the figures of a series be believed, and if not, why not? Pure: evidence in, words out.

A verdict is "valid" or the reasons against, each beginning with its kind: errors, client-bound, delivery-bound, cache-warm,
throttled, too few samples, warming up, unstable. They are joined by "; ", the graver first.
"""
import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats as scipy_stats

from lib import stats
from lib.reconcile import AGREE_TPOT

# The limits were set on the metronome: see "Overloaded on purpose" in tests/test_calibration.py.
CPU_SHARE = 0.9  # of its processor that a load worker used
WAIT_SHARE = 0.15  # of the time in which it could run and was not let
LAG_P50_MS, LAG_P99_MS = 2.0, 15.0  # how late its timers were: the errors of TTFT that calibration allows
BEYOND = 1.1  # times what the calibration reached
CACHED_SHARE = 0.1  # of the prompt tokens; a chat format's opening is shared by all prompts and is below it
FAILED_SHARE = 0.01
DRIFT_RHO, DRIFT_SHARE = 0.3, 0.02  # a clear order in time, of a size that changes what a reader takes from the figure
JUMP, JUMP_LEAST = 2.0, 7  # times another level; quarters large enough that they do not part so by chance

KINDS = {  # for readers, in the order of judging
    "errors": f"more than {FAILED_SHARE:.0%} of the requests failed",
    "client-bound": f"a load worker used more than {CPU_SHARE:.0%} of a processor, was kept from one for more than "
                    f"{WAIT_SHARE:.0%} of the time, woke late, or carried more than it was seen to measure rightly",
    "delivery-bound": f"a token took more than {AGREE_TPOT:.0%} longer to come than, by the server's own clock, the engine to make it, and the "
                      "client was not late: the API server, or the network, was",
    "cache-warm": f"more than {CACHED_SHARE:.0%} of prompt tokens that should have been new came from the server's cache",
    "throttled": "the GPU lowered its clocks",
    "too few samples": f"fewer than {stats.MIN_SAMPLES} values stand behind the figure, or each is so like the one before that they say no more than "
                       f"{stats.LEAST_EFFECTIVE:.0f} independent ones",
    "warming up": "the first tenth of the requests took at least 1.2 times as long as the rest",
    "unstable": f"the values drift during the series (rank correlation above {DRIFT_RHO:g}, and more than {DRIFT_SHARE:.0%} "
                f"between its first and its last third), or nearly all of its last quarter lies beyond its first, {JUMP:g} times as high or low",
}

COURSE = ("too few samples", "warming up", "unstable")  # those on how a series went; the others say that it measured something else


@dataclass(frozen=True)
class Evidence:
    """What is known of a series beside its values.

    client: lib.driver's health of each worker. tokens_per_s: what arrived in the steady window. capacity: tokens/s
    and streams up to which one worker was believed, if it was calibrated. late_pct: `reconcile.delivered_late_pct`. cached_share: of the prompt tokens,
    None if unknown. throttled: the GPU's reasons, in words.
    """

    sent: int = 0
    failed: int = 0
    streams: int | None = None
    tokens_per_s: float = math.nan
    client: list = field(default_factory=list)
    capacity: tuple[float, int] | None = None
    late_pct: float = math.nan
    cached_share: float | None = None
    cache_expected: bool = False  # later turns of a conversation are meant to hit the prefix cache
    throttled: tuple = ()


def judge(values, evidence: Evidence, time: bool = True, decode: bool = False) -> str:
    """The verdict on the values of one metric, in the order of sending. `time`: less is better. `decode`: it is about the tokens after
    the first."""
    found = [errors(evidence), client_bound(evidence) or (decode and delivery_bound(evidence)), cache_warm(evidence), throttled(evidence), too_few(values),
             (time and warming_up(values)) or unstable(values) or alike(values)]
    return "; ".join(filter(None, found)) or "valid"


def errors(evidence: Evidence) -> str | None:
    """More than 1 % of the requests failed."""
    if evidence.sent and evidence.failed / evidence.sent > FAILED_SHARE:
        return f"errors: {evidence.failed} of {evidence.sent} requests failed"


def client_bound(evidence: Evidence) -> str | None:
    """The figure is this client's, not the server's: the busiest worker had no time left, was kept from its
    processor, woke late, or carried more than a worker was seen to carry."""
    client = [h for h in evidence.client if h]
    if not client:
        return None
    busy = max(h["cpu_share"] for h in client)
    waited = max(h["wait_share"] or 0.0 for h in client)
    late, often_late = (max(h[name] for h in client) for name in ("lag_p99_ms", "lag_p50_ms"))
    if busy > CPU_SHARE:
        return f"client-bound: a load worker used {busy:.0%} of a processor"
    if waited > WAIT_SHARE:
        return f"client-bound: for {waited:.0%} of the time a load worker was ready and no processor was free for it"
    if late > LAG_P99_MS or often_late > LAG_P50_MS:
        return f"client-bound: a load worker woke {often_late:.1f} ms late (median; p99 {late:.0f} ms)"
    if evidence.capacity:
        tokens_per_s, streams = evidence.capacity
        if evidence.tokens_per_s > tokens_per_s * BEYOND * len(client):
            return (f"client-bound: {evidence.tokens_per_s:,.0f} tokens/s are more than the {tokens_per_s * len(client):,.0f} "
                    "that this client was seen to measure rightly")
    return None


def delivery_bound(evidence: Evidence) -> str | None:
    """The engine was faster than what reached this client, by the server's own histogram of the time per token."""
    if evidence.late_pct > 0:
        return f"delivery-bound: a token took {evidence.late_pct:.0f}% longer to come than the engine to make it"


def cache_warm(evidence: Evidence) -> str | None:
    """Prompts that should have been new came from the server's cache."""
    share = evidence.cached_share
    if share is not None and share > CACHED_SHARE and not evidence.cache_expected:
        return f"cache-warm: {share:.0%} of the prompt tokens came from the server's cache"


def throttled(evidence: Evidence) -> str | None:
    """The GPU ran below its clock."""
    if evidence.throttled:
        return f"throttled: the GPU lowered its clocks ({', '.join(evidence.throttled)})"


def too_few(values) -> str | None:
    """Fewer than stats.MIN_SAMPLES answers."""
    n = len(stats.finite(values))
    if n < stats.MIN_SAMPLES:
        return f"too few samples: {n}, at least {stats.MIN_SAMPLES} are needed"


def warming_up(values) -> str | None:
    """The first tenth took at least 1.2 times as long as the rest (Mann-Whitney, p < 0.001)."""
    x = stats.finite(values)
    first, rest = np.split(x, [len(x) // 10])
    if len(first) < 5 or np.median(rest) <= 0:
        return None
    ratio = float(np.median(first) / np.median(rest))
    if ratio > 1.2 and scipy_stats.mannwhitneyu(first, rest, alternative="greater").pvalue < 0.001:
        return f"warming up: the first {len(first)} requests took {ratio:.1f} times as long as the rest"


def unstable(values) -> str | None:
    """The values drift with time (Spearman |rho| > 0.3, p < 0.001 after autocorrelation), and by more than 2 % from
    the first third's median to the last's: a stable clock shows drifts in the fourth digit. Or they went over to another level,
    which a rank correlation that allows for autocorrelation takes for chance where they did so once."""
    x = stats.finite(values)
    if len(x) < stats.MIN_SAMPLES:
        return None
    quarter = len(x) // 4
    first, last = x[:quarter], x[-quarter:]
    low, high = sorted((first, last), key=np.median)
    if quarter >= JUMP_LEAST and np.quantile(high, 0.1) > np.quantile(low, 0.9) and np.median(high) > JUMP * np.median(low) > 0:
        return (f"unstable: it {'rises' if high is last else 'falls'}: nearly all of its last quarter lies {'above' if high is last else 'below'} "
                f"its first (medians: {np.median(last) / np.median(first):.3g} times)")
    rho, p = stats.trend(x)
    if abs(rho) <= DRIFT_RHO or p >= 0.001:
        return None
    first, _, last = (float(np.median(third)) for third in np.array_split(x, 3))
    change = last / first - 1 if first else math.inf
    if abs(change) > DRIFT_SHARE:
        return (f"unstable: from its first third to its last it {'rises' if rho > 0 else 'falls'} by {abs(change):.0%} "
                f"(rank correlation {rho:.2f})")


def alike(values) -> str | None:
    """Each value is so like the one before that no series of this length can tell how little it says: its interval, wide as it is, may
    be too narrow. Above that edge the interval, which is that of the effective samples, says all; as it does of values that hardly spread."""
    x = stats.finite(values)
    if len(x) >= stats.MIN_SAMPLES and x.std() > DRIFT_SHARE * abs(x.mean()) and stats.effective_n(x) <= stats.LEAST_EFFECTIVE:
        return f"too few samples: {len(x)}, each so like the one before that they say no more than {stats.LEAST_EFFECTIVE:.0f} independent ones"


def of_comparison(evidence: Evidence, n: int, least: int, unit: str) -> str:
    """The verdict on a figure that was not averaged but compared or fitted from a series: `n` of `unit` stand behind it."""
    few = f"too few samples: {n} {unit}, at least {least} are needed" if n < least else None
    return "; ".join(filter(None, [errors(evidence), client_bound(evidence), throttled(evidence), few])) or "valid"
