"""Measured beside the physical limit: shares, tables and sentences for notebooks and the report.

MBU = (bytes / bandwidth) / measured time, MFU = (FLOPs / peak FLOP/s) / measured time (lib/limits.py has the bounds).
The share of the limit is the larger of the two: nothing can be above 100 %.
"""
import math
from dataclasses import dataclass

import pandas as pd

from lib import stats, tables
from lib.limits import Bound
from lib.series import Series
from lib.served import Yardstick
from lib.stats import Estimate

POSSIBLE = 105  # % of the limit: above this, what the limit was made from must be wrong
NEAR, FAR = 60, 20  # % from which on the limit is what counts, and below which something else does
TABLE = "limits"  # the figures' table in the report


@dataclass(frozen=True)
class Share:
    """measured: in `unit`, a time in ms or a rate. limit: of the machine, in the same unit. metric: of lib.metrics, whose
    verdict counts. streams: that shared the server."""

    what: str
    measured: Estimate
    unit: str
    limit: float
    bound: Bound
    metric: str
    streams: int = 1

    @property
    def percent(self) -> Estimate:
        """How much of what is possible was reached."""
        if self.unit != "ms":
            return self.measured.scaled(100 / self.limit)
        value, low, high = (100 * self.limit / end for end in (self.measured.value, self.measured.high, self.measured.low))
        return Estimate(value, low, high, self.measured.n, self.measured.effective_n)

    def utilization(self, needed_s: float) -> float:
        """MBU or MFU, %, from what memory or computing alone would need."""
        return self.percent.value * needed_s / self.bound.seconds


# -- what is compared --------------------------------------------------------------------------------
def decoding(yard: Yardstick, series: Series, what: str = "decode speed of one user", rows: pd.DataFrame | None = None) -> list[Share]:
    """1 / mean TPOT of a closed loop beside the fastest steps with as many streams. rows: some of the series' measured ones.
    Empty where no limit is known, as all of these."""
    rows = series.measured if rows is None else rows
    if yard.limit is None or not len(rows):
        return []
    bound = yard.limit.decode(series.streams or 1, _context(rows))
    return [Share(what, stats.rate_mean(rows["decode_tps"]), "tokens/s", 1 / bound.seconds, bound, "decode_tps", series.streams or 1)]


def throughput(yard: Yardstick, series: Series, what: str) -> list[Share]:
    """Tokens/s of all streams beside the most that so many can get. A stream gets at most a token of each step, and a
    step reads the weights once, so that no waiting, prefilling or batching of any kind can bring more."""
    rows, rate = series.frame[series.frame["error"].isna()], series.summaries()["throughput_tps"]["mean"]
    if yard.limit is None or not len(rows) or not series.streams or not math.isfinite(rate.value):
        return []
    bound = yard.limit.decode(series.streams, _context(rows))
    return [Share(what, rate, "tokens/s", series.streams / bound.seconds, bound, "throughput_tps", series.streams)]


def first_token(yard: Yardstick, series: Series, what: str = "TTFT", rows: pd.DataFrame | None = None, cached_share: float | None = None,
                size: tuple | None = None) -> list[Share]:
    """Mean TTFT beside the fastest prefill of a prompt of the mean length, less what came from the prefix cache: by the
    server's count, or `cached_share` of the prompt. size: (width, height) of the one fresh picture in each request;
    its tokens are part of the prompt."""
    rows = series.measured if rows is None else rows
    if yard.limit is None or not len(rows):
        return []
    tokens = rows["prompt_tokens"].mean()
    share = (series.server.cached_share or 0.0) if cached_share is None else cached_share
    bound = yard.limit.prefill(tokens, tokens * share, (size,) if size else ())
    return [Share(what, stats.mean(rows["ttft_s"]).scaled(1000), "ms", bound.seconds * 1000, bound, "ttft_s", series.streams or 1)]


def _context(rows: pd.DataFrame) -> float:
    """Tokens that a step looks back at, on average over the steps of an answer."""
    return float((rows["prompt_tokens"] + rows["output_tokens"] / 2).mean())


# -- how it is shown ---------------------------------------------------------------------------------
def expected(yard: Yardstick, streams: list[int], answer: int, prompt: int = 40) -> pd.DataFrame:
    """What the machine allows at most, a line for each number of users: before anything is measured. prompt: tokens of
    one of the workbook's short questions, about; beside the weights they hardly matter."""
    if yard.limit is None:
        return pd.DataFrame({"limit": [yard.why]})
    context, found = prompt + answer / 2, []
    for n in streams:
        bound = yard.limit.decode(n, context)
        found.append({
            "users": n, "read for a step, MB": bound.bytes / 1e6, "computed for a step, GFLOP": bound.flops / 1e9,
            "step takes at least, ms": bound.seconds * 1000, "because of": bound.by,
            "each user gets at most, tokens/s": 1 / bound.seconds, "all get at most, tokens/s": yard.limit.tokens_per_s(n, context)})
    return pd.DataFrame(found)


def table(yard: Yardstick, shares: list[Share]) -> pd.DataFrame:
    """Measured and limit, with MBU and MFU, a line a share."""
    if not shares:
        return pd.DataFrame({"limit": [yard.why or "nothing was measured that a limit could be held against"]})
    return pd.DataFrame([{
        "what": share.what, "measured": f"{tables.with_interval(share.measured)} {share.unit}",
        "limit": f"{tables.number(share.limit)} {share.unit}", "of the limit, %": tables.with_interval(share.percent),
        "MBU, %": share.utilization(share.bound.memory_s), "MFU, %": share.utilization(share.bound.compute_s),
        "limited by": share.bound.by, "verdict": verdict(share)} for share in shares])


def verdict(share: Share) -> str:
    """Can it be?"""
    sure = share.percent.low if math.isfinite(share.percent.low) else share.percent.value
    return "impossible: faster than the limit, so the machine, the dtype or the clock is not what was supposed" if sure > POSSIBLE else "possible"


def publish(desk, series: Series, shares: list[Share]) -> None:
    """Enter shares and their limits as figures, under the verdict of their series' own metric."""
    for share in shares:
        judged = series.verdicts()[share.metric] if verdict(share) == "possible" else verdict(share)
        slug = "_".join(share.what.lower().replace("×", "x").replace(",", "").split())
        enter = dict(notebook=desk.notebook, series=series.name, counts=series.counts, table=TABLE)
        desk.run.publish(f"limit.{slug}.share", f"{share.what}, of the limit", share.percent, "%", judged,
                         formula="limit / measured time, or measured rate / limit", **enter)
        desk.run.publish(f"limit.{slug}.limit", f"{share.what}, limit", Estimate(share.limit, math.nan, math.nan, share.measured.n),
                         share.unit, "valid", formula=f"by {share.bound.by}: bytes / bandwidth and FLOPs / peak, the longer", **enter)


def words(yard: Yardstick, shares: list[Share]) -> str:
    """What the shares say, in sentences."""
    if not shares:
        return (yard.why or "Nothing was measured that a limit could be held against") + "."
    told = []
    for share in shares:
        ms = 1000 * share.bound.seconds
        took = ms * 100 / share.percent.value
        told.append(
            f"**{share.what}**: {tables.with_interval(share.measured)} {share.unit} measured, {tables.number(share.limit)} {share.unit} "
            f"at the limit, which is set by {share.bound.by}: {tables.with_interval(share.percent)} % of what is possible. ")
        if verdict(share) != "possible":
            told.append(f"That is {verdict(share)}. ")
        elif share.percent.value >= NEAR:
            told.append("Settings can bring little more; only fewer bytes (quantization) or a faster machine could. ")
        elif share.percent.value < FAR:
            told.append(f"Of the {tables.number(took)} ms {_of(share)} only {tables.number(ms)} ms are reading and computing. The other "
                        f"{tables.number(took - ms)} ms pass elsewhere: in the server's Python, its scheduler, the start of many "
                        f"small operations, the way to the client{', waiting for others' if share.streams > 1 else ''}. Faster "
                        f"{'memory' if share.bound.by == 'memory' else 'arithmetic'} would not help. ")
        else:
            told.append(f"{tables.number(took - ms)} of the {tables.number(took)} ms {_of(share)} are neither reading nor computing at "
                        "full speed. ")
    return "".join(told).strip() + _supposed(yard)


def _supposed(yard: Yardstick) -> str:
    return "".join(f" Supposed: {note}." for note in yard.notes)


def _of(share: Share) -> str:
    return "before the first token" if share.metric == "ttft_s" else "of a step"


def of_machine(yard: Yardstick) -> str:
    """What was measured of the machine and what it means for this model, in sentences."""
    if yard.limit is None:
        return f"{yard.why[0].upper()}{yard.why[1:]}."
    limit, model = yard.limit, yard.limit.model
    size = model.read_bytes(limit.dtype)
    each = size / limit.shards
    rate, slowest = limit.machine.bandwidth(each), min(rate for _, rate in limit.machine.reads)
    told = (f"{model.name} has {model.parameters:,} weights, {tables.number(model.weight_bytes(limit.dtype) / 1e6)} MB in {limit.dtype}; "
            f"each token of text reads {tables.number(size / 1e6)} MB of them, and {tables.number(limit.kv_bytes / 1e3)} kB "
            f"for every token of context. {limit.machine.name} reads that much at {tables.number(rate / 1e9)} GB/s")
    if limit.machine.measured and rate > 1.5 * slowest:
        told += (f", because it stays in a cache; from memory it would be {tables.number(slowest / 1e9)} GB/s")
    told += (f", and computes {tables.number(limit.machine.peak(limit.dtype) / 1e9)} GFLOP/s in {limit.dtype}"
             + (", both measured" if limit.machine.measured else ", both by its datasheet"))
    told += (f". So one user alone can get {tables.number(limit.tokens_per_s(1, 100))} tokens/s at most, and 1,000 prompt tokens take "
             f"{tables.number(1000 * limit.prefill(1000).seconds)} ms at least.")
    if yard.sheet:
        there = yard.sheet.machine
        told += (f" The datasheet of the {there.name} says {tables.number(there.bandwidth(each) / 1e9)} GB/s and "
                 f"{tables.number(there.peak(limit.dtype) / 1e9)} GFLOP/s: {rate / there.bandwidth(each):.0%} and "
                 f"{limit.machine.peak(limit.dtype) / there.peak(limit.dtype):.0%} of it were measured.")
    return told + _supposed(yard)


def machine_table(found: dict | None) -> pd.DataFrame:
    """roofline.measure's rows for readers; the median beside the best shows how even the repeats were."""
    if not found:
        return pd.DataFrame({"machine": ["not measured here"]})
    kinds = ((found["reads"], "read again and again, {:,.0f} MiB", 2**20, "GB/s"),
             (found["multiplies"], "multiply matrices of {:,.0f} × the same", 1, "GFLOP/s"))
    return pd.DataFrame([{
        "what": words.format(row["size"] / unit), "best": row["per_s"] / 1e9, "median": row["median_per_s"] / 1e9, "unit": per,
        "median below best, %": 100 * (1 - row["median_per_s"] / row["per_s"]), "repeats": row["repeats"]}
        for rows, words, unit, per in kinds for row in rows])


# -- the report's section ----------------------------------------------------------------------------
def section(figures: dict, found: dict | None) -> dict:
    """The report's table of limits, from a run's figures and roofline.json: {"machine": a sentence, "columns", "rows"}."""
    rows = [[figure["name"].rpartition(", ")[0], tables.with_interval(_estimate(figure)), _shown(figures.get(f"{key}.limit")),
             figure["n"], figure["verdict"], figure["notebook"]] for key, figure in _shares(figures).items()]
    machine = ""
    if found:
        best, memory = max(found["reads"], key=_rate), found["reads"][-1]
        machine = (f"{found['device']}: {tables.number(_rate(memory) / 1e9)} GB/s from {memory['size'] / 2**20:,.0f} MiB of memory, "
                   f"{tables.number(_rate(best) / 1e9)} GB/s from {best['size'] / 2**20:,.0f} MiB, which a cache may hold, and "
                   f"{tables.number(max(map(_rate, found['multiplies'])) / 1e9)} GFLOP/s in {found['dtype']}, measured by torch "
                   + (f"with {found['threads']} thread{'s' * (found['threads'] > 1)}." if found["threads"] else "on the GPU."))
    return {"machine": machine, "columns": ["what", "of the limit, %", "limit", "n", "verdict", "notebook"], "rows": rows}


def beside(figure: dict, figures: dict) -> dict | None:
    """The `share` and the `limit` that `publish` entered for this very figure, which its series and its numbers tell; None where no
    limit was held against it."""
    for key, share in _shares(figures).items():
        limit = figures.get(f"{key}.limit")
        if limit and all(f["value"] for f in (share, limit, figure)) and (share["records"], limit["unit"]) == (figure["records"], figure["unit"]):
            ratio = limit["value"] / figure["value"] if figure["unit"] == "ms" else figure["value"] / limit["value"]
            if math.isclose(100 * ratio, share["value"], rel_tol=1e-6):
                return {"share": share, "limit": limit}
    return None


def _shares(figures: dict) -> dict:
    """The shares that `publish` entered, by their ids without the ending."""
    return {key.removesuffix(".share"): figure for key, figure in figures.items() if key.startswith("limit.") and key.endswith(".share")}


def _rate(row: dict) -> float:
    return row["per_s"]


def _estimate(figure: dict) -> Estimate:
    value, low, high = (math.nan if end is None else end for end in (figure["value"], *figure["interval"]))
    return Estimate(value, low, high, figure["n"])


def _shown(figure: dict | None) -> str:
    return f"{tables.number(figure['value'])} {figure['unit']}" if figure else "–"
