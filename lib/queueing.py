"""What queueing theory says of a load, beside what was seen. Pure.

    Little's law             mean in flight = rate * mean whole time (Little, Operations Research 9, 1961)
    closed loop              throughput = concurrency * n / mean whole time: the same law, with every stream always busy
    asymptotic bounds        throughput at c <= min(c * throughput alone, the most that was seen) (Denning and Buzen, ACM
                             Computing Surveys 10, 1978): where the two lines cross, queueing begins
    efficiency               throughput at c / (c * throughput of one stream)

A window is finite: across its two ends stand requests that began before it or ended after it. Their share of the
time is the window's error, by which either side of a law may be off. SLACK is for what a client needs between two requests.
"""
import math

import pandas as pd

from lib import claims, tables
from lib.series import Series

SLACK = 0.05

def article() -> pd.DataFrame:
    """The article's own table: whole time and throughput at 1, 2, 4, 8 at once; index: streams."""
    return claims.levels()


def in_flight(frame: pd.DataFrame, window: tuple[float, float]) -> float:
    """Mean number of requests between their sending and their end, over a window."""
    began, ended = frame["sent"].clip(*window), frame["done"].clip(*window)
    length = window[1] - window[0]
    return float((ended - began).sum() / length) if length > 0 else math.nan


def window_error(frame: pd.DataFrame, window: tuple[float, float]) -> float:
    """Relative: of all the time that requests spent in the window, the share of those that stand across its ends."""
    inside = frame["done"].clip(*window) - frame["sent"].clip(*window)
    across = (frame["sent"] < window[0]) | (frame["done"] > window[1])
    return float(inside[across].sum() / inside.sum()) if inside.sum() > 0 else math.nan


def laws(series: Series, streams: int | None, tokens: int) -> dict:
    """One line: Little's law and, for a closed loop of `streams` with answers of `tokens`, throughput, predicted beside
    seen. `error`: the window's, relative. `server`: mean of its own running + waiting, over the samples in the window."""
    frame, (began, ended) = series.frame, series.window
    whole = frame.loc[frame["error"].isna() & frame["done"].between(began, ended)]
    rate = len(whole) / (ended - began) if ended > began else math.nan
    took = float((whole["done"] - whole["sent"]).mean())
    samples = series.samples[series.samples["time"].between(began, ended)] if len(series.samples) else series.samples
    row = {"load": series.shape, "rate": rate, "total_s": took, "in_flight": rate * took,
           "in_flight_seen": in_flight(frame, series.window),
           "server": float((samples["running"] + samples["waiting"]).mean()) if len(samples) else math.nan}
    if streams:
        seen = float(pd.Series(series.values["throughput_tps"]).mean())
        mean = series.measured["total_s"].mean()
        row |= {"throughput": streams * tokens / mean, "throughput_seen": seen}
    return row | {"error": window_error(frame, series.window), "failed": series.counts["failed after the warm-up"]}


def laws_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`laws`, a line a load, for readers."""
    rows = rows.reset_index(drop=True)
    return pd.DataFrame({
        "load": rows["load"], "requests/s": rows["rate"], "mean whole time, ms": rows["total_s"] * 1000,
        "in flight, predicted": rows["in_flight"], "in flight, seen": rows["in_flight_seen"],
        "in flight, the server's own count": rows["server"], "tokens/s, predicted": rows["throughput"],
        "tokens/s, seen": rows["throughput_seen"], "window's error, %": rows["error"] * 100})


def broken(rows: pd.DataFrame) -> pd.DataFrame:
    """The closed loops among `laws` in which throughput or mean in flight is off by more than the window's error. Where
    requests failed, or the window held none, nothing is said; an open loop may grow a queue, and a law of what is
    level does not hold there."""
    told = rows[rows["throughput"].notna() & (rows["failed"] == 0) & rows["error"].notna()]
    off = [(told[f"{what}_seen"] / told[what] - 1).abs() > told["error"] + SLACK for what in ("throughput", "in_flight")]
    return told[off[0] | off[1]]


def scaling(rungs: pd.DataFrame) -> pd.DataFrame:
    """lib.search.ladder's lines with `perfect` (tokens/s, from the lowest rung), `efficiency`, and `step`: throughput
    gained by the last step, relative; `users`: streams gained, relative."""
    first = rungs.iloc[0]
    perfect = rungs["streams"] * first["throughput_tps"] / first["streams"]
    return rungs.assign(perfect=perfect, efficiency=rungs["throughput_tps"] / perfect,
                        step=rungs["throughput_tps"].pct_change(), users=rungs["streams"].pct_change())


def predicted(levels: list[int], total_s: float, tokens: int) -> pd.DataFrame:
    """What perfect scaling would give: nobody waits for anybody. total_s: whole time of one user alone."""
    beside = article()
    return pd.DataFrame({
        "users": levels, "whole time if nobody waits, ms": total_s * 1000,
        "throughput if nobody waits, tokens/s": [n * tokens / total_s for n in levels],
        "article, whole time, ms": [beside["total_ms"].get(n, math.nan) for n in levels],
        "article, throughput, tokens/s": [beside["throughput_tps"].get(n, math.nan) for n in levels],
        "article, its own efficiency, %":
            [beside["throughput_tps"].get(n, math.nan) / beside["throughput_tps"][1] / n * 100 for n in levels]})


def article_table(rungs: pd.DataFrame) -> pd.DataFrame:
    """The article's table with intervals, and the article's own figures beside it."""
    beside = article()
    def cell(row, metric):
        parts = [tables.number(row[f"{metric}{end}"]) for end in ("", "_low", "_high")]
        return parts[0] if "–" in parts else f"{parts[0]} [{parts[1]}, {parts[2]}]"
    return pd.DataFrame([{
        "users at once": row["streams"], "whole time, ms": cell(row, "total_ms"), "throughput, tokens/s": cell(row, "throughput_tps"),
        "requests": row["requests"], "failed": row["failed"], "verdict": row["verdict"],
        "article, ms": beside["total_ms"].get(row["streams"], math.nan),
        "article, tokens/s": beside["throughput_tps"].get(row["streams"], math.nan),
    } for _, row in rungs.iterrows()])


def growth(rungs: pd.DataFrame) -> str:
    """What the most users brought, against the fewest, in words."""
    first, last = rungs.iloc[0], rungs.iloc[-1]
    if len(rungs) == 1:
        return f"{first['streams']} users at once got {tables.number(first['throughput_tps'])} tokens/s together."
    return (f"From {first['streams']} to {last['streams']} users the throughput rose to "
            f"{last['throughput_tps'] / first['throughput_tps']:.1f} times what it was, and the whole time of an answer to "
            f"{last['total_ms'] / first['total_ms']:.1f} times; perfect scaling would be {last['streams'] / first['streams']:.3g} times "
            "and 1.")


def beside_the_article(rungs: pd.DataFrame) -> str:
    """The article's two claims about its table beside the same levels here."""
    beside, here = article(), rungs.set_index("streams")
    low, high = beside.index.min(), beside.index.max()

    def ratio(of, column):
        return of.loc[high, column] / of.loc[low, column]

    told = (f"From {low} to {high} users the article saw {ratio(beside, 'throughput_tps'):.1f} times the throughput at "
            f"{ratio(beside, 'total_ms'):.2f} times the whole time, without a spread and on other hardware")
    if low not in here.index or high not in here.index:
        return f"{told}; these levels were not both measured here."
    return (f"{told}; here it was {ratio(here, 'throughput_tps'):.1f} times the throughput at {ratio(here, 'total_ms'):.2f} times "
            "the whole time.")


def scaling_table(rungs: pd.DataFrame) -> pd.DataFrame:
    """Latencies and efficiency, a line a level."""
    rows = scaling(rungs)
    return pd.DataFrame({
        "users": rows["streams"], "TTFT, median, ms": rows["ttft_ms"], "TTFT, p95, ms": rows["ttft_p95_ms"],
        "TPOT, median, ms": rows["tpot_ms"], "TPOT, p95, ms": rows["tpot_p95_ms"],
        "tokens/s for each user": rows["throughput_tps"] / rows["streams"], "efficiency, %": rows["efficiency"] * 100,
        "throughput gained by this step, %": rows["step"] * 100})
