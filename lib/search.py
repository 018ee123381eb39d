"""Where a server saturates: the knee of a closed loop, and the highest open-loop rate that keeps its targets.

Both drive `measure`, a coroutine from a load to a lib.series.Series, so that what is searched does not depend on
how it is measured.
"""
from collections.abc import Awaitable, Callable

import pandas as pd

from lib import metrics, stats
from lib.series import Series
from lib.shapes import Closed, Open, Shape

Measure = Callable[[Shape], Awaitable[Series]]
NEAR = 0.9  # the knee: this share of the highest throughput
BACKLOG = 1.1  # a queue grows when the last third waits so many times as long as the first


def row(series: Series) -> dict:
    """One line of a search: what a reader compares between loads, with the verdict on throughput."""
    found = series.summaries()
    return {
        "load": series.shape, "requests": series.counts["measured"], "failed": series.counts["failed after the warm-up"],
        "throughput_tps": found["throughput_tps"]["mean"].value, "ttft_ms": found["ttft_s"]["median"].value,
        "ttft_p95_ms": found["ttft_s"]["p95"].value, "tpot_ms": found["tpot_s"]["median"].value,
        "tpot_p95_ms": found["tpot_s"]["p95"].value, "verdict": series.verdicts()["throughput_tps"],
    }


async def ladder(measure: Measure, levels: list[int]) -> pd.DataFrame:
    """Closed loops of rising concurrency -> one `row` each, with `streams`. All levels are measured: where a
    server bends is only known from beyond."""
    return pd.DataFrame([{"streams": n} | row(await measure(Closed(n))) for n in levels])


def knee(rungs: pd.DataFrame) -> int | None:
    """The least number of streams with 90 % of the highest throughput of a ladder; None if that is its last rung,
    for then the server has not been seen to bend."""
    reached = rungs[rungs["throughput_tps"] >= NEAR * rungs["throughput_tps"].max()]
    if reached.empty or reached.index[0] == rungs.index[-1]:
        return None
    return int(reached["streams"].iloc[0])


async def best_rate(measure: Measure, ttft_s: float, tpot_s: float, start: float, share: float = 0.95,
                    precision: float = 0.1, most: int = 12) -> tuple[float, pd.DataFrame]:
    """The highest rate at which at least `share` of the requests meet both targets and no queue grows.

    From `start` requests a second the rate is doubled (or halved) until it is between a rate that holds and one
    that does not, then bisected until the two are within `precision` of each other, in at most `most` series.
    -> (requests/s, 0 if none holds; one line per series, with rate, share and its Wilson interval, holds).
    """
    tried, holds, fails = [], 0.0, float("inf")
    rate = start
    while len(tried) < most and fails > holds * (1 + precision):
        series = await measure(Open(rate))
        met, due, goodput = metrics.goodput(series.frame, series.window, ttft_s, tpot_s)
        met_share, grows = stats.share(met, due), queue_grows(series)
        good = due > 0 and met_share.value >= share and not grows
        tried.append({"rate": rate, "goodput": goodput, "met": met, "due": due, "share": met_share.value,
                      "share_low": met_share.low, "share_high": met_share.high, "queue_grows": grows, "holds": good}
                     | row(series))
        holds, fails = (max(holds, rate), fails) if good else (holds, min(fails, rate))
        rate = rate * 2 if fails == float("inf") else fails / 2 if holds == 0 else (holds * fails) ** 0.5
    return holds, pd.DataFrame(tried)


def queue_grows(series: Series) -> bool:
    """Does an open loop ask more than the server can do? TTFT then rises as long as the series lasts: the last
    third above the first, and a trend that is no chance (p < 0.001)."""
    ttft = series.values["ttft_s"]
    if len(ttft) < 15:
        return False
    third = len(ttft) // 3
    rho, p = stats.trend(ttft)
    return rho > 0 and p < 0.001 and ttft[-third:].mean() > BACKLOG * ttft[:third].mean()
