"""Where a server saturates: the knee of a closed loop, and the highest open-loop rate that keeps its targets.

Both drive `measure`, a coroutine from a load to a lib.series.Series, so that what is searched does not depend on
how it is measured.
"""
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pandas as pd

from lib import metrics, stats
from lib.series import Series
from lib.shapes import Closed, Open, Shape
from lib.workloads import Brief

Measure = Callable[[Shape], Awaitable[Series]]
NEAR = 0.9  # the knee: this share of the highest throughput
BACKLOG = 1.25  # a queue grows when the later half waits so many times as long as the earlier


@dataclass
class Measuring:
    """A `Measure` for notebooks: each load becomes a series of its own, whose prompts no other series had.

    desk: lib.bench.Bench. part: what its series are called by. `series`: those measured so far, by load.
    """

    desk: object
    part: str
    max_tokens: int
    temperature: float
    seed: int
    seconds: float
    series: dict[Shape, Series] = field(default_factory=dict)

    async def __call__(self, shape: Shape) -> Series:
        closed = isinstance(shape, Closed)
        name = f"{self.part}.{shape.concurrency}" if closed else f"{self.part}.open-{shape.rate:.4g}"
        workload = Brief(self.max_tokens, self.temperature, self.seed, name)
        self.series[shape] = await self.desk.measure(
            name, workload, shape, seconds=self.seconds + (shape.spread_s if closed else 0.0), warmup=shape.concurrency if closed else 0)
        return self.series[shape]


async def wake(measure: Measuring, streams: int) -> None:
    """A full batch before anything is timed: what a fresh server still compiles for its first one belongs to no level."""
    await measure.desk.measure(f"{measure.part}.wake", Brief(measure.max_tokens, measure.temperature, measure.seed, f"{measure.part}.wake"),
                               Closed(streams), count=streams)


def row(series: Series) -> dict:
    """One line of a search: what a reader compares between loads, with the verdict on throughput, or on
    the whole time, then named, where that is the doubtful one. `_low`, `_high`: ends of the interval."""
    found, judged = series.summaries(), series.verdicts()
    shown = {"throughput_tps": found["throughput_tps"]["mean"], "total_ms": found["total_s"]["mean"],
             "ttft_ms": found["ttft_s"]["median"], "tpot_ms": found["tpot_s"]["median"]}
    return {
        "load": series.shape, "requests": series.counts["measured"], "failed": series.counts["failed after the warm-up"],
        "ttft_p95_ms": found["ttft_s"]["p95"].value, "tpot_p95_ms": found["tpot_s"]["p95"].value,
        "verdict": next((said for said in (judged["throughput_tps"], f"whole time: {judged['total_s']}") if not said.endswith("valid")), "valid"),
    } | {f"{name}{end}": getattr(e, part) for name, e in shown.items()
         for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))}


async def ladder(measure: Measure, levels: list[int], most: int = 0) -> pd.DataFrame:
    """Closed loops of rising concurrency -> one `row` each, with `streams`. All levels are measured: where a
    server bends is only known from beyond. While it has not bent, further levels double the last, up to `most`."""
    rungs = pd.DataFrame([{"streams": n} | row(await measure(Closed(n))) for n in levels])
    while knee(rungs) is None and (n := int(rungs["streams"].iloc[-1]) * 2) <= most:
        rungs = pd.concat([rungs, pd.DataFrame([{"streams": n} | row(await measure(Closed(n)))])], ignore_index=True)
    return rungs


def knee(rungs: pd.DataFrame) -> int | None:
    """The least number of streams with 90 % of the highest throughput of a ladder; None if that is its last rung,
    for then the server has not been seen to bend."""
    reached = rungs[rungs["throughput_tps"] >= NEAR * rungs["throughput_tps"].max()]
    if reached.empty or reached.index[0] == rungs.index[-1]:
        return None
    return int(reached["streams"].iloc[0])


def stops_paying(rungs: pd.DataFrame) -> str:
    """Where more users stop paying, in words."""
    last, bend = rungs.iloc[-1], knee(rungs)
    if len(rungs) == 1:
        return f"Only {last['streams']} users at once were measured: where more of them stop paying, one level cannot say."
    if bend is None:
        return (f"More users were worth it all the way: with {last['streams']} at once the server gave "
                f"{last['throughput_tps']:,.0f} tokens/s and had not bent. Where it does, higher levels would show.")
    at = rungs[rungs["streams"] == bend].iloc[0]
    beyond = rungs[rungs["streams"] > bend].iloc[0]
    return (f"More users stop paying at {bend}: they get {at['throughput_tps']:,.0f} tokens/s together, "
            f"{at['throughput_tps'] / rungs['throughput_tps'].max():.0%} of the most that was seen. With {beyond['streams']} the "
            f"throughput changes by {beyond['throughput_tps'] / at['throughput_tps'] - 1:+.0%}, and each of them waits "
            f"{beyond['total_ms'] / at['total_ms']:.2f} times as long for a whole answer.")


def doubts(measured) -> str:
    """What speaks against some of many series, in a sentence: each kind of verdict on throughput with its loads."""
    kinds = {}
    for series in measured:
        for reason in series.verdicts()["throughput_tps"].split("; "):
            if reason != "valid":
                kinds.setdefault(reason.partition(":")[0], []).append(series.shape)
    if not kinds:
        return "Nothing speaks against any of these series."
    return "What speaks against some of these series: " + "; ".join(
        f"**{kind}** ({len(loads)}: {' / '.join(loads)})" for kind, loads in kinds.items()) + "."


def against(series: Series, ttft_s: float, tpot_s: float, share: float = 0.95) -> dict:
    """How a series does under targets: requests that met both, their share with Wilson's interval, goodput in
    requests/s, and whether at least `share` met them."""
    met, due, goodput = metrics.goodput(series.frame, series.window, ttft_s, tpot_s)
    found = stats.share(met, due)
    return {"goodput": goodput, "met": met, "due": due, "share": found.value, "share_low": found.low,
            "share_high": found.high, "holds": due > 0 and found.value >= share}


def out_of_reach(alone: Series, ttft_s: float, tpot_s: float) -> str | None:
    """Why no load can meet the targets, in one line: a user alone does not get it in half of the cases. None if it can."""
    for metric, target, name in (("ttft_s", ttft_s, "TTFT"), ("tpot_s", tpot_s, "TPOT")):
        usual = alone.measured[metric].median()
        if usual > target:
            return (f"The {name} target of {target * 1000:g} ms cannot be met: one user alone sees {usual * 1000:.3g} ms "
                    "(median). No load was searched for.")
    return None


async def best_rate(measure: Measure, ttft_s: float, tpot_s: float, start: float, share: float = 0.95, precision: float = 0.1,
                    most: int = 12, earlier: dict[float, Series] | None = None) -> tuple[float, pd.DataFrame]:
    """The highest rate at which at least `share` of the requests meet both targets and no queue grows.

    From `start` requests a second the rate is doubled (or halved) until it is between a rate that holds and one
    that does not, then bisected until the two are within `precision` of each other, in at most `most` series.
    earlier: series that were measured before, by rate; they narrow the search and are not counted.
    -> (requests/s, 0 if none holds; one line per series, with rate, share and its Wilson interval, holds).
    """
    tried, holds, fails = [], 0.0, float("inf")
    waiting, rate = sorted((earlier or {}).items()), start
    while waiting or (most > 0 and fails > holds * (1 + precision)):
        if waiting:
            rate, series = waiting.pop(0)
        else:
            series, most = await measure(Open(rate)), most - 1
        found, grows = against(series, ttft_s, tpot_s, share), queue_grows(series)
        good = found["holds"] and not grows
        tried.append({"rate": rate} | found | {"queue_grows": grows, "holds": good} | row(series))
        # A rate above one that failed may hold by luck: the lowest that fails bounds the search.
        fails = fails if good else min(fails, rate)
        holds = max((line["rate"] for line in tried if line["holds"] and line["rate"] < fails), default=0.0)
        rate = rate * 2 if fails == float("inf") else fails / 2 if holds == 0 else (holds * fails) ** 0.5
    return holds, pd.DataFrame(tried)


def rates_table(tried: pd.DataFrame, capacity: float) -> pd.DataFrame:
    """`best_rate`'s lines for readers, by rate; capacity: requests/s."""
    rows = tried.sort_values("rate")
    return pd.DataFrame({
        "offered, requests/s": rows["rate"], "of the capacity, %": rows["rate"] / capacity * 100,
        "TTFT, median, ms": rows["ttft_ms"], "TTFT, p95, ms": rows["ttft_p95_ms"], "TPOT, median, ms": rows["tpot_ms"],
        "met both targets, %": rows["share"] * 100, "of": rows["due"], "goodput, requests/s": rows["goodput"],
        "queue": ["grows" if grows else "level" for grows in rows["queue_grows"]],
        "kept": ["yes" if holds else "NO" for holds in rows["holds"]], "verdict": rows["verdict"]})


def publish_levels(desk, closed: dict[int, Series], best: int) -> None:
    """Enter whole time, throughput, TTFT and TPOT of each level, in one table as the article's; of the level `best`
    everything, and its throughput as a headline."""
    found = {streams: (series, series.summaries(), series.verdicts()) for streams, series in closed.items()}
    with desk.run.together():
        for metric, row, words in (("total_s", "mean", "whole time"), ("throughput_tps", "mean", "throughput"),
                                   ("ttft_s", "median", "TTFT"), ("tpot_s", "median", "TPOT")):
            for streams, (series, summaries, verdicts) in found.items():
                _, unit, _, formula = metrics.METRICS[metric]
                desk.run.publish(f"{series.name}.at_once.{metric.removesuffix('_s')}", f"{words} with {streams} at once, {row}",
                                 summaries[metric][row], unit, verdicts[metric], desk.notebook, series.name,
                                 headline=metric == "throughput_tps" and streams == best, counts=series.counts, table="levels",
                                 formula=formula if streams == next(iter(closed)) else "")
    desk.publish(closed[best])


def publish_best(measure: Measuring, best: float, tried: pd.DataFrame, kept: list[int]) -> None:
    """Enter the highest rate and the highest concurrency that keep the targets, with the verdicts of their series."""
    desk = measure.desk
    for figure, name, value, unit, shape in (
            ("best_rate", "highest rate that keeps the targets, found", best, "requests/s", Open(best) if best else None),
            ("most_users", "most users that keep the targets, found", max(kept, default=0), "users", Closed(max(kept)) if kept else None)):
        if shape in measure.series:
            series = measure.series[shape]
            desk.run.publish(f"{measure.part}.{figure}", name, stats.Estimate(value, float("nan"), float("nan"), series.counts["measured"]),
                             unit, series.verdicts()["ttft_s"], desk.notebook, series.name, counts=series.counts, table="under the targets")


def publish_rates(measure: Measuring, tried: pd.DataFrame) -> None:
    """Enter of each offered rate the share of requests that met both targets, and TTFT from the scheduled instant."""
    desk = measure.desk
    for line in tried.sort_values("rate").itertuples():
        series, rate = measure.series[Open(line.rate)], f"at {line.rate:.3g} requests/s offered"
        verdict = series.verdicts()["ttft_s"]
        met = stats.Estimate(line.share, line.share_low, line.share_high, line.due).scaled(100)
        entries = [("met", f"met both targets {rate}, share", met, "%", "met both targets / due in the window, Wilson interval"),
                   ("ttft", f"TTFT {rate}, median", series.summaries()["ttft_s"]["median"], "ms", "first token − scheduled instant")]
        for figure, name, estimate, unit, formula in entries:
            desk.run.publish(f"{series.name}.{figure}", name, estimate, unit, verdict, desk.notebook, series.name,
                             counts=series.counts, table="offered rates", formula=formula)


def goodput_table(rungs: pd.DataFrame, found: list[dict]) -> pd.DataFrame:
    """A closed loop's levels under the targets. found: `against` of each."""
    rows = pd.DataFrame(found)
    return pd.DataFrame({
        "users": rungs["streams"], "met both targets, %": rows["share"] * 100, "at least, %": rows["share_low"] * 100,
        "of": rows["due"], "goodput, requests/s": rows["goodput"], "kept": ["yes" if h else "NO" for h in rows["holds"]]})


def queue_grows(series: Series) -> bool:
    """Does an open loop ask more than the server can do? TTFT then rises as long as the series lasts. The first third
    is left out, in which any load fills an empty server; of the rest the second half must wait longer than the
    first, by a trend that is no chance (p < 0.001)."""
    ttft = series.values["ttft_s"]
    ttft = ttft[len(ttft) // 3:]
    if len(ttft) < 10:
        return False
    earlier, later = ttft[: len(ttft) // 2], ttft[len(ttft) // 2:]
    rho, p = stats.trend(ttft)
    return rho > 0 and p < 0.001 and later.mean() > BACKLOG * earlier.mean()
